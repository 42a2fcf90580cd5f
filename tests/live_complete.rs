//! Claim: at least 99.5 % of stacks reach the thread's start; the rest say why.

mod support;

use std::time::Duration;

use support::{Target, record, record_burning, turn};

const COMPLETE: f64 = 0.995;

/// Two seconds of each target's CPU time: the few samples before its tables are loaded, some at 999 Hz,
/// are then well below 0.5 %, as they are in any recording of some seconds.
const ENOUGH: Duration = Duration::from_secs(2);

/// Records all of `names` at once; each process's stacks must be complete.
fn assert_complete(names: &[&str]) {
    let targets: Vec<Target> = names.iter().map(|name| Target::start(name, &[])).collect();
    let pids: Vec<String> = targets.iter().map(Target::pid).collect();
    let options: Vec<&str> = pids.iter().flat_map(|pid| ["-p", pid]).collect();
    let shot = record_burning(&targets.iter().collect::<Vec<_>>(), ENOUGH, &options);
    let mut wrong = Vec::new();
    for name in names {
        let folded = shot.folded.of_process(name);
        let share = folded.complete_share();
        println!("{name:16} {:7.3} % of {} complete", share * 100.0, folded.total());
        if share < COMPLETE || folded.total() < 1000 {
            let reasons = folded.reasons();
            wrong.push(format!("{name}: {:.2} % of {} {reasons:?}", share * 100.0, folded.total()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), shot.stderr);
}

/// Every compiler, linking and language variant of the split program.
#[test]
fn stacks_reach_the_start_however_built() {
    let Some(_turn) = turn() else { return };
    assert_complete(&[
        "split-o2",
        "split-o0",
        "split-fp",
        "split-nopie",
        "split-static",
        "split-statpie",
        "split-lto",
        "split-clang",
        "split-lld",
        "split-noehhdr",
        "split-stripped",
        "split-cxx",
        "split-rust",
    ]);
}

/// musl's own start code has no unwind rows on Debian; the walk must still know where the stack ends.
#[test]
fn stacks_reach_the_start_under_musl() {
    let Some(_turn) = turn() else { return };
    assert_complete(&["split-musl", "split-muslstat"]);
}

/// Signal frames on an alternate stack, generated code, the vDSO, the kernel, threads, odd frames.
#[test]
fn stacks_reach_the_start_through_odd_frames() {
    let Some(_turn) = turn() else { return };
    assert_complete(&["signals", "jit", "vdso", "syscalls", "threads", "frames"]);
}

/// A handler on an alternate stack shows what it interrupted, through the signal frame.
#[test]
fn signal_handler_shows_what_it_interrupted() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("signals", &[]);
    let shot = record_burning(&[&target], ENOUGH, &["-p", &target.pid()]);
    let handler = shot.folded.filtered(|line| line.has("handler_leaf"));
    let whole =
        handler.share(|line| line.reads(&["main", "work", "interrupted", "on_signal", "handler_leaf"]));
    assert!(handler.total() > 500 && whole >= COMPLETE, "{whole}\n{}", shot.folded.heaviest(5));
}

/// Time in the vDSO stands below the function that asked for it.
#[test]
fn vdso_time_belongs_to_its_caller() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("vdso", &[]);
    let shot = record_burning(&[&target], ENOUGH, &["-p", &target.pid()]);
    let share = shot.folded.share(|line| line.reads(&["main", "ask_the_time"]));
    assert!(share >= COMPLETE, "{share}\n{}", shot.folded.heaviest(5));
}

/// Kernel frames stand above the system call's caller, marked `_[k]`, and `--no-kernel` leaves them out.
#[test]
fn kernel_frames_are_marked_and_can_be_left_out() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("syscalls", &[]);
    let shot = record_burning(&[&target], ENOUGH, &["-p", &target.pid()]);
    let kernel = shot.folded.filtered(|line| line.has("read_zeros"));
    let marked = kernel.share(|line| line.has("_[k]"));
    assert!(marked > 0.8, "{marked}\n{}", shot.folded.heaviest(5));
    let bare = record_burning(&[&target], ENOUGH, &["-p", &target.pid(), "--no-kernel"]);
    assert_eq!(bare.folded.share(|line| line.has("_[k]")), 0.0);
}

/// 2000 frames are more than are captured: at least 1024 are shown and the stack is marked.
#[test]
fn too_deep_stacks_are_marked_truncated() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("deep", &[]);
    let shot = record(&["-p", &target.pid(), "-F", "199", "-d", "2"]);
    let marked = shot.folded.share(|line| {
        line.frames[1] == "[truncated: deeper than the frame limit]"
            && line.frames.iter().filter(|frame| *frame == "dive").count() >= 1000
            && line.frames.len() >= 1024
            && line.has("bottom")
    });
    assert!(marked > 0.98, "{marked}\n{:?}\n{}", shot.folded.reasons(), shot.folded.heaviest(2));
}

/// A thousand frames are within the limit and complete.
#[test]
fn thousand_frames_are_complete() {
    let Some(_turn) = turn() else { return };
    let target = Target::start("deep", &["1000"]);
    let shot = record_burning(&[&target], ENOUGH, &["-p", &target.pid()]);
    let share = shot.folded.complete_share();
    assert!(share >= COMPLETE, "{share} {:?}", shot.folded.reasons());
}
