//! Real servers of `tests/programs/servers/request_app.py`, and what that has written down of the requests that it served.

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::Duration;

use super::{Client, Python, Target, pythons_with_packages, wait_within};

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// The process.
    pub target: Target,
    /// Where it listens, on the loopback.
    pub port: u16,
}

/// What the application wrote down of a request.
#[derive(Clone, Copy, Debug)]
pub struct Noted {
    /// The thread of its handler.
    pub tid: u32,
    /// `CLOCK_MONOTONIC` when that began.
    pub began_ns: u64,
    /// The same when it was done.
    pub ended_ns: u64,
    /// Its thread's CPU time in between.
    pub burnt_ns: u64,
}

/// The system's interpreter, else the newest one.
pub fn python_with_packages() -> Python {
    let mut all = pythons_with_packages();
    let system = all.iter().position(|python| python.name.starts_with("system"));
    let last = all.len().checked_sub(1).expect("there is an interpreter");
    all.swap_remove(system.unwrap_or(last))
}

/// A port of the loopback that nothing listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

/// Starts `program` with `arguments`, in which `{port}` is the port: of the packages, if its name has no ending.
pub fn start_server(python: &Python, program: &str, arguments: &[&str]) -> Server {
    let port = free_port();
    let arguments: Vec<String> =
        arguments.iter().map(|argument| argument.replace("{port}", &port.to_string())).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let program = if program.ends_with(".py") {
        program.to_owned()
    } else {
        format!("{}/bin/{program}", python.packages())
    };
    listening(python.start_unwaited(&program, &arguments), port)
}

/// `target` when it answers at `port`.
pub fn listening(target: Target, port: u16) -> Server {
    let answers = || Client::new(port).ask(String::new(), "/quick").is_ok_and(|asked| asked.status == 200);
    wait_within(Duration::from_secs(60), "the server to answer", answers);
    Server { target, port }
}

impl Server {
    /// What the application wrote down so far, by ID; each ID may be there once.
    pub fn noted(&self) -> HashMap<String, Noted> {
        let text = std::fs::read_to_string(self.target.directory.path().join("requests")).unwrap_or_default();
        let mut noted = HashMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |n: usize| words[n].parse::<u64>().expect("the application writes numbers");
            let (tid, began_ns, ended_ns, burnt_ns) = (number(1) as u32, number(2), number(3), number(4));
            let before = noted.insert(words[0].to_owned(), Noted { tid, began_ns, ended_ns, burnt_ns });
            assert!(before.is_none(), "served twice: {line}");
        }
        noted
    }
}

/// One process of gunicorn that serves with four threads.
pub fn gunicorn_threads() -> Server {
    let arguments = ["-k", "gthread", "--threads", "4", "-b", "127.0.0.1:{port}", "--log-level", "critical"];
    start_server(
        &python_with_packages(),
        "gunicorn",
        &[&arguments[..], &["request_app:application"]].concat(),
    )
}
