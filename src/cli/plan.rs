//! What is meant by what was typed: checked, with defaults filled in, and
//! independent of clap. Pure: nothing is looked up on the machine.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{DumpArgs, FormatArg, RecordArgs};
use crate::aggregate::hidden::MAX_HIDDEN;
use crate::aggregate::{FoldOptions, HiddenFiles, View};
use crate::model::WeightUnit;
use crate::output::Format;
use crate::sys::wait_record::OffCpuSettings;
use crate::{Error, ErrorKind, Result, ResultExt};

/// A recording, as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordPlan {
    /// Whom to record.
    pub target: TargetPlan,
    /// Whether processes started by the targets are recorded too.
    pub children: bool,
    /// How long; `None` until Ctrl-C or the last target's exit.
    pub duration: Option<Duration>,
    /// Samples per second and CPU, 1..=10000.
    pub frequency_hz: u32,
    /// What makes a sample.
    pub event: EventChoice,
    /// What is recorded.
    pub mode: ModeChoice,
    /// How waits are told; `None` where they are not.
    pub off_cpu: Option<OffCpuSettings>,
    /// What takes the samples.
    pub backend: BackendChoice,
    /// Largest own cost in percent of one core, in (0, 100]; `None` without limit.
    pub max_overhead_percent: Option<f64>,
    /// Where to write.
    pub destination: Destination,
    /// In which format.
    pub format: Format,
    /// Whether threads are told apart.
    pub per_thread: bool,
    /// Asyncio's tasks are told apart.
    pub tasks: bool,
    /// Whether the kernel's frames are recorded and shown.
    pub kernel: bool,
    /// Whether frames show file and line.
    pub lines: bool,
    /// Whether inlined calls are resolved.
    pub inlines: bool,
    /// Which frames of a stack are shown.
    pub view: View,
    /// Whether waits of threads that have nothing to do are left out.
    pub hide_idle: bool,
    /// Python files whose functions are not shown; at most [`MAX_HIDDEN`].
    pub hidden: Vec<HiddenFiles>,
    /// No progress and no report.
    pub quiet: bool,
}

/// Whom to record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPlan {
    /// These processes: not empty, ascending, each once.
    Pids(Vec<u32>),
    /// All processes of this name; not empty.
    Name(String),
    /// All processes of this cgroup and below; not empty, as typed.
    Cgroup(PathBuf),
    /// A command to start: program and arguments; not empty.
    Command(Vec<OsString>),
}

/// Where the output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// `txprof-NAME-TIME` with the format's ending in the current folder; the
    /// name is known once the target is.
    Named,
    /// This file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// What makes a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EventChoice {
    /// cycles where the CPU can count them, else cpu-clock
    Auto,
    /// A timer that runs while the CPU is busy; works everywhere
    CpuClock,
    /// CPU cycles; needs a performance counter
    Cycles,
}

/// What is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeChoice {
    /// Threads that run on a CPU, sampled
    Cpu,
    /// Of these, those that hold the lock of their Python interpreter
    Gil,
    /// Waits: for how long, where, for what; every one, not sampled
    OffCpu,
    /// Both: what ran, in the exact time that each thread ran, and waits. Each thread sums to the time that passed
    Wall,
}

/// A wait's stack costs some 5 µs, so even threads that do nothing but wait this long are slowed by less than a tenth.
const MIN_WAIT_NS: u32 = 50_000;
/// Stacks of waits a second on one CPU, as many as samples at the usual rate, and up to two and a half times as many where
/// there are few waits. Each costs some 15 to 20 µs with the interrupt by which a thread asks itself for its stack.
const WAITS_PER_SECOND: u32 = 100;
/// Where each has a second stack, of who ended it: who asks for that pays for it.
const WAKERS_PER_SECOND: u32 = 1000;
/// Of those for Python's lock: four threads that compute hand it over some hundred times a second.
const GIL_WAITS_PER_SECOND: u32 = 1000;

/// What takes the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BackendChoice {
    /// The best that this machine allows
    Auto,
    /// A program inside the kernel; the target is never stopped
    Ebpf,
    /// Stopping running threads, one at a time, for some 50 microseconds each; works on one's own
    /// processes without rights, up to 250 Hz, without kernel frames
    Ptrace,
}

/// A snapshot, as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpPlan {
    /// Processes: not empty, ascending, each once.
    pub pids: Vec<u32>,
    /// Whether those that they have started are looked at too.
    pub children: bool,
    /// As JSON.
    pub json: bool,
    /// Which frames are shown.
    pub view: View,
    /// Whether inlined calls are resolved.
    pub inlines: bool,
}

impl DumpPlan {
    /// What was typed means.
    pub fn from_args(args: DumpArgs) -> Self {
        let mut pids = args.pids;
        pids.sort_unstable();
        pids.dedup();
        Self {
            pids,
            children: args.children,
            json: args.json,
            view: view(args.native, args.python_only),
            inlines: !args.no_inlines,
        }
    }
}

impl RecordPlan {
    /// Checks what was typed and fills in what was not.
    ///
    /// Fails with [`ErrorKind::InvalidInput`] and a hint when there is no target
    /// or more than one kind, when the format cannot be told, or when what to hide
    /// is empty or too much.
    pub fn from_args(args: RecordArgs) -> Result<Self> {
        let (destination, format) = destination(args.output, args.format)?;
        let about_waits = [
            (args.min_wait.is_some(), "--min-wait"),
            (args.wakers, "--wakers"),
            (args.hide_idle, "--hide-idle"),
        ];
        let off_cpu = off_cpu(args.mode, args.min_wait, args.wakers, about_waits)?;
        Ok(Self {
            target: target(args.pids, args.name, args.cgroup, args.command)?,
            children: !args.no_children,
            duration: args.duration,
            frequency_hz: args.frequency,
            event: args.event,
            mode: args.mode,
            off_cpu,
            backend: args.backend,
            max_overhead_percent: args.max_overhead,
            destination,
            format,
            per_thread: args.per_thread,
            tasks: args.tasks,
            kernel: !args.no_kernel,
            lines: args.lines,
            inlines: !args.no_inlines,
            view: view(args.native, args.python_only),
            hide_idle: args.hide_idle,
            hidden: hidden(&args.hide)?,
            quiet: args.quiet,
        })
    }

    /// How the profile is folded for the outputs.
    pub fn fold_options(&self) -> FoldOptions {
        FoldOptions {
            lines: self.lines,
            kernel: self.kernel,
            unit: if self.off_cpu.is_some() { WeightUnit::Nanoseconds } else { WeightUnit::Samples },
            view: self.view,
            hide_idle: self.hide_idle,
            hidden: self.hidden.clone(),
        }
    }
}

/// Both at once were refused before.
pub(super) fn view(native: bool, python_only: bool) -> View {
    match (native, python_only) {
        (true, _) => View::Native,
        (false, true) => View::PythonOnly,
        (false, false) => View::Merged,
    }
}

fn settings_of_waits(min_wait: Option<Duration>, wakers: bool) -> OffCpuSettings {
    OffCpuSettings {
        min_wait_ns: min_wait.map_or(MIN_WAIT_NS, |wait| u32::try_from(wait.as_nanos()).unwrap_or(u32::MAX)),
        every: min_wait.is_some(),
        stacks_per_second: if wakers { WAKERS_PER_SECOND } else { WAITS_PER_SECOND },
        gil_stacks_per_second: GIL_WAITS_PER_SECOND,
        wakers,
    }
}

/// What is asked for of waits; an error where these are not seen.
fn off_cpu(
    mode: ModeChoice,
    min_wait: Option<Duration>,
    wakers: bool,
    about_waits: [(bool, &str); 3],
) -> Result<Option<OffCpuSettings>> {
    if matches!(mode, ModeChoice::Wall | ModeChoice::OffCpu) {
        return Ok(Some(settings_of_waits(min_wait, wakers)));
    }
    match about_waits.iter().find(|(given, _)| *given) {
        Some((_, flag)) => Err(invalid(format!("`{flag}` is about waits, which this mode does not see"))
            .with_hint("add `--mode wall` or `--mode off-cpu`")),
        None => Ok(None),
    }
}

fn hidden(texts: &[String]) -> Result<Vec<HiddenFiles>> {
    if texts.len() > MAX_HIDDEN {
        return Err(invalid(format!("`--hide` was given {} times, more than {MAX_HIDDEN}", texts.len()))
            .with_hint("a shorter text covers more files: `--hide site-packages/`"));
    }
    let parse = |text: &String| {
        let parsed = HiddenFiles::parse(text).context(|| "the value of `--hide` is not usable".to_owned());
        parsed.map_err(|error| error.with_hint("give a part of the path, such as `--hide site-packages/`"))
    };
    texts.iter().map(parse).collect()
}

fn target(
    mut pids: Vec<u32>,
    name: Option<String>,
    cgroup: Option<PathBuf>,
    command: Vec<OsString>,
) -> Result<TargetPlan> {
    let given = [
        (!pids.is_empty(), "--pid"),
        (name.is_some(), "--name"),
        (cgroup.is_some(), "--cgroup"),
        (!command.is_empty(), "a command"),
    ];
    let given: Vec<&str> = given.iter().filter(|(given, _)| *given).map(|(_, flag)| *flag).collect();
    if given.len() > 1 {
        let message = format!("more than one kind of target: {}", given.join(" and "));
        return Err(invalid(message).with_hint("give one of them; `-p` takes several pids: `-p 12,34`"));
    }
    if name.as_deref() == Some("") || cgroup.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        return Err(invalid(format!("the value of `{}` is empty", given.join(""))));
    }
    pids.sort_unstable();
    pids.dedup();
    match (name, cgroup) {
        (Some(name), _) => Ok(TargetPlan::Name(name)),
        (_, Some(cgroup)) => Ok(TargetPlan::Cgroup(cgroup)),
        _ if !pids.is_empty() => Ok(TargetPlan::Pids(pids)),
        _ if !command.is_empty() => Ok(TargetPlan::Command(command)),
        _ => Err(invalid("no target given")
            .with_hint("name one: `-p PID`, `--name NAME`, `--cgroup PATH` or `-- COMMAND`")),
    }
}

/// Where and in which format to write what `-o` and `--format` say.
pub(super) fn destination(
    output: Option<PathBuf>,
    format: Option<FormatArg>,
) -> Result<(Destination, Format)> {
    let named = format.map(|format| match format {
        FormatArg::Svg => Format::Svg,
        FormatArg::Folded => Format::Folded,
        FormatArg::Json => Format::Json,
    });
    match output {
        None => Ok((Destination::Named, named.unwrap_or(Format::Svg))),
        Some(path) if path.as_os_str() == "-" => Ok((Destination::Stdout, named.unwrap_or(Format::Folded))),
        Some(path) => {
            // A folder has no ending to tell; it is refused as what it is when the output is opened.
            let of_folder = || path.is_dir().then_some(Format::Svg);
            let format = named.or_else(|| Format::from_path(&path)).or_else(of_folder).ok_or_else(|| {
                invalid(format!("cannot tell the format of `{}` from its ending", path.display()))
                    .with_hint("end it in .svg, .folded or .json, or add `--format svg`")
            })?;
            Ok((Destination::File(path), format))
        }
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn plan(line: &str) -> Result<RecordPlan> {
        let words = std::iter::once("txprof").chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("clap accepts it").command {
            Command::Record(args) => RecordPlan::from_args(*args),
            other => panic!("not a recording: {other:?}"),
        }
    }

    /// A bare `-p` gives the documented defaults.
    #[test]
    fn defaults_are_the_documented_ones() {
        let plan = plan("record -p 12").expect("valid");
        assert_eq!(plan.target, TargetPlan::Pids(vec![12]));
        assert_eq!((plan.destination, plan.format), (Destination::Named, Format::Svg));
        assert_eq!((plan.frequency_hz, plan.duration, plan.max_overhead_percent), (99, None, None));
        assert!(plan.children && plan.kernel && plan.inlines);
        assert!(!plan.per_thread && !plan.lines && !plan.quiet);
    }

    /// Each view has its flag, what to hide is collected, and both reach the fold.
    #[test]
    fn views_and_hidden_files_reach_the_fold() {
        let options = |line: &str| plan(line).expect("valid").fold_options();
        assert_eq!(options("record -p 1"), FoldOptions::default());
        assert_eq!(options("record -p 1 --native").view, View::Native);
        assert_eq!(options("record -p 1 --python-only").view, View::PythonOnly);
        let hidden = options("record -p 1 --hide imports --hide site-packages/").hidden;
        assert_eq!(hidden, [HiddenFiles::Imports, HiddenFiles::Containing("site-packages/".to_owned())]);
        assert_eq!(plan("record -p 1").expect("valid").mode, ModeChoice::Cpu);
        assert_eq!(plan("record -p 1 --mode gil").expect("valid").mode, ModeChoice::Gil);
    }

    /// Waits are asked for by the mode, with a threshold; elsewhere what is about them is refused.
    #[test]
    fn waits_belong_to_their_modes() {
        let of = |line: &str| plan(line).map(|plan| plan.off_cpu);
        let waits = of("record -p 1 --mode wall").expect("valid").expect("they are");
        assert_eq!((waits.min_wait_ns, waits.every, waits.wakers), (50_000, false, false));
        let line = "record -p 1 --mode off-cpu --min-wait 4s --wakers";
        let waits = of(line).expect("valid").expect("they are");
        assert_eq!((waits.min_wait_ns, waits.every, waits.wakers), (4_000_000_000, true, true));
        assert_eq!(of("record -p 1").expect("valid"), None);
        let options = plan("record -p 1 --mode wall").expect("valid").fold_options();
        assert_eq!(options.unit, WeightUnit::Nanoseconds);
        for line in
            ["record -p 1 --wakers", "record -p 1 --mode gil --min-wait 1ms", "record -p 1 --hide-idle"]
        {
            assert!(of(line).expect_err(line).hint().expect("a hint").contains("--mode wall"));
        }
    }

    /// What to hide is neither nothing nor without end.
    #[test]
    fn hidden_files_are_bounded() {
        let error = plan("record -p 1 --hide=").expect_err("empty");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(plan(&format!("record -p 1{}", " --hide x".repeat(MAX_HIDDEN))).is_ok());
        let error =
            plan(&format!("record -p 1{}", " --hide x".repeat(MAX_HIDDEN + 1))).expect_err("too many");
        assert_eq!(error.to_string(), "`--hide` was given 65 times, more than 64");
        assert!(error.hint().is_some());
    }

    /// Repeated and comma-separated pids become one ascending list without repeats.
    #[test]
    fn pids_are_collected() {
        let plan = plan("record -p 9,3 --pid 5 -p 3").expect("valid");
        assert_eq!(plan.target, TargetPlan::Pids(vec![3, 5, 9]));
    }

    /// Everything behind `--` is the command, flags included.
    #[test]
    fn words_behind_two_dashes_are_the_command() {
        let plan = plan("record -F 999 -- ./server -p 80").expect("valid");
        let words = ["./server", "-p", "80"].map(OsString::from).to_vec();
        assert_eq!(plan.target, TargetPlan::Command(words));
        assert_eq!(plan.frequency_hz, 999);
    }

    /// The ending decides, `--format` overrides it, standard output is folded.
    #[test]
    fn format_follows_the_ending() {
        let of = |line: &str| plan(line).map(|plan| (plan.destination, plan.format));
        let file = |path: &str| Destination::File(path.into());
        assert_eq!(of("record -p 1 -o a.svg").expect("valid"), (file("a.svg"), Format::Svg));
        assert_eq!(of("record -p 1 -o a.folded").expect("valid"), (file("a.folded"), Format::Folded));
        assert_eq!(of("record -p 1 -o a.b/c.JSON").expect("valid"), (file("a.b/c.JSON"), Format::Json));
        assert_eq!(of("record -p 1 -o -").expect("valid"), (Destination::Stdout, Format::Folded));
        assert_eq!(of("record -p 1 -o - --format json").expect("valid"), (Destination::Stdout, Format::Json));
        assert_eq!(of("record -p 1 -o a --format svg").expect("valid"), (file("a"), Format::Svg));
        let error = of("record -p 1 -o a.png").expect_err("unknown ending");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.hint().expect("hint").contains(".svg, .folded or .json"));
    }

    /// No target and two kinds of targets are refused, with a hint.
    #[test]
    fn exactly_one_kind_of_target_is_needed() {
        for (line, message) in [
            ("record", "no target given"),
            ("record -p 1 --name x", "more than one kind of target: --pid and --name"),
            ("record --cgroup x -- ls", "more than one kind of target: --cgroup and a command"),
        ] {
            let error = plan(line).expect_err(line);
            assert_eq!(error.to_string(), message);
            assert!(error.hint().is_some());
        }
    }
}
