//! What can go wrong, told so that the user can act.
//!
//! Only *failures* are errors. An absence (no symbol, no rule) is an ordinary
//! answer of its own type, and a loss is an [`Outcome`](crate::model::Outcome)
//! that is counted. The chain reads from intent to cause; the hint says what
//! to type next and is printed on a line of its own.

use std::fmt;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What callers may branch on; never branch on text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What was typed or configured makes no sense.
    InvalidInput,
    /// The process, file or feature does not exist (any more).
    NotFound,
    /// The kernel refused for want of a capability or a setting.
    PermissionDenied,
    /// The target is of a kind that cannot be profiled (kernel thread, zombie, 32-bit).
    UnsupportedTarget,
    /// The machine lacks a feature (old kernel, no BTF).
    UnsupportedSystem,
    /// A file or a target's memory is not what its format promises.
    Corrupt,
    /// Output could not be written.
    Output,
    /// Any other system call that failed.
    System,
}

/// A failure: kind, message, optional cause, optional hint.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure that is its own cause. `message`: lower case, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// A failed system call; the kind follows from the errno.
    pub fn from_io(message: impl Into<String>, cause: std::io::Error) -> Self {
        let kind = match cause.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ if cause.raw_os_error() == Some(libc::ESRCH) => ErrorKind::NotFound,
            _ => ErrorKind::System,
        };
        Self { kind, message: message.into(), hint: None, source: Some(Box::new(cause)) }
    }

    /// The same failure of another kind.
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// Adds what the user can type next; an earlier, more precise hint stays.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Wraps this failure in the intent that it defeated; kind and hint stay.
    pub fn context(self, intent: impl Into<String>) -> Self {
        let hint = self.hint.clone();
        Self { kind: self.kind, message: intent.into(), hint, source: Some(Box::new(self)) }
    }

    /// The kind, for branching.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the user can type next, if anything.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The whole chain, from intent to cause, joined by `: `.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

/// `source` is not offered: [`Display`](fmt::Display) prints the chain itself,
/// and walking it as well would print every cause twice.
impl std::error::Error for Error {}

/// Adds the intent to a failing result.
pub trait ResultExt<T> {
    /// Turns the failure into [`Error`], with `intent` in front of it.
    fn context(self, intent: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ResultExt<T> for std::io::Result<T> {
    fn context(self, intent: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::from_io(intent(), cause))
    }
}

impl<T> ResultExt<T> for nix::Result<T> {
    fn context(self, intent: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::from_io(intent(), errno.into()))
    }
}

impl<T> ResultExt<T> for Result<T> {
    fn context(self, intent: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| cause.context(intent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chain reads from intent to cause and the innermost hint survives.
    #[test]
    fn chain_reads_from_intent_to_cause() {
        let cause = std::io::Error::from_raw_os_error(libc::EACCES);
        let error = Error::from_io("perf_event_open", cause)
            .with_hint("run as root")
            .context("failed to attach to process 4121")
            .with_hint("less precise");
        assert_eq!(
            error.to_string(),
            "failed to attach to process 4121: perf_event_open: Permission denied (os error 13)"
        );
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.hint(), Some("run as root"));
    }
}
