//! `txprof list`: the requests that were kept.

use super::columns::columns;
use super::kept::{self, time};
use super::{ExitCode, ListPlan, report};
use crate::Result;
use crate::aggregate::name::harmless;
use crate::model::{Request, RequestStatus, date};
use crate::store::{StoreReader, Summary};

/// Longest method shown, in characters.
const MAX_METHOD_CHARS: usize = 60;
/// Longest name and user shown, in characters.
const MAX_NAME_CHARS: usize = 40;

/// Prints the requests to standard output.
pub(super) fn run(plan: &ListPlan) -> Result<ExitCode> {
    let reader = StoreReader::open(&plan.store)?;
    let summaries = kept::list(&reader, &plan.filter, plan.since)?;
    if plan.json {
        let entries: Vec<Entry<'_>> = summaries.iter().map(Entry::of).collect();
        kept::print(&kept::json(&entries)?)?;
        return Ok(ExitCode::Success);
    }
    if summaries.is_empty() {
        report::say("note: no request that is kept fits\n");
        return Ok(ExitCode::Success);
    }
    kept::print(&table(&summaries))?;
    Ok(ExitCode::Success)
}

/// A request in JSON: its fields, `subject` and `policy`.
#[derive(serde::Serialize)]
pub(super) struct Entry<'a> {
    #[serde(flatten)]
    request: &'a Request,
    subject: &'a str,
    policy: &'a str,
}

impl<'a> Entry<'a> {
    /// What is known of it without its profile.
    pub(super) fn of(summary: &'a Summary) -> Self {
        Self { request: &summary.request, subject: summary.request.subject(), policy: &summary.policy }
    }
}

/// A table with a head, one request a line.
fn table(summaries: &[Summary]) -> String {
    let head =
        ["NAME", "WHEN", "DURATION", "CPU", "WAITS", "GIL", "USER", "STATUS", "METHOD"].map(str::to_owned);
    let rows: Vec<[String; 9]> =
        std::iter::once(head).chain(summaries.iter().map(|summary| row(&summary.request))).collect();
    columns(&rows, &[2, 3, 4, 5])
}

fn row(request: &Request) -> [String; 9] {
    [
        short(&request.name, MAX_NAME_CHARS),
        date::utc(request.began_unix_ns / 1_000_000_000),
        time(request.duration_ns),
        time(request.run_ns),
        time(request.queue_ns.saturating_add(request.blocked_ns)),
        time(request.gil_ns),
        short(request.attribute("user.name").unwrap_or("-"), MAX_NAME_CHARS),
        status(request),
        short(request.subject(), MAX_METHOD_CHARS),
    ]
}

/// `ok`, `error`, `?`, and the number that HTTP has for it.
pub(super) fn status(request: &Request) -> String {
    let word = match request.status {
        RequestStatus::Ok => "ok",
        RequestStatus::Error => "error",
        RequestStatus::Unset => "?",
    };
    match request.attribute("http.response.status_code") {
        Some(code) => format!("{word} {}", short(code, 3)),
        None => word.to_owned(),
    }
}

/// What a client sent, without what would drive the terminal, cut to `max_chars`.
pub(super) fn short(text: &str, max_chars: usize) -> String {
    let text = harmless(text);
    if text.chars().count() <= max_chars {
        return text;
    }
    text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients sent is cut and cannot drive the terminal; a status tells HTTP's.
    #[test]
    fn rows_are_short_and_harmless() {
        let attributes = [("rpc.method", "m".repeat(99)), ("http.response.status_code", "503".to_owned())];
        let request = Request {
            name: "\u{1b}[2Jx".to_owned(),
            status: RequestStatus::Error,
            attributes: attributes.map(|(name, value)| (name.into(), value.into())).into(),
            ..Request::default()
        };
        let row = row(&request);
        assert!(row.iter().all(|cell| !cell.chars().any(char::is_control)), "{row:?}");
        assert_eq!((row[8].chars().count(), row[7].as_str(), row[6].as_str()), (60, "error 503", "-"));
    }
}
