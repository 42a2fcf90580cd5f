//! Kept requests, found for the commands that show them.

use std::io::{BufWriter, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::report;
use super::store_plan::Chosen;
use crate::aggregate::merge;
use crate::model::{Profile, date};
use crate::store::{Filter, Found, StoreReader, StoredRequest, Summary};
use crate::{Error, ErrorKind, Result};

/// Requests named where several could be meant.
const MAX_NAMED: usize = 6;

/// The request called `key`.
///
/// Fails with [`ErrorKind::NotFound`] when there is none, and with [`ErrorKind::InvalidInput`] and their names in
/// the hint when there are several.
pub(super) fn find(reader: &StoreReader, key: &str) -> Result<Summary> {
    let found = reader.find(key)?;
    warn(reader);
    match found {
        Found::One(summary) => Ok(*summary),
        Found::Nothing => Err(Error::new(ErrorKind::NotFound, format!("no request `{key}` is kept"))
            .with_hint("`txprof list` shows those that are")),
        Found::Several(candidates) => {
            let is_whole = |summary: &Summary| summary.request.name == key || summary.request.id == key;
            let what = match candidates.iter().all(is_whole) {
                true => "several requests are called",
                false => "names or ids of several requests begin with",
            };
            let names: Vec<String> = candidates.iter().take(MAX_NAMED).map(described).collect();
            let more = if candidates.len() > MAX_NAMED { " or another of `txprof list`" } else { "" };
            Err(Error::new(ErrorKind::InvalidInput, format!("{what} `{key}`"))
                .with_hint(format!("name one of them: {}{more}", names.join(", "))))
        }
    }
}

/// `angry_einstein (4bf92f…, 2026-11-23 12:59:08 UTC)`.
fn described(summary: &Summary) -> String {
    let request = &summary.request;
    let id: String = request.id.chars().take(36).collect();
    format!("{} ({id}, {})", request.name, date::utc(request.began_unix_ns / 1_000_000_000))
}

/// The requests that fit `filter` and began at most `since` before now.
pub(super) fn list(reader: &StoreReader, filter: &Filter, since: Option<Duration>) -> Result<Vec<Summary>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let since_unix_ns = since.map(|since| nanoseconds(now.saturating_sub(since)));
    let list = reader.list(&Filter { since_unix_ns, ..filter.clone() });
    warn(reader);
    list
}

/// The profiles of `chosen` as one, called after them; their number.
///
/// Fails with [`ErrorKind::NotFound`] when there are none.
pub(super) fn profile(reader: &StoreReader, chosen: &Chosen) -> Result<(Profile, usize)> {
    let summaries = match chosen {
        Chosen::Keys(keys) => keys.iter().map(|key| find(reader, key)).collect::<Result<Vec<_>>>()?,
        Chosen::Filter(filter, since) => list(reader, filter, *since)?,
    };
    let Some(first) = summaries.first() else {
        return Err(Error::new(ErrorKind::NotFound, "no request that is kept fits the filter")
            .with_hint("`txprof list` shows those that are"));
    };
    if let [one] = &summaries[..] {
        let StoredRequest { request, mut profile, .. } = reader.load(one)?;
        profile.recording.target = format!("{} ({})", request.subject(), request.name);
        return Ok((profile, 1));
    }
    let mut merged = mean(reader, &summaries, 1)?;
    merged.recording.target = format!("{} and {} more requests", first.request.name, summaries.len() - 1);
    Ok((merged, summaries.len()))
}

/// How many profiles are summed at a time, so that memory is bounded by what they have in common.
const CHUNK: usize = 64;

/// The sum of the profiles of `summaries`, divided by `divisor`.
pub(super) fn mean(reader: &StoreReader, summaries: &[Summary], divisor: u64) -> Result<Profile> {
    let mut sum: Vec<Profile> = Vec::new();
    for chunk in summaries.chunks(CHUNK) {
        for summary in chunk {
            sum.push(reader.load(summary)?.profile);
        }
        sum = vec![merge(&sum, 1)];
    }
    Ok(merge(&sum, divisor))
}

/// Tells what is damaged.
fn warn(reader: &StoreReader) {
    for warning in reader.take_warnings() {
        report::say(&format!("warning: {}\n", report::printable(&warning)));
    }
}

/// Writes `text` to standard output. A reader that closed it early is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut writer = BufWriter::new(std::io::stdout().lock());
    match writer.write_all(text.as_bytes()).and_then(|()| writer.flush()) {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::from_io("failed to write to standard output", cause).with_kind(ErrorKind::Output))
        }
        _ => Ok(()),
    }
}

/// `value` as JSON on lines.
pub(super) fn json(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|cause| Error::new(ErrorKind::Output, format!("JSON: {cause}")))
}

/// `12.3 ms`, `1.25 s`: three digits, so that a column of them is told apart at a glance; `0 µs` for nothing at all.
pub(super) fn time(time_ns: u64) -> String {
    let (value, unit) = match time_ns {
        0..1_000_000 => (time_ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => (time_ns as f64 / 1e6, "ms"),
        _ => (time_ns as f64 / 1e9, "s"),
    };
    let digits = match value {
        0.0 => 0,
        ..9.995 => 2,
        _ => usize::from(value < 99.95),
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times have three digits and a unit that fits.
    #[test]
    fn times_have_three_digits() {
        assert_eq!(time(0), "0 µs");
        assert_eq!(time(12_345_678), "12.3 ms");
        assert_eq!(time(999_600_000), "1000 ms");
        assert_eq!(time(1_250_000_000), "1.25 s");
        assert_eq!(time(123_400_000_000), "123 s");
    }
}
