//! A request that a server answered: who asked for what, how it ended, and where its time went.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// What is known of a request, by the names of the OpenTelemetry semantic conventions (1.44):
/// `http.request.method`, `url.path`, `http.response.status_code`, `rpc.method`, `user.name`, …
/// Never a token, a cookie, a body or a query string. Names are few, and many values, too: those that are known when this is
/// built need no memory of their own, as each request has some dozen.
pub type Attributes = BTreeMap<Cow<'static, str>, Cow<'static, str>>;

/// How a request ended, as the service meant it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// Answered.
    Ok,
    /// A status of 500 or more, an error object of the protocol, or no whole answer.
    Error,
    /// Its end was not seen.
    #[default]
    Unset,
}

/// Whose time is in the profile of a request.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Binding {
    /// That of the threads that worked for it and, meanwhile, for no other.
    Thread,
    /// That of the coroutine that answered it, on a thread that runs others, too. What that ran for is in proportion to
    /// its samples; while it did not run it awaited something, or its turn.
    Coroutine,
    /// Its thread served several requests at once: what it did in that time may belong to any of them.
    SharedThread,
    /// No thread is known to have worked for it.
    #[default]
    Unknown,
}

/// A request and where its time went. Times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Request {
    /// Its own `X-Request-ID` or trace id, else one that was made for it.
    pub id: String,
    /// A name that people remember: `angry_einstein`.
    pub name: String,
    /// Name of the process that answered.
    pub process: String,
    /// Its process id.
    pub pid: u32,
    /// The thread that answered.
    pub tid: u32,
    /// When its first byte was read, Unix time.
    pub began_unix_ns: u64,
    /// From then until the last byte of the answer was written.
    pub duration_ns: u64,
    /// Of that, on a CPU, with what interrupts and, of a virtual machine, the host took of it.
    pub run_ns: u64,
    /// Of that, runnable, waiting for a CPU.
    pub queue_ns: u64,
    /// Of that, waiting for something else.
    pub blocked_ns: u64,
    /// Of that, waiting for the lock of the Python interpreter.
    pub gil_ns: u64,
    /// How it ended.
    pub status: RequestStatus,
    /// Whose time that is.
    pub binding: Binding,
    /// It had begun before it was watched, or its profile was cut.
    pub is_partial: bool,
    /// What is known of it.
    pub attributes: Attributes,
}

impl Request {
    /// The attribute called `name`.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(Cow::as_ref)
    }

    /// What was asked for, in a word: the method called, else the path; of what is no request, the service.
    pub fn subject(&self) -> &str {
        let names = ["rpc.method", "url.path", "service.name"];
        names.iter().find_map(|name| self.attribute(name)).unwrap_or("?")
    }
}
