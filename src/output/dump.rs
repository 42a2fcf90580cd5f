//! A snapshot of threads as text for people, or as JSON.
//!
//! Text: a line for each process, one for each thread, and below it its frames, the running one
//! first. JSON, one object:
//!
//! ```text
//! processes[]  pid, name, threads[]
//! threads[]    tid, name, activity, system_call (or null), cpu_ns, holds_gil, complete, why (or null), frames[]
//! activity     "running", "waiting", "asleep", "uninterruptible", "stopped", "waiting_for_gil", "ended"
//! frames[]     running one first, all of them: kind, function, module, file, line (the last three may be null)
//! ```

use std::io::{self, Write};

use serde::Serialize;

use super::quantity::counted;
use crate::aggregate::View;
use crate::model::snapshot::{Activity, Snapshot, ThreadSnapshot};
use crate::model::{Frame, FrameKind, Profile};

/// Writes `snapshot`, whose stacks are in `profile`, as text. Fails only when `writer` does.
pub fn write_text(
    snapshot: &Snapshot,
    profile: &Profile,
    view: View,
    writer: &mut dyn Write,
) -> io::Result<()> {
    for (number, process) in snapshot.processes.iter().enumerate() {
        let gap = if number > 0 { "\n" } else { "" };
        let threads = counted(process.threads.len() as u64, "thread");
        writeln!(writer, "{gap}{} (pid {}), {threads}", printable(&process.name), process.pid)?;
        for thread in &process.threads {
            write_thread(thread, profile, view, writer)?;
        }
    }
    Ok(())
}

fn write_thread(
    thread: &ThreadSnapshot,
    profile: &Profile,
    view: View,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let gil = if thread.holds_gil { ", holds the GIL" } else { "" };
    let seconds = thread.cpu_ns as f64 / 1e9;
    let what = activity_text(&thread.activity);
    writeln!(writer, "\n  {} `{}`: {what}{gil}, {seconds:.2} s of CPU", thread.tid, printable(&thread.name))?;
    let Some(stack) = thread.stack else {
        return writeln!(writer, "      [not caught]");
    };
    let frames: Vec<&Frame> = profile.frames_of(stack).collect();
    for frame in view.shown(&frames, thread.outcome.is_complete()) {
        writeln!(writer, "      {}", printable(&frame_text(frame)))?;
    }
    if !thread.outcome.is_complete() {
        writeln!(writer, "      [callers missing: {}]", thread.outcome.text())?;
    }
    Ok(())
}

fn activity_text(activity: &Activity) -> String {
    match activity {
        Activity::Running => "running".to_owned(),
        Activity::Waiting(call) => format!("waiting in {call}"),
        Activity::Asleep => "asleep".to_owned(),
        Activity::Uninterruptible(call) => format!("waiting in {call}, uninterruptible"),
        Activity::Stopped => "stopped".to_owned(),
        Activity::WaitingForGil => "waiting for the GIL".to_owned(),
        Activity::Ended => "ended".to_owned(),
    }
}

/// `qualified.name (file.py:12)`, `name (file.c:3)`, `name (libc.so.6)`.
fn frame_text(frame: &Frame) -> String {
    let base = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let place = match (&frame.file, frame.line) {
        (Some(file), Some(line)) => Some(format!("{}:{line}", base(file))),
        (Some(file), None) => Some(base(file)),
        (None, _) => frame.module.as_deref().map(base),
    };
    let inlined = if frame.kind == FrameKind::Inlined { ", inlined" } else { "" };
    place.map_or_else(|| frame.function.to_string(), |place| format!("{} ({place}{inlined})", frame.function))
}

/// Names come from the target: without what moves a terminal's cursor.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Writes `snapshot`, whose stacks are in `profile`, as JSON. Fails only when `writer` does.
pub fn write_json(snapshot: &Snapshot, profile: &Profile, writer: &mut dyn Write) -> io::Result<()> {
    let thread_form = |thread: &ThreadSnapshot| ThreadForm {
        tid: thread.tid,
        name: thread.name.clone(),
        activity: activity_word(&thread.activity),
        system_call: match &thread.activity {
            Activity::Waiting(call) | Activity::Uninterruptible(call) => Some(call.clone()),
            _ => None,
        },
        cpu_ns: thread.cpu_ns,
        holds_gil: thread.holds_gil,
        complete: thread.stack.is_some() && thread.outcome.is_complete(),
        why: match thread.stack {
            None => Some("not caught"),
            Some(_) if thread.outcome.is_complete() => None,
            Some(_) => Some(thread.outcome.text()),
        },
        frames: thread
            .stack
            .map_or_else(Vec::new, |stack| profile.frames_of(stack).map(frame_form).collect()),
    };
    let processes = snapshot.processes.iter().map(|process| ProcessForm {
        pid: process.pid,
        name: process.name.clone(),
        threads: process.threads.iter().map(thread_form).collect(),
    });
    serde_json::to_writer(&mut *writer, &SnapshotForm { processes: processes.collect() })?;
    writeln!(writer)
}

fn activity_word(activity: &Activity) -> &'static str {
    match activity {
        Activity::Running => "running",
        Activity::Waiting(_) => "waiting",
        Activity::Asleep => "asleep",
        Activity::Uninterruptible(_) => "uninterruptible",
        Activity::Stopped => "stopped",
        Activity::WaitingForGil => "waiting_for_gil",
        Activity::Ended => "ended",
    }
}

fn frame_form(frame: &Frame) -> FrameForm<'_> {
    FrameForm {
        kind: frame.kind,
        function: &frame.function,
        module: frame.module.as_deref(),
        file: frame.file.as_deref(),
        line: frame.line,
    }
}

#[derive(Serialize)]
struct SnapshotForm<'a> {
    processes: Vec<ProcessForm<'a>>,
}

#[derive(Serialize)]
struct ProcessForm<'a> {
    pid: u32,
    name: String,
    threads: Vec<ThreadForm<'a>>,
}

#[derive(Serialize)]
struct ThreadForm<'a> {
    tid: u32,
    name: String,
    activity: &'static str,
    system_call: Option<String>,
    cpu_ns: u64,
    holds_gil: bool,
    complete: bool,
    why: Option<&'static str>,
    frames: Vec<FrameForm<'a>>,
}

#[derive(Serialize)]
struct FrameForm<'a> {
    kind: FrameKind,
    function: &'a str,
    module: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::ProcessSnapshot;
    use crate::model::{Outcome, StackId};

    fn snapshot() -> (Snapshot, Profile) {
        let python = |function: &str, line| Frame {
            file: Some("/srv/app.py".into()),
            line: Some(line),
            ..Frame::named(FrameKind::Python, function)
        };
        let poll =
            Frame { module: Some("libc.so.6".into()), ..Frame::named(FrameKind::Native, "__poll\u{1b}[2J") };
        let frames = vec![poll, python("wait", 7), python("<module>", 9)];
        let profile = Profile { frames, stacks: vec![vec![0, 1, 2]], ..Profile::default() };
        let thread = |tid, activity, stack, outcome| ThreadSnapshot {
            tid,
            name: "main".to_owned(),
            activity,
            cpu_ns: 1_500_000_000,
            holds_gil: tid == 7,
            stack,
            outcome,
        };
        let threads = vec![
            thread(7, Activity::Waiting("poll".to_owned()), Some(StackId(0)), Outcome::Complete),
            thread(8, Activity::WaitingForGil, Some(StackId(0)), Outcome::ReadFailed),
            thread(9, Activity::Ended, None, Outcome::Complete),
        ];
        (
            Snapshot { processes: vec![ProcessSnapshot { pid: 7, name: "python3".to_owned(), threads }] },
            profile,
        )
    }

    /// What stands where in the text; what would move a cursor does not.
    #[test]
    fn text_is_for_people() {
        let (snapshot, profile) = snapshot();
        let mut text = Vec::new();
        write_text(&snapshot, &profile, View::Merged, &mut text).expect("memory takes it");
        let expected = "python3 (pid 7), 3 threads

  7 `main`: waiting in poll, holds the GIL, 1.50 s of CPU
      __poll\u{fffd}[2J (libc.so.6)
      wait (app.py:7)
      <module> (app.py:9)

  8 `main`: waiting for the GIL, 1.50 s of CPU
      __poll\u{fffd}[2J (libc.so.6)
      wait (app.py:7)
      <module> (app.py:9)
      [callers missing: stack memory not readable]

  9 `main`: ended, 1.50 s of CPU
      [not caught]
";
        assert_eq!(String::from_utf8(text).expect("it is text"), expected);
    }

    /// Every documented field is there.
    #[test]
    fn json_is_complete() {
        let (snapshot, profile) = snapshot();
        let mut bytes = Vec::new();
        write_json(&snapshot, &profile, &mut bytes).expect("memory takes it");
        let value: serde_json::Value = serde_json::from_slice(&bytes).expect("it is JSON");
        let threads = &value["processes"][0]["threads"];
        assert_eq!(threads[0]["system_call"], "poll");
        assert_eq!((&threads[0]["complete"], &threads[1]["complete"]), (&true.into(), &false.into()));
        assert_eq!(
            (&threads[1]["why"], &threads[2]["why"]),
            (&"stack memory not readable".into(), &"not caught".into())
        );
        assert_eq!(threads[0]["frames"][1]["line"], 7);
        assert_eq!(threads[0]["frames"][0]["module"], "libc.so.6");
    }
}
