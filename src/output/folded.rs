//! Folded stacks, the field's common text form, one path per line:
//!
//! ```text
//! postgres;main;ServerLoop;exec_simple_query;pgstat_report_[i];read_[k] 12
//! ```
//!
//! Frames are separated by `;`, root first; the last word is the value, a whole
//! number above 0: samples at the nominal rate, or nanoseconds. The first
//! frame is the process, or with threads told apart `process-PID;thread-TID`.
//! Names are bare; an ending tells the kind: `_[k]` kernel, `_[i]` inlined by
//! the compiler, `_[j]` generated at run time. Python functions are
//! `qualified.name (file.py)`. Frames in brackets are markers, not calls. With
//! lines, ` (file:line)` follows every name. UTF-8, ascending, each path once.
//! Nothing sampled is no line at all.

use std::io::{self, Write};

use crate::aggregate::{Fold, FoldKind, FoldOptions, UnitCounter};
use crate::model::{FrameKind, Profile};

/// Writes `profile` as folded lines. The values add up to the total of all
/// weights, rounded once; paths worth less than half a unit may be missing.
pub fn write(profile: &Profile, options: &FoldOptions, writer: &mut dyn Write) -> io::Result<()> {
    let fold = Fold::new(profile, options, false);
    let mut counter = UnitCounter::new(options.unit, profile.recording.period_ns);
    for stack in &fold.stacks {
        let value = counter.value(stack.weight_ns);
        if value == 0 {
            continue;
        }
        for (position, index) in stack.frames.iter().enumerate() {
            let frame = &fold.frames[*index as usize];
            let separator = if position == 0 { "" } else { ";" };
            write!(writer, "{separator}{}{}", frame.name, kind_ending(frame.kind))?;
        }
        writeln!(writer, " {value}")?;
    }
    Ok(())
}

fn kind_ending(kind: FoldKind) -> &'static str {
    match kind {
        FoldKind::Frame(FrameKind::Kernel) => "_[k]",
        FoldKind::Frame(FrameKind::Inlined) => "_[i]",
        FoldKind::Frame(FrameKind::Jit) => "_[j]",
        FoldKind::Frame(
            FrameKind::Native
            | FrameKind::Interpreter
            | FrameKind::Python
            | FrameKind::Marker
            | FrameKind::Blocked
            | FrameKind::RunQueue
            | FrameKind::Gil
            | FrameKind::Waker,
        )
        | FoldKind::Root
        | FoldKind::NotShown => "",
    }
}
