//! Split DWARF: units whose details the compiler left in `.dwo` files, or
//! `dwp` gathered in one `.dwp` package.
//!
//! The executable keeps a skeleton per unit, with addresses, lines, and the
//! name and id of the `.dwo`. A package is looked for first, beside the
//! executable under its name plus `.dwp`.

use std::cell::{Cell, OnceCell};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use addr2line::SplitDwarfLoad;
use gimli::{Dwarf, DwarfPackage, Section as _};

use super::super::debug_file::Search;
use super::super::elf::Elf;
use super::READS_PER_BYTE;
use super::guard::{Guard, GuardedReader};
use super::sections::{self, MemoryBudget, Sections};
use crate::sys::file_map::FileMap;

/// `.dwo` files open at a time; when that many have been needed, all are closed
/// and the work goes on with a fresh set.
const MAX_OPEN_FILES: usize = 256;

/// Holds values that live as long as itself, up to a fixed number.
pub(super) struct Shelf<T> {
    slots: Box<[OnceCell<T>]>,
    used: Cell<usize>,
}

impl<T> Shelf<T> {
    pub(super) fn new() -> Self {
        let slots = std::iter::repeat_with(OnceCell::new).take(MAX_OPEN_FILES).collect();
        Self { slots, used: Cell::new(0) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.used.get() >= self.slots.len()
    }

    fn put(&self, value: T) -> Option<&T> {
        let slot = self.slots.get(self.used.get())?;
        self.used.set(self.used.get() + 1);
        Some(slot.get_or_init(|| value))
    }
}

/// Loads the split units that one context asks for.
pub(super) struct SplitUnits<'data> {
    pub(super) search: &'data Search,
    pub(super) package: Option<DwarfPackage<GuardedReader<'data>>>,
    pub(super) files: &'data Shelf<FileMap>,
    pub(super) sections: &'data Shelf<Sections<'data>>,
    pub(super) memory: Cell<MemoryBudget>,
    pub(super) guard: &'data Guard<'data>,
}

type Loaded<'data> = Arc<Dwarf<GuardedReader<'data>>>;

impl<'data> SplitUnits<'data> {
    /// The unit that `load` describes; `None` where it cannot be found.
    pub(super) fn load(&self, load: &SplitDwarfLoad<GuardedReader<'data>>) -> Option<Loaded<'data>> {
        let packed =
            self.package.as_ref().and_then(|package| package.find_cu(load.dwo_id, &load.parent).ok()?);
        let loaded = packed.map(Arc::new).or_else(|| self.load_file(load))?;
        self.guard.allow_more(loaded.debug_info.reader().bytes().len() as u64 * READS_PER_BYTE);
        Some(loaded)
    }

    // addr2line takes an `Arc`; it never leaves the thread.
    #[allow(clippy::arc_with_non_send_sync)]
    fn load_file(&self, load: &SplitDwarfLoad<GuardedReader<'data>>) -> Option<Loaded<'data>> {
        let name = path_of(load.path.as_ref()?);
        let directory = load.comp_dir.as_ref().map_or(Path::new("/"), path_of);
        let beside = self.search.binary_directory().join(name.file_name()?);
        [directory.join(name), beside].iter().find_map(|path| {
            let map = self.files.put(self.search.find(path)?)?;
            let mut memory = self.memory.get();
            let sections = sections::load_dwo(&Elf::parse(&**map).ok()?, &mut memory).ok()?;
            self.memory.set(memory);
            let sections = self.sections.put(sections)?;
            let mut dwarf = sections.borrow(|section| GuardedReader::new(section, self.guard));
            dwarf.make_dwo(&load.parent);
            let header = dwarf.units().next().ok()??;
            let same = dwarf.unit(header).ok()?.dwo_id == Some(load.dwo_id);
            same.then(|| Arc::new(dwarf))
        })
    }
}

fn path_of<'data>(text: &GuardedReader<'data>) -> &'data Path {
    Path::new(std::ffi::OsStr::from_bytes(text.bytes()))
}
