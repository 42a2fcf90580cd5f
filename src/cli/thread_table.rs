//! How each thread spent its time, as a table.

use std::fmt::Write as _;
use std::time::Duration;

use crate::aggregate::name::harmless;
use crate::model::{Profile, ThreadTimes};
use crate::output::quantity::{count, counted, duration, percent};

/// Threads with a row of their own; those that ran less are one row.
const MAX_ROWS: usize = 24;
/// Longest name shown, in characters.
const MAX_NAME_CHARS: usize = 32;

/// The table, the busiest thread first, and what its waits lack; nothing where waits were not seen.
pub(super) fn lines(profile: &Profile) -> String {
    let threads = &profile.threads;
    if threads.is_empty() {
        return String::new();
    }
    let (shown, others) = threads.split_at(threads.len().min(MAX_ROWS));
    let mut rows: Vec<(String, ThreadTimes)> =
        shown.iter().map(|times| (name(times), times.clone())).collect();
    if !others.is_empty() {
        rows.push((format!("{} more", count(others.len() as u64)), sum(others)));
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max("thread".len());
    let mut lines = format!(
        "  {:width$} {:>9} {:>8} {:>9} {:>8} {:>8}\n",
        "thread", "time", "run", "run queue", "blocked", "GIL"
    );
    for (name, times) in &rows {
        let total = times.total_ns();
        let part = |ns: u64| percent(ns, total);
        let _ = writeln!(
            lines,
            "  {name:width$} {:>9} {:>8} {:>9} {:>8} {:>8}",
            duration(Duration::from_nanos(total)),
            part(times.run_ns),
            part(times.queue_ns),
            part(times.blocked_ns.saturating_sub(times.gil_ns)),
            part(times.gil_ns),
        );
    }
    let all = sum(threads);
    let waited = all.total_ns() - all.run_ns;
    let _ = writeln!(
        lines,
        "  of the time waited, {} by a sample of {}, {} in {} too short for a stack, {} without one for other reasons",
        percent(all.sampled_ns, waited),
        counted(all.sampled_count, "wait"),
        percent(all.short_ns, waited),
        counted(all.short_count, "wait"),
        percent(all.bare_ns, waited),
    );
    if profile.recording.switches_mended > 0 {
        let _ = writeln!(
            lines,
            "  {} × the kernel did not tell that a thread came to a CPU or left it: its run time is the scheduler's there",
            count(profile.recording.switches_mended)
        );
    }
    lines
}

/// `worker-4121`, as the flamegraph calls it.
fn name(times: &ThreadTimes) -> String {
    let name: String = harmless(&times.name).chars().take(MAX_NAME_CHARS).collect();
    format!("{name}-{}", times.tid)
}

fn sum(threads: &[ThreadTimes]) -> ThreadTimes {
    let mut sum = ThreadTimes::default();
    for times in threads {
        sum.run_ns += times.run_ns;
        sum.queue_ns += times.queue_ns;
        sum.blocked_ns += times.blocked_ns;
        sum.gil_ns += times.gil_ns;
        sum.short_ns += times.short_ns;
        sum.short_count += times.short_count;
        sum.sampled_ns += times.sampled_ns;
        sum.sampled_count += times.sampled_count;
        sum.bare_ns += times.bare_ns;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thread(name: &str, tid: u32, run_ns: u64) -> ThreadTimes {
        ThreadTimes {
            name: name.to_owned(),
            tid,
            run_ns,
            queue_ns: 100_000_000,
            blocked_ns: 900_000_000 - run_ns,
            gil_ns: 300_000_000,
            short_ns: 1_000_000,
            short_count: 20,
            ..ThreadTimes::default()
        }
    }

    /// Rows in the order given, parts of each thread's own time, those beyond the limit summed.
    #[test]
    fn threads_are_rows_and_their_parts_add_up() {
        let mut threads = vec![thread("busy\u{1b}", 7, 400_000_000)];
        threads.extend((0..30).map(|n| thread("idle", 100 + n, 0)));
        let text = lines(&Profile { threads, ..Profile::default() });
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 1 + MAX_ROWS + 1 + 1);
        assert!(rows[1].trim_start().starts_with("busy"), "{text}");
        let numbers: Vec<&str> = rows[1].split_whitespace().skip(1).collect();
        assert_eq!(numbers.join(" "), "1.0 s 40.0 % 10.0 % 20.0 % 30.0 %");
        assert!(rows[1 + MAX_ROWS].contains("7 more"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert!(rows.last().expect("it has rows").contains("in 620 waits too short"), "{text}");
        assert_eq!(lines(&Profile::default()), "");
    }
}
