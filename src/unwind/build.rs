//! Runs the FDEs of a range of pages and writes their rows.

use std::ops::Range;

use super::cfi::run_fde;
use super::code_flow::Piece;
use super::frames::{Cies, Format, FrameSection};
use super::index::FdeIndex;
use super::rule::Rule;
use super::state::{State, Unsupported};
use super::table::{PAGE_SHIFT, Table, TableWriter};

/// Functions begin at multiples of this, and the bytes up to there are padding.
const FUNCTION_ALIGNMENT: u64 = 16;

pub(super) struct Builder<'a> {
    index: &'a FdeIndex,
    elf: &'a [u8],
    eh_frame: FrameSection<'a>,
    debug_frame: FrameSection<'a>,
    cies: Cies,
    remembered: Vec<State>,
    writer: TableWriter,
    pages: Range<u64>,
    /// Addresses to write rows for.
    svma: Range<u64>,
    /// Bytes of instructions that may still be run. In a sound file each byte belongs to one FDE,
    /// so that the length of the sections is enough; FDEs that overlap in a hostile file run out of it.
    budget_bytes: usize,
}

impl<'a> Builder<'a> {
    /// `pages` is not empty and within the index's.
    pub(super) fn new(index: &'a FdeIndex, elf: &'a [u8], pages: Range<u64>) -> Self {
        let empty = FrameSection { bytes: &[], svma: 0, format: Format::Eh };
        let eh_frame = index.image.eh_frame.as_ref().map_or(empty, |part| part.section(elf));
        let debug_frame = index.image.debug_frame.as_ref().map_or(empty, |part| part.section(elf));
        Self {
            index,
            elf,
            eh_frame,
            debug_frame,
            cies: Cies::default(),
            remembered: Vec::new(),
            writer: TableWriter::new(pages.start),
            svma: pages.start << PAGE_SHIFT..pages.end << PAGE_SHIFT,
            pages,
            budget_bytes: eh_frame.bytes.len().saturating_add(debug_frame.bytes.len()),
        }
    }

    pub(super) fn build(mut self) -> Table {
        let functions = &self.index.functions;
        let begins_by =
            |svma: u64| functions.partition_point(|function| self.index.svma_of(function) <= svma);
        let first = begins_by(self.svma.start).saturating_sub(1);
        let behind = functions.partition_point(|function| self.index.svma_of(function) < self.svma.end);
        let mut covered_to = 0;
        for index in first..behind {
            let (Some(function), next) = (functions.get(index), functions.get(index + 1)) else { break };
            let start = self.index.svma_of(function);
            let next = next.map_or(u64::MAX, |next| self.index.svma_of(next));
            self.fill_gap(covered_to..start);
            covered_to = self.run(function, start, next);
        }
        let next = functions.get(behind).map_or(u64::MAX, |next| self.index.svma_of(next));
        self.fill_gap(covered_to..next);
        self.writer.finish(self.pages.end)
    }

    /// Writes the rows of one function and returns where it ends: before `next`, or at it when only
    /// padding lies between.
    fn run(&mut self, function: &super::index::Function, start: u64, next: u64) -> u64 {
        let section = if function.from_debug_frame { self.debug_frame } else { self.eh_frame };
        let Some((cie, fde)) = self.index.fde(function, &section, &mut self.cies) else {
            self.writer.stats().bad_fdes += 1;
            return start;
        };
        let mut end = fde.end.min(next);
        if is_padding(&(end..next)) {
            end = next;
        }
        if end <= self.svma.start {
            return end;
        }
        let Some(left) = self.budget_bytes.checked_sub(fde.instructions.len()) else {
            self.writer.set(start.max(self.svma.start), Err(Unsupported::Budget));
            return end;
        };
        self.budget_bytes = left;
        self.writer.stats().fdes += 1;
        let (writer, svma) = (&mut self.writer, &self.svma);
        run_fde(cie, &fde, end, &mut self.remembered, |from, to, rule| {
            if to > svma.start && from < svma.end {
                writer.set(from.max(svma.start), rule);
            }
        });
        end
    }

    /// Code without CFI: rules for what its bytes show.
    fn fill_gap(&mut self, gap: Range<u64>) {
        let wanted = gap.start.max(self.svma.start)..gap.end.min(self.svma.end);
        if wanted.is_empty() {
            return;
        }
        self.writer.set(wanted.start, Ok(Rule::NONE));
        let index = self.index;
        // Page by page, so that a page has the same rows whatever it is built with.
        let mut start = wanted.start;
        while start < wanted.end {
            let end = wanted.end.min(((start >> PAGE_SHIFT) + 1) << PAGE_SHIFT);
            for piece in index.uncovered_pieces(self.elf, &gap, start..end) {
                self.write_piece(&piece, &(start..end));
            }
            start = end;
        }
    }

    fn write_piece(&mut self, piece: &Piece, within: &Range<u64>) {
        let (from, to) = (piece.svma.start.max(within.start), piece.svma.end.min(within.end));
        if from >= to {
            return;
        }
        self.writer.set(from, Ok(piece.rule));
        if to < self.svma.end {
            self.writer.set(to, Ok(Rule::NONE));
        }
        let stats = self.writer.stats();
        stats.recognised_stubs += u32::from(piece.stub);
        stats.detected_functions += u32::from(piece.begins && from == piece.svma.start);
    }
}

/// Whether the gap is what an assembler leaves in front of an aligned function. It belongs to the
/// function before it: never executed, it would only cost a row for each function.
fn is_padding(gap: &Range<u64>) -> bool {
    let len = gap.end.saturating_sub(gap.start);
    len < FUNCTION_ALIGNMENT && gap.end.is_multiple_of(FUNCTION_ALIGNMENT) && len > 0
}
