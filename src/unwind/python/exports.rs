//! The symbols that an ELF file offers to others, found by name, in the time
//! of a few memory accesses: most files that are asked hold no interpreter.
//!
//! A dynamic file has a hash table for its loader, `DT_GNU_HASH`
//! (`glibc elf/dl-lookup.c`; described in "ELF: symbol lookup via
//! DT_HASH", flapenguin.me):
//!
//! ```text
//! u32 bucket count, u32 first symbol, u32 filter words, u32 filter shift
//! u64 filter[filter words]    a name whose two bits are not both set is not there
//! u32 buckets[bucket count]   hash % bucket count ──► index of a symbol; 0: none
//! u32 chain[]                 hash of symbol `first symbol + i`; lowest bit set: last of its bucket
//! ```
//!
//! Its program headers suffice for that, so files without section headers
//! work, too. A static file has no such table: where its sections say that it
//! holds an interpreter, its `.symtab` is read from end to end.
//!
//! `object` can search such a table, but trusts its filter shift, and only
//! where there are section headers.

use object::LittleEndian as Le;
use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};

use crate::model::Svma;
use crate::unwind::reader::Reader;

/// Most loadable segments looked at; linkers write four to twenty. Further ones are as if absent.
const MAX_SEGMENTS: usize = 64;
/// Most entries of `.dynamic`; linkers write thirty.
const MAX_DYNAMIC_ENTRIES: usize = 1024;
/// Longest chain followed; sound tables have few symbols per bucket.
const MAX_CHAIN: usize = 1024;
/// Most symbols read of a static file; a static CPython has 20,000.
const MAX_SYMBOLS: usize = 1 << 18;
/// `Elf64_Sym`.
const SYMBOL_BYTES: usize = 24;

/// A symbol that is defined in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    pub(super) svma: Svma,
    pub(super) len: u64,
}

/// A `PT_LOAD`: where its bytes are stated to be, and they themselves (may be fewer than it has in memory).
#[derive(Clone, Copy)]
struct Segment<'a> {
    svma: u64,
    bytes: &'a [u8],
}

/// The symbols of a file.
pub(super) struct Exports<'a> {
    segments: Vec<Segment<'a>>,
    table: SymbolTable<'a>,
}

enum SymbolTable<'a> {
    Hashed { hash: GnuHash<'a>, symbols: &'a [u8], names: &'a [u8] },
    Listed { symbols: &'a [elf::Sym64<Le>], names: &'a [u8] },
}

impl<'a> Exports<'a> {
    /// The symbols of a 64-bit ELF file for x86-64. `None`: it is none, or has no table that could be
    /// searched. `section` names a section that a file has if its `.symtab` is worth reading, which is
    /// done only where no dynamic symbol is called `symbol`.
    pub(super) fn parse(elf: &'a [u8], symbol: &str, section: &str) -> Option<Self> {
        let header = FileHeader64::<Le>::parse(elf).ok()?;
        header.endian().ok()?;
        if header.e_machine.get(Le) != elf::EM_X86_64 {
            return None;
        }
        let mut segments = Vec::new();
        let mut dynamic = None;
        for header in header.program_headers(Le, elf).ok()? {
            let bytes = |(offset, len): (u64, u64)| {
                elf.get(usize::try_from(offset).ok()?..)?.get(..usize::try_from(len).ok()?)
            };
            let Some(bytes) = bytes(header.file_range(Le)) else { continue };
            match header.p_type(Le) {
                elf::PT_LOAD if segments.len() < MAX_SEGMENTS => {
                    segments.push(Segment { svma: header.p_vaddr(Le), bytes });
                }
                elf::PT_DYNAMIC => dynamic = Some(bytes),
                _ => {}
            }
        }
        let hashed = dynamic.and_then(|dynamic| hashed_table(&segments, dynamic));
        let is_dynamic = hashed.is_some();
        let mut exports = Self { segments, table: hashed.unwrap_or(SymbolTable::NONE) };
        if exports.find(symbol).is_none() {
            match listed_table(header, elf, section) {
                Some(listed) => exports.table = listed,
                None => return is_dynamic.then_some(exports),
            }
        }
        Some(exports)
    }

    /// The symbol called `name`, if it is defined in this file.
    pub(super) fn find(&self, name: &str) -> Option<Export> {
        match &self.table {
            SymbolTable::Hashed { hash, symbols, names } => {
                let is_it = |index: usize| {
                    let symbol = symbols.get(index.checked_mul(SYMBOL_BYTES)?..)?;
                    let mut reader = Reader::new(symbol);
                    let offset = usize::try_from(reader.u32()?).ok()?;
                    let (_kind, section) = (reader.u16()?, reader.u16()?);
                    let export = Export { svma: Svma(reader.u64()?), len: reader.u64()? };
                    (is_at(names, offset, name) && section != elf::SHN_UNDEF.0).then_some(export)
                };
                hash.find(name, is_it)
            }
            SymbolTable::Listed { symbols, names } => {
                let is_it = |symbol: &&elf::Sym64<Le>| {
                    is_at(names, symbol.st_name(Le) as usize, name) && !symbol.is_undefined(Le)
                };
                let symbol = symbols.iter().take(MAX_SYMBOLS).find(is_it)?;
                Some(Export { svma: Svma(symbol.st_value(Le)), len: symbol.st_size(Le) })
            }
        }
    }

    /// What the file has at a stated address, up to the end of the segment's bytes; `None` where the
    /// memory begins as zeros.
    pub(super) fn bytes_at(&self, svma: Svma) -> Option<&'a [u8]> {
        bytes_at(&self.segments, svma.0)
    }
}

impl SymbolTable<'_> {
    const NONE: Self = Self::Listed { symbols: &[], names: &[] };
}

/// Whether the string at `offset` is `name`, all of it.
fn is_at(names: &[u8], offset: usize, name: &str) -> bool {
    let rest = names.get(offset..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
    rest.is_some_and(|rest| rest.first() == Some(&0))
}

fn bytes_at<'a>(segments: &[Segment<'a>], svma: u64) -> Option<&'a [u8]> {
    segments.iter().find_map(|segment| {
        let skipped = usize::try_from(svma.checked_sub(segment.svma)?).ok()?;
        segment.bytes.get(skipped..).filter(|bytes| !bytes.is_empty())
    })
}

fn hashed_table<'a>(segments: &[Segment<'a>], dynamic: &[u8]) -> Option<SymbolTable<'a>> {
    let (mut hash, mut symbols, mut names) = (None, None, None);
    let mut entries = Reader::new(dynamic);
    for _ in 0..MAX_DYNAMIC_ENTRIES {
        let (Some(tag), Some(value)) = (entries.u64(), entries.u64()) else { break };
        match elf::DynamicTag(tag as i64) {
            elf::DT_GNU_HASH => hash = Some(value),
            elf::DT_SYMTAB => symbols = Some(value),
            elf::DT_STRTAB => names = Some(value),
            elf::DT_NULL => break,
            _ => {}
        }
    }
    Some(SymbolTable::Hashed {
        hash: GnuHash::parse(bytes_at(segments, hash?)?)?,
        symbols: bytes_at(segments, symbols?)?,
        names: bytes_at(segments, names?)?,
    })
}

/// `.symtab` of a file that has `section`.
fn listed_table<'a>(header: &FileHeader64<Le>, elf: &'a [u8], section: &str) -> Option<SymbolTable<'a>> {
    let sections = header.sections(Le, elf).ok()?;
    let is_it = |header| sections.section_name(Le, header) == Ok(section.as_bytes());
    sections.iter().find(|header| is_it(header))?;
    let table = sections.symbols(Le, elf, elf::SHT_SYMTAB).ok()?;
    let names = sections.section(table.string_section()).ok()?.data(Le, elf).ok()?;
    Some(SymbolTable::Listed { symbols: table.symbols(), names })
}

/// The table at the top of this file; all of it may be short.
struct GnuHash<'a> {
    first_symbol: u32,
    filter_shift: u32,
    filter: &'a [[u8; 8]],
    buckets: &'a [[u8; 4]],
    chain: &'a [[u8; 4]],
}

impl<'a> GnuHash<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let bucket_count = usize::try_from(reader.u32()?).ok()?;
        let first_symbol = reader.u32()?;
        let filter_words = usize::try_from(reader.u32()?).ok()?;
        let filter_shift = reader.u32()?;
        let filter = reader.take(filter_words.checked_mul(8)?)?.as_chunks().0;
        let buckets = reader.take(bucket_count.checked_mul(4)?)?.as_chunks().0;
        let chain = reader.rest().as_chunks().0;
        Some(Self { first_symbol, filter_shift, filter, buckets, chain })
    }

    /// The first that `is_it` finds among the indices of symbols that may be called `name`.
    fn find<T>(&self, name: &str, mut is_it: impl FnMut(usize) -> Option<T>) -> Option<T> {
        let hash = hash_of(name);
        let first = self.bucket(hash)?;
        let start = first.checked_sub(self.first_symbol)? as usize;
        for (index, link) in self.chain.get(start..)?.iter().take(MAX_CHAIN).enumerate() {
            let link = u32::from_le_bytes(*link);
            if link | 1 == hash | 1
                && let Some(found) = is_it(first as usize + index)
            {
                return Some(found);
            }
            if link & 1 == 1 {
                break;
            }
        }
        None
    }

    /// The first symbol of the bucket; `None` if the filter says that the name is not there.
    fn bucket(&self, hash: u32) -> Option<u32> {
        let word = (hash as usize / 64).checked_rem(self.filter.len())?;
        let word = u64::from_le_bytes(*self.filter.get(word)?);
        let second = hash.checked_shr(self.filter_shift).unwrap_or(0);
        if word >> (hash % 64) & word >> (second % 64) & 1 == 0 {
            return None;
        }
        let bucket = (hash as usize).checked_rem(self.buckets.len())?;
        Some(u32::from_le_bytes(*self.buckets.get(bucket)?))
    }
}

/// `dl_new_hash`: `h = 5381; h = h * 33 + byte`.
fn hash_of(name: &str) -> u32 {
    name.bytes().fold(5381u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(byte.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The hash of the empty name and of `exit`, as the table's description has them.
    #[test]
    fn hash_is_that_of_the_loader() {
        assert_eq!(hash_of(""), 0x1505);
        assert_eq!(hash_of("exit"), 0x7c96_7e3f);
    }

    /// Two symbols in one bucket: the second is found behind the first, a third is not.
    #[test]
    fn chain_is_followed_to_its_end() {
        let names = ["one", "other"];
        let [one, other] = names.map(hash_of);
        let words = [1, 5, 1, 6, u32::MAX, u32::MAX, 5, one & !1, other | 1, hash_of("third")];
        let bytes = words.map(u32::to_le_bytes).concat();
        let table = GnuHash::parse(&bytes).expect("a sound table");
        let find = |name| table.find(name, Some);
        assert_eq!((find("one"), find("other"), find("third")), (Some(5), Some(6), None));
    }

    proptest! {
        /// Any table and any file: no panic.
        #[test]
        fn any_bytes_do_no_harm(header in prop::array::uniform4(any::<u32>()), small in any::<bool>(), rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let header = if small { header.map(|word| word % 8) } else { header };
            let bytes = [header.map(u32::to_le_bytes).concat(), rest].concat();
            if let Some(table) = GnuHash::parse(&bytes) {
                table.find("_PyRuntime", |_| None::<()>);
            }
            let elf = [b"\x7fELF\x02\x01\x01", &*bytes].concat();
            prop_assert!(Exports::parse(&elf, "_PyRuntime", ".PyRuntime").is_none_or(|exports| exports.find("x").is_none()));
        }
    }
}
