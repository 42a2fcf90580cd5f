//! Resolves a module's addresses from the best source that covers each.

use std::fs::File;
use std::path::PathBuf;

use super::demangle::demangle;
use super::dwarf::{Debug, SourceFrame};
use super::elf::{Elf, Matches, Symbol};
use crate::model::{Frame, FrameKind, Svma};
use crate::sys::file_map::FileMap;

/// What to look for and how much it may cost.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where separate debug files are kept, in order of preference.
    pub debug_directories: Vec<PathBuf>,
    /// Whether to read DWARF at all: inlined frames, files and lines.
    pub source_lines: bool,
    /// Bytes of decompressed debug information held at once, per module. What
    /// would exceed it is not read, and the symbol table answers.
    pub max_decompressed_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            debug_directories: vec![PathBuf::from("/usr/lib/debug")],
            source_lines: true,
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
}

impl Symbolizer {
    /// A symbolizer with nothing open.
    pub fn new(config: Config) -> Self {
        Self { config, stats: Stats::default() }
    }

    /// What was met so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The frames of each of `addresses`, which must ascend: leaf first, inlined
    /// calls before the function that holds them. Never empty: without any symbol
    /// it is one frame `module+0xoffset`.
    pub fn resolve_module(&mut self, module: &ModuleFile, addresses: &[Svma]) -> Vec<Vec<Frame>> {
        let name = base_name(&module.display);
        match FileMap::map(&module.file) {
            Ok(map) => self.resolve(name, &map, addresses),
            Err(_) => self.resolve(name, &[], addresses),
        }
    }

    /// The same for a file in memory, such as the image of the vDSO: `name` is `[vdso]` then.
    pub fn resolve_bytes(&mut self, name: &str, bytes: &[u8], addresses: &[Svma]) -> Vec<Vec<Frame>> {
        self.resolve(name, bytes, addresses)
    }

    fn resolve(&mut self, name: &str, bytes: &[u8], addresses: &[Svma]) -> Vec<Vec<Frame>> {
        self.stats.modules += 1;
        self.stats.addresses += addresses.len() as u64;
        let Ok(elf) = Elf::parse(bytes) else {
            self.stats.unreadable_modules += 1;
            return addresses.iter().map(|address| vec![unnamed(name, *address)]).collect();
        };
        let mut matches = Matches::new(addresses);
        matches.offer_file(&elf);
        let symbols = matches.finish(&elf);
        let debug = self.config.source_lines.then(|| Debug::load(&elf)).flatten();
        let context = debug.as_ref().and_then(Debug::context);
        addresses
            .iter()
            .zip(symbols)
            .map(|(address, symbol)| {
                let source = context.as_ref().map(|context| context.frames(*address)).unwrap_or_default();
                combine(name, *address, symbol, source)
            })
            .collect()
    }
}

/// Inlined frames come from DWARF alone; the function that holds them is named by the symbol table
/// where DWARF has no linkage name.
fn combine(module: &str, address: Svma, symbol: Option<Symbol<'_>>, source: Vec<SourceFrame>) -> Vec<Frame> {
    let symbol_name = symbol.map(|symbol| demangle(&String::from_utf8_lossy(symbol.name)));
    let count = source.len();
    let mut frames: Vec<Frame> = Vec::with_capacity(count.max(1));
    for (index, frame) in source.into_iter().enumerate() {
        let outermost = index + 1 == count;
        let kind = if outermost { FrameKind::Native } else { FrameKind::Inlined };
        let named = frame.function.map(|name| demangle(&name));
        let named = if outermost { symbol_name.clone().or(named) } else { named };
        let function = named.unwrap_or_else(|| format!("{module}+{address}"));
        frames.push(Frame {
            kind,
            function: function.into(),
            module: Some(module.into()),
            file: frame.file.map(Into::into),
            line: frame.line,
        });
    }
    if frames.is_empty() {
        frames.push(match symbol_name {
            Some(name) => Frame { module: Some(module.into()), ..Frame::named(FrameKind::Native, name) },
            None => unnamed(module, address),
        });
    }
    frames
}

fn unnamed(module: &str, address: Svma) -> Frame {
    Frame { module: Some(module.into()), ..Frame::named(FrameKind::Native, format!("{module}+{address}")) }
}

fn base_name(path: &str) -> &str {
    match path.rsplit('/').find(|part| !part.is_empty()) {
        Some(name) => name,
        None => "?",
    }
}
