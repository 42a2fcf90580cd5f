//! `txprof export`: the profile of one request, in any format.

use super::{ExitCode, ExportPlan, flame};
use crate::Result;

/// Writes what is planned.
pub(super) fn run(plan: ExportPlan) -> Result<ExitCode> {
    flame::run(&plan.0)
}
