//! Claim: bad input gets one clear error with a hint where the user can act,
//! the documented exit code, and before any work is lost.
//!
//! The exit codes are those of the README.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Run, Target, scratch, turn, txprof};

const USAGE: i32 = 2;
const NOT_ALLOWED: i32 = 3;
const TARGET: i32 = 4;
const NO_SAMPLES: i32 = 5;
const OUTPUT: i32 = 1;

/// One `error:` line, within a second or two, holding all `words`; no panic, no backtrace.
fn assert_refused(arguments: &[&str], code: i32, words: &[&str]) -> Run {
    let began = Instant::now();
    let run = txprof(arguments);
    assert_eq!(run.code, code, "{arguments:?}:\n{}", run.stderr);
    assert!(began.elapsed() < Duration::from_secs(3), "refused only after {:?}", began.elapsed());
    for word in words {
        assert!(run.stderr.contains(word), "no `{word}` in:\n{}", run.stderr);
    }
    assert_eq!(run.stderr.matches("error:").count(), 1, "{}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    run
}

/// A pid that no process has.
#[test]
fn no_such_pid() {
    let Some(_turn) = turn() else { return };
    assert_refused(&["record", "-p", "4194000"], TARGET, &["no process 4194000", "hint:"]);
}

/// What is not a pid, and no target at all.
#[test]
fn nonsense_target() {
    let Some(_turn) = turn() else { return };
    for arguments in
        [&["record", "-p", "0"][..], &["record", "-p", "-7"], &["record", "-p", "x"], &["record"]]
    {
        assert_refused(arguments, USAGE, &[]);
    }
}

/// A kernel thread has no user stacks.
#[test]
fn kernel_thread() {
    let Some(_turn) = turn() else { return };
    assert_refused(&["record", "-p", "2"], TARGET, &["kernel thread"]);
}

/// A zombie runs no more.
#[test]
fn zombie() {
    let Some(_turn) = turn() else { return };
    let mut child = Command::new("true").spawn().expect("`true` runs");
    std::thread::sleep(Duration::from_millis(200));
    let pid = child.id().to_string();
    assert_refused(&["record", "-p", &pid], TARGET, &[&pid, "zombie"]);
    child.wait().expect("the child was started here");
}

/// A 32-bit program is told apart before sampling.
#[test]
fn thirty_two_bit_target() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let (source, program) = (directory.path().join("i386.c"), directory.path().join("i386"));
    std::fs::write(&source, "void _start(void) { for (;;) ; }\n").expect("scratch directories are writable");
    let compiled = Command::new("gcc")
        .args(["-m32", "-O1", "-nostdlib", "-static", "-fno-pie", "-no-pie", "-o"])
        .args([&program, &source])
        .status()
        .expect("gcc runs");
    assert!(compiled.success());
    let target = Target::start_command(Command::new(&program));
    std::thread::sleep(Duration::from_millis(100));
    if !std::path::Path::new(&format!("/proc/{}/exe", target.pid())).exists() {
        support::skip::<()>("this kernel does not run 32-bit programs");
        return;
    }
    assert_refused(&["record", "-p", &target.pid()], TARGET, &["32-bit"]);
}

/// A name and a control group that nobody has.
#[test]
fn nobody_of_that_name() {
    let Some(_turn) = turn() else { return };
    assert_refused(&["record", "--name", "no-such-name"], TARGET, &["no-such-name"]);
    assert_refused(&["record", "--cgroup", "/no/such/group"], TARGET, &["/no/such/group"]);
}

/// Frequencies outside 1 to 10000, and durations that are none.
#[test]
fn numbers_out_of_range() {
    let Some(_turn) = turn() else { return };
    let pid = std::process::id().to_string();
    for frequency in ["0", "10001", "-1", "many", "99999999999999999999"] {
        assert_refused(&["record", "-p", &pid, "-F", frequency], USAGE, &[frequency]);
    }
    for duration in ["0", "0s", "soon", "99999999999999999999s"] {
        assert_refused(&["record", "-p", &pid, "-d", duration], USAGE, &[duration]);
    }
}

/// Output that cannot be written is told before recording, so the 60 s are not lost.
#[test]
fn unwritable_output_is_told_first() {
    let Some(_turn) = turn() else { return };
    let pid = std::process::id().to_string();
    let record = ["record", "-p", &pid, "-d", "60s", "-o"];
    for (path, why) in [
        ("/no/such/folder/x.svg", "hint: mkdir -p /no/such/folder"),
        ("/proc/x.svg", "folder `/proc` takes no new files"),
        ("/tmp", "it is a folder\nhint: name a file in it: `-o /tmp/out.svg`"),
    ] {
        assert_refused(&[&record[..], &[path]].concat(), OUTPUT, &[path, why]);
    }
    assert_refused(&[&record[..], &["/tmp/x.unknown"]].concat(), USAGE, &["x.unknown", ".svg"]);
}

/// A full disk is an error that names the file; nothing pretends to be a profile.
#[test]
fn full_disk_is_an_error() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &[]);
    let directory = scratch();
    let link = directory.path().join("full.svg");
    std::os::unix::fs::symlink("/dev/full", &link).expect("scratch directories are writable");
    let link = link.to_str().expect("scratch paths are plain");
    let run = txprof(&["record", "-p", &target.pid(), "-d", "1", "-o", link]);
    assert_eq!(run.code, OUTPUT, "{}", run.stderr);
    assert!(run.stderr.contains("full.svg"), "{}", run.stderr);
}

/// A process that sleeps gives no samples: told with the reason and an exit code of its own.
#[test]
fn zero_samples_say_why() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let path = directory.path().join("none.folded");
    let path = path.to_str().expect("scratch paths are plain");
    let mut command = Command::new("sleep");
    command.arg("60");
    let target = Target::start_command(command);
    std::thread::sleep(Duration::from_millis(200));
    let run = txprof(&["record", "-p", &target.pid(), "-d", "1", "-o", path]);
    assert_eq!(run.code, NO_SAMPLES, "{}", run.stderr);
    assert!(run.stderr.contains("no samples") && run.stderr.contains("hint: it slept"), "{}", run.stderr);
}

/// An ordinary user is told the missing capability, and can run `doctor`.
#[test]
fn ordinary_user_is_told_the_capability() {
    let Some(_turn) = turn() else { return };
    let directory = scratch();
    let program = directory.path().join("txprof");
    std::fs::copy(env!("CARGO_BIN_EXE_txprof"), &program).expect("scratch directories are writable");
    let as_nobody = |arguments: &[&str]| {
        let output = Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(&program)
            .args(arguments)
            .current_dir("/tmp")
            .stdin(Stdio::null())
            .output()
            .expect("setpriv runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let target = Target::start("split-o2", &[]);
    let (code, words) = as_nobody(&["record", "-p", &target.pid(), "-d", "1", "-o", "-"]);
    assert_eq!(code, Some(NOT_ALLOWED), "{words}");
    assert!(words.contains("CAP_SYS_PTRACE") && words.contains("hint:"), "{words}");
    let (code, words) =
        as_nobody(&["record", "--backend", "ebpf", "-p", &target.pid(), "-d", "1", "-o", "-"]);
    assert_eq!(code, Some(NOT_ALLOWED), "{words}");
    assert!(words.contains("CAP_BPF") && words.contains("hint:"), "{words}");
    let (_, words) = as_nobody(&["doctor"]);
    assert!(words.contains("CAP_BPF") || words.contains("sudo"), "{words}");
}

/// A perf map of garbage, a gigabyte-sized line and impossible ranges neither stops nor misleads us.
#[test]
fn hostile_perf_map_is_survived() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("jit", &[]);
    let map = format!("/tmp/perf-{}.map", target.pid());
    let mut text = std::fs::read(&map).expect("the program wrote its map");
    text.extend_from_slice(b"ffffffffffffffff ffffffffffffffff all\nzz zz\n\xff\xfe\0\n1 2\n");
    text.extend(std::iter::repeat_n(b'a', 5_000_000));
    std::fs::write(&map, text).expect("root may write");
    let shot = support::record(&["-p", &target.pid(), "-d", "2", "-F", "499"]);
    let named = shot.folded.share(|line| line.has("jit_inner"));
    assert!(named > 0.2, "{named}\n{}", shot.stderr);
}
