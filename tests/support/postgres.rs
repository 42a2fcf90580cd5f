//! A PostgreSQL of Debian in a directory of its own, with clients that keep it busy or not, and what it says of those who
//! use it.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{Target, free_port, has, scratch, shell, wait_for};

/// Where Debian has the programs of the version that is tested.
const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A cluster; it runs until it is dropped.
#[derive(Debug)]
pub struct Cluster {
    server: Target,
    port: u16,
    directory: tempfile::TempDir,
}

/// A cluster and who uses it.
#[derive(Debug)]
pub struct Postgres {
    /// pgbench; it ends before the server does.
    pub clients: Target,
    /// Whom they ask.
    pub server: Cluster,
}

/// A backend that waits for a lock, by PostgreSQL's own word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Waiter {
    /// The backend.
    pub pid: u32,
    /// What it was asked for, in one line.
    pub query: String,
}

/// Tables that nobody else can read until this is dropped.
#[derive(Debug)]
pub struct Lock(Child);

impl Cluster {
    /// `None` where it is not installed.
    pub fn start() -> Option<Self> {
        if !has(&format!("{BIN}/postgres")) || !has("pgbench") {
            return None;
        }
        let directory = scratch();
        let data = directory.path().join("data");
        let data = data.display();
        let as_postgres = "setpriv --reuid postgres --regid postgres --init-groups";
        let prepare = format!(
            "mkdir {data} && chown postgres {data} && cd / && {as_postgres} {BIN}/initdb -A trust -D {data} >/dev/null"
        );
        assert!(shell(&prepare).status().expect("sh runs").success());
        let socket = directory.path().display().to_string();
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("own directory");
        let port = free_port();
        let serve = format!(
            "cd / && exec {as_postgres} {BIN}/postgres -D {data} -k {socket} -p {port} \
             -c listen_addresses=127.0.0.1 -c fsync=off 2>/dev/null"
        );
        let cluster = Self { server: Target::start_server(shell(&serve)), port, directory };
        wait_for("PostgreSQL to answer", || cluster.try_query("postgres", "SELECT 1").is_some());
        Some(cluster)
    }

    /// The process of the postmaster; what works are its children.
    pub fn pid(&self) -> String {
        self.server.pid()
    }

    /// The address of `database` over the UNIX socket, as libpq takes it.
    pub fn over_unix(&self, database: &str) -> String {
        format!(
            "postgresql://postgres@/{database}?host={}&port={}",
            self.directory.path().display(),
            self.port
        )
    }

    /// The same over TCP.
    pub fn over_tcp(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(Path::new(BIN).join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-F", "\t", "-d", &self.over_unix(database)]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn try_query(&self, database: &str, sql: &str) -> Option<String> {
        let output = self.psql(database).args(["-c", sql]).output().expect("psql is beside postgres");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The lines that `sql` gives, columns separated by tabs. Panics when it is refused.
    pub fn query(&self, database: &str, sql: &str) -> Vec<String> {
        let text = self.try_query(database, sql).unwrap_or_else(|| panic!("refused: {sql}"));
        text.lines().map(str::to_owned).collect()
    }

    /// Locks `tables` of `database` as soon as nobody uses them.
    pub fn lock(&self, database: &str, tables: &[&str]) -> Lock {
        let mut child = self
            .psql(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql is beside postgres");
        let sql = format!("BEGIN; LOCK TABLE {};\n", tables.join(", "));
        let input = child.stdin.as_mut().expect("it is a pipe");
        input.write_all(sql.as_bytes()).expect("psql reads");
        let lock = Lock(child);
        let list = tables.iter().map(|table| format!("'{table}'::regclass")).collect::<Vec<_>>().join(", ");
        let granted = format!(
            "SELECT count(DISTINCT relation) FROM pg_locks \
             WHERE granted AND mode = 'AccessExclusiveLock' AND relation IN ({list})"
        );
        wait_for("the lock", || self.query(database, &granted) == [tables.len().to_string()]);
        lock
    }

    /// The backends that wait for a lock now, ascending.
    pub fn waiters(&self) -> BTreeSet<Waiter> {
        self.backends("wait_event_type = 'Lock'")
    }

    /// The backends of clients for which `condition` of `pg_stat_activity` holds, with what they were asked for last.
    pub fn backends(&self, condition: &str) -> BTreeSet<Waiter> {
        let sql = format!(
            "SELECT pid, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND {condition}"
        );
        let lines = self.query("postgres", &sql);
        let parts = lines.iter().map(|line| line.split_once('\t').expect("two columns"));
        parts
            .map(|(pid, query)| Waiter { pid: pid.parse().expect("a number"), query: query.to_owned() })
            .collect()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // At the end of its input psql hangs up, and so the transaction is over.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

impl Postgres {
    /// `None` where it is not installed.
    pub fn start() -> Option<Self> {
        let server = Cluster::start()?;
        let (folder, port) = (server.directory.path().display(), server.port);
        let connect = format!("-h {folder} -p {port} -U postgres postgres");
        let fill = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do pgbench -q -i -s 2 {connect} 2>/dev/null && exit; sleep 1; done; exit 1"
        );
        assert!(shell(&fill).status().expect("sh runs").success());
        let load = format!("exec pgbench -n -S -T 120 -c 2 {connect} 2>/dev/null");
        let clients = Target::start_command(shell(&load));
        std::thread::sleep(std::time::Duration::from_secs(1));
        Some(Self { clients, server })
    }
}
