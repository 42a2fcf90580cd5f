//! `txprof record`.

use super::{ExitCode, RecordPlan};
use crate::{Error, ErrorKind, Result};

/// Records as planned and writes the result.
pub fn run(_plan: RecordPlan) -> Result<ExitCode> {
    Err(Error::new(ErrorKind::UnsupportedSystem, "this build cannot record"))
}
