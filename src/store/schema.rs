//! A day's file: its tables, how it is opened, and what its failures mean.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::{Error, ErrorKind, Result, ResultExt};

/// Its number is in `PRAGMA user_version`.
const VERSION: i64 = 1;

/// Hashes are those of [`content`](super::content). Columns of `request` are what is searched, times in nanoseconds;
/// the numbers of `status` and `binding` are the positions in [`row`](super::row)'s tables. `name` is
/// `name_base`, from `name_number` 2 on followed by `_` and the number. The indexes serve `txprof list`:
/// each is walked from its newest end, and tells durations without a look at the rows.
const TABLES: &str = "
CREATE TABLE string (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE frame (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, content BLOB NOT NULL);
CREATE TABLE stack (id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, content BLOB NOT NULL);
CREATE INDEX string_hash ON string (hash);
CREATE INDEX frame_hash ON frame (hash);
CREATE INDEX stack_hash ON stack (hash);
CREATE TABLE request (
    id INTEGER PRIMARY KEY,
    request_id TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    name_base TEXT NOT NULL,
    name_number INTEGER NOT NULL,
    began_unix_ns INTEGER NOT NULL,
    duration_ns INTEGER NOT NULL,
    run_ns INTEGER NOT NULL,
    queue_ns INTEGER NOT NULL,
    blocked_ns INTEGER NOT NULL,
    gil_ns INTEGER NOT NULL,
    method TEXT NOT NULL,
    user TEXT,
    status INTEGER NOT NULL,
    http_status INTEGER,
    process TEXT NOT NULL,
    pid INTEGER NOT NULL,
    tid INTEGER NOT NULL,
    binding INTEGER NOT NULL,
    is_partial INTEGER NOT NULL,
    policy TEXT NOT NULL,
    attributes TEXT NOT NULL
);
CREATE INDEX request_id ON request (request_id);
CREATE INDEX request_base ON request (name_base, name_number);
CREATE INDEX request_began ON request (began_unix_ns, duration_ns);
CREATE INDEX request_duration ON request (duration_ns);
CREATE INDEX request_user ON request (user, began_unix_ns, duration_ns);
CREATE INDEX request_method ON request (method, began_unix_ns, duration_ns);
CREATE INDEX request_status ON request (status, began_unix_ns, duration_ns);
CREATE INDEX request_process ON request (process, began_unix_ns, duration_ns);
CREATE INDEX request_policy ON request (policy, began_unix_ns, duration_ns);
CREATE TABLE body (request INTEGER PRIMARY KEY, content BLOB NOT NULL);
";

/// How long a connection waits for another one that writes; a batch takes a fraction of it.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements kept ready: more than there are.
const STATEMENTS: usize = 64;

/// Opens the file at `path` for writing; makes it, readable by its owner only, if it is missing.
///
/// Fails with [`ErrorKind::Corrupt`] for what is no such file.
pub(super) fn open_writable(path: &Path) -> Result<Connection> {
    let create = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match create {
        Err(cause) if cause.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::from_io(format!("`{}`", path.display()), cause).with_hint(UNWRITABLE));
        }
        Ok(_) | Err(_) => {}
    }
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // The first two hold for files that are empty, and change nothing of others.
        connection.execute_batch(
            "PRAGMA page_size = 8192; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 67108864; PRAGMA trusted_schema = OFF;",
        )?;
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let is_new = version(&transaction)? == 0
            && transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))?
                == 0;
        if is_new {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", VERSION)?;
        }
        transaction.commit()?;
        Ok(connection)
    };
    let connection = open().map_err(|cause| failure(path, cause))?;
    check_version(path, &connection)?;
    Ok(connection)
}

/// Opens the file at `path` for reading; `None` when it is missing, or so new that it has no tables yet.
///
/// Fails with [`ErrorKind::Corrupt`] for what is no such file.
pub(super) fn open_readable(path: &Path) -> Result<Option<Connection>> {
    match fs::metadata(path) {
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.context(|| format!("`{}`", path.display()))?,
    };
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.execute_batch("PRAGMA trusted_schema = OFF;")?;
        Ok(connection)
    };
    let connection = open().map_err(|cause| failure(path, cause))?;
    if version(&connection).map_err(|cause| failure(path, cause))? == 0 {
        return Ok(None);
    }
    check_version(path, &connection)?;
    Ok(Some(connection))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn check_version(path: &Path, connection: &Connection) -> Result<()> {
    let found = version(connection).map_err(|cause| failure(path, cause))?;
    if found == VERSION {
        return Ok(());
    }
    let message = format!("`{}` is of version {found}, this program reads version {VERSION}", path.display());
    Err(Error::new(ErrorKind::Corrupt, message))
}

const UNWRITABLE: &str = "make the folder writable, or choose another one with `--store DIR`";

/// What a failure of SQLite at `path` means for the user.
pub(super) fn failure(path: &Path, cause: rusqlite::Error) -> Error {
    let (kind, hint) = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (ErrorKind::Corrupt, None),
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Output, Some("free some space, or choose another place with `--store DIR`"))
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (ErrorKind::Output, Some(UNWRITABLE))
        }
        Some(ErrorCode::SystemIoFailure) => {
            (ErrorKind::Output, Some("the disk fails or is full: `dmesg`, `df`"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::System, Some("another program writes to it: `fuser -v` with the file tells which"))
        }
        // A column that is not of its type, or missing.
        None => (ErrorKind::Corrupt, None),
        // A table that is missing.
        Some(ErrorCode::Unknown) => (ErrorKind::Corrupt, None),
        Some(_) => (ErrorKind::System, None),
    };
    let error = Error::new(kind, format!("`{}`: {cause}", path.display()));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A file is made private, opened again, and not there before it has tables.
    #[test]
    fn files_are_private_and_open_again() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.db");
        assert!(open_readable(&path).expect("absence is no failure").is_none());
        fs::write(&path, "").expect("file");
        assert!(open_readable(&path).expect("emptiness is no failure").is_none());
        fs::remove_file(&path).expect("file");
        let writer = open_writable(&path).expect("new");
        assert!(open_readable(&path).expect("readable").is_some());
        for file in super::super::folder::with_companions(&path) {
            let mode = fs::metadata(&file).expect("exists while it is open").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", file.display());
        }
        drop(writer);
        open_writable(&path).expect("again");
    }

    /// What is no such file is told from what cannot be written.
    #[test]
    fn damage_and_refusal_differ() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.db");
        fs::write(&path, vec![b'x'; 10_000]).expect("file");
        assert_eq!(open_writable(&path).expect_err("no database").kind(), ErrorKind::Corrupt);
        assert_eq!(open_readable(&path).expect_err("no database").kind(), ErrorKind::Corrupt);
        let error = open_writable(&folder.path().join("no/a.db")).expect_err("no folder");
        assert!(error.hint().is_some());
        let other = folder.path().join("b.db");
        let connection = Connection::open(&other).expect("new");
        connection.execute_batch("PRAGMA user_version = 7; CREATE TABLE a (b)").expect("written");
        assert_eq!(open_writable(&other).expect_err("newer").kind(), ErrorKind::Corrupt);
    }
}
