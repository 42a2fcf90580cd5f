//! Names from ELF symbol tables, for a batch of addresses at once.
//!
//! A table is passed once, and each symbol is offered to the sorted addresses
//! it may cover; no index of the table is built, so memory is that of the
//! answers. The rules:
//!
//! * A symbol with a size covers `[st_value, st_value + st_size)` and nothing else.
//! * A symbol without size (hand-written assembly) covers up to the next symbol
//!   of any kind, or the end of its section.
//! * Among symbols that cover an address the one with a size, then the one
//!   that starts last, then the more public, then the plainer name wins: the
//!   order of the table never matters.

use std::cmp::Ordering;

use object::elf::{self, SectionHeader64, Sym64};
use object::read::elf::{ElfFile64, SectionHeader as _, Sym as _, SymbolTable};
use object::{Endianness, SectionIndex};

use crate::model::Svma;

/// A 64-bit ELF file of either byte order.
pub(super) type Elf<'data> = ElfFile64<'data, Endianness>;

/// Longest name read from a string table: as long as what is demangled.
const MAX_NAME_BYTES: usize = 32 * 1024;

/// Symbols read per table. Chromium with all its symbols has two million; the
/// rest of a longer table is ignored.
const MAX_SYMBOLS: usize = 16 << 20;

/// Comparisons of one symbol with one address, per module. An honest table
/// needs few per address; a table of symbols that all cover everything would
/// need their product, and is given up here, after some tenth of a second.
const MAX_OFFERS: u64 = 32 << 20;

/// A symbol that covers an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Symbol<'data> {
    /// First address it covers.
    pub(super) start: u64,
    /// Higher is more public: local, weak, global.
    rank: u8,
    /// As the linker knows it; never empty.
    pub(super) name: &'data [u8],
}

impl<'data> Symbol<'data> {
    /// Whether this is the better name for an address that both cover.
    fn beats(&self, other: &Self) -> bool {
        let plainness = |symbol: &Self| {
            let underscores = symbol.name.iter().take_while(|byte| **byte == b'_').count();
            (underscores, symbol.name.len())
        };
        let order = self.start.cmp(&other.start).then(self.rank.cmp(&other.rank));
        let order = order.then_with(|| plainness(other).cmp(&plainness(self)));
        order.then_with(|| other.name.cmp(self.name)) == Ordering::Greater
    }
}

/// What is known so far about each of a batch of addresses.
pub(super) struct Matches<'query, 'data> {
    addresses: &'query [Svma],
    /// The best symbol with a size that covers the address.
    sized: Vec<Option<Symbol<'data>>>,
    /// The best symbol without size that starts at or before this address and after the previous one.
    unsized_after_previous: Vec<Option<Symbol<'data>>>,
    /// The last start of any symbol at or before this address and after the previous one.
    last_start: Vec<Option<u64>>,
    offers: u64,
}

impl<'query, 'data> Matches<'query, 'data> {
    /// Nothing known yet. `addresses` must ascend.
    pub(super) fn new(addresses: &'query [Svma]) -> Self {
        let count = addresses.len();
        Self {
            addresses,
            sized: vec![None; count],
            unsized_after_previous: vec![None; count],
            last_start: vec![None; count],
            offers: 0,
        }
    }

    /// Offers the symbols of `.symtab` and `.dynsym`. A damaged table counts as empty.
    pub(super) fn offer_file(&mut self, elf: &Elf<'data>) {
        self.offer_table(elf, elf.elf_symbol_table());
        self.offer_table(elf, elf.elf_dynamic_symbol_table());
    }

    fn offer_table(&mut self, elf: &Elf<'data>, table: &SymbolTable<'data, elf::FileHeader64<Endianness>>) {
        let endian = elf.endian();
        let Some(strings) = section_data(elf, table.string_section()) else { return };
        for symbol in table.iter().take(MAX_SYMBOLS) {
            if is_code(symbol, endian) {
                self.offer(symbol, endian, strings);
            }
        }
    }

    fn offer(&mut self, symbol: &Sym64<Endianness>, endian: Endianness, strings: &'data [u8]) {
        let (start, size) = (symbol.st_value(endian), symbol.st_size(endian));
        let first = self.addresses.partition_point(|address| address.0 < start);
        let Some(last_start) = self.last_start.get_mut(first) else { return };
        let mut read = None;
        let mut named = || *read.get_or_insert_with(|| named_symbol(symbol, endian, strings));
        if size == 0 {
            let Some(candidate) = named() else { return };
            if let Some(slot) = self.unsized_after_previous.get_mut(first) {
                keep_better(slot, candidate);
            }
        }
        *last_start = (*last_start).max(Some(start));
        let end = start.saturating_add(size);
        let covered = self.addresses.iter().zip(&mut self.sized).skip(first);
        for (_, slot) in covered.take_while(|(address, _)| address.0 < end) {
            self.offers += 1;
            if self.offers > MAX_OFFERS {
                return;
            }
            if slot.is_none_or(|best| best.start <= start) {
                let Some(candidate) = named() else { return };
                keep_better(slot, candidate);
            }
        }
    }

    /// The answer for each address. `elf` tells where sections end.
    pub(super) fn finish(self, elf: &Elf<'_>) -> Vec<Option<Symbol<'data>>> {
        let sections = CodeSections::of(elf);
        let mut unsized_before: Option<Symbol<'data>> = None;
        let mut last_start = None;
        let mut answers = self.sized;
        let steps = self.addresses.iter().zip(self.unsized_after_previous).zip(self.last_start);
        for (answer, ((address, candidate), start)) in answers.iter_mut().zip(steps) {
            if let Some(candidate) = candidate {
                keep_better(&mut unsized_before, candidate);
            }
            last_start = last_start.max(start);
            if answer.is_none() {
                let section_start = sections.start_of(address.0);
                *answer = unsized_before.filter(|symbol| {
                    last_start == Some(symbol.start)
                        && section_start.is_some_and(|start| start <= symbol.start)
                });
            }
        }
        answers
    }
}

fn keep_better<'data>(slot: &mut Option<Symbol<'data>>, candidate: Symbol<'data>) {
    if slot.is_none_or(|best| candidate.beats(&best)) {
        *slot = Some(candidate);
    }
}

fn is_code(symbol: &Sym64<Endianness>, endian: Endianness) -> bool {
    matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_NOTYPE | elf::STT_GNU_IFUNC)
        && !matches!(symbol.st_shndx(endian), elf::SHN_UNDEF | elf::SHN_ABS | elf::SHN_COMMON)
        && symbol.st_value(endian) != 0
}

fn named_symbol<'data>(
    symbol: &Sym64<Endianness>,
    endian: Endianness,
    strings: &'data [u8],
) -> Option<Symbol<'data>> {
    let tail = strings.get(symbol.st_name(endian) as usize..)?;
    let tail = tail.get(..MAX_NAME_BYTES).unwrap_or(tail);
    let name = tail.split(|byte| *byte == 0).next()?;
    // `$x`, `$d`, `$t.3` mark kinds of bytes on ARM and RISC-V, `.L1` are labels: neither names a function.
    if name.is_empty() || name.starts_with(b"$") || name.starts_with(b".L") {
        return None;
    }
    let rank = match symbol.st_bind() {
        elf::STB_GLOBAL | elf::STB_GNU_UNIQUE => 2,
        elf::STB_WEAK => 1,
        _ => 0,
    };
    Some(Symbol { start: symbol.st_value(endian), rank, name })
}

/// Where each executable section lies, ascending.
struct CodeSections(Vec<(u64, u64)>);

impl CodeSections {
    fn of(elf: &Elf<'_>) -> Self {
        let endian = elf.endian();
        let mut ranges: Vec<_> = elf
            .elf_section_table()
            .iter()
            .filter(|section| section.sh_flags(endian).contains(elf::SHF_ALLOC | elf::SHF_EXECINSTR))
            .map(|section| {
                let start = section.sh_addr(endian);
                (start, start.saturating_add(section.sh_size(endian)))
            })
            .collect();
        ranges.sort_unstable();
        Self(ranges)
    }

    fn start_of(&self, address: u64) -> Option<u64> {
        let index = self.0.partition_point(|(start, _)| *start <= address).checked_sub(1)?;
        self.0.get(index).filter(|(_, end)| address < *end).map(|(start, _)| *start)
    }
}

fn section_data<'data>(elf: &Elf<'data>, index: SectionIndex) -> Option<&'data [u8]> {
    let section: &SectionHeader64<Endianness> = elf.elf_section_table().section(index).ok()?;
    section.data(elf.endian(), elf.data()).ok()
}
