//! What this machine allows us to do, and what would allow the rest.
//!
//! [`facts`] asks the kernel and keeps no opinion, [`checks`] judges those facts and is
//! pure. `txprof doctor` shows both; a recording calls [`preflight`] before any work. [`stop`] tells why one thread may
//! not be stopped.

pub mod attempt;
pub mod checks;
pub mod facts;
pub mod stop;

pub use attempt::Attempt;
pub use checks::{Check, Verdict, backend, check_all};
pub use facts::{Capability, Facts, effective_capabilities};
pub use stop::StopFacts;

use crate::{Error, ErrorKind, Result};

/// Makes sure that a recording can be made, in a few milliseconds and without side effects.
///
/// Fails with `PermissionDenied`, or `UnsupportedSystem` where no right would help, naming all
/// that is missing, with the first missing thing's fix as hint.
pub fn preflight() -> Result<()> {
    refusal(&check_all(&Facts::gather())).map_or(Ok(()), Err)
}

/// The error for whatever is refused; none when a recording can be made.
fn refusal(checks: &[Check]) -> Option<Error> {
    let refused: Vec<&Check> = checks.iter().filter(|check| check.verdict == Verdict::Refused).collect();
    let first = refused.first()?;
    let kind = match refused.iter().any(|check| check.is_machine) {
        true => ErrorKind::UnsupportedSystem,
        false => ErrorKind::PermissionDenied,
    };
    let causes: Vec<_> = refused.iter().map(|check| format!("{} ({})", check.subject, check.found)).collect();
    let error = Error::new(kind, format!("this machine does not allow recording: {}", causes.join(", ")));
    Some(match &first.fix {
        Some(fix) => error.with_hint(format!("{fix}; `txprof doctor` explains")),
        None => error.with_hint("`txprof doctor` explains"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error names every missing capability and its hint is a command; with all there is none.
    #[test]
    fn refusal_names_what_is_missing() {
        let mut facts = facts::tests::able_machine();
        assert!(refusal(&check_all(&facts)).is_none());
        facts.capabilities.clear();
        facts.effective_uid = 1000;
        let error = refusal(&check_all(&facts)).expect("nothing is allowed");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(
            error.to_string().contains("CAP_BPF") && error.to_string().contains("CAP_PERFMON"),
            "{error}"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("sudo setcap cap_bpf,")), "{:?}", error.hint());
    }

    /// A machine that lacks a feature is not blamed on rights.
    #[test]
    fn old_kernel_is_unsupported() {
        let mut facts = facts::tests::able_machine();
        facts.kernel_release = "5.10.0-28-amd64".to_owned();
        let error = refusal(&check_all(&facts)).expect("too old");
        assert_eq!(error.kind(), ErrorKind::UnsupportedSystem);
        assert!(error.to_string().contains("5.10.0-28-amd64"), "{error}");
    }
}
