//! The debug sections of one file, decompressed where needed.

use std::borrow::Cow;

use gimli::{DwarfPackageSections, DwarfSections, SectionId};
use object::{Object as _, ObjectSection as _};

use super::super::elf::Elf;

/// Sections as they lie in the mapped file, or decompressed.
pub(super) type Sections<'data> = DwarfSections<Cow<'data, [u8]>>;

/// Sections of a `.dwp` file.
pub(super) type PackageSections<'data> = DwarfPackageSections<Cow<'data, [u8]>>;

/// Decompressed bytes that may still be allocated.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct MemoryBudget(pub(in super::super) u64);

/// Whether `elf` holds debug information itself.
pub(in super::super) fn has_debug_info(elf: &Elf<'_>) -> bool {
    let section = elf.section_by_name(".debug_info");
    section.is_some_and(|section| section.data().is_ok_and(|data| !data.is_empty()))
}

/// The sections that names, lines and inlined calls need, and the bytes of those
/// that are parsed rather than looked up in. Fails when one of them cannot be
/// decompressed or would exceed `memory`: some without the others would give
/// wrong answers.
pub(super) fn load<'data>(
    elf: &Elf<'data>,
    memory: &mut MemoryBudget,
) -> Result<(Sections<'data>, u64), Unusable> {
    use SectionId::{DebugAbbrev, DebugAranges, DebugInfo, DebugLine, DebugRanges, DebugRngLists};
    let mut parsed_bytes = 0;
    let sections = DwarfSections::load(|id| {
        let data = read(elf, Some(id.name()).filter(|_| is_needed(id)), memory)?;
        if matches!(id, DebugAbbrev | DebugAranges | DebugInfo | DebugLine | DebugRanges | DebugRngLists) {
            parsed_bytes += data.len() as u64;
        }
        Ok::<_, Unusable>(data)
    });
    Ok((sections?, parsed_bytes))
}

/// The same for a `.dwo` file.
pub(super) fn load_dwo<'data>(
    elf: &Elf<'data>,
    memory: &mut MemoryBudget,
) -> Result<Sections<'data>, Unusable> {
    DwarfSections::load(|id| read(elf, id.dwo_name().filter(|_| is_needed(id)), memory))
}

/// All sections of a `.dwp` file: its index wants to find its part in each of them.
pub(super) fn load_package<'data>(
    elf: &Elf<'data>,
    memory: &mut MemoryBudget,
) -> Result<PackageSections<'data>, Unusable> {
    DwarfPackageSections::load(|id| read(elf, id.dwo_name(), memory))
}

fn is_needed(id: SectionId) -> bool {
    use SectionId::{DebugLoc, DebugLocLists, DebugMacinfo, DebugMacro, DebugNames, DebugTypes};
    !matches!(id, DebugLoc | DebugLocLists | DebugMacinfo | DebugMacro | DebugNames | DebugTypes)
}

/// Why the sections of a file are of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Unusable {
    /// Not what their format promises.
    Damaged,
    /// Decompressed they would exceed the memory budget.
    TooLarge,
}

impl From<gimli::Error> for Unusable {
    fn from(_: gimli::Error) -> Self {
        Self::Damaged
    }
}

/// Empty for no name and where there is no such section.
fn read<'data>(
    elf: &Elf<'data>,
    name: Option<&str>,
    memory: &mut MemoryBudget,
) -> Result<Cow<'data, [u8]>, Unusable> {
    let Some(section) = name.and_then(|name| elf.section_by_name(name)) else { return Ok(Cow::default()) };
    let compressed = section.compressed_data().map_err(|_| Unusable::Damaged)?;
    if compressed.format != object::CompressionFormat::None {
        memory.0 = memory.0.checked_sub(compressed.uncompressed_size).ok_or(Unusable::TooLarge)?;
    }
    compressed.decompress().map_err(|_| Unusable::Damaged)
}
