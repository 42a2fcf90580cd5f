//! The files that targets execute, each known once, opened when first needed.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use object::elf::{FileHeader64, PF_X, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use tracing::warn;

use super::process::MappedModule;
use super::python::PythonModule;
use crate::model::{FileId, Mapping, MappingKind, Svma};
use crate::sampler::TableId;
use crate::sampler::table_builder::Source;
use crate::sys::file_map::FileMap;
use crate::target::mapped_file::open_mapped_file;
use crate::target::procfs;
use crate::unwind::python::asyncio::AsyncioOffsets;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Names a module within one recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(pub u32);

/// An executable `PT_LOAD` segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `p_offset`.
    pub offset: u64,
    /// `p_vaddr`.
    pub svma: Svma,
    /// `p_filesz`.
    pub len_bytes: u64,
}

/// How far a module's unwind rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Nobody asked for them.
    NotAsked,
    /// They are being built.
    Building,
    /// They have a place; all or some pages are loaded.
    Placed(TableId),
    /// There are none, or they could not be had.
    Absent,
}

/// A file, or the vDSO.
#[derive(Debug)]
pub struct Module {
    /// Path as the target sees it, or `[vdso]`.
    pub display: String,
    /// Its bytes; `None` when they could not be opened.
    pub source: Option<Source>,
    /// Executable segments, ascending by offset; empty when it is no ELF file.
    pub segments: Vec<Segment>,
    /// `/proc/PID/root` of a process that mapped it.
    pub root: Option<PathBuf>,
    /// Its unwind rows.
    pub rows: Rows,
    /// The interpreter in it.
    pub python: Option<Arc<PythonModule>>,
    /// Where a thread's running asyncio task is, if this file tells.
    pub tasks: Option<AsyncioOffsets>,
    /// It is greenlet's extension module, which runs many native stacks on one thread.
    pub is_greenlet: bool,
    /// Opening it was tried.
    pub(super) is_open: bool,
}

/// All modules of a recording.
#[derive(Debug, Default)]
pub struct Modules {
    list: Vec<Module>,
    by_file: HashMap<FileId, ModuleId>,
    vdso: Option<ModuleId>,
    /// Files that could not be opened, or used for all they hold, each with its reason, for the end of the recording.
    pub unreadable: Vec<String>,
}

/// Reasons kept; more would not be read.
const MAX_UNREADABLE: usize = 8;

impl Modules {
    /// The module that backs `mapping`, opened or not; `None` for anonymous memory.
    pub fn of_mapping(&mut self, mapping: &Mapping) -> Option<ModuleId> {
        match &mapping.kind {
            MappingKind::File { id, path } => {
                let known = self.by_file.get(id).copied();
                Some(known.unwrap_or_else(|| {
                    let module = self.push(path.clone());
                    self.by_file.insert(*id, module);
                    module
                }))
            }
            MappingKind::Vdso => {
                let known = self.vdso;
                let module = known.unwrap_or_else(|| self.push("[vdso]".to_owned()));
                self.vdso = Some(module);
                Some(module)
            }
            MappingKind::Vsyscall | MappingKind::Anonymous => None,
        }
    }

    fn push(&mut self, display: String) -> ModuleId {
        let id = ModuleId(self.list.len() as u32);
        let rows = Rows::NotAsked;
        let is_greenlet = is_greenlet(&display);
        self.list.push(Module {
            display,
            source: None,
            segments: Vec::new(),
            root: None,
            rows,
            python: None,
            tasks: None,
            is_greenlet,
            is_open: false,
        });
        id
    }

    /// Opens the module's bytes once, through `mapping` of process `pid`. What cannot be
    /// opened stays without segments: its addresses are shown as they are.
    pub fn open(&mut self, id: ModuleId, pid: u32, mapping: &Mapping) {
        let module = &mut self.list[id.0 as usize];
        if module.is_open {
            return;
        }
        module.is_open = true;
        let opened = match mapping.kind {
            MappingKind::Vdso => vdso_image(),
            _ => open_mapped_file(pid, mapping).map(|file| Source::File(Arc::new(file))),
        };
        match opened.and_then(|source| Ok((read_segments(&source)?, source))) {
            Ok((segments, source)) => {
                module.segments = segments;
                match PythonModule::recognise(&source) {
                    Ok(python) => module.python = python.map(Arc::new),
                    Err(reason) => note(&mut self.unreadable, format!("`{}`: {reason}", module.display)),
                }
                module.tasks = tasks_of(&module.display, module.python.is_some(), &source);
                module.source = Some(source);
                module.root = Some(PathBuf::from(format!("/proc/{pid}/root")));
            }
            // What is met again is opened then.
            Err(_) if procfs::is_blind() => module.is_open = false,
            Err(error) => {
                module.rows = Rows::Absent;
                note(
                    &mut self.unreadable,
                    format!("no unwind rows and symbols of `{}`: {error}", module.display),
                );
            }
        }
    }

    /// Opens the files among `mappings` of process `pid` that by their names belong to Python, so that an
    /// interpreter is known before its first sample.
    pub fn open_python(&mut self, pid: u32, mappings: &[MappedModule]) {
        for mapped in mappings {
            let Some(id) = mapped.module else { continue };
            let module = &self.list[id.0 as usize];
            if !module.is_open && ["python", "pypy", ASYNCIO].iter().any(|word| module.display.contains(word))
            {
                self.open(id, pid, &mapped.mapping);
            }
        }
    }

    /// Adds a file before any process maps it, so that its rows are ready by then.
    pub fn add_file(&mut self, path: &str, id: FileId, file: File) -> ModuleId {
        if let Some(known) = self.by_file.get(&id) {
            return *known;
        }
        let module = self.push(path.to_owned());
        self.by_file.insert(id, module);
        let source = Source::File(Arc::new(file));
        if let Ok(segments) = read_segments(&source) {
            let entry = &mut self.list[module.0 as usize];
            entry.segments = segments;
            entry.python = PythonModule::recognise(&source).ok().flatten().map(Arc::new);
            entry.source = Some(source);
            entry.is_open = true;
        }
        module
    }

    /// The module named `id`.
    pub fn get(&self, id: ModuleId) -> &Module {
        &self.list[id.0 as usize]
    }

    /// The module named `id`, to note the state of its rows.
    pub fn get_mut(&mut self, id: ModuleId) -> &mut Module {
        &mut self.list[id.0 as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ModuleId, &Module)> {
        (0..).map(ModuleId).zip(&self.list)
    }
}

/// `_greenlet.cpython-311-x86_64-linux-gnu.so`, up to version 0.4 `greenlet.cpython-…`.
fn is_greenlet(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.trim_start_matches('_').strip_prefix("greenlet").is_some_and(|rest| rest.starts_with('.'))
}

/// Part of the name of the extension module in a file of its own.
const ASYNCIO: &str = "_asyncio";

/// What the file tells of tasks: asyncio's extension module, or an interpreter that has it built in.
fn tasks_of(path: &str, has_python: bool, source: &Source) -> Option<AsyncioOffsets> {
    let Source::File(file) = source else { return None };
    let is_candidate = has_python || path.contains(ASYNCIO);
    let map = is_candidate.then(|| FileMap::map(file).ok()).flatten()?;
    AsyncioOffsets::of_elf(&map).ok().flatten()
}

/// Tells and keeps a reason, unless there are enough.
pub(super) fn note(notes: &mut Vec<String>, text: String) {
    if notes.len() < MAX_UNREADABLE {
        warn!("{text}");
        notes.push(text);
    }
}

impl Module {
    /// `AVMA − SVMA` of `mapping`; `None` when no segment of the file is mapped there.
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        /// A mapping begins at the page of its segment's first byte.
        const PAGE_MASK: u64 = 4095;
        let end = mapping.offset.saturating_add(mapping.len_bytes());
        let segment = self.segments.iter().find(|segment| {
            segment.offset & !PAGE_MASK < end
                && mapping.offset < segment.offset.saturating_add(segment.len_bytes)
        })?;
        Some(mapping.bias(segment.svma, segment.offset))
    }
}

/// The program headers; nearly always in the first page, else the part of the file that holds them.
fn read_segments(source: &Source) -> Result<Vec<Segment>> {
    /// Program headers beyond this offset are not looked for: linkers put them right behind the file header.
    const HEADER_BYTES: usize = 64 * 1024;
    let mut bytes = vec![0; 4096];
    let parse = |bytes: &[u8]| parse_segments(bytes);
    match source {
        Source::Image(image) => parse(image),
        Source::File(file) => {
            let count = file.read_at(&mut bytes, 0).context(|| "failed to read its headers".to_owned())?;
            bytes.truncate(count);
            parse(&bytes).or_else(|_| {
                bytes.resize(HEADER_BYTES, 0);
                let count =
                    file.read_at(&mut bytes, 0).context(|| "failed to read its headers".to_owned())?;
                bytes.truncate(count);
                parse(&bytes)
            })
        }
    }
}

fn parse_segments(bytes: &[u8]) -> Result<Vec<Segment>> {
    let corrupt = |_| Error::new(ErrorKind::Corrupt, "not an ELF file");
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(corrupt)?;
    let endian = header.endian().map_err(corrupt)?;
    if header.e_machine.get(endian) != elf::EM_X86_64 {
        return Err(Error::new(ErrorKind::UnsupportedTarget, "not an x86-64 file"));
    }
    let headers = header.program_headers(endian, bytes).map_err(corrupt)?;
    let executable =
        headers.iter().filter(|h| h.p_type(endian) == PT_LOAD && h.p_flags(endian).0 & PF_X.0 != 0);
    let mut segments: Vec<Segment> = executable
        .map(|h| Segment {
            offset: h.p_offset(endian),
            svma: Svma(h.p_vaddr(endian)),
            len_bytes: h.p_filesz(endian),
        })
        .collect();
    segments.sort_by_key(|segment| segment.offset);
    Ok(segments)
}

/// Our own vDSO: the kernel maps the same image into every 64-bit process.
fn vdso_image() -> Result<Source> {
    let intent = || "failed to read the vDSO".to_owned();
    let maps = procfs::read_mappings(std::process::id())?;
    let mapping = maps.iter().find(|mapping| mapping.kind == MappingKind::Vdso);
    let mapping = mapping.ok_or_else(|| Error::new(ErrorKind::NotFound, "no vDSO is mapped"))?;
    /// The vDSO of Linux 6.18 has 8 KiB; more than this is none.
    const MAX_VDSO_BYTES: u64 = 1 << 20;
    let mut image = vec![0; mapping.len_bytes().min(MAX_VDSO_BYTES) as usize];
    let memory = File::open("/proc/self/mem").context(intent)?;
    memory.read_exact_at(&mut image, mapping.start.0).context(intent)?;
    Ok(Source::Image(image.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Avma;

    fn mapping(start: u64, len: u64, offset: u64) -> Mapping {
        Mapping { start: Avma(start), end: Avma(start + len), offset, kind: MappingKind::Anonymous }
    }

    /// The bias follows from the segment that the mapping shows, not from the first one; a mapping of none has none.
    #[test]
    fn bias_comes_from_the_mapped_segment() {
        let mut modules = Modules::default();
        let id = modules.push("a".to_owned());
        let segment = |offset, svma| Segment { offset, svma: Svma(svma), len_bytes: 0x800 };
        modules.get_mut(id).segments = vec![segment(0x1040, 0x2040), segment(0x5000, 0x9000)];
        let module = modules.get(id);
        assert_eq!(module.bias(&mapping(0x70_1000, 0x1000, 0x1000)), Some(0x70_0000 - 0x1000));
        assert_eq!(module.bias(&mapping(0x80_5000, 0x1000, 0x5000)), Some(0x80_5000 - 0x9000));
        assert_eq!(module.bias(&mapping(0x80_5000, 0x1000, 0x3000)), None);
    }

    /// Our own executable has a code segment that holds this very function.
    #[test]
    fn own_segments_hold_own_code() {
        let file = File::open("/proc/self/exe").expect("we run");
        let segments = read_segments(&Source::File(Arc::new(file))).expect("we are an ELF file");
        assert!(segments.iter().all(|segment| segment.len_bytes > 0) && !segments.is_empty());
    }

    proptest::proptest! {
        /// Any bytes, with and without an ELF magic in front, are segments or a refusal.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), is_elf: bool) {
            let magic: &[u8] = if is_elf { b"\x7fELF\x02\x01\x01" } else { b"" };
            let _segments_or_refusal = parse_segments(&[magic, &bytes].concat());
        }
    }
}
