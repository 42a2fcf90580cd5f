//! `txprof flame`: the flamegraph of requests, of several their sum.

use std::fmt::Write as _;

use super::{ExitCode, FlamePlan, OutputFile, kept, report};
use crate::output::quantity::{counted, size};
use crate::store::StoreReader;
use crate::{Result, output};

/// Writes what is planned.
pub(super) fn run(plan: &FlamePlan) -> Result<ExitCode> {
    let reader = StoreReader::open(&plan.store)?;
    let (profile, requests) = kept::profile(&reader, &plan.chosen)?;
    // The plan has a name for it.
    let destination = OutputFile::open(&plan.destination, plan.format, "", 0)?;
    let written = destination.write(|writer| output::write(&profile, plan.format, &plan.options, writer))?;
    let label = report::printable(&written.label);
    let mut lines = format!("wrote {label} ({})\n", size(written.size_bytes));
    let (requests, samples) =
        (counted(requests as u64, "request"), counted(profile.sample_count(), "sample"));
    let _ = writeln!(lines, "  {requests}, {samples}");
    report::say(&lines);
    Ok(ExitCode::Success)
}
