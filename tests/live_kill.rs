//! Claim: however `txprof` dies, nothing of it stays behind: no stopped or traced target, no BPF program or map.
//!
//! It is killed at random instants: while it attaches, samples, or ends. `TXPROF_KILLS=1000` does so that often with
//! each backend; without it, it is done 25 times.

#![cfg(feature = "bpf")]

mod support;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Target, python_versions, scratch, turn};

/// Numbers without end that look random, the same in each run (a 64-bit linear congruential generator, Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// Programs and maps of ours in the kernel.
fn ours_in_kernel() -> usize {
    let own = ["on_cpu", "process_fork", "process_exec", "process_exit"];
    let programs = libbpf_rs::query::ProgInfoIter::default();
    let programs = programs.filter(|program| own.contains(&program.name.to_string_lossy().as_ref())).count();
    let own = ["told_codes", "found_threads", "scratches"];
    let maps = libbpf_rs::query::MapInfoIter::default();
    programs + maps.filter(|map| own.contains(&map.name.to_string_lossy().as_ref())).count()
}

/// What is wrong with the threads of `pid`: stopped, or traced.
fn disturbed(pid: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the target lives");
    let mut disturbed = Vec::new();
    for task in tasks.flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim().to_owned()
        };
        let (state, tracer) = (field("State:"), field("TracerPid:"));
        if state.starts_with(['t', 'T']) || !["0", ""].contains(&tracer.as_str()) {
            disturbed.push(format!("{}: {state}, traced by {tracer}", task.path().display()));
        }
    }
    disturbed
}

fn assert_nothing_stays(backend: &str) {
    let kills: u64 = std::env::var("TXPROF_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    let python = python_versions().pop().expect("there is an interpreter");
    let targets = [python.start("threads.py", &["20", "2"]), Target::start("split-o2", &[])];
    let pids = targets.each_ref().map(Target::pid).join(",");
    let directory = scratch();
    let output = directory.path().join("out.folded").display().to_string();
    let mut random = Random(7);
    for round in 0..kills {
        let mut child = Command::new(env!("CARGO_BIN_EXE_txprof"))
            .args(["record", "--backend", backend, "-F", "250", "-p", &pids, "-o", &output])
            .args(if backend == "ebpf" && round % 2 == 1 { &["--mode", "wall"][..] } else { &[] })
            .env("TXPROF_CACHE_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/cache"))
            .process_group(0)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("txprof runs");
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        if round % 5 == 0 {
            // While it ends.
            let _ended = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT);
            std::thread::sleep(Duration::from_micros(random.below(5_000)));
        }
        child.kill().expect("it was started here");
        child.wait().expect("it was killed");
        // The kernel lets go of tracees before the tracer is gone; BPF objects go a moment later.
        for target in &targets {
            let disturbed = disturbed(&target.pid());
            assert!(disturbed.is_empty(), "round {round}: {disturbed:?}");
        }
    }
    let began = Instant::now();
    while ours_in_kernel() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "{} programs and maps stay", ours_in_kernel());
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = targets.each_ref().map(Target::account);
    std::thread::sleep(Duration::from_secs(1));
    for (target, before) in targets.iter().zip(&before) {
        assert!(target.since(before).iter().sum::<u64>() > 100_000_000, "it goes on");
    }
    println!("{backend}: killed {kills} times");
}

/// Killed while it stops threads.
#[test]
fn killed_stopper_leaves_nothing_stopped() {
    let Some(_turn) = turn() else { return };
    assert_nothing_stays("ptrace");
}

/// Killed with programs in the kernel, and threads that were asked for their stacks.
#[test]
fn killed_kernel_sampler_leaves_nothing_in_the_kernel() {
    let Some(_turn) = turn() else { return };
    assert_nothing_stays("ebpf");
}
