//! A PostgreSQL of Debian with clients that keep it busy, in a directory of its own.

use std::path::Path;

use super::{Target, has, scratch, shell, wait_for};

/// Runs until it is dropped.
#[derive(Debug)]
pub struct Postgres {
    /// pgbench; it ends before the server does.
    pub clients: Target,
    /// The postmaster; what works are its children.
    pub server: Target,
    _directory: tempfile::TempDir,
}

impl Postgres {
    /// `None` where it is not installed.
    pub fn start() -> Option<Self> {
        let bin = "/usr/lib/postgresql/15/bin";
        if !has(&format!("{bin}/postgres")) || !has("pgbench") {
            return None;
        }
        let directory = scratch();
        let data = directory.path().join("data");
        let data = data.display();
        let prepare = format!(
            "mkdir {data} && chown postgres {data} && cd / && \
             setpriv --reuid postgres --regid postgres --init-groups {bin}/initdb -A trust -D {data} >/dev/null"
        );
        assert!(shell(&prepare).status().expect("sh runs").success());
        let socket = directory.path().display().to_string();
        std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("own directory");
        let serve = format!(
            "cd / && exec setpriv --reuid postgres --regid postgres --init-groups \
             {bin}/postgres -D {data} -k {socket} -c listen_addresses= -c fsync=off 2>/dev/null"
        );
        let server = Target::start_server(shell(&serve));
        wait_for("PostgreSQL's socket", || Path::new(&socket).join(".s.PGSQL.5432").exists());
        let connect = format!("-h {socket} -U postgres postgres");
        let fill = format!(
            "for i in 1 2 3 4 5 6 7 8 9; do pgbench -q -i -s 2 {connect} 2>/dev/null && exit; sleep 1; done; exit 1"
        );
        assert!(shell(&fill).status().expect("sh runs").success());
        let load = format!("exec pgbench -n -S -T 120 -c 2 {connect} 2>/dev/null");
        let clients = Target::start_command(shell(&load));
        std::thread::sleep(std::time::Duration::from_secs(1));
        Some(Self { clients, server, _directory: directory })
    }
}
