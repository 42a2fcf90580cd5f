//! Claim: `txprof dump` shows what every thread of a process does: where its Python and its C are, what it waits in, and
//! who holds the interpreter's lock.

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Calls, Stack, Target, built, pythons, record_json, some_pythons, turn, txprof, wait_for};

fn dump(arguments: &[&str]) -> Value {
    let mut all = vec!["dump", "--json"];
    all.extend_from_slice(arguments);
    let run = txprof(&all);
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).expect("it is JSON")
}

fn threads(dump: &Value) -> impl Iterator<Item = &Value> {
    dump["processes"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|process| process["threads"].as_array())
        .flatten()
}

/// The Python functions of a thread with their lines, root first.
fn python(thread: &Value) -> Vec<String> {
    let frames = thread["frames"].as_array().into_iter().flatten().rev();
    let python = frames.filter(|frame| frame["kind"] == "python");
    python.map(|frame| format!("{}:{}", frame["function"].as_str().unwrap_or("?"), frame["line"])).collect()
}

/// 20 sleepers and a burner: each under its name, at its line, and in the system call that it waits in.
#[test]
fn threads_of_python_are_told() {
    let Some(_turn) = turn() else { return };
    for version in pythons() {
        let target = version.start("threads.py", &["20", "1"]);
        // The line of the sleep is known by its text.
        let source = include_str!("programs/python/threads.py");
        let line = |text: &str| 1 + source.lines().position(|line| line.trim() == text).expect("it is there");
        let dump = dump(&["-p", &target.pid()]);
        let name = &version.name;
        let sleepers: Vec<&Value> = threads(&dump)
            .filter(|thread| thread["name"].as_str().is_some_and(|name| name.starts_with("sleeper")))
            .collect();
        assert_eq!(sleepers.len(), 20, "{name}: {dump}");
        let mut awake = 0;
        for sleeper in sleepers {
            let last = format!("rest:{}", line("time.sleep(1)"));
            let waits = ["waiting", "waiting_for_gil"].iter().any(|word| sleeper["activity"] == *word);
            let is_asleep = waits && python(sleeper).last() == Some(&last);
            assert!(sleeper["complete"] == true, "{name}: {sleeper}");
            awake += usize::from(!is_asleep);
        }
        // Each wakes for a moment once a second.
        assert!(awake <= 2, "{name}: {awake} awake\n{dump}");
        let burner = threads(&dump).find(|thread| thread["name"] == "burner with a long name 0");
        let burner = burner.unwrap_or_else(|| panic!("{name}: {dump}"));
        assert!(python(burner).last().is_some_and(|last| last.starts_with("burn:")), "{name}: {burner}");
        assert!(burner["cpu_ns"].as_u64() > Some(0), "{name}: {burner}");
        let holders = threads(&dump).filter(|thread| thread["holds_gil"] == true).count();
        assert!(holders <= 3, "{name}: {holders} hold the lock");
    }
}

/// Text: the running function first, with file and line; views as in recordings.
#[test]
fn text_reads_like_a_traceback() {
    let Some(_turn) = turn() else { return };
    let version = some_pythons().pop().expect("there is an interpreter");
    let target = version.start("split.py", &["3"]);
    let shown = |arguments: &[&str]| {
        let run = txprof(&[&["dump", "-p", &target.pid()], arguments].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        run.stdout
    };
    let merged = shown(&[]);
    let recursions = merged.matches("recurse (split.py:").count();
    assert!(recursions == 3 && merged.contains("<module> (split.py:"), "{merged}");
    assert!(!merged.contains("_PyEval_EvalFrameDefault"), "{merged}");
    let (leaf, module) = (merged.find("leaf_"), merged.find("<module>"));
    assert!(leaf.is_some() && leaf < module, "{merged}");
    let native = shown(&["--native"]);
    assert!(native.contains("Py_RunMain") && !merged.contains("Py_RunMain"), "{native}");
    assert!(!shown(&["--python-only"]).contains("libc"));
}

/// Threads that fight for the interpreter's lock: one holds it, and those that wait for it are told.
#[test]
fn waiting_for_the_lock_is_told() {
    let Some(_turn) = turn() else { return };
    for version in pythons() {
        let target = version.start("threads.py", &["0", "6"]);
        let mut waiting = 0;
        let mut holding = 0;
        for _ in 0..5 {
            let dump = dump(&["-p", &target.pid()]);
            waiting += threads(&dump).filter(|thread| thread["activity"] == "waiting_for_gil").count();
            holding += threads(&dump).filter(|thread| thread["holds_gil"] == true).count();
        }
        println!("{:20} {holding} hold it, {waiting} wait for it, in 5 dumps", version.name);
        // Threads are caught one after the other, and the lock changes hands every 5 ms.
        assert!((1..=20).contains(&holding) && waiting >= 5, "{}: {holding} {waiting}", version.name);
    }
}

/// The walker in the kernel and the reader of a stopped thread's memory are two programs: of a thread whose Python
/// frames stay as they are, both tell the same functions at the same lines.
#[test]
fn both_readers_of_python_frames_agree() {
    let Some(_turn) = turn() else { return };
    for version in pythons() {
        let target = version.start("held.py", &[]);
        let profile = record_json(&["-F", "499", "-d", "1s", "--lines", "-p", &target.pid()]);
        let dump = dump(&["-p", &target.pid()]);
        let stopped = threads(&dump).map(python).find(|frames| !frames.is_empty());
        let stopped = stopped.unwrap_or_else(|| panic!("{}: {dump}", version.name));
        let in_kernel = |stack: &Stack| -> Vec<String> {
            let python = stack.calls.iter().filter(|call| call.is_python());
            python.map(|call| format!("{}:{}", call.function, call.line)).collect()
        };
        let calls = Calls::of(&profile);
        let agreeing = calls.share(|stack| in_kernel(stack) == stopped);
        println!("{:20} {agreeing:.4} of {}: {}", version.name, calls.count(), stopped.join(" "));
        let depth = if version.minor < 12 { 8 } else { 7 };
        assert!(
            stopped.len() == depth && stopped.iter().any(|frame| frame.starts_with("hold:")),
            "{stopped:?}"
        );
        assert!(
            agreeing >= 0.995 && calls.count() > 200,
            "{}: {agreeing}, should be {stopped:?}\n{}",
            version.name,
            calls.heaviest(4)
        );
    }
}

/// 500 threads, each whole.
#[test]
fn five_hundred_threads_are_told() {
    let Some(_turn) = turn() else { return };
    let version = some_pythons().pop().expect("there is an interpreter");
    let target = version.start("threads.py", &["500", "1"]);
    wait_for("all threads to be there", || {
        std::fs::read_dir(format!("/proc/{}/task", target.pid())).is_ok_and(|tasks| tasks.count() >= 502)
    });
    let dump = dump(&["-p", &target.pid()]);
    let whole =
        threads(&dump).filter(|thread| thread["complete"] == true && !python(thread).is_empty()).count();
    assert!(whole >= 500, "{whole} of {}", threads(&dump).count());
}

/// Native programs, in namespaces of their own; children are asked for.
#[test]
fn namespaces_and_children_are_told() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("unshare");
    command.args(["--pid", "--mount", "--fork"]).arg(built("split-o2")).arg("5");
    let target = Target::start_burning(command);
    let all = dump(&["--children", "-p", &target.pid()]);
    let recursing = |thread: &&Value| {
        let frames = thread["frames"].as_array().into_iter().flatten();
        frames.filter(|frame| frame["function"] == "recurse").count() == 5 && thread["complete"] == true
    };
    assert_eq!(threads(&all).filter(recursing).count(), 1, "{all}");
    let own = dump(&["-p", &target.pid()]);
    assert_eq!(threads(&own).count(), 1, "{own}");
    assert_eq!(threads(&own).next().expect("one")["activity"], "waiting");
}

/// A thread that cannot be stopped, because it waits for its child to run a program (vfork), has not ended.
#[test]
fn threads_that_do_not_stop_are_told() {
    let Some(_turn) = turn() else { return };
    let source = "import ctypes, time; ctypes.CDLL(None).vfork() or time.sleep(60)";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", source]);
    let target = Target::start_command(command);
    let waits = || std::fs::read_to_string(format!("/proc/{}/stat", target.pid())).expect("it lives");
    wait_for("the parent to wait", || waits().contains(") D "));
    let run = txprof(&["dump", "-p", &target.pid()]);
    assert_ne!(run.code, 0, "{}", run.stdout);
    assert!(
        run.stderr.contains("error: no thread stopped within") && run.stderr.contains("hint: "),
        "{}",
        run.stderr
    );
}

/// What cannot be shown says why.
#[test]
fn refusals_say_why() {
    let run = txprof(&["dump", "-p", "999999999"]);
    assert_eq!(run.code, 4, "{}", run.stderr);
    assert!(run.stderr.contains("error: ") && run.stdout.is_empty(), "{}", run.stderr);
    let run = txprof(&["dump"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}
