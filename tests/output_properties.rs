//! Properties of the outputs on arbitrary profiles: sums stay, forms can be
//! read back, hostile input is refused without a panic.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use txprof::ErrorKind;
use txprof::aggregate::{Fold, FoldKind, FoldOptions, HiddenFiles, UnitCounter, View};
use txprof::model::profile::ThreadRoot;
use txprof::model::{
    Frame, FrameKind, Mode, Outcome, Profile, Recording, Root, Sample, StackId, ThreadState, ThreadTimes,
    WeightUnit,
};
use txprof::output::{self, Format, json};

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c]{1,2}",
        "\\PC{1,12}",
        "(?s).{1,12}",
        "[a; #_\\[\\]k0-9(<&]{1,6}",
        "[\u{e000}-\u{e005}]{1,3}"
    ]
}

/// Modules that the views know, among others.
fn module() -> impl Strategy<Value = String> {
    let known = vec!["python3.11", "libpython3.12.so.1.0", "libc.so.6", "ld-linux-x86-64.so.2", "uwsgi"];
    prop_oneof![name(), prop::sample::select(known).prop_map(str::to_owned)]
}

fn fold_options() -> impl Strategy<Value = FoldOptions> {
    let view = prop::sample::select(vec![View::Merged, View::Native, View::PythonOnly]);
    let hidden = prop_oneof!["[a-c/<.]", Just("imports".to_owned())];
    let hidden = hidden.prop_map(|text| HiddenFiles::parse(&text).unwrap());
    (any::<bool>(), any::<bool>(), view, prop::collection::vec(hidden, 0..3)).prop_map(
        |(lines, kernel, view, hidden)| FoldOptions { lines, kernel, view, hidden, ..FoldOptions::default() },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    let kind = prop::sample::select(vec![
        FrameKind::Native,
        FrameKind::Inlined,
        FrameKind::Interpreter,
        FrameKind::Python,
        FrameKind::Kernel,
        FrameKind::Jit,
        FrameKind::Marker,
        FrameKind::Blocked,
        FrameKind::RunQueue,
        FrameKind::Gil,
        FrameKind::Waker,
    ]);
    (kind, name(), prop::option::of(module()), prop::option::of(name()), prop::option::of(any::<u32>()))
        .prop_map(|(kind, function, module, file, line)| Frame {
            kind,
            function: function.into(),
            module: module.map(Into::into),
            file: file.map(Into::into),
            line,
        })
}

fn root() -> impl Strategy<Value = Root> {
    let thread = (name(), any::<u32>(), any::<u32>());
    (name(), prop::option::of(thread)).prop_map(|(process, thread)| Root {
        process,
        thread: thread.map(|(name, pid, tid)| ThreadRoot { name, pid, tid }),
    })
}

fn profile() -> impl Strategy<Value = Profile> {
    let stack = prop::collection::vec(0..6_u32, 0..8);
    let outcome = prop::sample::select(Outcome::ALL);
    let states = [ThreadState::Running, ThreadState::Queued, ThreadState::Blocked, ThreadState::Gil];
    let state = (prop::sample::select(states.to_vec()), any::<bool>(), any::<bool>());
    let sample = (root(), 0..5_u32, outcome, state, 0..1000_u64, 0..1_u64 << 40);
    (
        prop::collection::vec(frame(), 6),
        prop::collection::vec(stack, 5),
        prop::collection::vec(sample, 0..20),
        1..1_u64 << 34,
        name(),
        prop::sample::select(vec![Mode::Cpu, Mode::Gil, Mode::OffCpu, Mode::Wall]),
        0..1000_u64,
        prop::collection::vec(thread_times(), 0..3),
    )
        .prop_map(|(frames, stacks, samples, period_ns, target, mode, left_out, threads)| Profile {
            recording: Recording {
                period_ns,
                target,
                mode,
                left_out,
                switches_mended: left_out,
                ..Recording::default()
            },
            frames,
            stacks,
            samples: samples
                .into_iter()
                .map(|(root, stack, outcome, (state, holds_gil, is_idle), count, weight_ns)| Sample {
                    root,
                    stack: StackId(stack),
                    outcome,
                    state,
                    holds_gil,
                    is_idle,
                    count,
                    weight_ns,
                })
                .collect(),
            threads,
        })
}

fn thread_times() -> impl Strategy<Value = ThreadTimes> {
    (name(), any::<[u64; 4]>(), any::<[u32; 2]>()).prop_map(
        |(name, [run_ns, queue_ns, gil_ns, short_ns], [pid, tid])| ThreadTimes {
            process: name.clone(),
            name,
            pid,
            tid,
            run_ns,
            queue_ns,
            gil_ns,
            short_ns,
            ..ThreadTimes::default()
        },
    )
}

fn written(profile: &Profile, format: Format, options: &FoldOptions) -> String {
    let mut bytes = Vec::new();
    output::write(profile, format, options, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

proptest! {
    /// Folded values add up to the samples' weights in every view, exactly in nanoseconds and
    /// rounded once in samples; each line is frames, one blank, a number.
    #[test]
    fn folding_preserves_the_sum(profile in profile(), mut options in fold_options()) {
        let total: u64 = profile.samples.iter().map(|sample| sample.weight_ns).sum();
        let period = profile.recording.period_ns;
        for (unit, expected) in [
            (WeightUnit::Nanoseconds, total),
            (WeightUnit::Samples, (total + period / 2) / period),
        ] {
            options.unit = unit;
            let text = written(&profile, Format::Folded, &options);
            let mut sum = 0;
            for line in text.lines() {
                let (frames, value) = line.rsplit_once(' ').unwrap();
                prop_assert!(frames.split(';').all(|frame| !frame.is_empty() && frame.trim() == frame));
                sum += value.parse::<u64>().unwrap();
            }
            prop_assert_eq!(sum, expected);
        }
    }

    /// Whatever is shown, the fold's total is the profile's, and a view only ever drops frames: each
    /// of its stacks is a part, in the same order, of one of the native view, but for what stands for a
    /// whole stack.
    #[test]
    fn views_only_drop_frames(profile in profile(), options in fold_options(), modules in any::<bool>()) {
        let total: u64 = profile.samples.iter().map(|sample| sample.weight_ns).sum();
        let fold = Fold::new(&profile, &options, modules);
        prop_assert_eq!(fold.stacks.iter().map(|stack| stack.weight_ns).sum::<u64>(), total);
        let all = FoldOptions { view: View::Native, hidden: Vec::new(), ..options };
        let all = Fold::new(&profile, &all, modules);
        for stack in &fold.stacks {
            let shown = || stack.frames.iter().map(|index| &fold.frames[*index as usize]);
            let is_part = all.stacks.iter().any(|whole| {
                let mut whole = whole.frames.iter().map(|index| &all.frames[*index as usize]);
                let mut kept = shown().filter(|frame| frame.kind != FoldKind::NotShown);
                kept.all(|frame| whole.any(|other| other == frame))
            });
            prop_assert!(is_part);
        }
    }

    /// No value of a path is off by one unit or more.
    #[test]
    fn rounding_moves_no_path_by_a_unit(weights in prop::collection::vec(any::<u64>(), 1..50), period in 1..u64::MAX) {
        let mut counter = UnitCounter::new(WeightUnit::Samples, period);
        for weight in weights {
            let exact = weight as f64 / period as f64;
            let value = counter.value(weight) as f64;
            prop_assert!((value - exact).abs() < 1.0 + exact * 1e-9, "{value} for {exact}");
        }
    }

    /// What is written as JSON reads back equal.
    #[test]
    fn json_round_trips(profile in profile()) {
        let text = written(&profile, Format::Json, &FoldOptions::default());
        prop_assert_eq!(json::parse(text.as_bytes()).unwrap(), profile);
    }

    /// Any profile gives a picture: well-nested, without leftover marks or raw control characters.
    #[test]
    fn any_profile_gives_a_clean_picture(profile in profile(), options in fold_options()) {
        let picture = written(&profile, Format::Svg, &options);
        let private_use = picture.chars().any(|c| ('\u{e000}'..='\u{f8ff}').contains(&c));
        let control = picture.chars().any(|c| c.is_control() && !c.is_ascii_whitespace());
        prop_assert!(!private_use && !control);
        for tag in ["g", "title", "text", "tspan", "svg"] {
            let opened = picture.matches(&format!("<{tag}>")).count() + picture.matches(&format!("<{tag} ")).count();
            prop_assert_eq!(opened, picture.matches(&format!("</{tag}>")).count(), "<{}>", tag);
        }
    }

    /// Damaged JSON is refused or read, never a panic; what is read can be written in every format.
    #[test]
    fn damaged_json_does_no_harm(
        profile in profile(),
        at in any::<prop::sample::Index>(),
        with in prop_oneof![Just("9"), Just("-1"), Just("\""), Just("}"), Just("18446744073709551615"), Just("null"), Just("[")],
        len in 0..12_usize,
    ) {
        let mut bytes = written(&profile, Format::Json, &FoldOptions::default()).into_bytes();
        let start = at.index(bytes.len());
        let end = (start + len).min(bytes.len());
        bytes.splice(start..end, with.bytes());
        if let Ok(profile) = json::parse(&bytes) {
            for format in [Format::Svg, Format::Folded, Format::Json] {
                written(&profile, format, &FoldOptions::default());
            }
        }
    }

    /// Arbitrary bytes are not a profile.
    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(json::parse(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

/// Each lie of a hostile file is refused by its own message.
#[test]
fn hostile_json_is_refused_with_its_reason() {
    let good = written(&small(), Format::Json, &FoldOptions::default());
    assert!(json::parse(good.as_bytes()).is_ok());
    for (from, to, reason) in [
        ("\"version\":1", "\"version\":2", "version 2"),
        ("txprof-profile", "pprof", "not a profile of txprof"),
        ("[0]", "[7]", "stack 0 names frame 7 of 1"),
        ("\"root\":0", "\"root\":1", "sample 0 names root 1"),
        ("\"stack\":0", "\"stack\":4294967295", "names stack 4294967295"),
        ("\"outcome\":0,", "\"outcome\":200,", "unknown outcome 200"),
        ("\"count\":1", "\"count\":18446744073709551615", "counts exceed 64 bits"),
        ("\"function\":\"f\"", "\"function\":\"\"", "frame without a function"),
        ("\"process\":\"p\"", &format!("\"process\":\"{}\"", "p".repeat(257)), "has 257 bytes"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "`{from}` occurs");
        let error = json::parse(bad.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}: expected {reason}");
    }
    let nested = "[".repeat(1 << 20);
    assert_eq!(json::parse(nested.as_bytes()).unwrap_err().kind(), ErrorKind::Corrupt);
}

fn small() -> Profile {
    let root = Root { process: "p".to_owned(), thread: None };
    let sample = |count| Sample {
        root: root.clone(),
        stack: StackId(0),
        outcome: Outcome::Complete,
        state: ThreadState::Running,
        holds_gil: false,
        is_idle: false,
        count,
        weight_ns: 1,
    };
    Profile {
        recording: Recording::default(),
        frames: vec![Frame::named(FrameKind::Native, "f")],
        stacks: vec![vec![0]],
        samples: vec![sample(1), sample(2)],
        threads: Vec::new(),
    }
}
