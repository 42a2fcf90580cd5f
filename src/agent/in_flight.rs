//! The requests in flight: who asked for what since when, and what the thread is about that serves it.

use serde::{Deserialize, Serialize};

use super::postgres::backends_waited_for;
use super::recorder::Recorder;
use super::replay::Replay;
use crate::model::snapshot::Activity;
use crate::sys::clock::monotonic_ns;
use crate::target::procfs;
use crate::transaction::tracker::InFlight;

/// A request in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightRow {
    /// Method called, else path.
    pub subject: String,
    /// Who asked.
    pub user: Option<String>,
    /// Its own ID, if it has one.
    pub id: Option<String>,
    /// Since its first byte was read, nanoseconds.
    pub elapsed_ns: u64,
    /// Name of the process.
    pub process: String,
    /// Process id.
    pub pid: u32,
    /// The thread that read it, or answers by now.
    pub tid: u32,
    /// Name of that thread.
    pub thread: String,
    /// What the thread is about: `running`, or what it waits for.
    pub state: String,
    /// The PostgreSQL backend of this machine whose answer the thread waits for; where it waits for something else, that
    /// which woke it last since the request began.
    pub postgres_pid: Option<u32>,
    /// It had begun before it was watched.
    pub is_partial: bool,
}

/// All of them, the longest first.
pub(super) fn in_flight(recorder: &Recorder) -> Vec<InFlightRow> {
    let replay = &recorder.replay;
    let requests = replay.requests.iter().flat_map(|requests| requests.tracker.in_flight());
    let mut rows: Vec<InFlightRow> = requests.map(|(_, request)| row(replay, request)).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.elapsed_ns));
    let threads: Vec<(u32, u32)> = rows.iter().map(|row| (row.pid, row.tid)).collect();
    let waited_for = backends_waited_for(&threads);
    for row in &mut rows {
        row.postgres_pid = waited_for.get(&row.tid).copied().or(row.postgres_pid);
    }
    rows
}

fn row(replay: &Replay, request: &InFlight) -> InFlightRow {
    let attribute = |name: &str| request.attributes.get(name).map(|value| value.to_string());
    let act = request.written.unwrap_or(request.began);
    let requests = replay.requests.as_ref();
    InFlightRow {
        subject: attribute("rpc.method").or_else(|| attribute("url.path")).unwrap_or_else(|| "?".to_owned()),
        user: attribute("user.name"),
        id: attribute("http.request.header.x-request-id").or_else(|| attribute("trace_id")),
        elapsed_ns: monotonic_ns().saturating_sub(request.began.time_ns),
        process: requests.and_then(|requests| requests.process_name(act.pid)).unwrap_or("?").to_owned(),
        pid: act.pid,
        tid: act.tid,
        thread: replay.thread_name(act.pid, act.tid),
        state: match procfs::activity(act.tid) {
            Ok(Activity::Running) => "running".to_owned(),
            Ok(Activity::Waiting(call) | Activity::Uninterruptible(call)) => call,
            Ok(Activity::Asleep) => "asleep".to_owned(),
            Ok(Activity::Stopped) => "stopped".to_owned(),
            Ok(Activity::WaitingForGil) => "GIL".to_owned(),
            Ok(Activity::Ended) | Err(_) => "gone".to_owned(),
        },
        postgres_pid: requests.and_then(|requests| requests.postgres_of(act.tid, request.began.time_ns)),
        is_partial: request.is_partial,
    }
}
