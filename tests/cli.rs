//! The program as a user meets it: help, errors with hints, exit codes.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};

fn txprof(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_txprof")).args(words).stdin(Stdio::null()).output().unwrap()
}

fn told(words: &[&str]) -> (i32, String) {
    let output = txprof(words);
    assert!(output.stdout.is_empty(), "words belong on standard error");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Every misuse gives one error line, one hint line and exit code 2.
#[test]
fn misuse_is_one_error_with_a_hint() {
    for (words, error, hint) in [
        (&["record"][..], "no target given", "name one: `-p PID`"),
        (&["record", "-p", "1", "--name", "x"], "more than one kind of target", "give one of them"),
        (&["record", "-p", "0"], "invalid value `0` for `--pid <PID>`", "`txprof record --help`"),
        (&["record", "-p", "1", "-F", "0"], "0 is not in 1..=10000", "`txprof record --help`"),
        (&["record", "-p", "1", "-F", "10001"], "10001 is not in 1..=10000", "`txprof record --help`"),
        (&["record", "-p", "1", "-d", "5 days"], "write 500ms, 30s, 1m30s or 2h", "`txprof record --help`"),
        (&["record", "-p", "1", "--max-overhead", "0"], "above 0 and at most 100", "`txprof record --help`"),
        (&["record", "-p", "1", "-o", "x.png"], "cannot tell the format of `x.png`", "end it in .svg"),
        (&["record", "-p", "1", "--mode", "walls"], "invalid value `walls` for `--mode <MODE>`", "`wall`"),
        (&["record", "-p", "1", "--wakers"], "which this mode does not see", "add `--mode wall`"),
        (&["record", "-p", "1", "--mode", "wall", "--min-wait", "9"], "write 50us", "`txprof record --help`"),
        (
            &["record", "-p", "1", "--native", "--python-only"],
            "cannot be used with `--python-only`",
            "--help`",
        ),
        (&["record", "-p", "1", "--hide", ""], "text to look for is empty", "`--hide site-packages/`"),
        (&["record", "--durration", "1"], "unexpected argument `--durration` found", "`--duration`"),
        (&["record", "--zzz", "1"], "unexpected argument `--zzz` found", "`txprof record --help`"),
        (&["recrod"], "unrecognized subcommand `recrod`", "`record`"),
    ] {
        let (code, text) = told(words);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{text}");
        assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{text}");
        assert_eq!(code, 2, "{text}");
    }
}

/// Help goes to standard output, starts with examples, names units, defaults and exit codes.
#[test]
fn help_begins_with_examples_and_ends_with_exit_codes() {
    for words in [&["--help"][..], &["record", "--help"], &["record", "-h"]] {
        let output = txprof(words);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(text.starts_with("Examples:\n"), "{text}");
        assert!(text.contains("Exit codes:\n  0  done"), "{text}");
    }
    let record = String::from_utf8(txprof(&["record", "--help"]).stdout).unwrap();
    for part in [
        "Samples per second and CPU, 1 to 10000",
        "[default: 99]",
        "-o, --output <FILE>",
        "that hold the lock of their Python interpreter",
    ] {
        assert!(record.contains(part), "`{part}` in\n{record}");
    }
}

/// A reader that closes the pipe at once is no panic.
#[test]
fn closed_standard_output_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_txprof"))
        .args(["record", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
