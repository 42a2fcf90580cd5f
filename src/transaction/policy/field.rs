//! What policies may look at in a request, by name.

use std::borrow::Cow;

use crate::model::{Request, RequestStatus};

/// The field of `request` called `name`; `None` where it is not known. `process.executable.name` (also
/// `process`), `process.pid`, `status` (`OK`, `ERROR` or `UNSET`) and `subject` (what was asked for: the
/// method called, else the path) are told by the request itself, all others by its attributes.
pub(super) fn field<'a>(request: &'a Request, name: &str) -> Option<Cow<'a, str>> {
    match name {
        "process" | "process.executable.name" => Some(Cow::Borrowed(&request.process)),
        "process.pid" => Some(Cow::Owned(request.pid.to_string())),
        "status" => Some(Cow::Borrowed(match request.status {
            RequestStatus::Ok => "OK",
            RequestStatus::Error => "ERROR",
            RequestStatus::Unset => "UNSET",
        })),
        "subject" => Some(Cow::Borrowed(request.subject())),
        attribute => request.attribute(attribute).map(Cow::Borrowed),
    }
}
