//! Claim: the shares that txprof shows are the shares of CPU time that the
//! program itself counted in the same seconds, to one percentage point.
//!
//! Leaves run 2 to 12 ms at a time, long against the sampling period of 1 ms.
//! Each run is then seen with an error below one sample, so that 5 s of a target's CPU time (250 rounds of
//! three runs) scatter by about sqrt(750 / 6) = 11 samples of 5,000: 0.22 points. One point is 4.5 times that.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{Account, Folded, History, Target, built, program, record_burning, stolen_ns, turn, weight_ns};

const TOLERANCE: f64 = 0.01;

/// Each variant runs and is recorded alone until it has burnt five seconds: targets that share CPUs are
/// preempted in the middle of their runs, and the scatter grows to that of independent samples.
fn assert_splits(names: &[&str]) {
    names.iter().for_each(|name| assert_split(name));
}

/// Independent samples, which a machine with other work makes of them, scatter by sqrt(0.6 * 0.4 / 5,000), 0.7
/// points: where five seconds do not agree, thirty more decide, in which that is 0.28.
fn assert_split(name: &str) {
    let target = Target::start(name, &[]);
    // `jit` changes its ways after a second; from then on its shares are constant.
    support::wait_for("all leaves to burn", || {
        let account = target.account();
        program(name).leaves.iter().all(|(_, slot)| account[*slot] > 0)
    });
    if !wrong_shares(name, &target, Duration::from_secs(5)).is_empty() {
        let wrong = wrong_shares(name, &target, Duration::from_secs(30));
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// What is wrong with the shares of a recording that lasts until the target has burnt `cpu`.
fn wrong_shares(name: &str, target: &Target, cpu: Duration) -> Vec<String> {
    let before: Account = target.account();
    let shot = record_burning(&[target], cpu, &["-p", &target.pid()]);
    let folded = shot.folded.of_process(name);
    let folded = if program(name).stripped { named_by_twin(&folded) } else { folded };
    let mut wrong = split_errors(name, &folded, &target.since(&before));
    if !wrong.is_empty() {
        wrong.extend([shot.stderr, shot.folded.heaviest(10)]);
    }
    wrong
}

fn split_errors(name: &str, folded: &Folded, truth: &Account) -> Vec<String> {
    let leaves = program(name).leaves;
    let burnt: u64 = leaves.iter().map(|(_, slot)| truth[*slot]).sum();
    let mut wrong = Vec::new();
    if folded.total() < 3000 {
        wrong.push(format!("{name}: only {} samples", folded.total()));
    }
    for (leaf, slot) in leaves {
        let seen = folded.share(|line| line.has(leaf));
        let expected = truth[*slot] as f64 / burnt.max(1) as f64;
        let error = seen - expected;
        println!("{name:16} {leaf:18} {:6.2} % expected {:6.2} %", seen * 100.0, expected * 100.0);
        if error.abs() > TOLERANCE {
            wrong.push(format!("{name}: {leaf} {:.2} %, should be {:.2} %", seen * 100.0, expected * 100.0));
        }
    }
    wrong
}

/// A stripped program shows `module+0xoffset`; its unstripped twin `split-o2` knows the names.
fn named_by_twin(folded: &Folded) -> Folded {
    let output = Command::new("nm").arg("-S").arg(built("split-o2")).output().expect("nm runs");
    let symbols: Vec<(u64, u64, String)> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [start, size, _, name] = words[..] else { return None };
            Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(size, 16).ok()?, name.to_owned()))
        })
        .collect();
    let rename = |frame: &String| {
        let offset =
            frame.strip_prefix("split-stripped+0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let symbol = offset
            .and_then(|at| symbols.iter().find(|(start, size, _)| (*start..start + size).contains(&at)));
        symbol.map_or_else(|| frame.clone(), |(_, _, name)| name.clone())
    };
    let mut folded = folded.clone();
    folded.lines.iter_mut().for_each(|line| line.frames = line.frames.iter().map(rename).collect());
    folded
}

/// GCC's -O2 without frame pointers, -O0, with frame pointers, LTO, and without symbols.
#[test]
fn shares_are_true_for_gcc() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["split-o2", "split-o0", "split-fp", "split-lto", "split-stripped"]);
}

/// Static, static-pie, fixed-address and musl programs, which start without the dynamic linker's help.
#[test]
fn shares_are_true_for_static_and_musl() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["split-static", "split-statpie", "split-nopie", "split-musl", "split-muslstat"]);
}

/// Clang, LLD's layout, no `.eh_frame_hdr`, C++ with exceptions, PLT and virtual calls, Rust with panics.
#[test]
fn shares_are_true_for_clang_cxx_and_rust() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["split-clang", "split-lld", "split-noehhdr", "split-cxx", "split-rust"]);
}

/// Generated code by its perf map, odd frames, time in the kernel, libraries swapped at one address.
#[test]
fn shares_are_true_for_jit_odd_frames_and_kernel() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["jit", "frames", "syscalls"]);
}

/// A stack of one hundred recursions shows all hundred, once each, between `main` and the leaf.
#[test]
fn hundred_recursions_are_a_hundred_frames() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &["100"]);
    let shot = record_burning(&[&target], Duration::from_secs(2), &["-p", &target.pid()]);
    // Moments of descent, and of a table that is still loading, are few; of the rest not one may differ.
    let in_leaf = shot.folded.filtered(|line| line.has("leaf_") && line.is_complete());
    let exact = in_leaf.share(|line| {
        line.frames.iter().filter(|frame| *frame == "recurse").count() == 100
            && line.reads(&["main", "recurse", "leaf_"])
    });
    let (seen, all) = (in_leaf.total(), shot.folded.total());
    assert!(exact == 1.0 && seen as f64 >= all as f64 * 0.995, "{exact} of {seen} of {all}\n{}", shot.stderr);
}

/// Seconds burnt are seconds seen: samples times period equal the CPU time that the program counted in
/// the same seconds, to 2 %. Neither counts time that other programs had. Time that the host took from a virtual
/// machine is in no program's account, but a tick that was due in it comes late: it may be seen.
#[test]
fn seconds_burnt_are_seconds_seen() {
    let Some(_turn) = turn() else { return };
    // With few interruptions: each may hide or double up to a period.
    let mut command = Command::new("nice");
    command.args(["-n", "-15"]).arg(built("split-o2"));
    let target = Target::start_burning(command);
    let (history, stolen_before) = (History::of(&target), stolen_ns());
    let profile = support::record_json(&["-p", &target.pid(), "-F", "999", "-d", "8"]);
    let stolen = stolen_ns() - stolen_before;
    let (seen, burnt) = (weight_ns(&profile, ""), history.burnt_ns(&profile)[..3].iter().sum::<f64>());
    println!("saw {seen} ns of {burnt} ns, {stolen} ns were stolen");
    assert!(seen >= burnt * 0.98, "saw {seen} ns of {burnt} ns");
    assert!(seen <= burnt * 1.02 + stolen, "saw {seen} ns of {burnt} ns, {stolen} ns were stolen");
}
