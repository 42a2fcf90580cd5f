//! `txprof doctor`.

use super::ExitCode;
use super::args::DoctorArgs;
use crate::{Error, ErrorKind, Result};

/// Tells what this machine allows.
pub fn run(_args: DoctorArgs) -> Result<ExitCode> {
    Err(Error::new(ErrorKind::UnsupportedSystem, "this build cannot examine the machine"))
}
