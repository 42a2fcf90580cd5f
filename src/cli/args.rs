//! What may be typed, and the help that says so. Nothing is interpreted here
//! beyond the shape of single values; [`plan`](super::plan) says what is meant.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use super::exit_code;
use super::plan::{BackendChoice, EventChoice, ModeChoice};
use super::store_args::{DiffArgs, ExportArgs, FlameArgs, ListArgs, ShowArgs};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "txprof",
    version,
    about = "Sampling profiler that attaches to running processes from outside, at almost no cost.",
    before_help = TOP_EXAMPLES,
    after_help = exit_code::HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

const TOP_EXAMPLES: &str = "\
Examples:
  txprof record -p 4121 -d 30s             flamegraph of a process, 30 seconds
  txprof record -o out.svg -- ./server -v  a program, recorded until it exits
  txprof dump -p 4121                      what each of its threads is doing now
  txprof agent --name gunicorn             keep flamegraphs of slow requests
  txprof ps                                the requests in flight
  txprof list --min-duration 500ms         the requests that an agent has kept
  txprof show angry_einstein               where the time of one went
  txprof doctor                            what this machine allows, and what to do";

const RECORD_EXAMPLES: &str = "\
Examples:
  txprof record -p 4121 -d 30s                 30 seconds of process 4121 and its children
  txprof record --name postgres -F 999 -o pg.svg
                                               all processes called postgres, at 999 Hz, until Ctrl-C
  txprof record --cgroup system.slice/nginx.service -d 1m --per-thread
                                               a service's cgroup, every thread on its own
  txprof record -o - -- ./build.sh > out.folded
                                               start a command, folded stacks to standard output
  txprof record -p 4121 --python-only --hide imports
                                               Python functions only, without the import system
  txprof record -p 4121 --mode wall --hide-idle -d 30s
                                               where the time went, running or not
  txprof record -p 4121 --mode off-cpu --wakers
                                               what it waited for, and who ended that";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Sample running processes, or a command, and write a flamegraph.
    Record(Box<RecordArgs>),
    /// Show what every thread of a process is doing now.
    Dump(DumpArgs),
    /// Watch services for as long as it runs, and keep a flamegraph of each request that matters.
    Agent(Box<AgentArgs>),
    /// Show the requests in flight that an agent sees.
    Ps(PsArgs),
    /// Show and change which requests a running agent keeps.
    #[command(subcommand, before_help = POLICY_EXAMPLES, after_help = exit_code::HELP)]
    Policy(PolicyCommand),
    /// List the requests that were kept.
    List(ListArgs),
    /// Tell where the time of a request went.
    Show(ShowArgs),
    /// Draw the flamegraph of requests.
    Flame(FlameArgs),
    /// Draw what takes more or less time in one request than in another.
    Diff(DiffArgs),
    /// Write the profile of a request.
    Export(ExportArgs),
    /// Tell what this machine allows, and the command that fixes the rest.
    Doctor(DoctorArgs),
}

/// `txprof doctor`, as typed.
#[derive(Args, Debug)]
#[command(after_help = exit_code::HELP)]
pub struct DoctorArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

const AGENT_EXAMPLES: &str = "\
Examples:
  txprof agent -p 4121               process 4121 and its children: keep what
                                     takes 500 ms, and the slowest three of
                                     each method and minute
  txprof agent --name gunicorn       all processes called gunicorn, also those
                                     that start later
  txprof agent --config txprof.toml  targets, policies and the rest from a file;
                                     SIGHUP reads its policies again
  txprof list; txprof flame angry_einstein -o x.svg
                                     what it has kept, the flamegraph of one";

/// `txprof agent`, as typed.
#[derive(Args, Debug)]
#[command(before_help = AGENT_EXAMPLES, after_help = exit_code::HELP)]
pub struct AgentArgs {
    /// Processes to watch, and their children: repeat it or separate by commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',')]
    #[arg(value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pids: Vec<u32>,

    /// All processes of this name, also those that start later; may be repeated
    #[arg(long = "name", value_name = "NAME")]
    pub names: Vec<String>,

    /// All processes of this cgroup and those below it; may be repeated
    #[arg(long = "cgroup", value_name = "PATH")]
    pub cgroups: Vec<PathBuf>,

    /// Targets, policies, store and rates: what is typed here adds to its targets and replaces the rest
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where requests are kept [default: /var/lib/txprof for root, else $XDG_STATE_HOME/txprof or ~/.local/state/txprof]
    #[arg(long, value_name = "FOLDER")]
    pub store: Option<PathBuf>,

    /// Where questions are answered [default: /run/txprof/txprof.sock for root, $XDG_RUNTIME_DIR/txprof.sock for others]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Keep every request that takes as long: 200ms, 2s [default: as configured, else 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub slow: Option<Duration>,

    /// Tell on standard error what it cannot do (error), what is lost or refused too (warn), also what it watches, what
    /// changes and what it did (info), or each process that is met or gone as well (debug) [default: as configured,
    /// else info]
    #[arg(long, value_name = "LEVEL", value_enum, hide_possible_values = true)]
    pub log_level: Option<LevelArg>,

    /// No line of JSON on standard output for each request that is kept, and the log level warn unless one is typed
    #[arg(short, long)]
    pub quiet: bool,
}

/// Log levels by name, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LevelArg {
    /// What it cannot do
    Error,
    /// What is lost or refused
    Warn,
    /// What it watches, what changes and what it did
    Info,
    /// Each process that is met or gone
    Debug,
}

const PS_EXAMPLES: &str = "\
Examples:
  txprof ps                the requests in flight, the longest first
  txprof ps --json | jq .";

/// `txprof ps`, as typed.
#[derive(Args, Debug)]
#[command(before_help = PS_EXAMPLES, after_help = exit_code::HELP)]
pub struct PsArgs {
    /// Where the agent listens [default: /run/txprof/txprof.sock for root, $XDG_RUNTIME_DIR/txprof.sock for others]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print one JSON object a line instead of a table
    #[arg(long)]
    pub json: bool,
}

const POLICY_EXAMPLES: &str = "\
Examples:
  txprof policy list           the policies in force, and what each has kept
  txprof policy test new.toml  whether a file is right, without an agent
  txprof policy add new.toml   add its policies to those in force
  txprof policy remove slow    take one away";

/// `txprof policy`, as typed.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the policies in force, and how often each had its say.
    List(PolicyListArgs),
    /// Add the policies of a file to those in force, until the agent ends or reads its configuration again.
    Add(PolicyFileArgs),
    /// Take a policy away, until the agent ends or reads its configuration again.
    Remove(PolicyNameArgs),
    /// Check a file's policies without an agent.
    Test(PolicyTestArgs),
}

/// `txprof policy list`, as typed.
#[derive(Args, Debug)]
#[command(before_help = POLICY_EXAMPLES, after_help = exit_code::HELP)]
pub struct PolicyListArgs {
    /// Where the agent listens [default: /run/txprof/txprof.sock for root, $XDG_RUNTIME_DIR/txprof.sock for others]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Print one JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

/// `txprof policy add`, as typed.
#[derive(Args, Debug)]
#[command(before_help = POLICY_EXAMPLES, after_help = exit_code::HELP)]
pub struct PolicyFileArgs {
    /// A TOML file with `[[policy]]` tables
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Where the agent listens [default: /run/txprof/txprof.sock for root, $XDG_RUNTIME_DIR/txprof.sock for others]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `txprof policy remove`, as typed.
#[derive(Args, Debug)]
#[command(before_help = POLICY_EXAMPLES, after_help = exit_code::HELP)]
pub struct PolicyNameArgs {
    /// Name of the policy
    #[arg(value_name = "NAME")]
    pub name: String,

    /// Where the agent listens [default: /run/txprof/txprof.sock for root, $XDG_RUNTIME_DIR/txprof.sock for others]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `txprof policy test`, as typed.
#[derive(Args, Debug)]
#[command(before_help = POLICY_EXAMPLES, after_help = exit_code::HELP)]
pub struct PolicyTestArgs {
    /// A TOML file with `[[policy]]` tables
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

const DUMP_EXAMPLES: &str = "\
Examples:
  txprof dump -p 4121                 each thread of process 4121: what it waits for, and its stack
  txprof dump -p 4121 --python-only   Python functions only
  txprof dump -p 4121 --children --json | jq .";

/// `txprof dump`, as typed.
#[derive(Args, Debug)]
#[command(before_help = DUMP_EXAMPLES, after_help = exit_code::HELP)]
pub struct DumpArgs {
    /// Processes to look at: repeat it or separate by commas. Each thread is stopped for some 50 microseconds
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', required = true)]
    #[arg(value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pids: Vec<u32>,

    /// Also the processes that they have started
    #[arg(long)]
    pub children: bool,

    /// Print one JSON object, with all frames, whatever is shown
    #[arg(long)]
    pub json: bool,

    /// Show also what runs Python: the interpreter's own functions and the start of each thread
    #[arg(long, conflicts_with = "python_only")]
    pub native: bool,

    /// Show Python functions only
    #[arg(long)]
    pub python_only: bool,

    /// Do not show calls that the compiler inlined
    #[arg(long)]
    pub no_inlines: bool,
}

/// `txprof record`, as typed.
#[derive(Args, Debug)]
#[command(before_help = RECORD_EXAMPLES, after_help = exit_code::HELP)]
pub struct RecordArgs {
    /// Processes to record: repeat it or separate by commas
    #[arg(short, long = "pid", value_name = "PID", value_delimiter = ',', help_heading = "Target")]
    #[arg(value_parser = value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub pids: Vec<u32>,

    /// All processes of this name, as `ps -o comm` shows it
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub name: Option<String>,

    /// All processes of this cgroup and those below it: a path under /sys/fs/cgroup
    #[arg(long, value_name = "PATH", help_heading = "Target")]
    pub cgroup: Option<PathBuf>,

    /// A command to start; it is held until sampling is on. When the duration is over, it gets SIGTERM, and SIGKILL if
    /// it goes on for 2 s; Ctrl-C reaches it, too
    #[arg(last = true, value_name = "COMMAND", help_heading = "Target")]
    pub command: Vec<OsString>,

    /// Leave out processes that the targets start [default: they are recorded]
    #[arg(long, help_heading = "Target")]
    pub no_children: bool,

    /// How long to record: 500ms, 30s, 1m30s, 2h [default: until Ctrl-C or the last target's exit]
    #[arg(short, long, value_name = "TIME", value_parser = parse_duration, help_heading = "Sampling")]
    pub duration: Option<Duration>,

    /// Samples per second and CPU, 1 to 10000
    #[arg(short = 'F', long, value_name = "HZ", default_value_t = 99, help_heading = "Sampling")]
    #[arg(value_parser = value_parser!(u32).range(1..=10_000))]
    pub frequency: u32,

    /// What makes a sample: a timer on the CPU, or CPU cycles where there is a counter for them
    #[arg(short, long, value_enum, default_value_t = EventChoice::Auto, help_heading = "Sampling")]
    pub event: EventChoice,

    /// What is recorded: time on a CPU, time spent waiting, or both
    #[arg(long, value_enum, default_value_t = ModeChoice::Cpu, help_heading = "Sampling")]
    pub mode: ModeChoice,

    /// Every wait that takes this long has a stack: 20us, 1ms; shorter ones are summed as `[short waits]`. Without it, those
    /// of 50us, but where they come by the hundred only the longest and a sample of the others, so that stacks cost little.
    /// Of the modes wall and off-cpu
    #[arg(long, value_name = "TIME", value_parser = parse_wait, help_heading = "Sampling")]
    pub min_wait: Option<Duration>,

    /// Show under each wait who ended it, and what that thread did then. Of the modes wall and off-cpu
    #[arg(long, help_heading = "Sampling")]
    pub wakers: bool,

    /// What takes the samples
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto, help_heading = "Sampling")]
    pub backend: BackendChoice,

    /// Lower the rate when txprof's own cost exceeds this percentage of one core [default: no limit]
    #[arg(long, value_name = "PCT", value_parser = parse_percent, help_heading = "Sampling")]
    pub max_overhead: Option<f64>,

    /// Where to write; the ending decides the format, `-` is standard output
    /// [default: txprof-NAME-TIME.svg in this folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Format, whatever the file's ending says [default: by the ending; folded on standard output]
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Option<FormatArg>,

    /// Show every thread on its own, those of Python under the names that `threading` has for them
    #[arg(long, help_heading = "Output")]
    pub per_thread: bool,

    /// Tell the tasks of asyncio apart, by name; CPython 3.14 and later say which one runs
    #[arg(long, help_heading = "Output")]
    pub tasks: bool,

    /// Leave out the kernel's frames
    #[arg(long, help_heading = "Output")]
    pub no_kernel: bool,

    /// Show also what runs Python: the interpreter's own functions and the start of each thread
    /// [default: not in stacks with Python functions]
    #[arg(long, conflicts_with = "python_only", help_heading = "Output")]
    pub native: bool,

    /// Show Python functions only; a stack without any is one frame, `[native]`
    /// [default: native and kernel functions too]
    #[arg(long, help_heading = "Output")]
    pub python_only: bool,

    /// Leave out Python functions of files with WHAT in their path, at most 64 times; their time
    /// belongs to their callers. `imports` stands for the import system [default: none]
    #[arg(long, value_name = "WHAT", help_heading = "Output")]
    pub hide: Vec<String>,

    /// Leave out waits of threads that have nothing to do: where each comes back to between two pieces of work. Of the
    /// modes wall and off-cpu
    #[arg(long, help_heading = "Output")]
    pub hide_idle: bool,

    /// Add file and line to every function: equal functions at different lines become different
    /// frames [default: the file of Python functions only]
    #[arg(long, help_heading = "Output")]
    pub lines: bool,

    /// Do not show calls that the compiler inlined
    #[arg(long, help_heading = "Output")]
    pub no_inlines: bool,

    /// No progress and no report; errors and warnings only
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
}

/// Formats by name, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Interactive flamegraph
    Svg,
    /// Folded stacks, one per line
    Folded,
    /// txprof's own profile, complete whatever is shown
    Json,
}

/// Longest recording: 30 days, far beyond any use and far from overflow.
const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Parses `500ms`, `30s`, `1m30s`, `1.5h`; a bare number means seconds.
/// Between one millisecond and 30 days.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = parse_seconds(text)?;
    if !(0.001..=MAX_DURATION.as_secs_f64()).contains(&seconds) {
        return Err("a recording takes between 1ms and 30 days".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses what [`parse_duration`] does, without its bounds; not negative.
pub(super) fn parse_seconds(text: &str) -> Result<f64, String> {
    let usage = || format!("`{text}` is not a time; write 500ms, 30s, 1m30s or 2h");
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "" if number == text => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(usage()),
        };
        seconds += number.parse::<f64>().map_err(|_| usage())? * unit_seconds;
        rest = tail;
    }
    if text.is_empty() { Err(usage()) } else { Ok(seconds) }
}

/// Parses `50us`, `1ms`, `2s`. At most 4 s.
fn parse_wait(text: &str) -> Result<Duration, String> {
    let usage = || format!("`{text}` is not a time; write 50us, 1ms or 2s");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_seconds = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(usage()),
    };
    let seconds = number.parse::<f64>().map_err(|_| usage())? * unit_seconds;
    if !(0.0..=4.0).contains(&seconds) {
        return Err("a wait gets a stack from at most 4 s on".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses `2`, `0.5` or `2%`: more than 0, at most 100.
fn parse_percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text
        .strip_suffix('%')
        .unwrap_or(text)
        .parse()
        .map_err(|_| format!("`{text}` is not a percentage; write for example 2 or 0.5"))?;
    if percent > 0.0 && percent <= 100.0 {
        Ok(percent)
    } else {
        Err("the percentage of one core must be above 0 and at most 100".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;

    /// clap's own check of the definitions: unique flags, valid defaults.
    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    /// Each accepted spelling of a time gives its value, each other one an error.
    #[test]
    fn times_are_read_with_their_units() {
        let millis = |text: &str| parse_duration(text).map(|duration| duration.as_millis()).ok();
        assert_eq!(millis("30s"), Some(30_000));
        assert_eq!(millis("30"), Some(30_000));
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("1m30s"), Some(90_000));
        assert_eq!(millis("1.5h"), Some(5_400_000));
        for wrong in ["", "s", "0s", "-1s", "30 s", "1m30", "5 days", "1d", "nan", "31000h", ".", "1.2.3s"] {
            assert_eq!(millis(wrong), None, "`{wrong}`");
        }
    }

    /// Waits are given with their unit, and are bounded.
    #[test]
    fn waits_are_read_with_their_units() {
        let micros = |text: &str| parse_wait(text).map(|wait| wait.as_micros()).ok();
        assert_eq!(micros("50us"), Some(50));
        assert_eq!(micros("1.5ms"), Some(1500));
        assert_eq!(micros("0us"), Some(0));
        for wrong in ["", "50", "us", "-1us", "5s", "1h", "nanus"] {
            assert_eq!(micros(wrong), None, "`{wrong}`");
        }
    }

    /// Percentages are above 0 and at most 100, with or without the sign.
    #[test]
    fn percentages_are_bounded() {
        assert_eq!(parse_percent("2%"), Ok(2.0));
        assert_eq!(parse_percent("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "101", "nan", "inf", "x", ""] {
            assert!(parse_percent(wrong).is_err(), "`{wrong}`");
        }
    }

    proptest! {
        /// Any text is a time within bounds or an error, never a panic.
        #[test]
        fn any_text_is_a_time_or_an_error(text in "\\PC{0,40}|[0-9.]{1,400}[smh]{0,3}") {
            if let Ok(duration) = parse_duration(&text) {
                prop_assert!(duration <= MAX_DURATION);
            }
            let _ = parse_percent(&text);
            let _ = parse_wait(&text);
        }
    }
}
