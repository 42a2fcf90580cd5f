//! `txprof record`: everything that can be refused is checked before anything
//! is recorded; whatever happens afterwards, what was caught is written.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Child;
use std::sync::atomic::AtomicBool;
use std::time::{SystemTime, UNIX_EPOCH};

use super::backend::ChosenBackend;
use super::{ExitCode, ModeChoice, OutputFile, Progress, RecordPlan, TargetPlan, report};
use crate::agent::{Ended, Options, Recorder};
use crate::model::{FileId, MappingKind, Profile};
use crate::output::quantity::duration;
use crate::symbolize::Config;
use crate::target::launch::{self, Ending, Held};
use crate::target::select::{Selection, Selector, Wish};
use crate::{Result, output};

/// Whom to record, found and checked.
struct Targets {
    pids: Vec<u32>,
    /// What has found `pids`; `None` for a command.
    selector: Option<Selector>,
    /// For file names: `postgres`.
    name: String,
    /// For titles: `postgres (pid 4121)`.
    description: String,
    notes: Vec<String>,
    held: Option<Held>,
}

/// A command that was started.
struct Started {
    child: Child,
    /// How it was ended, or why not, where its recording was over before.
    ended: Option<Result<Ending>>,
}

/// Records as planned and writes the result.
pub fn run(plan: RecordPlan) -> Result<ExitCode> {
    let backend = ChosenBackend::of(&plan)?;
    let mut targets = find_targets(&plan)?;
    targets.notes.extend(backend.notes(&plan));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let destination = OutputFile::open(&plan.destination, plan.format, &targets.name, now)?;
    let stop = crate::sys::signal::stop_flag()?;
    raise_file_limit();
    if !plan.quiet {
        targets.notes.iter().for_each(|note| report::say(&format!("note: {note}\n")));
    }
    let progress = Progress::start(plan.duration, plan.quiet);
    let (profile, started) = record(&plan, &backend, &mut targets, stop, &progress)?;
    progress.step("writing");
    let options = plan.fold_options();
    let written = destination.write(|writer| output::write(&profile, plan.format, &options, writer))?;
    drop(progress);
    let lines =
        if plan.quiet { report::warning_lines(&profile) } else { report::end_lines(&profile, &written) };
    report::say(&lines);
    if !plan.quiet {
        started.and_then(exit_note).iter().for_each(|note| report::say(&format!("note: {note}\n")));
    }
    Ok(if profile.sample_count() == 0 { ExitCode::NoSamples } else { ExitCode::Success })
}

fn find_targets(plan: &RecordPlan) -> Result<Targets> {
    let mut wish = Wish { with_children: plan.children, ..Wish::default() };
    match &plan.target {
        TargetPlan::Command(command) => return hold(command),
        TargetPlan::Pids(pids) => wish.pids.clone_from(pids),
        TargetPlan::Name(name) => wish.names.push(name.clone()),
        TargetPlan::Cgroup(path) => wish.cgroups.push(path.clone()),
    }
    let selector = Selector::new(&wish)?;
    let Selection { targets, notes } = selector.find()?;
    let pids: Vec<u32> = targets.iter().map(|target| target.pid).collect();
    let named = match &plan.target {
        TargetPlan::Pids(wanted) => targets.iter().find(|target| wanted.contains(&target.pid)),
        _ => None,
    };
    let first = named.or(targets.first()).map(|target| (target.comm.clone(), target.pid));
    let (comm, pid) = first.unwrap_or_default();
    let (name, description) = match &plan.target {
        TargetPlan::Name(name) => (name.clone(), format!("processes called `{name}`")),
        TargetPlan::Cgroup(path) => {
            let base = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            (base, format!("cgroup `{}`", path.display()))
        }
        _ if pids.len() > 1 => (comm.clone(), format!("{comm} (pid {pid}) and {} more", pids.len() - 1)),
        _ => (comm.clone(), format!("{comm} (pid {pid})")),
    };
    Ok(Targets { pids, selector: Some(selector), name, description, notes, held: None })
}

fn hold(command: &[OsString]) -> Result<Targets> {
    let held = Held::start(command)?;
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let program = command.first().map(|program| Path::new(program).file_name().unwrap_or(program));
    Ok(Targets {
        pids: vec![held.pid()],
        selector: None,
        name: program.map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        description: format!("`{}` (pid {})", words.join(" "), held.pid()),
        notes: Vec::new(),
        held: Some(held),
    })
}

fn record(
    plan: &RecordPlan,
    backend: &ChosenBackend,
    targets: &mut Targets,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<(Profile, Option<Started>)> {
    let settings = backend.settings(plan);
    let sampler = backend.open(&settings)?;
    let options = Options {
        sampler: settings,
        duration: plan.duration,
        per_thread: plan.per_thread,
        tasks: plan.tasks,
        gil_only: plan.mode == ModeChoice::Gil,
        max_overhead_percent: plan.max_overhead_percent,
        ring_bytes: None,
    };
    let mut recorder = Recorder::attach(sampler, options, &targets.pids, targets.selector.take())?;
    if let Some(held) = &targets.held {
        expect_program(&mut recorder, held);
    }
    recorder.prepare()?;
    recorder.enable()?;
    let child = targets.held.take().map(Held::release).transpose()?;
    let ended = recorder.run(stop, &mut |now| progress.update(now.elapsed, now.samples, now.lost))?;
    let started = child.map(|child| Started::after(child, ended, progress));
    let config =
        Config { source_lines: plan.lines || plan.inlines, inlined_calls: plan.inlines, ..Config::default() };
    let naming = &mut |module: &str| progress.step(&format!("naming the functions of {module}"));
    let profile = recorder.finish(targets.description.clone(), config, naming)?;
    Ok((profile, started))
}

/// The rows of a held command's program, and of the libraries that nearly every program
/// shares with us, are built before it runs.
fn expect_program(recorder: &mut Recorder, held: &Held) {
    let program = held.program();
    let ours = crate::target::procfs::read_mappings(std::process::id()).unwrap_or_default();
    let libraries = ours.iter().filter_map(|mapping| match &mapping.kind {
        MappingKind::File { path, .. } if path.contains(".so") => Some(Path::new(path)),
        _ => None,
    });
    for path in libraries.chain([program]) {
        let Ok(file) = std::fs::File::open(path) else { continue };
        let Ok(metadata) = file.metadata() else { continue };
        let device = metadata.dev();
        let device = u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device));
        let id = FileId { device, inode: metadata.ino(), generation: 0 };
        recorder.expect_file(&path.to_string_lossy(), id, file);
    }
}

/// Each sampled file stays open until its functions are named; ordinary targets have
/// dozens, but the default limit of 1024 is too close for those with thousands of libraries.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // What cannot be opened later is counted and told.
        let _best_effort = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

impl Started {
    /// `child`, whose recording has ended: when the time is over, its time is, too. Ctrl-C has told it already.
    fn after(mut child: Child, ended: Ended, progress: &Progress) -> Self {
        progress.step("ending the command");
        let ended = (ended == Ended::InTime).then(|| launch::end(&mut child));
        Self { child, ended }
    }
}

/// What is worth a word of a command: that it was ended, or that it failed. One that still runs is left alone.
fn exit_note(mut started: Started) -> Option<String> {
    match started.ended {
        Some(Ok(Ending::Asked)) => Some("the command was ended by SIGTERM, as its time was over".to_owned()),
        Some(Ok(Ending::Killed)) => {
            let grace = duration(launch::GRACE);
            Some(format!(
                "the command was killed: it went on for {grace} after SIGTERM, as its time was over"
            ))
        }
        Some(Err(error)) => Some(format!("the command still runs: {error}")),
        Some(Ok(Ending::Itself)) | None => {
            let status = started.child.try_wait().ok().flatten().filter(|status| !status.success())?;
            Some(format!("the command ended with exit code {}", launch::exit_code(status)))
        }
    }
}
