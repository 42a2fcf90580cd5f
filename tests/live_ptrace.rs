//! Claim: where BPF is not allowed, stopping threads for moments gives the same picture: shares by function to two
//! points, Python in its place, threads that sleep left asleep; and what is refused says why, before anything is recorded.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use txprof::model::Outcome;

use support::{
    Calls, Folded, History, Run, Stack, Target, built, chains, has, program, python_versions,
    record_burning_json, record_json, scratch, turn, txprof, wait_for,
};

const TOLERANCE: f64 = 0.02;

/// Records `target` by stopping it until it has burnt `seconds`; what it burnt meanwhile.
fn record_stopping(target: &Target, seconds: u64) -> (serde_json::Value, [f64; 16]) {
    let history = History::of(target);
    let options = ["--backend", "ptrace", "-p", &target.pid()];
    let profile = record_burning_json(&[target], Duration::from_secs(seconds), &options);
    let burnt = history.burnt_ns(&profile);
    (profile, burnt)
}

/// 12 s at 250 Hz are 3,000 samples; 1,800 runs of a leaf, each seen with an error of less than one sample, scatter by
/// 0.6 points.
#[test]
fn shares_are_those_that_the_program_counted() {
    let Some(_turn) = turn() else { return };
    for name in ["split-o2", "split-cxx", "split-rust"] {
        let target = Target::start(name, &[]);
        let (profile, burnt_ns) = record_stopping(&target, 12);
        let calls = Calls::of(&profile);
        let leaves = program(name).leaves;
        let burnt: f64 = leaves.iter().map(|(_, slot)| burnt_ns[*slot]).sum();
        for (leaf, slot) in leaves {
            let (share, expected) = (calls.share(|stack| stack.has(leaf)), burnt_ns[*slot] / burnt);
            println!("{name:12} {leaf:10} {:.2} % expected {:.2} %", share * 100.0, expected * 100.0);
            assert!((share - expected).abs() < TOLERANCE, "{name}: {leaf} {share}, should be {expected}");
        }
        // The weights are the run time that the scheduler counted; the account leaves out what is between the leaves.
        let seen = calls.weight_ns() / burnt;
        assert!((0.95..1.1).contains(&seen), "{name}: {seen:.3} of the run time in the weights");
        let complete = calls.share(|stack| stack.complete);
        assert!(complete >= 0.995, "{name}: {complete} complete\n{}", calls.heaviest(5));
        let stops = &profile["recording"]["cost"]["stops"];
        println!("{name:12} {stops}");
        assert!(stops["count"].as_u64() > Some(1000), "{stops}");
    }
}

/// What a function has popped already lies below the stack pointer, and its caller is found by that: it is copied
/// with the stack, so not even the first catch of a thread lacks it.
#[test]
fn red_zone_is_copied() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("red_zone", &[]);
    let dump = || -> serde_json::Value {
        let run = txprof(&["dump", "--json", "-p", &target.pid()]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let dump: serde_json::Value = serde_json::from_str(&run.stdout).expect("it is JSON");
        dump["processes"][0]["threads"][0].clone()
    };
    let function = |thread: &serde_json::Value, index: usize| thread["frames"][index]["function"].clone();
    // It may be reading the clock for once.
    let there: Vec<_> = (0..6).map(|_| dump()).filter(|thread| function(thread, 0) == "popped").collect();
    assert!(there.len() >= 3, "{there:?}");
    for thread in there {
        assert_eq!([function(&thread, 1), function(&thread, 2)], ["on_rbp", "main"], "{thread}");
        assert_eq!(thread["complete"], true, "{thread}");
    }
    let profile = record_json(&["--backend", "ptrace", "-F", "250", "-d", "2s", "-p", &target.pid()]);
    let calls = Calls::of(&profile);
    let is_whole = |stack: &Stack| stack.complete && stack.has("popped") && stack.has("main");
    assert!(calls.count() > 100 && calls.share(is_whole) > 0.9, "{}", calls.heaviest(4));
    assert!(calls.stacks.iter().all(|stack| stack.complete), "{}", calls.heaviest(9));
}

/// The chains of calls that each interpreter tells of itself, through C and back.
#[test]
fn python_stands_in_its_place() {
    let Some(_turn) = turn() else { return };
    for python in python_versions() {
        for source in ["shapes.py", "callbacks.py"] {
            let target = python.start(source, &[]);
            let (profile, _) = record_stopping(&target, 2);
            let calls = Calls::of(&profile);
            // A gap that is marked is no lie; it is rare, but for reading that the host interrupted for too long.
            let has_marker = |stack: &Stack, text: &str| {
                stack.calls.iter().any(|call| call.kind == "marker" && call.function.contains(text))
            };
            let is_marked = |stack: &Stack| has_marker(stack, "");
            let is_late = |stack: &Stack| has_marker(stack, Outcome::StopLimit.text());
            let early = calls.filtered(|stack| !is_late(stack));
            assert!(calls.share(is_late) < 0.1, "{}: {}", python.name, calls.heaviest(4));
            assert!(
                early.share(is_marked) < 0.02,
                "{}: {}",
                python.name,
                early.filtered(is_marked).heaviest(4)
            );
            let comparison = calls.filtered(|stack| !is_marked(stack)).compare(&chains(&target));
            let (name, share) = (&python.name, comparison.exact_share());
            let (exact, others) = (comparison.exact.count(), comparison.others.count());
            println!("{name:20} {source:12} {:.3} % exact of {exact}, {others} otherwise", share * 100.0);
            // The others lack the native call that they are mostly in: they are in Python just before or behind it.
            assert!(
                share >= 0.97 && others as f64 <= 0.005 * exact as f64 && exact > 200,
                "{name} {source}: {share} of {exact}, {others}\n{}",
                comparison.others.heaviest(5)
            );
        }
    }
}

/// Sleepers are not woken: the system calls that they sleep in go on, and nobody switches to them.
#[test]
fn sleepers_are_left_asleep() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("threads", &["16"]);
    let sleeper = Target::start_command({
        let mut command = Command::new("sleep");
        command.arg("300");
        command
    });
    let switches = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", sleeper.pid())).expect("it sleeps");
        let lines = status.lines().filter_map(|line| line.split_once("voluntary_ctxt_switches:"));
        lines.map(|(_, number)| number.trim().parse::<u64>().expect("a number")).sum::<u64>()
    };
    std::thread::sleep(Duration::from_millis(300));
    let before = switches();
    let pids = format!("{},{}", target.pid(), sleeper.pid());
    let profile = record_json(&["--backend", "ptrace", "-F", "250", "-d", "2s", "--per-thread", "-p", &pids]);
    // Whether it may be stopped at all is tried once, at the beginning.
    assert!(switches() <= before + 2, "{} switches", switches() - before);
    let calls = Calls::of(&profile);
    assert!(calls.count() > 100, "{}", calls.heaviest(3));
    assert!(calls.stacks.iter().all(|stack| stack.process != "sleep"), "{}", calls.heaviest(3));
}

/// Children, their programs, and libraries that come while we record.
#[test]
fn children_and_new_programs_are_followed() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("sh");
    let split = built("split-o2");
    command.args(["-c", &format!("sleep 1; {} 10 & exec {} 20", split.display(), split.display())]);
    let target = Target::start_command(command);
    let profile = record_json(&["--backend", "ptrace", "-F", "250", "-d", "4s", "-p", &target.pid()]);
    let calls = Calls::of(&profile);
    let depth = |stack: &Stack| stack.calls.iter().filter(|call| call.function == "recurse").count();
    let (ten, twenty) = (calls.share(|stack| depth(stack) == 10), calls.share(|stack| depth(stack) == 20));
    assert!(ten > 0.3 && twenty > 0.3 && ten + twenty > 0.95, "{ten} {twenty}\n{}", calls.heaviest(6));
}

/// `txprof` and a program as the user `nobody`, who may not use BPF: `auto` tells why, and records.
#[test]
fn ordinary_users_record_their_own() {
    let Some(_turn) = turn() else { return };
    if !has("setpriv") {
        return;
    }
    let (directory, run) = as_nobody(&["record", "-d", "3s", "-o", "out.folded", "--", "./split-o2", "10"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("note: ") && run.stderr.contains("stopped for moments instead"),
        "{}",
        run.stderr
    );
    let text = std::fs::read_to_string(directory.path().join("out.folded")).expect("it was written");
    let folded = Folded::parse(&text);
    let share = folded.share(|line| line.has("leaf_60"));
    assert!(folded.total() > 100 && (share - 0.6).abs() < 0.1, "{share}\n{}", folded.heaviest(4));
    // Somebody else's process is refused before anything is recorded, with what to type.
    let target = Target::start("split-o2", &[]);
    let (_directory, run) = as_nobody(&["record", "-d", "1s", "-o", "x.svg", "-p", &target.pid()]);
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("error: ") && run.stderr.contains("hint: "), "{}", run.stderr);
}

fn as_nobody(arguments: &[&str]) -> (tempfile::TempDir, Run) {
    let directory = scratch();
    let txprof = directory.path().join("txprof");
    std::fs::copy(env!("CARGO_BIN_EXE_txprof"), &txprof).expect("scratch is writable");
    std::fs::copy(built("split-o2"), directory.path().join("split-o2")).expect("scratch is writable");
    let nobody = nix::unistd::Uid::from_raw(65534);
    nix::unistd::chown(directory.path(), Some(nobody), None).expect("root may do this");
    let output = Command::new("timeout")
        .args(["-k", "5", "60", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&txprof)
        .args(arguments)
        .current_dir(directory.path())
        .env("TXPROF_CACHE_DIR", directory.path().join("cache"))
        .env("ORACLE_SECONDS", "20")
        .stdin(Stdio::null())
        .output()
        .expect("coreutils' timeout runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let run = Run {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    (directory, run)
}

/// A process that somebody traces already cannot be stopped by us: the tracer is named.
#[test]
fn other_tracers_are_named() {
    let Some(_turn) = turn() else { return };
    if !has("strace") {
        return;
    }
    let target = Target::start("split-o2", &[]);
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", "/dev/null", "-p", &target.pid()]);
    let strace = Target::start_command(strace);
    wait_for("strace to attach", || {
        std::fs::read_to_string(format!("/proc/{}/status", target.pid()))
            .is_ok_and(|status| status.contains(&format!("TracerPid:\t{}", strace.pid())))
    });
    let directory = scratch();
    let output = directory.path().join("x.svg").display().to_string();
    for arguments in [
        &["record", "--backend", "ptrace", "-d", "1s", "-o", &output, "-p", &target.pid()][..],
        &["dump", "-p", &target.pid()],
    ] {
        let run = txprof(arguments);
        assert_eq!(run.code, 3, "{arguments:?}: {}", run.stderr);
        let named = format!("error: process {} traces", strace.pid());
        assert!(run.stderr.contains(&named) && run.stderr.contains("hint: "), "{}", run.stderr);
    }
    assert!(!Path::new(&output).exists(), "nothing was recorded");
}

/// A program whose signals come thick and fast gets every one of them.
#[test]
fn signals_are_delivered() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("signals", &[]);
    let profile = record_json(&["--backend", "ptrace", "-F", "250", "-d", "3s", "-p", &target.pid()]);
    let before = target.account();
    wait_for("the program to go on", || target.since(&before).iter().sum::<u64>() > 100_000_000);
    let calls = Calls::of(&profile);
    assert!(calls.count() > 300 && calls.share(|stack| stack.complete) > 0.99, "{}", calls.heaviest(6));
}

/// A target that is stopped stays so, and one that goes on does so at once.
#[test]
fn stopped_targets_stay_stopped() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &[]);
    target.signal(Signal::SIGSTOP);
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", target.pid())).expect("it lives");
    wait_for("it to stop", || state().contains(") T "));
    let run = txprof(&["dump", "-p", &target.pid()]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.contains("stopped") && run.stdout.contains("recurse"), "{}", run.stdout);
    assert!(state().contains(") T "), "{}", state());
    target.signal(Signal::SIGCONT);
    let before = target.account();
    wait_for("it to go on", || target.since(&before).iter().sum::<u64>() > 10_000_000);
}

/// Beyond the limit the rate goes down, and sums stay true: the weights are still the run time.
#[test]
fn cost_is_held_below_its_limit() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &[]);
    let history = History::of(&target);
    let options =
        ["--backend", "ptrace", "-F", "250", "-d", "5s", "--max-overhead", "0.5", "-p", &target.pid()];
    let profile = record_json(&options);
    let burnt: f64 = history.burnt_ns(&profile)[..3].iter().sum();
    let changes = profile["recording"]["rate_changes"].as_array().expect("JSON form has rate_changes");
    assert!(!changes.is_empty(), "{}", profile["recording"]);
    let seen = Calls::of(&profile).weight_ns() / burnt;
    assert!((0.95..1.1).contains(&seen), "{seen}");
}

/// Two idle loops for each CPU want it as much as we do: what we hold is let go as soon as without them, though what
/// is told of it counts our own waiting. The longest is one of a thread that got no CPU to stop on for long, counted
/// from when it was seen last not to have stopped.
#[test]
fn stops_are_short_on_a_busy_machine() {
    let Some(_turn) = turn() else { return };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let spinner = || Target::start_command(support::shell("while :; do :; done"));
    let _spinners: Vec<Target> = (0..2 * cpus).map(|_| spinner()).collect();
    let target = Target::start("split-o2", &[]);
    let profile = record_json(&["--backend", "ptrace", "-F", "250", "-d", "5s", "-p", &target.pid()]);
    let stops = &profile["recording"]["cost"]["stops"];
    let number = |name: &str| stops[name].as_u64().expect("the JSON form has it");
    let (count, mean_ns) = (number("count"), number("total_ns") / number("count").max(1));
    println!("{count} stops of {mean_ns} ns, at most {}", number("longest_ns"));
    assert!(count > 100 && mean_ns < 300_000, "{stops}");
}

/// On the only CPU that a spinner leaves us, both ways of looking work.
#[test]
fn spinner_on_our_only_cpu_is_seen() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("split-o2")).arg("5");
    let target = Target::start_burning(command);
    for arguments in [
        &["dump", "-p", &target.pid()][..],
        &["record", "--backend", "ptrace", "-d", "2s", "-o", "-", "-p", &target.pid()],
    ] {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(env!("CARGO_BIN_EXE_txprof")).args(arguments);
        let output = pinned.stdin(Stdio::null()).output().expect("taskset runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("leaf_"), "{text}{output:?}");
    }
}
