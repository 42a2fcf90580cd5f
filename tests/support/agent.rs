//! A running `txprof agent` that keeps every request, and what it has kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use txprof::model::Request;
use txprof::store::{Filter, StoreReader, StoredRequest};

use super::{scratch, txprof, wait_within};

/// The agent; dropping it kills it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    directory: tempfile::TempDir,
}

/// What an agent that ended has left.
#[derive(Debug)]
pub struct Kept {
    /// Its standard output.
    pub requests: Vec<Request>,
    /// Its standard error.
    pub stderr: String,
    /// Whether it had ended before it was asked to.
    pub ended_itself: bool,
    /// The folder of its store.
    pub store: PathBuf,
    _directory: tempfile::TempDir,
}

const CONFIG: &str = "[[policy]]\nname = 'all'\ntype = 'always'\n";

impl Agent {
    /// Watches the processes `pids`, a list with commas, and waits until it does.
    pub fn watch(pids: &str) -> Self {
        Self::watch_in(pids, scratch())
    }

    /// As [`Self::watch`], with the store and what else there is in `directory`.
    pub fn watch_in(pids: &str, directory: tempfile::TempDir) -> Self {
        let agent = Self::start_in(pids, directory);
        agent.wait_to_watch();
        agent
    }

    /// As [`Self::watch`], as if the kernel were older than Linux 6.18.
    pub fn watch_without_task_work(pids: &str) -> Self {
        let agent = Self::start_with(pids, scratch(), &[("TXPROF_NO_TASK_WORK", "1")]);
        agent.wait_to_watch();
        agent
    }

    fn wait_to_watch(&self) {
        wait_within(Duration::from_secs(60), "the agent to watch", || self.stderr().contains("watching "));
    }

    /// As [`Self::watch_in`], without waiting.
    pub fn start_in(pids: &str, directory: tempfile::TempDir) -> Self {
        Self::start_with(pids, directory, &[])
    }

    fn start_with(pids: &str, directory: tempfile::TempDir, variables: &[(&str, &str)]) -> Self {
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("config.toml"), CONFIG).expect("scratch directories are writable");
        let file = |name| File::options().create(true).append(true).open(path(name)).expect("they are");
        // Not by a shell or `timeout`: it is killed by its own pid. Without its targets it ends by itself.
        let child = Command::new(env!("CARGO_BIN_EXE_txprof"))
            .args(["agent", "-p", pids, "--config"])
            .arg(path("config.toml"))
            .arg("--store")
            .arg(path("store"))
            .arg("--socket")
            .arg(path("socket"))
            .env("TXPROF_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("txprof was built");
        Self { child, directory }
    }

    /// Where it answers questions.
    pub fn socket(&self) -> String {
        self.directory.path().join("socket").to_string_lossy().into_owned()
    }

    /// The requests in flight, as `txprof ps --json` tells them.
    pub fn in_flight(&self) -> Vec<serde_json::Value> {
        let run = txprof(&["ps", "--json", "--socket", &self.socket()]);
        assert_eq!(run.code, 0, "{run:?}");
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("lines are JSON")).collect()
    }

    /// What it said so far.
    pub fn stderr(&self) -> String {
        read(&self.directory.path().join("stderr"))
    }

    /// Ends it as Ctrl-C does, and fails unless it ends well.
    pub fn finish(mut self) -> Kept {
        let ended_itself = self.child.try_wait().expect("it was started here").is_some();
        if !ended_itself {
            kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT).expect("it is not waited for");
        }
        let status = self.child.wait().expect("it was started here");
        let stderr = self.stderr();
        assert!(status.success(), "{status}\n{stderr}");
        let requests = requests_in(&read(&self.directory.path().join("stdout")));
        let directory = std::mem::replace(&mut self.directory, scratch());
        Kept { requests, stderr, ended_itself, store: directory.path().join("store"), _directory: directory }
    }

    /// Kills it, and returns its directory.
    pub fn kill(mut self) -> tempfile::TempDir {
        self.child.kill().expect("it lives");
        self.child.wait().expect("it was started here");
        std::mem::replace(&mut self.directory, scratch())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Kept {
    /// All requests of the store with their profiles, in no particular order.
    pub fn stored(&self) -> Vec<StoredRequest> {
        stored(&self.store)
    }

    /// Lines that tell of losses, refusals and failures.
    pub fn losses(&self) -> Vec<&str> {
        let is_bad = |line: &&str| matches!(line.split(' ').nth(1), Some("WARN" | "ERROR"));
        self.stderr.lines().filter(is_bad).collect()
    }
}

/// All requests of the store in `folder` with their profiles, newest first: at most 100,000.
pub fn stored(folder: &Path) -> Vec<StoredRequest> {
    let reader = StoreReader::open(folder).expect("the agent made a store");
    let filter = Filter { limit: usize::MAX, ..Filter::default() };
    let all = reader.list(&filter).expect("the store is readable");
    all.iter().map(|summary| reader.load(summary).expect("profiles are readable")).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn requests_in(text: &str) -> Vec<Request> {
    let read = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(read).collect()
}
