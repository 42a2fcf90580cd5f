//! `txprof dump`: what every thread is doing now.

use std::io::{BufWriter, Write as _};

use super::report;
use super::{DumpPlan, ExitCode};
use crate::agent::{Options, Recorder, snapshot};
use crate::sampler::clock::ClockChoice;
use crate::sampler::{SamplerSettings, ptrace};
use crate::symbolize::Config;
use crate::target::procfs;
use crate::target::select::{Selector, Wish};
use crate::{Error, ErrorKind, Result, output};

/// Catches every thread of the processes once and prints their stacks to standard output.
pub fn run(plan: &DumpPlan) -> Result<ExitCode> {
    let wish = Wish { pids: plan.pids.clone(), with_children: plan.children, ..Wish::default() };
    let selection = Selector::new(&wish)?.find()?;
    let pids: Vec<u32> = selection.targets.iter().map(|target| target.pid).collect();
    let settings = SamplerSettings {
        clock: ClockChoice::Auto,
        frequency_hz: 1,
        follow_children: false,
        watch_all: false,
        kernel_frames: false,
        on_cpu: true,
        off_cpu: None,
        lane: None,
        keep_samples: false,
    };
    let options = Options {
        sampler: settings,
        duration: None,
        per_thread: true,
        tasks: false,
        gil_only: false,
        max_overhead_percent: None,
        ring_bytes: None,
    };
    let mut recorder = Recorder::attach(ptrace::open(&settings)?, options, &pids, None)?;
    recorder.prepare()?;
    // Before anything is stopped: who was asleep is awake for a moment then.
    let activities = snapshot::activities(&pids);
    // Tells at once where nothing may be stopped, and why.
    recorder.enable()?;
    recorder.sweep()?;
    let config = Config { source_lines: true, inlined_calls: plan.inlines, ..Config::default() };
    let profile = recorder.finish(String::new(), config, &mut |_| {})?;
    let snapshot = snapshot::join(activities, &profile);
    let threads = snapshot.processes.iter().flat_map(|process| &process.threads);
    if threads.clone().all(|thread| thread.stack.is_none()) {
        return Err(explain_absence(&pids));
    }
    let mut writer = BufWriter::new(std::io::stdout().lock());
    let written = match plan.json {
        true => output::dump::write_json(&snapshot, &profile, &mut writer),
        false => output::dump::write_text(&snapshot, &profile, plan.view, &mut writer),
    };
    written.and_then(|()| writer.flush()).map_err(|cause| {
        Error::from_io("failed to write to standard output", cause).with_kind(ErrorKind::Output)
    })?;
    for warning in &profile.recording.warnings {
        report::say(&format!("warning: {warning}\n"));
    }
    Ok(ExitCode::Success)
}

/// Why no thread was caught.
fn explain_absence(pids: &[u32]) -> Error {
    let lives = |pid: &u32| procfs::read_stat(*pid).is_ok_and(|stat| !stat.has_ended());
    match pids.iter().any(lives) {
        false => Error::new(ErrorKind::NotFound, "all threads ended before they were caught"),
        true => Error::new(ErrorKind::System, "no thread stopped within 0.3 s").with_hint(
            "they wait where nothing may disturb them, or the machine is very busy: run it again; \
             `/proc/PID/task/TID/wchan` tells where they wait",
        ),
    }
}
