//! Running `txprof` and reading what it wrote.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Account, Folded, Target};

/// The slots of an account that hold times in all programs; the others count.
pub const TIMES: usize = 4;

/// A finished run of `txprof`.
#[derive(Debug)]
pub struct Run {
    /// The exit code; 124 when it had to be killed after 150 s, 128 + n after signal n.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Words.
    pub stderr: String,
}

/// A recording: the stacks and what was said about them.
#[derive(Debug)]
pub struct Shot {
    /// The stacks.
    pub folded: Folded,
    /// The end line and warnings.
    pub stderr: String,
}

/// A new directory that vanishes when dropped; open to all, as targets may run as others.
pub fn scratch() -> tempfile::TempDir {
    scratch_in(&std::env::temp_dir())
}

/// As [`scratch`], below `parent`.
pub fn scratch_in(parent: &Path) -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix("txprof-test-")
        .tempdir_in(parent)
        .expect("places for scratch are writable");
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("own directories can be opened");
    directory
}

/// A shell that runs `line`.
pub fn shell(line: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    command
}

/// `txprof`, with a cache of its own below the target directory, and killed after 150 s, or 100 s after it was
/// asked to end: naming the frames of a dozen interpreters takes a busy machine more than five.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "-k", "100", "150", env!("CARGO_BIN_EXE_txprof")])
        .args(arguments)
        .env("TXPROF_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `txprof` to its end.
pub fn txprof(arguments: &[&str]) -> Run {
    finished(command(arguments).spawn().expect("coreutils' timeout runs"))
}

fn finished(child: Child) -> Run {
    let output = child.wait_with_output().expect("the child was started here");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Records with `arguments` at 999 Hz until each target has burnt `cpu` more by its own account: a number of
/// samples that does not depend on what else the machine does. Panics when that takes more than two minutes
/// or when the samples are far fewer than the targets' CPU time makes.
pub fn record_burning(targets: &[&Target], cpu: Duration, arguments: &[&str]) -> Shot {
    // Some of that time was before the clocks ticked; where the machine is so busy that it was most, another second is
    // burnt.
    let least = (cpu.as_secs_f64() * 999.0 * 0.6) as u64 * targets.len() as u64;
    let of = |cpu| {
        let (text, stderr) = record_burning_as("folded", targets, cpu, arguments);
        Shot { folded: Folded::parse(&text), stderr }
    };
    let mut shot = of(cpu);
    if shot.folded.total() < least {
        shot = of(cpu + Duration::from_secs(1));
    }
    assert!(shot.folded.total() >= least, "{} samples, not {least}\n{}", shot.folded.total(), shot.stderr);
    shot
}

/// The same into the JSON form, which tells the seconds that a [`History`](super::History) is then asked about.
pub fn record_burning_json(targets: &[&Target], cpu: Duration, arguments: &[&str]) -> serde_json::Value {
    let (text, stderr) = record_burning_as("json", targets, cpu, arguments);
    parse_json(&text, &stderr)
}

/// What was written, and what was said.
fn record_burning_as(
    ending: &str,
    targets: &[&Target],
    cpu: Duration,
    arguments: &[&str],
) -> (String, String) {
    let directory = scratch();
    let output = directory.path().join(format!("out.{ending}"));
    let output = output.to_str().expect("scratch paths are plain");
    let mut all = vec!["record", "-F", "999", "-o", output];
    all.extend_from_slice(arguments);
    let before: Vec<Account> = targets.iter().map(|target| target.account()).collect();
    let burnt = |target: &Target, before| Duration::from_nanos(target.since(before)[..TIMES].iter().sum());
    let mut child = command(&all).spawn().expect("coreutils' timeout runs");
    let began = Instant::now();
    while child.try_wait().expect("the child was started here").is_none()
        && began.elapsed() < Duration::from_secs(120)
        && targets.iter().zip(&before).any(|(target, before)| burnt(target, before) < cpu)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        began.elapsed() < Duration::from_secs(120),
        "the machine is too busy: {cpu:?} took {:?}",
        began.elapsed()
    );
    let _ended_already = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
    let run = finished(child);
    assert_eq!(run.code, 0, "txprof {all:?}:\n{}", run.stderr);
    (std::fs::read_to_string(output).expect("the file was written"), run.stderr)
}

/// Records with `arguments` (before any `--`) into folded stacks; panics unless that succeeds.
pub fn record(arguments: &[&str]) -> Shot {
    let (text, stderr) = record_as("folded", arguments);
    Shot { folded: Folded::parse(&text), stderr }
}

/// Records with `arguments` (before any `--`) into the JSON form; panics unless that succeeds.
pub fn record_json(arguments: &[&str]) -> serde_json::Value {
    let (text, stderr) = record_as("json", arguments);
    parse_json(&text, &stderr)
}

fn parse_json(text: &str, stderr: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("not JSON: {error}\n{stderr}"))
}

fn record_as(ending: &str, arguments: &[&str]) -> (String, String) {
    let directory = scratch();
    let output = directory.path().join(format!("out.{ending}"));
    let output = output.to_str().expect("scratch paths are plain");
    let mut all = vec!["record", "-o", output];
    all.extend_from_slice(arguments);
    let run = txprof(&all);
    assert_eq!(run.code, 0, "txprof {all:?}:\n{}", run.stderr);
    let text =
        std::fs::read_to_string(output).unwrap_or_else(|error| panic!("{output}: {error}\n{}", run.stderr));
    (text, run.stderr)
}
