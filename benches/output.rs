//! How long folding and writing take: 100,000 distinct stacks of about 40 frames from
//! 5,000 functions, far more than a minute at 999 Hz gives. Medians of seven runs.
//!
//! `cargo bench --bench output`

use std::time::{Duration, Instant};

use txprof::aggregate::{Fold, FoldOptions};
use txprof::model::{Frame, FrameKind, Outcome, Profile, Recording, Root, Sample, StackId, ThreadState};
use txprof::output::{self, Format};

const STACKS: u32 = 100_000;
const FUNCTIONS: u32 = 5_000;
const RUNS: usize = 7;
const PERIOD_NS: u64 = 1_001_001;

/// Stacks that share their beginnings as those of a program do: the choice of a
/// callee depends on the caller, and gets wider towards the leaf.
fn profile() -> Profile {
    let frame = |number: u32| Frame {
        kind: if number.is_multiple_of(7) { FrameKind::Inlined } else { FrameKind::Native },
        function: format!("module{}::Type{}::function_{number}", number % 40, number % 400).into(),
        module: Some(format!("lib{}.so.1", number % 40).into()),
        file: None,
        line: None,
    };
    let mut random = 1_u32;
    let mut next = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        random >> 8
    };
    let stacks = (0..STACKS).map(|_| {
        let depth = 25 + next() % 30;
        let mut function = 0;
        let mut stack: Vec<u32> = (0..depth)
            .map(|level| {
                function = (function * 31 + next() % (1 + level / 8)) % FUNCTIONS;
                function
            })
            .collect();
        stack.reverse();
        stack
    });
    let stacks: Vec<Vec<u32>> = stacks.collect();
    let root = Root { process: "server".to_owned(), thread: None };
    let samples = (0..STACKS).map(|stack| Sample {
        root: root.clone(),
        stack: StackId(stack),
        outcome: Outcome::Complete,
        state: ThreadState::Running,
        holds_gil: false,
        is_idle: false,
        count: 1,
        weight_ns: PERIOD_NS,
    });
    Profile {
        recording: Recording { period_ns: PERIOD_NS, ..Recording::default() },
        frames: (0..FUNCTIONS).map(frame).collect(),
        samples: samples.collect(),
        stacks,
        ..Profile::default()
    }
}

fn measure(what: &str, mut run: impl FnMut() -> usize) {
    let mut size = 0;
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let begin = Instant::now();
            size = run();
            begin.elapsed()
        })
        .collect();
    times.sort();
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let (least, median, most) = (millis(times[0]), millis(times[RUNS / 2]), millis(times[RUNS - 1]));
    println!("{what:8} {median:8.1} ms  ({least:.1} to {most:.1})  size {size}");
}

fn main() {
    let profile = profile();
    let options = FoldOptions::default();
    measure("fold", || Fold::new(&profile, &options, true).stacks.len());
    for (what, format) in [("folded", Format::Folded), ("svg", Format::Svg), ("json", Format::Json)] {
        measure(what, || {
            let mut bytes = Vec::new();
            output::write(&profile, format, &options, &mut bytes).expect("memory takes everything");
            bytes.len()
        });
    }
    let mut bytes = Vec::new();
    output::json::write(&profile, &mut bytes).expect("memory takes everything");
    measure("parse", || output::json::parse(&bytes).expect("just written").stacks.len());
}
