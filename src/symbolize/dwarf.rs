//! Inlined calls, files and lines from DWARF.

use std::borrow::Cow;

use addr2line::Context;
use gimli::{DwarfSections, EndianSlice, RunTimeEndian};
use object::{Object as _, ObjectSection as _};

use super::elf::Elf;
use crate::model::Svma;

type Reader<'data> = EndianSlice<'data, RunTimeEndian>;

/// One call as DWARF tells it.
pub(super) struct SourceFrame {
    /// Linkage name where there is one.
    pub(super) function: Option<String>,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
}

/// The debug sections of a file.
pub(super) struct Debug<'data> {
    sections: DwarfSections<Cow<'data, [u8]>>,
    endian: RunTimeEndian,
}

impl<'data> Debug<'data> {
    pub(super) fn load(elf: &Elf<'data>) -> Option<Self> {
        elf.section_by_name(".debug_info")?;
        let sections = DwarfSections::load(|id| {
            let section = elf.section_by_name(id.name());
            let data = section.and_then(|section| section.uncompressed_data().ok()).unwrap_or_default();
            Ok::<_, gimli::Error>(data)
        });
        let endian = if elf.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        Some(Self { sections: sections.ok()?, endian })
    }

    pub(super) fn context(&self) -> Option<Lines<'_>> {
        let dwarf = self.sections.borrow(|section| EndianSlice::new(section, self.endian));
        Some(Lines { context: Context::from_dwarf(dwarf).ok()? })
    }
}

pub(super) struct Lines<'data> {
    context: Context<Reader<'data>>,
}

impl Lines<'_> {
    /// Calls at `address`, leaf first.
    pub(super) fn frames(&self, address: Svma) -> Vec<SourceFrame> {
        let mut found = Vec::new();
        let Ok(mut frames) = self.context.find_frames(address.0).skip_all_loads() else { return found };
        while let Ok(Some(frame)) = frames.next() {
            let function = frame.function.and_then(|name| name.raw_name().ok().map(Cow::into_owned));
            let (file, line) =
                frame.location.map_or((None, None), |at| (at.file.map(str::to_owned), at.line));
            found.push(SourceFrame { function, file, line });
        }
        found
    }
}
