//! Claim: the shares that txprof shows are the shares of CPU time that the
//! program itself counted in the same seconds, to one percentage point.
//!
//! Leaves run 2 to 12 ms at a time, long against the sampling period of 1 ms.
//! Each run is then seen with an error below one sample, so that 5 s of a target's CPU time (250 rounds of
//! three runs) scatter by about sqrt(750 / 6) = 11 samples of 5,000: 0.22 points. One point is 4.5 times that.

mod support;

use support::{Account, Folded, Target, built, program, record, turn};

const TOLERANCE: f64 = 0.01;

/// All variants named run at once and are recorded together, `seconds` long; each must show its own truth.
fn assert_splits(names: &[&str], arguments: &[&str], seconds: &str) {
    let targets: Vec<Target> = names.iter().map(|name| Target::start(name, arguments)).collect();
    let pids: Vec<String> = targets.iter().map(Target::pid).collect();
    let mut options = vec!["-F", "999", "-d", seconds];
    pids.iter().for_each(|pid| options.extend(["-p", pid]));

    let before: Vec<Account> = targets.iter().map(Target::account).collect();
    let shot = record(&options);
    let mut wrong = Vec::new();
    for ((name, target), before) in names.iter().zip(&targets).zip(&before) {
        let folded = shot.folded.of_process(name);
        let folded = if program(name).stripped { named_by_twin(&folded) } else { folded };
        wrong.extend(split_errors(name, &folded, &target.since(before)));
    }
    assert!(wrong.is_empty(), "{}\n{}\n{}", wrong.join("\n"), shot.stderr, shot.folded.heaviest(10));
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
    let output = std::process::Command::new("nm").arg("-S").arg(built("split-o2")).output().expect("nm runs");
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
    assert_splits(&["split-o2", "split-o0", "split-fp", "split-lto", "split-stripped"], &[], "13");
}

/// Static, static-pie, fixed-address and musl programs, which start without the dynamic linker's help.
#[test]
fn shares_are_true_for_static_and_musl() {
    let Some(_turn) = turn() else { return };
    assert_splits(
        &["split-static", "split-statpie", "split-nopie", "split-musl", "split-muslstat"],
        &[],
        "13",
    );
}

/// Clang, LLD's layout, no `.eh_frame_hdr`, C++ with exceptions, PLT and virtual calls, Rust with panics.
#[test]
fn shares_are_true_for_clang_cxx_and_rust() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["split-clang", "split-lld", "split-noehhdr", "split-cxx", "split-rust"], &[], "13");
}

/// Generated code by its perf map, odd frames, time in the kernel, libraries swapped at one address.
#[test]
fn shares_are_true_for_jit_odd_frames_and_kernel() {
    let Some(_turn) = turn() else { return };
    assert_splits(&["jit", "frames", "syscalls"], &[], "8");
}

/// A stack of one hundred recursions shows all hundred, once each, between `main` and the leaf.
#[test]
fn hundred_recursions_are_a_hundred_frames() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &["100"]);
    let shot = record(&["-p", &target.pid(), "-F", "999", "-d", "2"]);
    let exact = shot.folded.share(|line| {
        line.frames.iter().filter(|frame| *frame == "recurse").count() == 100
            && line.reads(&["main", "recurse", "leaf_"])
    });
    assert!(exact >= 0.999, "{:.3} % exact\n{}", exact * 100.0, shot.folded.heaviest(5));
}

/// Two seconds burnt are two seconds seen: samples times period equal the CPU time counted, to 2 %
/// (each end of the recording costs at most a period, the rest is what the clock interrupts miss).
#[test]
fn seconds_burnt_are_seconds_seen() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("split-o2", &[]);
    let before = target.account();
    let profile = support::record_json(&["-p", &target.pid(), "-F", "999", "-d", "5"]);
    let counted = target.since(&before);
    let recording = &profile["recording"];
    let elapsed_ns = recording["elapsed_ns"].as_f64().expect("JSON form has elapsed_ns");
    let weight_ns: f64 = profile["samples"]
        .as_array()
        .expect("JSON form has samples")
        .iter()
        .map(|sample| sample["weight_ns"].as_f64().expect("samples have a weight"))
        .sum();
    let burnt_ns: u64 = counted[..3].iter().sum();
    assert!(weight_ns <= elapsed_ns * 1.02, "saw {weight_ns} ns in {elapsed_ns} ns");
    assert!(weight_ns <= burnt_ns as f64 * 1.02, "saw {weight_ns} ns of {burnt_ns} ns");
    assert!(weight_ns >= elapsed_ns * 0.90, "saw {weight_ns} ns in {elapsed_ns} ns of a busy program");
}
