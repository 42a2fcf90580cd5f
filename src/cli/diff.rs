//! `txprof diff`: what takes more or less time in one request than in another, or than usual.

use std::collections::BTreeMap;

use super::kept::time;
use super::{Against, DiffPlan, ExitCode, OutputFile, kept, report};
use crate::aggregate::{Fold, top};
use crate::model::Profile;
use crate::output::quantity::size;
use crate::output::{Format, differential};
use crate::store::{Filter, StoreReader, Summary};
use crate::{Error, ErrorKind, Result};

/// Of so many newest requests of a method the median is taken.
const MEDIAN_OF: usize = 10_000;
/// Of so many requests nearest to the median the mean is taken: one alone would be an accident.
const NEAREST: usize = 9;
/// Functions told in words: those whose time differs most. The picture shows what is there after, so not what is gone.
const TOLD: usize = 8;

/// Writes what is planned.
pub(super) fn run(plan: &DiffPlan) -> Result<ExitCode> {
    let reader = StoreReader::open(&plan.store)?;
    let summary = kept::find(&reader, &plan.key)?;
    let after = reader.load(&summary)?.profile;
    let (before, name) = match &plan.against {
        Against::Request(key) => {
            let other = kept::find(&reader, key)?;
            (reader.load(&other)?.profile, other.request.name)
        }
        Against::Median => usual(&reader, &summary)?,
    };
    let title = format!("{} against {name}", summary.request.name);
    // The plan has a name for it.
    let destination = OutputFile::open(&plan.destination, plan.format, "", 0)?;
    let written = destination.write(|writer| match plan.format {
        Format::Svg => differential::write_svg(&before, &after, &plan.options, &title, writer),
        Format::Folded | Format::Json => differential::write_folded(&before, &after, &plan.options, writer),
    })?;
    let label = report::printable(&written.label);
    report::say(&format!("wrote {label} ({})\n  {}\n", size(written.size_bytes), report::printable(&title)));
    let own_times = |profile: &Profile| {
        let functions = top(&Fold::new(profile, &plan.options, true), usize::MAX);
        functions.into_iter().map(|function| (function.function, function.self_ns)).collect()
    };
    report::say(&changes(&own_times(&before), &own_times(&after)));
    Ok(ExitCode::Success)
}

/// A line for each function whose own time differs most, with what was added or taken away.
fn changes(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> String {
    let own = |times: &BTreeMap<String, u64>, name: &str| times.get(name).copied().unwrap_or(0);
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    let mut all: Vec<(u64, bool, &String)> = names
        .map(|name| {
            let (was, is) = (own(before, name), own(after, name));
            (was.abs_diff(is), is > was, name)
        })
        .filter(|(difference_ns, ..)| *difference_ns > 0)
        .collect();
    all.sort_by_key(|(difference_ns, _, name)| (std::cmp::Reverse(*difference_ns), *name));
    let line = |(difference_ns, is_more, name): &(u64, bool, &String)| {
        let sign = if *is_more { '+' } else { '-' };
        let difference = format!("{sign}{}", time(*difference_ns));
        let place = match (before.contains_key(*name), after.contains_key(*name)) {
            (true, false) => ", gone",
            (false, true) => ", new",
            _ => "",
        };
        format!("  {difference:>10}  {}{place}\n", report::printable(name))
    };
    all.iter().take(TOLD).map(line).collect()
}

/// The mean profile of the requests of `summary`'s method whose durations are nearest to the median, and what it is
/// called. `summary` itself is not among them.
fn usual(reader: &StoreReader, summary: &Summary) -> Result<(Profile, String)> {
    let method = Some(Filter::exactly(summary.request.subject()));
    let mut others = kept::list(reader, &Filter { method, limit: MEDIAN_OF, ..Filter::default() }, None)?;
    others.retain(|other| other != summary);
    others.sort_by_key(|other| other.request.duration_ns);
    let nearest = nearest_to_median(&others);
    if nearest.is_empty() {
        let message = format!("no other request of `{}` is kept", summary.request.subject());
        return Err(Error::new(ErrorKind::NotFound, message)
            .with_hint("name one to compare with: `txprof list` shows them"));
    }
    let mean = kept::mean(reader, nearest, nearest.len() as u64)?;
    Ok((mean, format!("the usual {}", summary.request.subject())))
}

/// The [`NEAREST`] in the middle of `sorted`, or all of fewer.
fn nearest_to_median<T>(sorted: &[T]) -> &[T] {
    let count = sorted.len().min(NEAREST);
    let first = (sorted.len() - count) / 2;
    &sorted[first..first + count]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference comes first, whichever way; what is only in one is said to be.
    #[test]
    fn differences_are_told_with_what_is_gone() {
        let times = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(name, ms)| ((*name).to_owned(), ms * 1_000_000)).collect()
        };
        let before = times(&[("cached", 5), ("same", 7), ("[blocked: poll]", 100)]);
        let after = times(&[("computed", 30), ("same", 7), ("[blocked: poll]", 90)]);
        let expected =
            "    +30.0 ms  computed, new\n    -10.0 ms  [blocked: poll]\n    -5.00 ms  cached, gone\n";
        assert_eq!(changes(&before, &after), expected);
        let many = (0..20).map(|number| (format!("f{number}"), 1_000_000)).collect();
        assert_eq!(changes(&BTreeMap::new(), &many).lines().count(), TOLD);
    }

    /// The middle is taken, of few all.
    #[test]
    fn the_middle_is_nearest_to_the_median() {
        let numbers: Vec<usize> = (0..100).collect();
        assert_eq!(nearest_to_median(&numbers), &numbers[45..54]);
        assert_eq!(nearest_to_median(&numbers[..4]), &numbers[..4]);
        assert!(nearest_to_median(&numbers[..0]).is_empty());
    }
}
