//! Processes to be profiled: started in a group of their own, killed with their guard.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{built, scratch};

/// Nanoseconds by slot, as `tests/programs/oracle.h` says.
pub type Account = [u64; 16];

/// A running process; dropping it kills its whole group.
#[derive(Debug)]
pub struct Target {
    child: Child,
    account: PathBuf,
    /// Where the account and other files of this target live until it is dropped.
    pub directory: tempfile::TempDir,
}

impl Target {
    /// Starts a program of the table and waits until it burns CPU.
    pub fn start(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(built(name));
        command.args(arguments);
        Self::start_burning(command)
    }

    /// Starts a command that ends in a test program and waits until that burns CPU.
    pub fn start_burning(command: Command) -> Self {
        let target = Self::start_command(command);
        wait_for("the target to burn CPU", || target.account().iter().any(|slot| *slot > 0));
        target
    }

    /// Starts any command, without waiting.
    pub fn start_command(mut command: Command) -> Self {
        let directory = scratch();
        let account = directory.path().join("account");
        std::fs::write(&account, [0; 128]).expect("scratch directories are writable");
        command.env("ORACLE", &account).process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, account, directory }
    }

    /// The process that was started (its children may be what is profiled).
    pub fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The first child of the process, as for `unshare --fork`.
    pub fn child_pid(&self) -> String {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).expect("the target lives");
        children.split_whitespace().next().expect("the target has a child").to_owned()
    }

    /// The CPU time that the target has counted so far.
    pub fn account(&self) -> Account {
        let bytes = std::fs::read(&self.account).expect("the account stays until the target is dropped");
        let mut account = Account::default();
        for (slot, bytes) in account.iter_mut().zip(bytes.chunks_exact(8)) {
            *slot = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
        }
        account
    }

    /// What the target counted since `before`.
    pub fn since(&self, before: &Account) -> Account {
        let mut now = self.account();
        now.iter_mut().zip(before).for_each(|(now, before)| *now = now.saturating_sub(*before));
        now
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .expect("the target lives");
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
        let _ = std::fs::remove_file(Path::new("/tmp").join(format!("perf-{}.map", self.child.id())));
    }
}

/// Waits up to 20 s for `condition`; panics naming `what` when it does not come.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
