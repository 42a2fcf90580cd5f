//! A day's file, open for writing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::content::{self, Contents};
use super::folder::{self, Day};
use super::names::Names;
use super::schema::failure;
use super::writer::WriteStats;
use super::{StoredRequest, body, row, schema};
use crate::Result;

/// How often a day that is too large is made smaller before that is given up.
const SHRINK_ATTEMPTS: u32 = 8;

/// How many names are tried when one that seemed free is taken.
const NAME_TRIES: u32 = 16;

/// One day's connection, and what is known of its file.
#[derive(Debug)]
pub(super) struct DayFile {
    pub(super) day: Day,
    path: PathBuf,
    /// The file that was opened; another one may come to be at its path.
    inode: u64,
    connection: Connection,
    contents: Contents,
    /// Tells commits of other connections.
    data_version: i64,
}

impl DayFile {
    /// Opens the file of `day`, or makes it.
    pub(super) fn open(folder: &Path, day: &Day) -> Result<Self> {
        let path = day.path(folder);
        let connection = schema::open_writable(&path)?;
        let inode = fs::metadata(&path).map_or(0, |metadata| metadata.ino());
        let contents = Contents::default();
        Ok(Self { day: day.clone(), path, inode, connection, contents, data_version: -1 })
    }

    /// Whether its path still leads to it.
    pub(super) fn is_in_place(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
    }

    /// Writes `batch` in one transaction; what was written is added to `stats` when it is committed.
    pub(super) fn write(
        &mut self,
        batch: &[&StoredRequest],
        names: &mut Names,
        stats: &mut WriteStats,
    ) -> Result<()> {
        let fail = |cause| failure(&self.path, cause);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let version = data_version(&transaction).map_err(fail)?;
        if version != self.data_version {
            self.contents.forget();
            names.forget();
            self.data_version = version;
        }
        names.trim();
        let stored_before = self.contents.stored_bytes;
        let mut written = WriteStats::default();
        for stored in batch {
            let stacks = self.contents.stacks(&transaction, &stored.profile).map_err(fail)?;
            let Some(body) = body::pack(&stored.profile, &stacks) else {
                written.too_large += 1;
                written.names.push(None);
                continue;
            };
            let (name, number) = insert(&transaction, stored, names, &self.path)?;
            let mut insert = transaction
                .prepare_cached("INSERT INTO body (request, content) VALUES (?1, ?2)")
                .map_err(fail)?;
            insert.execute((number, &body)).map_err(fail)?;
            written.bytes += body.len() as u64;
            written.names.push(Some(name));
        }
        transaction.commit().map_err(fail)?;
        written.bytes += self.contents.stored_bytes - stored_before;
        stats.add(written);
        Ok(())
    }

    /// Deletes the oldest requests until the file takes at most `max_bytes`, with what only they needed. Leaves a
    /// quarter free, so that the next request does not begin it anew. Gives how many went.
    pub(super) fn shrink(&mut self, max_bytes: u64) -> Result<u64> {
        let goal_bytes = max_bytes / 4 * 3;
        let mut removed = 0;
        for _ in 0..SHRINK_ATTEMPTS {
            self.checkpoint()?;
            let size_bytes = folder::size_bytes(&self.path);
            if size_bytes <= max_bytes {
                break;
            }
            let removed_now =
                self.remove_oldest(goal_bytes, size_bytes).map_err(|cause| failure(&self.path, cause))?;
            removed += removed_now;
            self.contents.forget();
            if removed_now == 0 {
                break;
            }
        }
        Ok(removed)
    }

    /// What is in the write-ahead log goes to the file, as far as no reader needs it.
    fn checkpoint(&self) -> Result<()> {
        let done = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        done.map_err(|cause| failure(&self.path, cause))
    }

    /// Removes the share of requests by which `size_bytes` is above `goal_bytes`, at least one.
    fn remove_oldest(&mut self, goal_bytes: u64, size_bytes: u64) -> rusqlite::Result<u64> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let count: i64 = transaction.query_row("SELECT count(*) FROM request", [], |row| row.get(0))?;
        let kept = goal_bytes as f64 / size_bytes.max(1) as f64;
        let excess = ((count as f64 * (1.0 - kept)).ceil() as i64).clamp(1, count.max(1));
        let removed = transaction.execute(
            "DELETE FROM request WHERE id IN (SELECT id FROM request ORDER BY began_unix_ns LIMIT ?1)",
            [excess],
        )?;
        transaction.execute("DELETE FROM body WHERE request NOT IN (SELECT id FROM request)", [])?;
        let used = stacks_used(&transaction)?;
        content::remove_unused(&transaction, &used)?;
        transaction.commit()?;
        // Each step gives back one page.
        let mut vacuum = self.connection.prepare("PRAGMA incremental_vacuum")?;
        let mut pages = vacuum.query([])?;
        while pages.next()?.is_some() {}
        Ok(removed as u64)
    }
}

/// Inserts a request under a free name; gives it and the row's number.
fn insert(
    transaction: &Transaction<'_>,
    stored: &StoredRequest,
    names: &mut Names,
    path: &Path,
) -> Result<(String, i64)> {
    let mut name = names.take(&stored.request.name)?;
    let mut tries = 1;
    loop {
        match row::insert(transaction, &stored.request, &name, &stored.policy) {
            Ok(number) => return Ok((name, number)),
            // A day that could not be read when names were looked up.
            Err(cause) if is_taken(&cause) && tries < NAME_TRIES => name = names.take(&name)?,
            Err(cause) => return Err(failure(path, cause)),
        }
        tries += 1;
    }
}

fn is_taken(cause: &rusqlite::Error) -> bool {
    cause.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation)
}

fn data_version(transaction: &Transaction<'_>) -> rusqlite::Result<i64> {
    transaction.query_row("PRAGMA data_version", [], |row| row.get(0))
}

/// The stacks that any request needs, ascending.
fn stacks_used(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<i64>> {
    let mut used = Vec::new();
    let mut distinct = 0;
    let mut bodies = transaction.prepare("SELECT content FROM body")?;
    let mut rows = bodies.query([])?;
    while let Some(row) = rows.next()? {
        body::stacks_used(row.get_ref(0)?.as_bytes()?, &mut used);
        // Requests share stacks: what comes again is dropped whenever it makes up half.
        if used.len() > 2 * distinct + (1 << 20) {
            used.sort_unstable();
            used.dedup();
            distinct = used.len();
        }
    }
    used.sort_unstable();
    used.dedup();
    Ok(used)
}
