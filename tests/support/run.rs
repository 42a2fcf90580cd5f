//! Running `txprof` and reading what it wrote.

use std::process::{Command, Stdio};

use super::Folded;

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
    let directory = tempfile::Builder::new().prefix("txprof-test-").tempdir().expect("/tmp is writable");
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("own directories can be opened");
    directory
}

/// Runs `txprof` to its end.
pub fn txprof(arguments: &[&str]) -> Run {
    let output = Command::new("timeout")
        .args(["-k", "5", "150", env!("CARGO_BIN_EXE_txprof")])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("coreutils' timeout runs");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Records with `arguments` (before any `--`) into folded stacks; panics unless that succeeds.
pub fn record(arguments: &[&str]) -> Shot {
    let (text, stderr) = record_as("folded", arguments);
    Shot { folded: Folded::parse(&text), stderr }
}

/// Records with `arguments` (before any `--`) into the JSON form; panics unless that succeeds.
pub fn record_json(arguments: &[&str]) -> serde_json::Value {
    let (text, stderr) = record_as("json", arguments);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON: {error}\n{stderr}"))
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
