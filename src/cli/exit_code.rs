//! Exit codes: the one table, and the help text that documents it.

use std::fmt;

use crate::{Error, ErrorKind};

/// How the program ended, for scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, and written.
    Success = 0,
    /// Any failure without a code of its own.
    Failure = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// A permission or a feature of the kernel is missing.
    NotAllowed = 3,
    /// The target, request or agent does not exist, or the target is of a kind that cannot be profiled.
    NoTarget = 4,
    /// The recording ended without a single sample; what is known was still written.
    NoSamples = 5,
}

/// The table, as `--help` shows it.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  failure
  2  wrong usage
  3  not permitted, or the kernel lacks a feature: see `txprof doctor`
  4  no such target, request or agent; or a target that cannot be profiled
  5  recorded, but not a single sample was taken

Unwind tables are kept in $TXPROF_CACHE_DIR; without it in /var/cache/txprof for root,
in ~/.cache/txprof for others.

Data goes to standard output, words to standard error.";

impl ExitCode {
    /// The code that belongs to a failure.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::PermissionDenied | ErrorKind::UnsupportedSystem => Self::NotAllowed,
            ErrorKind::NotFound | ErrorKind::UnsupportedTarget => Self::NoTarget,
            ErrorKind::Corrupt | ErrorKind::Output | ErrorKind::System => Self::Failure,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// The number, as the shell's `$?` shows it.
impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code has its line in the help, in order.
    #[test]
    fn help_lists_every_code() {
        use ExitCode::*;
        let listed: Vec<&str> = HELP.lines().filter_map(|line| line.strip_prefix("  ")?.get(..1)).collect();
        let codes = [Success, Failure, Usage, NotAllowed, NoTarget, NoSamples];
        assert_eq!(listed, codes.map(|code| code.to_string()));
    }
}
