//! What the live tests share: programs with a known truth, compiled once per
//! test run; targets that die with their guard; `txprof` itself; and the
//! folded stacks that it wrote.
//!
//! Live tests disturb one another, so each begins with [`turn`], which also
//! skips the test, aloud, on machines where it cannot run. Under `CI=true`
//! nothing is skipped: what is missing is a failure.

// Each test file is a crate of its own and uses a part of this.
#![allow(dead_code, unused_imports, unreachable_pub)]

mod agent;
mod build;
mod calls;
mod clocks;
mod folded;
mod golden;
mod history;
mod http;
mod postgres;
mod profile;
mod python;
pub mod replay;
mod run;
mod served;
mod socket_log;
mod target;
mod waits;

pub use agent::{Agent, Kept, stored};
pub use build::{PROGRAMS, Program, built, built_library, built_pretended_python, program};
pub use calls::{BySlot, Call, Calls, Comparison, Follows, Stack};
pub use clocks::{ClockReadings, Clocks};
pub use folded::{Folded, Line};
pub use golden::{golden, golden_picture};
pub use history::{History, stolen_ns};
pub use http::{Asked, Client, ask_many, request_text};
pub use postgres::{Cluster, Lock, Postgres, Waiter};
pub use profile::{completeness, processes, weight_ns};
pub use python::{
    Python, chains, lines_of, marked_lines, python_versions, pythons, pythons_with_packages,
    readable_pythons, some_pythons,
};
pub use run::{
    Run, Shot, TIMES, command, record, record_burning, record_burning_json, record_json, scratch, scratch_in,
    shell, txprof,
};
pub use served::{Noted, Server, free_port, gunicorn_threads, listening, python_with_packages, start_server};
pub use socket_log::{Distances, Interval, SocketCalls};
pub use target::{Account, Target, read_account, wait_for, wait_within};
pub use waits::{Wait, Waits};

use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Waits for this test's turn; `None` when live tests cannot run here.
pub fn turn() -> Option<MutexGuard<'static, ()>> {
    if !nix::unistd::geteuid().is_root() {
        return skip("needs root");
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return skip("needs a kernel with BTF");
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Says that the running test is skipped and why; panics under `CI=true`.
pub fn skip<T>(reason: &str) -> Option<T> {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    assert!(std::env::var("CI").as_deref() != Ok("true"), "`{test}` must not be skipped in CI: {reason}");
    eprintln!("SKIPPED: {test}: {reason}");
    None
}

/// Whether `program` is on the path; says aloud that the test is skipped if not.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).exists())
        || std::path::Path::new(program).exists();
    found || skip::<()>(&format!("needs `{program}`")).is_some()
}
