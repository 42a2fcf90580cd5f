//! A request as a row, there and back. Times beyond 2^63 ns, some 292 years, are stored as that.

use rusqlite::{Connection, Row};

use super::name;
use crate::model::{Attributes, Binding, Request, RequestStatus};

const STATUSES: [RequestStatus; 3] = [RequestStatus::Ok, RequestStatus::Error, RequestStatus::Unset];
/// What is stored is the place in this list.
const BINDINGS: [Binding; 4] = [Binding::Thread, Binding::SharedThread, Binding::Unknown, Binding::Coroutine];

/// What [`read`] reads, in its order.
pub(super) const COLUMNS: &str = "id, request_id, name, process, pid, tid, began_unix_ns, duration_ns, run_ns, \
     queue_ns, blocked_ns, gil_ns, status, binding, is_partial, attributes, policy";

/// The number of `status` in the file.
pub(super) fn status_number(status: RequestStatus) -> i64 {
    STATUSES.iter().position(|known| *known == status).expect("STATUSES has every status") as i64
}

/// Inserts `request`, called `name`; gives its number.
pub(super) fn insert(
    connection: &Connection,
    request: &Request,
    name: &str,
    policy: &str,
) -> rusqlite::Result<i64> {
    let (base, number) = name::parse(name);
    let binding = BINDINGS.iter().position(|known| *known == request.binding);
    let http_status =
        request.attribute("http.response.status_code").and_then(|code| code.parse::<u16>().ok());
    let attributes = serde_json::to_string(&request.attributes).expect("a map of strings is JSON");
    connection
        .prepare_cached(
            "INSERT INTO request (request_id, name, name_base, name_number, began_unix_ns, duration_ns, run_ns,
             queue_ns, blocked_ns, gil_ns, method, user, status, http_status, process, pid, tid, binding, is_partial,
             policy, attributes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
             ?18, ?19, ?20, ?21)",
        )?
        .execute(rusqlite::params![
            request.id,
            name,
            base,
            number,
            signed(request.began_unix_ns),
            signed(request.duration_ns),
            signed(request.run_ns),
            signed(request.queue_ns),
            signed(request.blocked_ns),
            signed(request.gil_ns),
            request.subject(),
            request.attribute("user.name"),
            status_number(request.status),
            http_status,
            request.process,
            request.pid,
            request.tid,
            binding.expect("BINDINGS has every binding") as i64,
            request.is_partial,
            policy,
            attributes,
        ])?;
    Ok(connection.last_insert_rowid())
}

/// The row's number, request and policy; `row` has [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<(i64, Request, String)> {
    let time = |index| row.get(index).map(|time: i64| u64::try_from(time).unwrap_or(0));
    let position = |index| row.get(index).map(|number: i64| usize::try_from(number).unwrap_or(usize::MAX));
    let attributes: Attributes = serde_json::from_str(row.get_ref(15)?.as_str()?).unwrap_or_default();
    let request = Request {
        id: row.get(1)?,
        name: row.get(2)?,
        process: row.get(3)?,
        pid: row.get(4)?,
        tid: row.get(5)?,
        began_unix_ns: time(6)?,
        duration_ns: time(7)?,
        run_ns: time(8)?,
        queue_ns: time(9)?,
        blocked_ns: time(10)?,
        gil_ns: time(11)?,
        status: STATUSES.get(position(12)?).copied().unwrap_or_default(),
        binding: BINDINGS.get(position(13)?).copied().unwrap_or_default(),
        is_partial: row.get(14)?,
        attributes,
    };
    Ok((row.get(0)?, request, row.get(16)?))
}

/// As SQLite has it.
pub(super) fn signed(time_ns: u64) -> i64 {
    i64::try_from(time_ns).unwrap_or(i64::MAX)
}
