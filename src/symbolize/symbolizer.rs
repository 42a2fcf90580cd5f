//! Resolves a module's addresses from the best source that covers each.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::debug_file::{DebugFile, Search};
use super::demangle::{Demangler, is_mangled};
use super::dwarf::{DebugFiles, DebugInfo, MemoryBudget, SourceFrame, Unusable, has_debug_info};
use super::elf::{Elf, Matches, Symbol};
use super::mini_debug_info;
use crate::model::{Frame, FrameKind, Svma};
use crate::sys::file_map::FileMap;
use crate::unwind::FdeIndex;

/// What to look for and how much it may cost.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where separate debug files are kept, in order of preference.
    pub debug_directories: Vec<PathBuf>,
    /// Whether to read DWARF at all: inlined frames, files and lines.
    pub source_lines: bool,
    /// Whether inlined calls are frames of their own.
    pub inlined_calls: bool,
    /// Bytes of decompressed debug information held at once, per module. What
    /// would exceed it is not read, and the symbol table answers.
    pub max_decompressed_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            debug_directories: vec![PathBuf::from("/usr/lib/debug")],
            source_lines: true,
            inlined_calls: true,
            max_decompressed_bytes: 512 << 20,
        }
    }
}

/// A file that some process executes.
#[derive(Debug)]
pub struct ModuleFile {
    /// The path as the target sees it; names the module and tells where to look for debug files.
    pub display: String,
    /// The file itself, open for reading; it may be gone from the disk.
    pub file: File,
    /// `/proc/PID/root` of a process that maps it; may have vanished. `None`: our own root.
    pub root: Option<PathBuf>,
}

/// What resolving has met so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Modules looked at.
    pub modules: u64,
    /// Modules whose file was not a readable ELF file.
    pub unreadable_modules: u64,
    /// Addresses looked up.
    pub addresses: u64,
    /// Addresses without any symbol.
    pub unnamed_addresses: u64,
}

/// Names addresses of files, module by module.
#[derive(Debug, Default)]
pub struct Symbolizer {
    config: Config,
    stats: Stats,
    refusals: Vec<String>,
    more_refusals: u64,
}

/// Modules of which it is told that their debug information was refused; further ones are counted.
const MAX_REFUSALS: usize = 8;

impl Symbolizer {
    /// A symbolizer with nothing open.
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// What was met so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// A sentence for each module whose debug information was not read, or not all of it. Where there is
    /// none it is an ordinary absence and not told.
    pub fn refusals(&self) -> Vec<String> {
        let more = format!("debug information of {} more modules was not read", self.more_refusals);
        let more = (self.more_refusals > 0).then_some(more);
        self.refusals.iter().cloned().chain(more).collect()
    }

    fn refuse(&mut self, module: &str, reason: &str) {
        if self.refusals.len() < MAX_REFUSALS {
            self.refusals.push(format!("debug information of `{module}` was not read: {reason}"));
        } else {
            self.more_refusals += 1;
        }
    }

    fn refuse_unusable(&mut self, module: &str, reason: Unusable) {
        let limit_mib = self.config.max_decompressed_bytes >> 20;
        match reason {
            Unusable::Damaged => self.refuse(module, "it is damaged"),
            Unusable::TooLarge => {
                self.refuse(module, &format!("it takes more than {limit_mib} MiB when decompressed"));
            }
        }
    }

    /// The frames of each of `addresses`, which must ascend: leaf first, inlined
    /// calls before the function that holds them. Never empty: without any symbol
    /// it is one frame `module+0xoffset`, of the function's start where unwind information tells it.
    pub fn resolve_module(&mut self, module: &ModuleFile, addresses: &[Svma]) -> Vec<Vec<Frame>> {
        let name = base_name(&module.display);
        let Ok(map) = FileMap::map(&module.file) else {
            return self.resolve_bytes(name, &[], addresses);
        };
        let binary = Path::new(&module.display);
        let search = Search::new(module.root.as_deref(), binary, &self.config.debug_directories);
        self.resolve(name, &map, Some((&map, &search)), addresses)
    }

    /// The same for a file in memory, such as the image of the vDSO: `name` is
    /// `[vdso]` then. Only its own symbol tables are looked at.
    pub fn resolve_bytes(&mut self, name: &str, bytes: &[u8], addresses: &[Svma]) -> Vec<Vec<Frame>> {
        self.resolve(name, bytes, None, addresses)
    }

    fn resolve(
        &mut self,
        name: &str,
        bytes: &[u8],
        place: Option<(&FileMap, &Search)>,
        addresses: &[Svma],
    ) -> Vec<Vec<Frame>> {
        self.stats.modules += 1;
        self.stats.addresses += addresses.len() as u64;
        let Ok(elf) = Elf::parse(bytes) else {
            self.stats.unreadable_modules += 1;
            return addresses.iter().map(|address| vec![unnamed(name, *address)]).collect();
        };
        let debug_file = place.and_then(|(_, search)| find_debug_file(&elf, search));
        let debug_elf = debug_file.as_ref().and_then(|debug| Elf::parse(&*debug.map).ok());
        let mini = mini_debug_info::read(&elf);
        let mini_elf = mini.as_deref().and_then(|image| Elf::parse(image).ok());

        let mut matches = Matches::new(addresses);
        for tables in [Some(&elf), debug_elf.as_ref(), mini_elf.as_ref()].into_iter().flatten() {
            matches.offer_file(tables);
        }
        let symbols = matches.finish(&elf);
        let answers = match place.filter(|_| self.config.source_lines) {
            Some((map, search)) => {
                let debug = debug_file.as_ref().zip(debug_elf.as_ref());
                let files = Files { elf: &elf, map, debug };
                self.resolve_with_lines(name, files, search, &symbols, addresses)
            }
            None => None,
        };
        let mut answers = answers.unwrap_or_else(|| {
            let mut names = Demangler::default();
            let by_symbol = |(address, symbol): (&Svma, &Option<Symbol<'_>>)| {
                combine(&mut names, name, *address, *symbol, &[])
            };
            addresses.iter().zip(&symbols).map(by_symbol).collect()
        });
        if !self.config.inlined_calls {
            answers.iter_mut().for_each(|frames| frames.retain(|frame| frame.kind != FrameKind::Inlined));
        }
        self.stats.unnamed_addresses += name_by_start(name, bytes, addresses, &mut answers);
        answers
    }

    /// `None` when there is no debug information.
    fn resolve_with_lines(
        &mut self,
        name: &str,
        files: Files<'_>,
        search: &Search,
        symbols: &[Option<Symbol<'_>>],
        addresses: &[Svma],
    ) -> Option<Vec<Vec<Frame>>> {
        let own = (files.elf, search.binary_directory());
        let (main, directory) = match files.debug {
            Some((file, elf)) if !has_debug_info(files.elf) => (elf, file.directory.as_path()),
            _ => own,
        };
        if !has_debug_info(main) {
            return None;
        }
        let supplement = search.find_supplement(main, directory);
        let supplement_elf = supplement.as_ref().and_then(|map| Elf::parse(&**map).ok());
        let package = search.find_package();
        let package_elf = package.as_ref().and_then(|map| Elf::parse(&**map).ok());
        let debug_map = files.debug.map(|(file, _)| &file.map);
        let maps = [Some(files.map), debug_map, supplement.as_ref(), package.as_ref()];
        let files = DebugFiles {
            main,
            supplement: supplement_elf.as_ref(),
            package: package_elf.as_ref(),
            maps: maps.into_iter().flatten().collect(),
        };
        let memory = MemoryBudget(self.config.max_decompressed_bytes);
        let debug = DebugInfo::load(files, search, memory);
        let debug = debug.map_err(|reason| self.refuse_unusable(name, reason)).ok()?;
        let answers = debug.resolve(addresses, Demangler::default, |names, index, calls| {
            let address = addresses.get(index).copied().unwrap_or_default();
            combine(names, name, address, symbols.get(index).copied().flatten(), calls)
        });
        if let Some(reason) = debug.refused {
            self.refuse_unusable(name, reason);
        } else if answers.given_up > 0 {
            let (some, all) = (answers.given_up, addresses.len());
            self.refuse(name, &format!("it is damaged or takes too long, for {some} of {all} addresses"));
        }
        Some(answers.found)
    }
}

/// A module and its debug file.
struct Files<'data> {
    elf: &'data Elf<'data>,
    map: &'data FileMap,
    debug: Option<(&'data DebugFile, &'data Elf<'data>)>,
}

/// A file that carries its own debug information and symbols needs no other.
fn find_debug_file(elf: &Elf<'_>, search: &Search) -> Option<DebugFile> {
    let complete = has_debug_info(elf) && !elf.elf_symbol_table().is_empty();
    (!complete).then(|| search.find_debug_file(elf)).flatten()
}

/// Inlined calls come from DWARF alone. The function that holds them has DWARF's linkage name; where
/// DWARF has only a plain name or none, the symbol's.
fn combine(
    names: &mut Demangler,
    module: &str,
    address: Svma,
    symbol: Option<Symbol<'_>>,
    calls: &[SourceFrame<'_>],
) -> Vec<Frame> {
    let frame = |kind, name: Option<Box<str>>, call: Option<&SourceFrame<'_>>| Frame {
        kind,
        function: name.unwrap_or_else(|| unnamed_function(module, address).into()),
        module: Some(module.into()),
        file: call.and_then(|call| call.file).filter(|file| !file.is_empty()).map(Into::into),
        line: call.and_then(|call| call.line),
    };
    let (outermost, inlined) = match calls.split_last() {
        Some((outermost, inlined)) => (Some(outermost), inlined),
        None => (None, calls),
    };
    let mut frames = Vec::with_capacity(calls.len().max(1));
    for call in inlined {
        frames.push(frame(FrameKind::Inlined, names.name(call.function), Some(call)));
    }
    let linkage = outermost.and_then(|call| call.function);
    let symbol = symbol.map(|symbol| symbol.name);
    let name = match linkage {
        Some(written) if is_mangled(written) || is_clone(symbol, written) => Some(written),
        plain => symbol.or(plain),
    };
    frames.push(frame(FrameKind::Native, names.name(name), outermost));
    frames
}

/// Whether `symbol` is a part or copy of the function that is called `written`
/// in the source: `main.cold`, `parse.constprop.0`.
fn is_clone(symbol: Option<&[u8]>, written: &[u8]) -> bool {
    symbol.and_then(|symbol| symbol.strip_prefix(written)).is_some_and(|rest| rest.starts_with(b"."))
}

/// Where no symbol covers an address, the unwind information still tells where its function
/// begins: calls of one function then have one name. Returns how many addresses have no symbol.
fn name_by_start(module: &str, bytes: &[u8], addresses: &[Svma], answers: &mut [Vec<Frame>]) -> u64 {
    let mut index = None;
    let mut count = 0;
    for (address, frames) in addresses.iter().zip(answers) {
        let Some(frame) = frames.iter_mut().find(|frame| is_unnamed(module, frame)) else { continue };
        count += 1;
        let index = index.get_or_insert_with(|| FdeIndex::parse(bytes).ok());
        if let Some(range) = index.as_ref().and_then(|index| index.function_range(bytes, address.0)) {
            frame.function = unnamed_function(module, Svma(range.start)).into();
        }
    }
    count
}

fn unnamed_function(module: &str, address: Svma) -> String {
    format!("{module}+{address}")
}

fn unnamed(module: &str, address: Svma) -> Frame {
    let function = unnamed_function(module, address);
    Frame { module: Some(module.into()), ..Frame::named(FrameKind::Native, function) }
}

fn is_unnamed(module: &str, frame: &Frame) -> bool {
    frame.function.strip_prefix(module).is_some_and(|rest| rest.starts_with("+0x"))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or("?")
}
