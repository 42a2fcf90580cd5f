//! `txprof show`: where the time of a request went.

use std::fmt::Write as _;

use super::kept::{self, time};
use super::list::{Entry, short, status};
use super::{ExitCode, ShowPlan};
use crate::Result;
use crate::aggregate::{Fold, FoldOptions, TopFunction, top};
use crate::model::{Binding, FrameKind, Profile, Request, ThreadState, WeightUnit, date};
use crate::output::quantity::percent;
use crate::store::{StoreReader, Summary};

/// Functions told.
const TOP: usize = 15;
/// Longest value of an attribute shown, in characters.
const MAX_VALUE_CHARS: usize = 100;
/// Longest function shown, in characters.
const MAX_FUNCTION_CHARS: usize = 80;

/// Prints the request to standard output.
pub(super) fn run(plan: &ShowPlan) -> Result<ExitCode> {
    let reader = StoreReader::open(&plan.store)?;
    let summary = kept::find(&reader, &plan.key)?;
    let profile = reader.load(&summary)?.profile;
    let options = FoldOptions { unit: WeightUnit::Nanoseconds, ..FoldOptions::default() };
    let top = top(&Fold::new(&profile, &options, false), TOP);
    let text = match plan.json {
        true => kept::json(&Shown { request: Entry::of(&summary), states: states(&profile), top })?,
        false => text(&summary, &profile, &top),
    };
    kept::print(&text)?;
    Ok(ExitCode::Success)
}

/// The request in JSON: its fields, the time of its samples by what their threads were about, and its functions.
#[derive(serde::Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    request: Entry<'a>,
    states: States,
    top: Vec<TopFunction>,
}

/// The time of all samples, in nanoseconds, by what their threads were about.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct States {
    running_ns: u64,
    queued_ns: u64,
    blocked_ns: u64,
    gil_ns: u64,
    /// Of these, while other threads worked for the request.
    worked_ns: u64,
}

fn states(profile: &Profile) -> States {
    let mut states = States::default();
    for sample in &profile.samples {
        let sum = match sample.state {
            ThreadState::Running => &mut states.running_ns,
            ThreadState::Queued => &mut states.queued_ns,
            ThreadState::Blocked => &mut states.blocked_ns,
            ThreadState::Gil => &mut states.gil_ns,
        };
        *sum = sum.saturating_add(sample.weight_ns);
        // The agent tells of no other.
        if profile.frames_of(sample.stack).any(|frame| frame.kind == FrameKind::Waker) {
            states.worked_ns = states.worked_ns.saturating_add(sample.weight_ns);
        }
    }
    states
}

fn text(summary: &Summary, profile: &Profile, top: &[TopFunction]) -> String {
    let request = &summary.request;
    let mut text = identity(request, &summary.policy);
    text.push_str(&shares(request, &states(profile)));
    if top.is_empty() {
        text.push_str("\nits profile has no samples\n");
        return text;
    }
    let _ = writeln!(text, "\n{:>9} {:>9}  function", "self", "total");
    for function in top {
        let name = short(&function.function, MAX_FUNCTION_CHARS);
        let _ = writeln!(text, "{:>9} {:>9}  {name}", time(function.self_ns), time(function.total_ns));
    }
    text
}

/// Who asked for what, one thing a line.
fn identity(request: &Request, policy: &str) -> String {
    let value = |text: &str| short(text, MAX_VALUE_CHARS);
    let mut text = format!("{}  {}\n", value(&request.name), value(request.subject()));
    let process = format!("{} (pid {}, thread {})", value(&request.process), request.pid, request.tid);
    let lines = [
        ("id", value(&request.id)),
        ("began", date::utc(request.began_unix_ns / 1_000_000_000)),
        ("status", status(request)),
        ("process", process),
        ("policy", value(policy)),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:10} {value}");
    }
    for (name, content) in &request.attributes {
        let _ = writeln!(text, "  {}: {}", value(name), value(content));
    }
    match request.binding {
        Binding::Thread => {}
        Binding::Coroutine => {
            text.push_str("  its coroutine shared a thread: what that ran for is by its samples\n")
        }
        Binding::SharedThread => text.push_str("  its thread served others too: their time is in here\n"),
        Binding::Unknown => text.push_str("  no thread is known to have worked for it\n"),
    }
    if request.is_partial {
        text.push_str("  not whole: it had begun before it was watched, or its profile was cut\n");
    }
    text
}

/// Where its time went.
fn shares(request: &Request, states: &States) -> String {
    let whole = request.duration_ns;
    let mut text = format!("\n{:>9} {:>8}  took\n", time(whole), "");
    let known = [states.running_ns, states.queued_ns, states.blocked_ns, states.gil_ns];
    let rest = known.iter().fold(whole, |rest, part| rest.saturating_sub(*part));
    let parts = [
        (states.running_ns, "on a CPU"),
        (states.queued_ns, "waiting for a CPU"),
        (states.blocked_ns, "blocked"),
        (states.gil_ns, "waiting for the GIL"),
        (rest, "without a sample"),
        (states.worked_ns, "of these, while other threads worked for it"),
    ];
    for (part_ns, what) in parts.iter().filter(|(part_ns, _)| *part_ns > 0) {
        let _ = writeln!(text, "{:>9} {:>8}  {what}", time(*part_ns), percent(*part_ns, whole));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts and what no sample tells of add up to the whole.
    #[test]
    fn shares_tell_what_is_not_known() {
        let request = Request { duration_ns: 10_000_000, ..Request::default() };
        let states = States {
            running_ns: 4_000_000,
            blocked_ns: 5_000_000,
            worked_ns: 3_000_000,
            ..States::default()
        };
        let expected = "
  10.0 ms           took
  4.00 ms   40.0 %  on a CPU
  5.00 ms   50.0 %  blocked
  1.00 ms   10.0 %  without a sample
  3.00 ms   30.0 %  of these, while other threads worked for it
";
        assert_eq!(shares(&request, &states), expected);
    }
}
