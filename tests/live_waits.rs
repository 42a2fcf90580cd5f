//! Claim: of each thread, running, queueing and waiting add up to the time that passed, each wait stands where and
//! for as long as the program itself waited, and who ended it is told.

#![cfg(feature = "bpf")]

mod support;

use std::process::Command;
use std::time::Duration;

use support::{
    History, Postgres, Target, Wait, Waits, built, record, record_json, scratch, shell, turn, txprof,
};

const BARE: &str = "[waits without a stack]";
const WALL: [&str; 4] = ["--per-thread", "--mode", "wall", "-d"];

/// Records `pid` for `seconds` with waits.
fn watch(pid: &str, seconds: &str, more: &[&str]) -> Waits {
    Waits::of(&record_json(&[&WALL[..], &[seconds, "-p", pid], more].concat()))
}

fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A thread sleeps, waits for a lock, a pipe and a disk, and computes: each phase has the time that the program
/// measured in it, to 1 % of what passed, and nearly all of it in the state and the call that are its own.
#[test]
fn each_phase_takes_its_time() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["phases"]);
    let history = History::of(&target);
    let profile = record_json(&[&WALL[..], &["6s", "-F", "499", "-p", &target.pid()]].concat());
    assert_none(&wrong_phases(&target, history, &profile));
}

/// So it is where threads cannot be asked for their stacks, before Linux 6.18: the ends of all system calls are told.
#[test]
fn each_phase_takes_its_time_before_linux_6_18() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["phases"]);
    let history = History::of(&target);
    let directory = scratch();
    let output = directory.path().join("waits.json");
    let mut command = Command::new(env!("CARGO_BIN_EXE_txprof"));
    command.arg("record").args(WALL).args(["6s", "-F", "499", "-p", &target.pid()]).arg("-o").arg(&output);
    let run = command.env("TXPROF_NO_TASK_WORK", "1").output().expect("txprof runs");
    let text = std::fs::read_to_string(&output).unwrap_or_else(|error| panic!("{error}: {run:?}"));
    let profile = serde_json::from_str(&text).expect("the JSON form");
    assert_none(&wrong_phases(&target, history, &profile));
}

/// What is wrong with the phases of a program whose account was `history` when its recording began.
fn wrong_phases(target: &Target, history: History, profile: &serde_json::Value) -> Vec<String> {
    let truth = history.burnt_ns(profile);
    let waits = Waits::of(profile);
    let mut wrong = waits.wrong_sums(|_| true);
    let main: u64 = target.pid().parse().expect("a pid");
    let phases = [
        ("sleep_phase", "blocked", "[blocked: clock_nanosleep]"),
        ("lock_phase", "blocked", "[blocked: futex]"),
        ("pipe_phase", "blocked", "[blocked: read]"),
        ("disk_phase", "blocked", "[blocked: fsync]"),
        ("compute_phase", "running", "compute_phase"),
    ];
    for (slot, (phase, state, marker)) in phases.iter().enumerate() {
        let seen = waits.time_ns(|stack| stack.tid == main && stack.has(phase));
        let off = (seen - truth[slot]).abs() / waits.elapsed_ns;
        let as_it_is = waits.time_ns(|stack| stack.has(phase) && stack.state == *state && stack.has(marker));
        let queued = waits.time_ns(|stack| stack.has(phase) && stack.state == "queued");
        let ran = waits.time_ns(|stack| stack.has(phase) && stack.state == "running");
        println!(
            "{phase:14} {:5.1} ms, by its own account {:5.1}; {state} {:5.1}, queued {:5.1}, running {:5.1}",
            seen / 1e6,
            truth[slot] / 1e6,
            as_it_is / 1e6,
            queued / 1e6,
            ran / 1e6
        );
        // The disk is written to while it is not waited for; the lock is asked for while the other wakes up.
        let own = if matches!(*phase, "disk_phase" | "lock_phase") { as_it_is + ran } else { as_it_is };
        if off > 0.01 || (own + queued) / seen < 0.97 || as_it_is == 0.0 {
            wrong.push(format!("{phase}: off by {off:.4}, {own} + {queued} of {seen}"));
        }
    }
    wrong
}

/// Threads that sleep all the while are never seen running, and are seen asleep where they are, all the time.
#[test]
fn sleepers_sleep() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["sleepers", "128"]);
    let waits = watch(&target.pid(), "2s", &[]);
    assert_none(&waits.wrong_sums(|_| true));
    let sleeping = waits.threads.iter().filter(|thread| thread["name"] == "sleepers");
    assert_eq!(sleeping.count(), 128);
    let asleep = |stack: &support::Wait| stack.goes(&["sleeper", "[blocked: pause]"]) && stack.is_idle;
    let share = waits.time_ns(asleep) / (129.0 * waits.elapsed_ns);
    assert!(share > 0.99, "{share}: {:#?}", &waits.stacks[..3]);
    assert_eq!(waits.time_ns(|stack| stack.state == "running"), 0.0);
}

/// 10,000 threads are all accounted for, in bounded memory.
#[test]
fn ten_thousand_threads_are_accounted_for() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["sleepers", "10000"]);
    let profile = record_json(&[&WALL[..], &["1s", "-p", &target.pid()]].concat());
    let waits = Waits::of(&profile);
    assert_eq!(waits.threads.len(), 10_001);
    let told = waits.time_ns(|stack| stack.has("sleeper")) / waits.time_ns(|_| true);
    let cost = &profile["recording"]["cost"];
    let mebibytes = |name: &str| cost[name].as_f64().expect("costs are told") / f64::from(1 << 20);
    let (own, bpf) = (mebibytes("peak_rss_bytes"), mebibytes("bpf_memory_bytes"));
    println!("{told:.3} of the time has a stack; {own:.1} MiB resident, {bpf:.1} MiB BPF");
    assert!(told > 0.99 && own < 150.0, "{told}, {own}");
}

/// Four threads on one CPU run a quarter of the time each and queue the rest; none of it is blocked.
#[test]
fn threads_that_share_a_cpu_queue() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("waits")).args(["busy", "4"]);
    let target = Target::start_burning(command);
    let waits = watch(&target.pid(), "4s", &[]);
    assert_none(&waits.wrong_sums(|_| true));
    let busy: Vec<_> = waits.threads.iter().filter(|thread| thread["name"] == "busy").collect();
    assert_eq!(busy.len(), 4);
    let sum = |name| busy.iter().map(|thread| Waits::ns(thread, name)).sum::<f64>() / waits.elapsed_ns;
    let (run, queue, blocked) = (sum("run_ns"), sum("queue_ns"), sum("blocked_ns"));
    println!("run {run:.3}, queue {queue:.3}, blocked {blocked:.4} of the time that passed");
    // Others use that CPU, too.
    assert!((0.7..1.01).contains(&run) && blocked < 0.01, "{run} {queue} {blocked}");
    assert!((run + queue - 4.0).abs() < 0.04, "{run} + {queue}");
    let placed = waits.time_ns(|stack| stack.state == "queued" && stack.has("busy"));
    assert!(placed / (queue * waits.elapsed_ns) > 0.95, "{placed}");
}

/// The times that threads of a process ran and were queued, by the scheduler's own account.
fn accounts(pid: &str) -> Vec<(u64, [f64; 2])> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let of_thread = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).expect("threads stay");
        let mut words = text.split(' ').map(|word| word.parse().expect("a number"));
        let tid = task.file_name().to_str().and_then(|name| name.parse().ok()).expect("a tid");
        (tid, [words.next().expect("run"), words.next().expect("queued")])
    };
    tasks.map(of_thread).collect()
}

/// Eight threads wake each other all the time on one CPU: each is queued for as long as the scheduler itself says.
#[test]
fn woken_threads_are_queued() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("switches")).args(["2000", "4"]);
    let target = Target::start_burning(command);
    let (before, began) = (accounts(&target.pid()), std::time::Instant::now());
    let waits = watch(&target.pid(), "3s", &[]);
    let (after, elapsed_ns) = (accounts(&target.pid()), began.elapsed().as_nanos() as f64);
    assert_none(&waits.wrong_sums(|_| true));
    let truths = before.iter().zip(&after).filter(|((_, [run, _]), (_, [now, _]))| now > run);
    assert_eq!(truths.clone().count(), 8);
    for ((tid, before), (_, after)) in truths {
        let thread = waits.threads.iter().find(|thread| thread["tid"] == *tid).expect("it is told");
        for (name, before, after) in [("run_ns", before[0], after[0]), ("queue_ns", before[1], after[1])] {
            let (seen, truth) = (Waits::ns(thread, name) / waits.elapsed_ns, (after - before) / elapsed_ns);
            println!("{tid} {name}: {seen:.4} of the time, by the scheduler {truth:.4}");
            assert!((seen - truth).abs() < 0.02, "{tid} {name}: {seen}, by the scheduler {truth}");
        }
    }
}

/// Under each wait stands who ended it, and from where: a thread, or what nobody did.
#[test]
fn wakers_are_told() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["wakers"]);
    let waits = watch(&target.pid(), "3s", &["--wakers"]);
    let woken = format!("[woken by waits ({})]", target.pid());
    for (thread, call, way) in [
        ("bell", "[blocked: futex]", vec![&*woken, "ring_bell"]),
        ("pipe", "[blocked: read]", vec![&*woken, "write_byte"]),
        ("word", "[blocked: recvfrom]", vec![&*woken, "send_word"]),
        ("time", "[blocked: clock_nanosleep]", vec!["[woken by an interrupt]"]),
    ] {
        let tid = &waits.thread(thread)["tid"];
        let waited = waits.time_ns(|stack| *tid == stack.tid && stack.has(call));
        let told = waits.time_ns(|stack| *tid == stack.tid && stack.has(call) && stack.goes(&way));
        println!("{thread}: {:.4} of {:.1} ms by {way:?}", told / waited, waited / 1e6);
        // The wait that has not ended has nobody who did.
        assert!(told / waited > 0.97, "{thread}: {:#?}", waits.stacks.iter().find(|stack| *tid == stack.tid));
    }
    assert!(waits.time_ns(|stack| stack.has("[pipe]")) > 0.0, "the pipe is told");
}

/// 100,000 switches a second: what has no stack of its own is in the sums all the same, and nothing is lost.
#[test]
fn short_waits_are_summed() {
    let Some(_turn) = turn() else { return };
    for rounds in ["0", "20000"] {
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(built("switches")).args([rounds, "2"]);
        let target = Target::start_burning(command);
        let waits = watch(&target.pid(), "2s", &[]);
        assert_none(&waits.wrong_sums(|_| true));
        let waited = waits.time_ns(|stack| stack.state != "running");
        let bare = waits.time_ns(|stack| stack.has(BARE));
        let short = waits.time_ns(|stack| stack.has("[short waits]"));
        println!("{rounds}: {:.4} short, {:.4} without a stack", short / waited, bare / waited);
        assert!(bare / waited < 0.03, "{bare} of {waited}");
        if rounds != "0" {
            // Most are longer than the threshold, and share the stacks of a sample.
            let read = waits.time_ns(|stack| stack.has("[blocked: read]") && stack.state == "blocked");
            assert!(short / waited < 0.1 && read / waited > 0.2, "{short} {read} of {waited}");
        }
    }
}

/// Asked for by `--min-wait`, each wait of that length has its own stack, some 10,000 a second; else those are sampled.
#[test]
fn every_wait_has_its_stack_where_asked_for() {
    let Some(_turn) = turn() else { return };
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(built("switches")).args(["20000", "2"]);
    let target = Target::start_burning(command);
    let of_waits = |more: &[&str]| {
        let waits = watch(&target.pid(), "2s", more);
        assert_none(&waits.wrong_sums(|_| true));
        let sum =
            |name: &str| -> u64 { waits.threads.iter().filter_map(|thread| thread[name].as_u64()).sum() };
        let told: u64 =
            waits.stacks.iter().filter(|stack| stack.has("[blocked: read]")).map(|stack| stack.count).sum();
        println!(
            "{more:?}: {told} waits told, {} sampled, {} short",
            sum("sampled_count"),
            sum("short_count")
        );
        assert!(sum("bare_count") * 100 < told, "{} have none", sum("bare_count"));
        let is_told =
            |stack: &&Wait| stack.state != "running" && !stack.has("[short waits]") && !stack.has(BARE);
        let counted: u64 = waits.stacks.iter().filter(is_told).map(|stack| stack.count).sum();
        assert_eq!(
            counted,
            sum("told_count") + sum("shared_stacks"),
            "each wait that has a stack counts once"
        );
        assert!(sum("shared_stacks") <= sum("sampled_count"));
        (told, sum("sampled_count"))
    };
    let (told, sampled) = of_waits(&["--min-wait", "50us"]);
    assert!(told > 5000 && sampled == 0, "{told}, {sampled}");
    let (told, sampled) = of_waits(&[]);
    assert!(told < sampled, "{told}, {sampled}");
}

/// Threads and processes that come and go while they are watched; each has its sum.
#[test]
fn births_and_deaths_are_ordinary() {
    let Some(_turn) = turn() else { return };
    let target = Target::start_command(shell("while :; do /bin/true; done"));
    std::thread::sleep(Duration::from_millis(200));
    let waits = watch(&target.pid(), "2s", &[]);
    assert_none(
        &waits.wrong_sums(|thread| thread["tid"].as_u64().map(|tid| tid.to_string()) == Some(target.pid())),
    );
    assert!(waits.threads.len() > 50, "{}", waits.threads.len());
    let waited = waits.time_ns(|stack| stack.has("[blocked: wait4]"));
    assert!(waited > 0.0, "the shell waits for its children");
    drop(target);
    let births = Target::start("births", &[]);
    assert_none(&watch(&births.pid(), "2s", &[]).wrong_sums(|_| false));
}

/// Threads that begin or end a wait in the very moment in which their times are read have none that they did not
/// take. The moment is shorter than a microsecond: about every tenth recording hits one.
#[test]
fn moving_threads_are_accounted_for() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["passes"]);
    for _ in 0..12 {
        let waits = watch(&target.pid(), "200ms", &[]);
        assert_none(&waits.wrong_sums(|_| false));
        assert_eq!(waits.threads.len(), 9);
        for thread in &waits.threads {
            let time_ns: f64 =
                ["run_ns", "queue_ns", "blocked_ns"].iter().map(|name| Waits::ns(thread, name)).sum();
            let share = time_ns / waits.elapsed_ns;
            assert!((0.95..=1.0).contains(&share), "{time_ns} of {}: {thread}", waits.elapsed_ns);
        }
    }
}

/// A thread that executes another program becomes its process's first: under its own id it ends then, and the time of
/// the first goes on without being counted twice.
#[test]
fn thread_that_executes_a_program_becomes_the_first() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["becomes"]);
    let waits = watch(&target.pid(), "3s", &[]);
    assert_none(&waits.wrong_sums(|_| false));
    let slept = waits.time_ns(|stack| stack.goes(&["before_exec", "[blocked: clock_nanosleep]"]));
    let computed = waits.time_ns(|stack| stack.has("busy"));
    println!("slept {slept}, computed {computed} of {}", waits.elapsed_ns);
    let first = waits
        .threads
        .iter()
        .filter(|thread| thread["tid"].as_u64().map(|tid| tid.to_string()) == Some(target.pid()));
    let lived: f64 = first
        .flat_map(|thread| ["run_ns", "queue_ns", "blocked_ns"].map(|name| Waits::ns(thread, name)))
        .sum();
    assert!(
        (lived / waits.elapsed_ns - 1.0).abs() < 0.02,
        "{lived} of {}: {:#?}",
        waits.elapsed_ns,
        waits.threads
    );
    assert!(
        slept < 1.01e9 && slept > 0.7e9 && (slept + computed) / waits.elapsed_ns > 0.95,
        "{slept} + {computed}"
    );
}

/// A process that is stopped and goes on is blocked meanwhile, and nothing hangs.
#[test]
fn stopped_process_is_blocked() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["busy", "1"]);
    let pid = target.pid();
    let stopper = std::thread::spawn(move || {
        shell(&format!("sleep 0.7; kill -STOP {pid}; sleep 1; kill -CONT {pid}")).status()
    });
    let waits = watch(&target.pid(), "3s", &[]);
    stopper.join().expect("it does not panic").expect("sh runs");
    assert_none(&waits.wrong_sums(|_| true));
    let blocked = Waits::ns(waits.thread("busy"), "blocked_ns");
    assert!((blocked / 1e9 - 1.0).abs() < 0.1, "{blocked}");
}

/// `off-cpu` has waits alone; folded numbers are nanoseconds; what cannot be had is refused with a hint.
#[test]
fn modes_are_what_they_say() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("waits", &["busy", "1"]);
    let pid = target.pid();
    let waits = Waits::of(&record_json(&["--per-thread", "--mode", "off-cpu", "-d", "1s", "-p", &pid]));
    assert_eq!(waits.time_ns(|stack| stack.state == "running"), 0.0);
    assert!(waits.time_ns(|stack| stack.has("[blocked: pause]")) > 0.9e9);
    let folded = record(&["--mode", "wall", "-d", "1s", "-p", &pid]).folded;
    assert!((folded.total() as f64 / 2e9 - 1.0).abs() < 0.05, "{}", folded.total());
    let hidden = record(&["--mode", "wall", "--hide-idle", "-d", "1s", "-p", &pid]).folded;
    assert!((hidden.total() as f64 / 1e9 - 1.0).abs() < 0.05, "{}", hidden.total());
    let refused = txprof(&["record", "--backend", "ptrace", "--mode", "wall", "-p", &pid]);
    assert!(refused.code != 0 && refused.stderr.contains("hint: "), "{}", refused.stderr);
}

/// PostgreSQL under load: the sums of all of its processes.
#[test]
fn postgres_adds_up() {
    let Some(_turn) = turn() else { return };
    let Some(postgres) = Postgres::start() else {
        assert!(std::env::var_os("CI").is_none(), "scripts/setup --tests installs PostgreSQL");
        println!("skipped: there is no PostgreSQL");
        return;
    };
    let waits = watch(&postgres.server.pid(), "4s", &[]);
    assert_none(&waits.wrong_sums(|_| true));
    assert!(waits.threads.len() >= 5, "{:#?}", waits.threads);
    let serving = |stack: &support::Wait| stack.has("PostgresMain");
    let idle = waits.time_ns(|stack| serving(stack) && stack.is_idle);
    let (all, stackless) =
        (waits.time_ns(|_| true), waits.time_ns(|stack| stack.has("[waits without a stack]")));
    println!(
        "{:.3} of the backends' time waits for a client; {:.4} has no stack",
        idle / waits.time_ns(serving),
        stackless / all
    );
    assert!(stackless / all < 0.05, "{stackless} of {all}");
}
