//! The words on standard error: progress, the end of a recording, failures.
//! The formatting functions are pure and give whole lines.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit_code::ExitCode;
use super::output_file::Written;
use super::thread_table;
use crate::Error;
use crate::model::{Cost, Profile};
use crate::output::quantity::{count, counted, duration, percent, seen, size};

/// Prints `lines` to standard error. That nobody listens is no failure.
pub fn say(lines: &str) {
    let _ = std::io::stderr().write_all(lines.as_bytes());
}

/// `error: CHAIN`, and `hint: …` on a line of its own if there is one.
pub fn error_lines(error: &Error) -> String {
    let mut lines = format!("error: {}\n", printable(&error.to_string()));
    if let Some(hint) = error.hint() {
        let _ = writeln!(lines, "hint: {}", printable(hint));
    }
    lines
}

/// Prints what clap has to say: help and version to standard output with
/// success, anything else as an error with a hint. `subcommand` is the first
/// word typed, to name the help that fits.
pub fn usage_error(error: &clap::Error, subcommand: Option<&OsString>) -> ExitCode {
    if !error.use_stderr() {
        // A reader that closed early has seen what it wanted.
        let _ = error.print();
        return ExitCode::Success;
    }
    let help = match subcommand.and_then(|word| word.to_str()) {
        Some(
            word @ ("record" | "dump" | "agent" | "ps" | "policy" | "list" | "show" | "flame" | "diff"
            | "export" | "doctor"),
        ) => {
            format!("`txprof {word} --help` shows what can be typed")
        }
        _ => "`txprof --help` shows what can be typed".to_owned(),
    };
    say(&usage_lines(&error.render().to_string(), &help));
    ExitCode::Usage
}

/// clap's message in this program's form: its first paragraph is the error, its
/// guess the hint, or else `help`, which stands for its usage text as well.
fn usage_lines(rendered: &str, help: &str) -> String {
    let Some(message) = rendered.strip_prefix("error: ") else {
        return rendered.to_owned();
    };
    let paragraph = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    let error = paragraph.collect::<Vec<_>>().join(" ").replace('\'', "`");
    let mut tips = message.lines().filter_map(|line| line.trim().strip_prefix("tip: "));
    // Its other tip, how to pass the word as a value, leads nowhere here.
    let tip = tips.find(|tip| tip.contains("similar"));
    let hint = tip.map_or_else(|| help.to_owned(), |tip| tip.replace('\'', "`"));
    format!("error: {}\nhint: {}\n", printable(&error), printable(&hint))
}

/// The end of a recording: what was written, how much was seen and lost and
/// why, at what cost, what else the user should know.
pub fn end_lines(profile: &Profile, written: &Written) -> String {
    let recording = &profile.recording;
    let mut lines = format!("wrote {} ({})\n", printable(&written.label), size(written.size_bytes));
    let outcomes = profile.outcomes();
    let _ = writeln!(
        lines,
        "  {} in {}, {} complete",
        seen(profile),
        duration(Duration::from_nanos(recording.elapsed_ns)),
        percent(profile.complete_count(), profile.stack_count()),
    );
    for (outcome, number) in outcomes.iter().filter(|(outcome, n)| !outcome.is_complete() && **n > 0) {
        let _ = writeln!(lines, "  {} × {}", count(*number), outcome.text());
    }
    for (marker, number) in profile.gaps() {
        let _ = writeln!(lines, "  {} × {}", count(number), marker.trim_matches(['[', ']']));
    }
    if recording.left_out > 0 {
        let left_out = counted(recording.left_out, "sample");
        let _ = writeln!(
            lines,
            "  {left_out} left out: the thread did not hold the lock of a Python interpreter"
        );
    }
    lines.push_str(&thread_table::lines(profile));
    lines.push_str(&cost_line(&recording.cost, recording.elapsed_ns));
    lines.push_str(&warning_lines(profile));
    lines
}

/// Warnings, and why there may be no samples: also shown when the rest is not.
pub fn warning_lines(profile: &Profile) -> String {
    let mut lines = String::new();
    for warning in &profile.recording.warnings {
        let _ = writeln!(lines, "warning: {}", printable(warning));
    }
    if profile.sample_count() > 0 {
        return lines;
    }
    let lost: u64 = profile.recording.lost.values().sum();
    if lost > 0 {
        let _ = writeln!(lines, "warning: all {} were lost", counted(lost, "sample"));
        lines.push_str("hint: the machine is too busy for this rate; try a lower one: `-F 49`\n");
    } else if profile.recording.left_out > 0 {
        lines
            .push_str("warning: no samples: no thread that was seen held the lock of a Python interpreter\n");
        lines.push_str("hint: `--mode cpu` shows what ran without it\n");
    } else {
        lines.push_str("warning: no samples: the target did not run on a CPU while it was recorded\n");
        lines.push_str("hint: it slept or waited; record longer (`-d 60s`) or while it works\n");
    }
    lines
}

/// `  cost: 0.21 % of a core (own 0.15 %, BPF 0.06 %), 31.0 MiB resident, 12.0 MiB BPF`.
fn cost_line(cost: &Cost, elapsed_ns: u64) -> String {
    let share = |ns: u64| ns as f64 * 100.0 / elapsed_ns.max(1) as f64;
    let own = share(cost.own_cpu_ns);
    if let Some(stops) = cost.stops {
        let each = stops.total_ns as f64 / stops.count.max(1) as f64 / 1000.0;
        return format!(
            "  cost: {own:.2} % of a core, {} resident; {} stopped for {each:.0} µs each, {:.2} ms at most\n",
            size(cost.peak_rss_bytes),
            counted(stops.count, "thread"),
            stops.longest_ns as f64 / 1e6
        );
    }
    let cpu = match cost.bpf_run_ns.map(share) {
        Some(bpf) => format!("{:.2} % of a core (own {own:.2} %, BPF {bpf:.2} %)", own + bpf),
        None => format!("{own:.2} % of a core (BPF run time unknown)"),
    };
    let memory = (size(cost.peak_rss_bytes), size(cost.bpf_memory_bytes));
    format!("  cost: {cpu}, {} resident, {} BPF\n", memory.0, memory.1)
}

/// What the terminal shows while recording.
pub fn progress_text(elapsed: Duration, planned: Option<Duration>, samples: u64, lost: u64) -> String {
    let mut text = duration(elapsed);
    if let Some(planned) = planned {
        let _ = write!(text, " of {}", duration(planned));
    }
    let _ = write!(text, ", {}", counted(samples, "sample"));
    if lost > 0 {
        let _ = write!(text, ", {} lost", count(lost));
    }
    text.push_str(" (Ctrl-C ends and writes)");
    text
}

/// Progress on a terminal; silent anywhere else. Clears itself when dropped.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    planned: Option<Duration>,
}

impl Progress {
    /// Begins to show progress towards `planned`, unless `quiet` or standard
    /// error is no terminal.
    pub fn start(planned: Option<Duration>, quiet: bool) -> Self {
        let visible = !quiet && std::io::stderr().is_terminal();
        let bar = visible.then(|| {
            let length = planned.map(|planned| planned.as_millis() as u64);
            let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
            let template = if planned.is_some() { "{bar:20} {msg}" } else { "{spinner} {msg}" };
            let style = ProgressStyle::with_template(template).expect("both templates are well-formed");
            bar.set_style(style.progress_chars("━╸─"));
            bar
        });
        Self { bar, planned }
    }

    /// Shows where the recording is; cheap enough for a few calls a second.
    pub fn update(&self, elapsed: Duration, samples: u64, lost: u64) {
        let Some(bar) = &self.bar else { return };
        if self.planned.is_some() {
            bar.set_position(elapsed.as_millis() as u64);
        } else {
            bar.tick();
        }
        bar.set_message(progress_text(elapsed, self.planned, samples, lost));
    }

    /// Shows a step after the recording, such as naming addresses.
    pub fn step(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `text` without control characters: names in messages come from targets and
/// must not drive the terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::model::{Mode, Outcome, Recording, Root, Sample, StackId, ThreadState, ThreadTimes};

    /// Progress tells time, samples and losses, and the planned end where there is one.
    #[test]
    fn progress_tells_time_samples_and_losses() {
        let seconds = Duration::from_secs;
        assert_eq!(
            progress_text(seconds(12), Some(seconds(30)), 2970, 3),
            "12.0 s of 30.0 s, 2,970 samples, 3 lost (Ctrl-C ends and writes)"
        );
        assert_eq!(progress_text(seconds(90), None, 1, 0), "1 min 30 s, 1 sample (Ctrl-C ends and writes)");
    }

    /// Names of targets in messages cannot drive the terminal; the hint has its own line.
    #[test]
    fn errors_are_one_printable_line_and_a_hint() {
        let error = Error::new(ErrorKind::NotFound, "no process `\u{1b}[2J\n`").with_hint("try `ps`");
        assert_eq!(error_lines(&error), "error: no process `\u{fffd}[2J\u{fffd}`\nhint: try `ps`\n");
    }

    /// Waits are told as many as there were, whether they have a stack or not; what is incomplete is a part of the stacks.
    #[test]
    fn waits_are_those_that_there_were() {
        let sample = |state, outcome, count| Sample {
            root: Root::default(),
            stack: StackId(0),
            outcome,
            state,
            holds_gil: false,
            is_idle: false,
            count,
            weight_ns: 1,
        };
        let times =
            ThreadTimes { told_count: 20, short_count: 5000, bare_count: 3, ..ThreadTimes::default() };
        let busy =
            ThreadTimes { told_count: 4, sampled_count: 200, shared_stacks: 6, ..ThreadTimes::default() };
        let samples = vec![
            sample(ThreadState::Running, Outcome::Complete, 70),
            sample(ThreadState::Blocked, Outcome::ReadFailed, 10),
            sample(ThreadState::Blocked, Outcome::Complete, 5023),
        ];
        let recording = Recording { mode: Mode::Wall, elapsed_ns: 1_000_000_000, ..Recording::default() };
        let stacks = vec![Vec::new()];
        let threads = vec![times, busy];
        let mut profile = Profile { recording, stacks, samples, threads, ..Profile::default() };
        let written = Written { label: "a".to_owned(), size_bytes: 1 };
        let line = |profile: &Profile| end_lines(profile, &written).lines().nth(1).map(str::to_owned);
        let expected = "  70 samples and 5,227 waits (30 with a stack) in 1.0 s, 90.0 % complete";
        assert_eq!(line(&profile).as_deref(), Some(expected));
        profile.recording.mode = Mode::Cpu;
        assert!(line(&profile).is_some_and(|line| line.starts_with("  5,103 samples in 1.0 s, 99.80 %")));
    }

    /// Where the kernel does not tell the run time of BPF programs, the cost says so.
    #[test]
    fn unknown_bpf_time_is_said_to_be_unknown() {
        let cost = Cost { own_cpu_ns: 10_000_000, ..Cost::default() };
        let line = cost_line(&cost, 1_000_000_000);
        assert_eq!(line, "  cost: 1.00 % of a core (BPF run time unknown), 0 B resident, 0 B BPF\n");
        assert!(cost_line(&cost, 0).starts_with("  cost: "));
    }
}
