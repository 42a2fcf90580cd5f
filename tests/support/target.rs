//! Processes to be profiled: started in a group of their own, and gone with their guard or,
//! when the tests are interrupted or killed, with the tests: a shell waits for the end of either.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::{built, scratch, scratch_in};

/// Nanoseconds by slot, as `tests/programs/oracle.h` says.
pub type Account = [u64; 16];

/// Waits until the test lets go of its standard input, for whatever reason. Then it ends the group
/// $1, which gets SIGINT and 5 s for it when $2 is `gently`, and removes the files $3….
const UNDERTAKER: &str = r#"
read -r _
runs() { grep -q '^State:[[:space:]]*[RSDTt]' "/proc/$group/status" 2>/dev/null; }
group=$1 how=$2
shift 2
if [ "$how" = gently ] && kill -s INT "$group"; then
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do runs && sleep 0.25; done
fi
kill -s KILL -- "-$group" 2>/dev/null
rm -rf -- "$@"
"#;

/// A running process; dropping it ends its whole group.
#[derive(Debug)]
pub struct Target {
    child: Child,
    undertaker: Child,
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
    pub fn start_command(command: Command) -> Self {
        Self::start_guarded(command, "at-once")
    }

    /// Starts a server that leaves things behind unless it is asked to end.
    pub fn start_server(command: Command) -> Self {
        Self::start_guarded(command, "gently")
    }

    /// Starts the command that `command` makes of its scratch directory, which lies in `root`/tmp and is named
    /// as seen from `root`: for programs that `chroot` there.
    pub fn start_inside(root: &Path, command: impl FnOnce(&Path) -> Command) -> Self {
        let directory = scratch_in(&root.join("tmp"));
        let inside = directory.path().strip_prefix(root).expect("it was made in the root");
        let inside = Path::new("/").join(inside);
        Self::start_with(command(&inside), "at-once", directory, &inside)
    }

    fn start_guarded(command: Command, ending: &str) -> Self {
        let directory = scratch();
        let inside = directory.path().to_owned();
        Self::start_with(command, ending, directory, &inside)
    }

    /// `inside` is the path by which the command knows its directory.
    fn start_with(mut command: Command, ending: &str, directory: tempfile::TempDir, inside: &Path) -> Self {
        let account = directory.path().join("account");
        std::fs::write(&account, [0; 128]).expect("scratch directories are writable");
        command.env("ORACLE", inside.join("account"));
        // What it leaves behind where it runs, such as node's logs, goes with its directory.
        command.current_dir(directory.path());
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let undertaker = Command::new("sh")
            .args(["-c", UNDERTAKER, "undertaker", &child.id().to_string(), ending])
            .arg(directory.path())
            .arg(format!("/tmp/perf-{}.map", child.id()))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh runs");
        Self { child, undertaker, account, directory }
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

    /// The process and its children.
    pub fn family(&self) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).expect("the target lives");
        let children = children.split_whitespace().map(|pid| pid.parse().expect("pids are numbers"));
        std::iter::once(self.child.id()).chain(children).collect()
    }

    /// Lets whatever else wants to run before the whole group of the target.
    pub fn be_nice(&self) {
        let renice =
            Command::new("renice").args(["-n", "10", "-g", &self.pid()]).stdout(Stdio::null()).status();
        assert!(renice.expect("renice runs").success(), "root may do this");
    }

    /// The CPU time that the target has counted so far.
    pub fn account(&self) -> Account {
        read_account(&self.account)
    }

    /// What reads [`Self::account`], for another thread.
    pub fn reader(&self) -> impl Fn() -> Account + Send + 'static {
        let path = self.account.clone();
        move || read_account(&path)
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
        // Waiting for a child closes the pipe to it first.
        let _ = self.undertaker.wait();
        let _ = self.child.wait();
    }
}

/// The account kept in the file at `path`.
pub fn read_account(path: &Path) -> Account {
    let bytes = std::fs::read(path).expect("the account stays until the target is dropped");
    let mut account = Account::default();
    for (slot, bytes) in account.iter_mut().zip(bytes.chunks_exact(8)) {
        *slot = u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
    }
    account
}

/// Waits up to 20 s for `condition`; panics naming `what` when it does not come.
pub fn wait_for(what: &str, condition: impl Fn() -> bool) {
    wait_within(Duration::from_secs(20), what, condition);
}

/// As [`wait_for`], up to `limit`.
pub fn wait_within(limit: Duration, what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < limit, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
