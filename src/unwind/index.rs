//! Which functions a file has unwind instructions for, in order of address,
//! and the tables built from them.
//!
//! Functions come from the binary search table in `.eh_frame_hdr` where there
//! is one, else from walking `.eh_frame`; `.debug_frame` adds what is covered
//! by neither. A function ends where its FDE says, or where the next one
//! begins if that is earlier; of several that begin at one address the first
//! in file order counts. So every address has one rule however the file
//! contradicts itself, and a page needs only the FDEs that begin in it and the
//! one before.

use std::ops::Range;

use crate::Result;

use super::build::Builder;
use super::cfi::run_fde;
use super::code_flow::{self, Piece};
use super::frames::{Cie, Cies, Fde, Format, FrameSection};
use super::image::Image;
use super::rule::Rule;
use super::table::{PAGE_SHIFT, Table};

/// Most pages of a file: 4 GiB of addresses from the first executable byte on. The code models
/// in use cannot call further than 2 GiB; code beyond has no rows.
const MAX_PAGES: u64 = 1 << 16;
/// Most FDEs of a file, 12 bytes of memory each. Chrome has 0.7 million; code of further ones has no rows.
const MAX_FDES: usize = 4 << 20;
/// Code looked at on either side of a page when its rows come from machine code: functions that
/// reach further into their neighbours' pages lose rows. V8's largest has 20 KiB.
const FLOW_MARGIN_BYTES: u64 = 32 << 10;
/// Longest unwind instructions of a function looked at by itself. CPython's evaluation loop has 17 KB.
const MAX_FUNCTION_INSTRUCTION_BYTES: usize = 256 << 10;

/// The functions of one file that have unwind instructions.
///
/// Owns all it needs but the file's bytes; building borrows it, so that
/// threads can build different pages at the same time.
#[derive(Clone, Debug)]
pub struct FdeIndex {
    pub(super) image: Image,
    /// Ascending and distinct by start.
    pub(super) functions: Vec<Function>,
    pages: Range<u64>,
    /// FDEs left out because their code lies in no executable segment within reach.
    ignored_fdes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Function {
    /// Start, from the beginning of the first page.
    start: u32,
    /// Offset of the FDE in its section.
    fde: u32,
    pub(super) from_debug_frame: bool,
}

/// What [`FdeIndex::function_rules`] tells of one function.
pub(super) struct FunctionRules {
    pub(super) range: Range<u64>,
    /// Each from its stated address up to the next one's; ascending.
    rules: Vec<(u64, Rule)>,
}

impl FunctionRules {
    /// The rule at `svma`, if that is within the function.
    pub(super) fn at(&self, svma: u64) -> Option<Rule> {
        let behind = self.rules.partition_point(|(from, _)| *from <= svma);
        let (_, rule) = self.rules.get(behind.checked_sub(1)?)?;
        self.range.contains(&svma).then_some(*rule)
    }
}

impl FdeIndex {
    /// Parses an ELF file, or a vDSO as it lies in memory. Errors: `Corrupt` when its headers make
    /// no sense, `UnsupportedTarget` when it is not for x86-64. A file without any
    /// unwind information is an index without functions.
    pub fn parse(elf: &[u8]) -> Result<Self> {
        let image = Image::parse(elf)?;
        let mut index = Self { pages: pages_of(&image), image, functions: Vec::new(), ignored_fdes: 0 };
        index.collect(elf);
        Ok(index)
    }

    /// The pages that hold executable code, possibly with holes; at most 65,536, empty without code.
    pub fn page_range(&self) -> Range<u64> {
        self.pages.clone()
    }

    /// How many functions have unwind instructions.
    pub fn function_count(&self) -> usize {
        self.functions.len()
    }

    /// How many FDEs were left out because their code is not executable or out of reach.
    pub fn ignored_fdes(&self) -> usize {
        self.ignored_fdes
    }

    /// Divides the pages into at most `parts` ranges with about equally many functions, in order,
    /// for as many threads; join the results with [`Table::join`].
    pub fn split(&self, parts: usize) -> Vec<Range<u64>> {
        let share = self.functions.len().div_ceil(parts.max(1)).max(1);
        let cuts = self.functions.iter().step_by(share).skip(1);
        let cuts = cuts.map(|function| self.pages.start + (u64::from(function.start) >> PAGE_SHIFT));
        let mut ranges = Vec::new();
        let mut start = self.pages.start;
        for cut in cuts.chain([self.pages.end]) {
            if cut > start {
                ranges.push(start..cut);
                start = cut;
            }
        }
        ranges
    }

    /// The range of the function whose FDE covers the stated address `svma`; `None` where none does,
    /// also for code that was given rows without an FDE.
    /// A binary search and the parsing of one FDE. `elf` as for [`FdeIndex::build_pages`].
    pub fn function_range(&self, elf: &[u8], svma: u64) -> Option<Range<u64>> {
        let behind = self.functions.partition_point(|function| self.svma_of(function) <= svma);
        let function = self.functions.get(behind.checked_sub(1)?)?;
        let next = self.functions.get(behind).map_or(u64::MAX, |next| self.svma_of(next));
        let range = self.svma_of(function)..self.end_of(elf, function, &mut Cies::default())?.min(next);
        range.contains(&svma).then_some(range)
    }

    /// The rules of the function whose FDE covers `svma`; what they are behind `end` is of no interest.
    /// `None` where no FDE covers it, or one with more than [`MAX_FUNCTION_INSTRUCTION_BYTES`].
    pub(super) fn function_rules(&self, elf: &[u8], svma: u64, end: u64) -> Option<FunctionRules> {
        let range = self.function_range(elf, svma)?;
        let behind = self.functions.partition_point(|function| self.svma_of(function) <= svma);
        let function = self.functions.get(behind.checked_sub(1)?)?;
        let section = self.section_of(elf, function)?;
        let mut cies = Cies::default();
        let (cie, fde) = self.fde(function, &section, &mut cies)?;
        if fde.instructions.len() > MAX_FUNCTION_INSTRUCTION_BYTES {
            return None;
        }
        let mut rules = Vec::new();
        run_fde(cie, &fde, range.end.min(end), &mut Vec::new(), |from, _, rule| {
            rules.push((from, rule.unwrap_or(Rule::UNSUPPORTED)));
        });
        Some(FunctionRules { range, rules })
    }

    /// Builds the rows of `pages`, as far as they lie in [`FdeIndex::page_range`]. `elf` must be the
    /// bytes given to [`FdeIndex::parse`]; with others the rows are wrong, but the call is as safe.
    pub fn build_pages(&self, elf: &[u8], pages: Range<u64>) -> Table {
        let start = pages.start.max(self.pages.start);
        let end = pages.end.min(self.pages.end);
        if start >= end {
            return Table { first_page: start, ..Table::default() };
        }
        Builder::new(self, elf, start..end).build()
    }
}

impl FdeIndex {
    /// Where the FDE of `function` ends.
    fn end_of(&self, elf: &[u8], function: &Function, cies: &mut Cies) -> Option<u64> {
        Some(self.fde(function, &self.section_of(elf, function)?, cies)?.1.end)
    }

    /// Where the FDE of `function` is.
    fn section_of<'a>(&'a self, elf: &'a [u8], function: &Function) -> Option<FrameSection<'a>> {
        let part = if function.from_debug_frame { &self.image.debug_frame } else { &self.image.eh_frame };
        Some(part.as_ref()?.section(elf))
    }

    /// What following the code of `gap`, which no FDE covers, shows about `wanted`, a part of it in
    /// one page. Pieces begin before `wanted` and end behind it where functions do.
    pub(super) fn uncovered_pieces(&self, elf: &[u8], gap: &Range<u64>, wanted: Range<u64>) -> Vec<Piece> {
        let start = wanted.start.saturating_sub(FLOW_MARGIN_BYTES).max(gap.start);
        let end = wanted.end.saturating_add(FLOW_MARGIN_BYTES).min(gap.end);
        let code = self.image.code(elf, start..end);
        let follow = self.starts_like_musl(elf);
        code.flat_map(|(svma, code)| code_flow::pieces(code, svma, self.image.entry, follow)).collect()
    }

    /// Whether the file begins as musl's programs and musl itself do (`crt_arch.h` for x86_64): musl's own
    /// code has neither CFI nor frame pointers, and is plain C that can be followed. Elsewhere, gaps in the CFI
    /// hold generated or hand-written code, and rows from following that would at times be wrong.
    fn starts_like_musl(&self, elf: &[u8]) -> bool {
        /// `xor %rbp, %rbp; mov %rsp, %rdi; lea _DYNAMIC(%rip), %rsi`, without its distance.
        const START: &[u8] = &[0x48, 0x31, 0xed, 0x48, 0x89, 0xe7, 0x48, 0x8d, 0x35];
        /// `and $-16, %rsp; call`
        const THEN: &[u8] = &[0x48, 0x83, 0xe4, 0xf0, 0xe8];
        let entry = self.image.entry;
        let Some((_, code)) = self.image.code(elf, entry..entry.saturating_add(18)).next() else {
            return false;
        };
        code.starts_with(START) && code.get(START.len() + 4..).is_some_and(|rest| rest.starts_with(THEN))
    }
}

/// The pages from the first executable byte to the last, at most [`MAX_PAGES`].
fn pages_of(image: &Image) -> Range<u64> {
    let first = image.executable().map(|segment| segment.svma.start).min();
    let last = image.executable().map(|segment| segment.svma.end - 1).max();
    match (first, last) {
        (Some(first), Some(last)) => {
            let start = first >> PAGE_SHIFT;
            start..((last >> PAGE_SHIFT) + 1).min(start + MAX_PAGES)
        }
        _ => 0..0,
    }
}

impl FdeIndex {
    fn collect(&mut self, elf: &[u8]) {
        let table = self.image.search_table.take();
        let eh_frame = self.image.eh_frame.as_ref().map(|part| part.section(elf));
        let mut ignored = 0;
        let mut found = Vec::new();
        if let Some(section) = eh_frame {
            let mut keep = |start, fde| match self.function(start, fde, Format::Eh) {
                Some(function) if found.len() < MAX_FDES => found.push(function),
                _ => ignored += 1,
            };
            match &table {
                Some(table) => table.fdes(elf, &section).for_each(|(start, fde)| keep(start, fde)),
                None => walk(&section, |fde, offset| keep(fde.start, offset)),
            }
            found.sort_by_key(|function| function.start);
            found.dedup_by_key(|function| function.start);
        }
        if let Some(section) = self.image.debug_frame.as_ref().map(|part| part.section(elf)) {
            let covered = found.clone();
            let mut cies = Cies::default();
            walk(&section, |fde, offset| match self.function(fde.start, offset, Format::Debug) {
                Some(function) if found.len() < MAX_FDES => {
                    let before = covered.partition_point(|other| other.start <= function.start);
                    let end = before
                        .checked_sub(1)
                        .and_then(|index| covered.get(index))
                        .and_then(|other| Some(self.fde(other, &eh_frame?, &mut cies)?.1.end));
                    if end.is_none_or(|end| end <= fde.start) {
                        found.push(function);
                    }
                }
                _ => ignored += 1,
            });
            found.sort_by_key(|function| function.start);
            found.dedup_by_key(|function| function.start);
        }
        self.functions = found;
        self.ignored_fdes = ignored;
    }

    /// A function within reach and in an executable segment.
    fn function(&self, start: u64, fde: u32, format: Format) -> Option<Function> {
        self.image.executable().find(|segment| segment.svma.contains(&start))?;
        let start = u32::try_from(start.checked_sub(self.pages.start << PAGE_SHIFT)?).ok()?;
        Some(Function { start, fde, from_debug_frame: format == Format::Debug })
    }

    /// The FDE of `function`, which `section` holds; `None` if it begins elsewhere than the index says.
    pub(super) fn fde<'c, 'a>(
        &self,
        function: &Function,
        section: &FrameSection<'a>,
        cies: &'c mut Cies,
    ) -> Option<(&'c Cie, Fde<'a>)> {
        let entry = section.entry(function.fde as usize)?;
        let found = cies.fde(section, &entry)?;
        ((found.1.start) == self.svma_of(function)).then_some(found)
    }

    pub(super) fn svma_of(&self, function: &Function) -> u64 {
        (self.pages.start << PAGE_SHIFT) + u64::from(function.start)
    }
}

/// Calls `found` with each FDE of `section` and its offset, in file order.
fn walk(section: &FrameSection<'_>, mut found: impl FnMut(&Fde<'_>, u32)) {
    let mut cies = Cies::default();
    let mut offset = 0;
    while let Some(entry) = section.entry(offset) {
        if let (Some((_, fde)), Ok(at)) = (cies.fde(section, &entry), u32::try_from(offset)) {
            found(&fde, at);
        }
        offset = entry.next;
    }
}
