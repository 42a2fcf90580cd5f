//! `txprof ps`: the requests in flight, as an agent sees them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::args::PsArgs;
use super::columns::columns;
use super::report::printable;
use super::{ExitCode, kept, report};
use crate::agent::control::{Ask, ask};
use crate::agent::in_flight::InFlightRow;
use crate::agent::places::default_socket;
use crate::output::quantity;
use crate::{Error, ErrorKind, Result};

/// The socket that was named, or the default one.
pub(super) fn socket_path(socket: Option<&Path>) -> Result<PathBuf> {
    socket.map_or_else(default_socket, |path| Ok(path.to_owned()))
}

/// What was lost, as the agent's answer tells it.
#[derive(Debug, Deserialize)]
struct Lost {
    count: u64,
    what: String,
}

fn answer<T: DeserializeOwned>(socket: &Path, question: &Ask) -> Result<T> {
    serde_json::from_value(ask(socket, question)?).map_err(|error| {
        Error::new(ErrorKind::Corrupt, format!("the agent's answer makes no sense: {error}"))
    })
}

/// Prints a line for each request, and what the agent lost so far on standard error.
pub fn run(args: &PsArgs) -> Result<ExitCode> {
    let socket = socket_path(args.socket.as_deref())?;
    let rows: Vec<InFlightRow> = answer(&socket, &Ask::Ps)?;
    for Lost { count, what } in answer::<Vec<Lost>>(&socket, &Ask::Losses)? {
        report::say(&format!("note: {count} {}\n", printable(&what)));
    }
    let mut text = String::new();
    if args.json {
        for row in &rows {
            let line = serde_json::to_string(row)
                .map_err(|error| Error::new(ErrorKind::System, error.to_string()))?;
            text.push_str(&line);
            text.push('\n');
        }
    } else {
        text = table(&rows);
    }
    kept::print(&text)?;
    Ok(ExitCode::Success)
}

/// As columns. What clients sent is shown without anything that a terminal would act upon.
fn table(rows: &[InFlightRow]) -> String {
    let head = ["ELAPSED", "STATE", "PID", "TID", "THREAD", "POSTGRES", "USER", "REQUEST"].map(str::to_owned);
    let cells: Vec<[String; 8]> = std::iter::once(head).chain(rows.iter().map(row)).collect();
    columns(&cells, &[0, 2, 3, 5])
}

fn row(row: &InFlightRow) -> [String; 8] {
    let begun = if row.is_partial { " (had begun before)" } else { "" };
    [
        quantity::duration(Duration::from_nanos(row.elapsed_ns)),
        printable(&row.state),
        row.pid.to_string(),
        row.tid.to_string(),
        printable(&row.thread),
        row.postgres_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
        printable(row.user.as_deref().unwrap_or("-")),
        printable(&row.subject) + begun,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line for each request, whatever it is called.
    #[test]
    fn requests_are_lines() {
        let row = InFlightRow {
            subject: "model.party.party.search\n\u{1b}[31m".to_owned(),
            user: Some("alice".to_owned()),
            id: None,
            elapsed_ns: 1_500_000_000,
            process: "trytond".to_owned(),
            pid: 41,
            tid: 42,
            thread: "Thread-7".to_owned(),
            state: "poll".to_owned(),
            postgres_pid: Some(77),
            is_partial: false,
        };
        let text = table(&[row]);
        assert_eq!(text.lines().count(), 2);
        let line = text.lines().nth(1).expect("a line");
        for word in [
            "1.5 s",
            "poll",
            "41",
            "42",
            "Thread-7",
            "77",
            "alice",
            "model.party.party.search\u{fffd}\u{fffd}[31m",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
    }
}
