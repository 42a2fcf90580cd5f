//! Claim: with `--per-thread` the threads of a Python program are called as `threading` calls them, on every version,
//! and none has the name of another one.

mod support;

use std::time::Duration;

use nix::sys::signal::Signal;
use support::{Folded, Line, Python, Target, pythons, record, some_pythons, turn};

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The thread's name in a line of `--per-thread`, whose second frame is `NAME-TID`.
fn thread_name(line: &Line) -> &str {
    line.frames.get(1).and_then(|frame| frame.rsplit_once('-')).map_or("", |(name, _)| name)
}

/// The samples of the process `pid`, whose first frame is `NAME-PID`.
fn of_pid(folded: &Folded, pid: &str) -> Folded {
    folded.filtered(|line| line.frames[0].rsplit_once('-').is_some_and(|(_, last)| last == pid))
}

/// Whether the Python function `name`, of whatever class, is in the stack.
fn is_in(line: &Line, name: &str) -> bool {
    let function = |frame: &String| Some(frame.split_once(" (")?.0.rsplit('.').next()? == name);
    line.frames.iter().any(|frame| function(frame) == Some(true))
}

/// Names and the functions that their threads are in; see `tests/programs/python/names.py`.
const NAMES: [(&str, &str); 5] = [
    ("MainThread", "main"),
    ("plain", "plain"),
    ("größer: 日本\u{fffd}x", "derived"),
    ("renamed while running", "early"),
    ("born late", "born"),
];

/// Threads of all interpreters at once: plain ones, one of a derived class with an odd name, one that is renamed and one
/// that is started while recording. No name stands above another one's function.
#[test]
fn threads_are_called_as_threading_calls_them() {
    let Some(_turn) = turn() else { return };
    let started = Python::start_each(pythons(), "names.py", &[]);
    let pids: Vec<String> = started.iter().map(|(_, target)| target.pid()).collect();
    let mut arguments = vec!["-F", "999", "-d", "6s", "--per-thread"];
    arguments.extend(pids.iter().flat_map(|pid| ["-p", pid]));
    let shot = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            started.iter().for_each(|(_, target)| target.signal(Signal::SIGUSR1));
        });
        record(&arguments)
    });
    let mut wrong = Vec::new();
    for ((python, _), pid) in started.iter().zip(&pids) {
        let own = of_pid(&shot.folded, pid);
        println!("{:20} {} samples", python.name, own.total());
        for (name, function) in NAMES {
            let named = own.filtered(|line| thread_name(line) == name);
            let mistaken =
                named.share(|line| NAMES.iter().any(|(_, other)| *other != function && is_in(line, other)));
            // A thread that was just started is not in its function yet.
            let right = named.share(|line| is_in(line, function));
            if named.total() < 20 || mistaken > 0.0 || right < 0.85 {
                let (name, heaviest) = (&python.name, named.heaviest(3));
                wrong.push(format!("{name}: {mistaken:.3} mistaken, {right:.3} right\n{heaviest}"));
            }
        }
        let unnamed = own.share(|line| NAMES.iter().all(|(name, _)| thread_name(line) != *name));
        if unnamed > 0.0 {
            wrong.push(format!("{}: {unnamed:.3} unnamed\n{}", python.name, own.heaviest(8)));
        }
    }
    assert!(!started.is_empty());
    assert_none(&wrong);
}

/// Threads that follow one another at the same thread pointer are not mistaken for each other. Those that lived for too
/// short a time to be asked keep the process's name.
#[test]
fn brief_threads_are_not_mistaken_for_each_other() {
    let Some(_turn) = turn() else { return };
    let mut wrong = Vec::new();
    for python in some_pythons() {
        let target: Target = python.start("names.py", &["brief"]);
        let shot = record(&["-F", "999", "-d", "6s", "--per-thread", "-p", &target.pid()]);
        let burning = shot.folded.filtered(|line| is_in(line, "even") || is_in(line, "odd"));
        for (name, other) in [("even", "odd"), ("odd", "even")] {
            let mistaken = burning.filtered(|line| thread_name(line).starts_with(name) && is_in(line, other));
            if mistaken.total() > 0 {
                wrong.push(format!("{}: {}", python.name, mistaken.heaviest(3)));
            }
        }
        let named = burning.share(|line| {
            let name = thread_name(line);
            name.starts_with("even") || name.starts_with("odd")
        });
        println!("{:20} {} samples, {named:.3} named", python.name, burning.total());
        if named < 0.6 || burning.total() < 500 {
            wrong.push(format!("{}: {named:.3} of {} named", python.name, burning.total()));
        }
    }
    assert_none(&wrong);
}
