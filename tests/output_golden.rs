//! Whole outputs of one small profile that has a frame of every kind, a cut
//! stack, two threads, a changed rate and hostile names.

#![allow(clippy::unwrap_used)]

mod support;

use support::{golden, golden_picture};
use txprof::aggregate::FoldOptions;
use txprof::cli::output_file::Written;
use txprof::cli::report;
use txprof::model::profile::ThreadRoot;
use txprof::model::{
    Cost, Frame, FrameKind, Outcome, Profile, RateChange, Recording, Root, Sample, StackId, ThreadState,
    WeightUnit,
};
use txprof::output::{self, Format};

const PERIOD_NS: u64 = 10_101_010;

fn frame(kind: FrameKind, function: &str, module: &str, place: Option<(&str, u32)>) -> Frame {
    Frame {
        kind,
        function: function.into(),
        module: Some(module.into()),
        file: place.map(|(file, _)| file.into()),
        line: place.map(|(_, line)| line),
    }
}

fn frames() -> Vec<Frame> {
    use FrameKind::*;
    vec![
        frame(Native, "main", "postgres", Some(("/build/src/main.c", 197))),
        frame(Native, "exec_simple_query", "postgres", Some(("/build/src/tcop/postgres.c", 1274))),
        frame(Inlined, "list_nth", "postgres", Some(("/build/src/list.h", 303))),
        frame(Kernel, "do_syscall_64", "[kernel]", None),
        frame(Kernel, "ksys_read", "[kernel]", None),
        frame(Jit, "evalexpr_0_0", "perf-4121.map", None),
        frame(Native, "std::vector<int, (anonymous)>::push<&>(int; \"x\")\n", "libfoo(1).so", None),
        frame(Native, "memcpy", "libc.so.6", None),
        frame(Native, "memcpy", "postgres", None),
        frame(Native, "worker 12", "postgres", None),
    ]
}

fn sample(root: &Root, stack: u32, outcome: Outcome, count: u64, weight_ns: u64) -> Sample {
    Sample {
        root: root.clone(),
        stack: StackId(stack),
        outcome,
        state: ThreadState::Running,
        holds_gil: false,
        is_idle: false,
        count,
        weight_ns,
    }
}

fn profile(per_thread: bool) -> Profile {
    let thread = |name: &str, tid| Root {
        process: "postgres".to_owned(),
        thread: per_thread.then(|| ThreadRoot { name: name.to_owned(), pid: 4121, tid }),
    };
    let (leader, worker) = (thread("postgres", 4121), thread("worker;\u{202e}", 4130));
    let samples = vec![
        sample(&leader, 0, Outcome::Complete, 40, 40 * PERIOD_NS),
        sample(&leader, 1, Outcome::Complete, 25, 25 * PERIOD_NS),
        // Taken at half the rate: each weighs two periods.
        sample(&leader, 2, Outcome::Complete, 7, 14 * PERIOD_NS),
        sample(&worker, 2, Outcome::Complete, 3, 3 * PERIOD_NS),
        sample(&worker, 3, Outcome::TableNotLoaded, 4, 4 * PERIOD_NS + PERIOD_NS / 3),
        sample(&worker, 4, Outcome::KernelStackFailed, 2, 2 * PERIOD_NS + PERIOD_NS / 3),
        sample(&worker, 5, Outcome::Complete, 9, 9 * PERIOD_NS + PERIOD_NS / 3),
        sample(&worker, 6, Outcome::Complete, 5, 5 * PERIOD_NS),
    ];
    let recording = Recording {
        target: "postgres (pid 4121) <&>".to_owned(),
        backend: "ebpf".to_owned(),
        event: "cpu-clock".to_owned(),
        frequency_hz: 99,
        period_ns: PERIOD_NS,
        started_unix_ns: 1_795_438_748_000_000_000,
        elapsed_ns: 30_049_000_000,
        rate_changes: vec![RateChange { at_ns: 20_000_000_000, period_ns: 2 * PERIOD_NS }],
        lost: [(Outcome::RingFull, 3)].into(),
        warnings: vec!["no symbols for `libfoo(1).so`".to_owned()],
        cost: Cost {
            own_cpu_ns: 45_000_000,
            bpf_run_ns: Some(18_000_000),
            bpf_runs: Some(95),
            peak_rss_bytes: 31 << 20,
            bpf_memory_bytes: 12 << 20,
            stops: None,
        },
        ..Recording::default()
    };
    let stacks = vec![
        vec![2, 1, 0],
        vec![4, 3, 1, 0],
        vec![5, 1, 0],
        vec![7, 6],
        vec![1, 0],
        vec![8, 6, 1, 0],
        vec![9],
    ];
    Profile { recording, frames: frames(), stacks, samples, threads: Vec::new() }
}

fn written(profile: &Profile, format: Format, options: &FoldOptions) -> String {
    let mut bytes = Vec::new();
    output::write(profile, format, options, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Folded lines in samples: merged over roots and modules, cut stacks marked, rounding kept.
#[test]
fn folded_lines_are_the_golden_ones() {
    let lines = written(&profile(false), Format::Folded, &FoldOptions::default());
    golden("samples.folded", &lines);
    let sum: u64 = lines.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 40 + 25 + 14 + 3 + 4 + 2 + 9 + 5 + 1, "three thirds of a period are one sample");
}

/// Folded lines by thread, with source lines, without the kernel, in nanoseconds.
#[test]
fn folded_lines_with_every_option_are_the_golden_ones() {
    let options =
        FoldOptions { lines: true, kernel: false, unit: WeightUnit::Nanoseconds, ..FoldOptions::default() };
    golden("options.folded", &written(&profile(true), Format::Folded, &options));
}

/// The JSON form, whole.
#[test]
fn json_is_the_golden_one() {
    golden("threads.json", &written(&profile(true), Format::Json, &FoldOptions::default()));
}

/// The flamegraph.
#[test]
fn flamegraph_is_the_golden_one() {
    let picture = written(&profile(true), Format::Svg, &FoldOptions::default());
    golden_picture("threads", &picture);
}

/// What is too narrow to be drawn is counted in the picture: here two frames of one sample among a million.
#[test]
fn frames_too_narrow_to_draw_are_counted() {
    let mut profile = profile(false);
    for sample in profile.samples.iter_mut().filter(|sample| sample.stack != StackId(1)) {
        sample.weight_ns = 0;
    }
    let rare = Sample { stack: StackId(0), weight_ns: PERIOD_NS, ..profile.samples[1].clone() };
    profile.samples[1].weight_ns = 1_000_000 * PERIOD_NS;
    let picture = |profile: &Profile| written(profile, Format::Svg, &FoldOptions::default());
    let (frames, words) = (|picture: &str| picture.matches("<g><title>").count(), "too narrow");
    let whole = picture(&profile);
    assert!(!whole.contains(words) && frames(&whole) > 4);
    profile.stacks[0] = vec![2, 2, 1, 0];
    profile.samples.push(rare);
    let cut = picture(&profile);
    assert_eq!(frames(&cut), frames(&whole));
    assert!(cut.contains(" · 2 frames too narrow to draw<"));
}

/// A profile without samples gives a picture and a report that say so, and no folded lines.
#[test]
fn empty_profile_says_that_it_is_empty() {
    let empty = Profile { samples: Vec::new(), ..profile(false) };
    assert_eq!(written(&empty, Format::Folded, &FoldOptions::default()), "");
    let mut quiet = empty.clone();
    quiet.recording.lost.clear();
    golden("empty.svg", &written(&quiet, Format::Svg, &FoldOptions::default()));
    assert!(written(&empty, Format::Svg, &FoldOptions::default()).contains("no samples: all 3 were lost"));
    assert!(report::warning_lines(&quiet).contains("hint: it slept or waited"));
}

/// Samples that do not count because their thread held no lock are told, above all when none is left.
#[test]
fn samples_without_the_lock_are_told() {
    let mut profile = profile(false);
    profile.samples[0].holds_gil = true;
    profile.keep_gil_holders();
    let written_file = Written { label: "a.svg".to_owned(), size_bytes: 1 };
    let lines = report::end_lines(&profile, &written_file);
    assert!(lines.contains("\n  55 samples left out: the thread did not hold the lock"), "{lines}");
    let picture = written(&profile, Format::Svg, &FoldOptions::default());
    assert!(picture.contains(", on-CPU with the GIL at 99 Hz (cpu-clock)</text>"));
    assert!(picture.contains(" · 55 more without the GIL"));
    let json = written(&profile, Format::Json, &FoldOptions::default());
    assert!(
        json.contains("\n\"mode\":\"gil\",\n\"left_out\":55,") && json.contains("\"holds_gil\":true"),
        "{json}"
    );
    assert_eq!(output::json::parse(json.as_bytes()).unwrap(), profile);

    profile.samples.clear();
    profile.recording.lost.clear();
    let lines = report::warning_lines(&profile);
    assert!(
        lines.contains("no thread that was seen held") && lines.contains("hint: `--mode cpu`"),
        "{lines}"
    );
    assert!(written(&profile, Format::Svg, &FoldOptions::default()).contains("no thread that was seen held"));
}

/// The end of a recording, in words.
#[test]
fn end_of_a_recording_is_the_golden_one() {
    let written = Written { label: "a\u{1b}.svg".to_owned(), size_bytes: 32_154 };
    golden("end.txt", &report::end_lines(&profile(false), &written));
}
