//! The bytes that are mapped: a binary's sections as both judges want them, and its
//! rows as our walker does.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use object::{Object, ObjectSection, ObjectSegment, SegmentFlags};
use txprof::model::{FileId, Mapping, MappingKind};
use txprof::sampler::{TableId, Tables};
use txprof::target::mapped_file::open_mapped_file;
use txprof::unwind::FdeIndex;

/// A section by its stated address.
#[derive(Clone, Default)]
pub struct Section {
    pub svma: Range<u64>,
    pub bytes: Arc<[u8]>,
}

/// A binary.
pub struct Image {
    pub name: String,
    pub text: Section,
    pub got: Section,
    pub eh_frame: Section,
    pub eh_frame_hdr: Section,
    /// Executable segments: offset in the file, stated address, bytes.
    segments: Vec<(u64, u64, Vec<u8>)>,
    /// Its rows; `None` where it has no unwind information.
    pub table: Option<TableId>,
}

impl Image {
    fn new(name: String, bytes: &[u8], tables: &mut Tables) -> Option<Self> {
        let elf = object::File::parse(bytes).ok()?;
        let section = |name: &str| {
            let section = elf.section_by_name(name)?;
            let svma = section.address()..section.address() + section.size();
            Some(Section { svma, bytes: section.data().ok()?.into() })
        };
        let section = |name: &str| section(name).unwrap_or_default();
        let executable = elf.segments().filter(
            |segment| matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & 1 != 0),
        );
        let segments = executable.filter_map(|segment| {
            Some((segment.file_range().0, segment.address(), segment.data().ok()?.to_vec()))
        });
        Some(Self {
            text: section(".text"),
            got: section(".got"),
            eh_frame: section(".eh_frame"),
            eh_frame_hdr: section(".eh_frame_hdr"),
            segments: segments.collect(),
            table: load(bytes, tables),
            name,
        })
    }

    /// AVMA − SVMA where `mapping` shows one of the segments.
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        let (first, last) = (mapping.offset, mapping.offset + mapping.len_bytes());
        let shown =
            |(offset, _, bytes): &&(u64, u64, Vec<u8>)| *offset < last && first < offset + bytes.len() as u64;
        let (offset, svma, _) = self.segments.iter().find(shown)?;
        Some(mapping.start.0.wrapping_sub(mapping.offset).wrapping_sub(svma.wrapping_sub(*offset)))
    }

    /// The code at this stated address.
    pub fn code(&self, svma: u64) -> &[u8] {
        let at = |(_, start, bytes): &'_ (u64, u64, Vec<u8>)| {
            let offset = usize::try_from(svma.checked_sub(*start)?).ok()?;
            (offset < bytes.len()).then_some(offset)
        };
        let found = self.segments.iter().find_map(|segment| Some(&segment.2[at(segment)?..]));
        found.unwrap_or_default()
    }
}

/// Compiles all rows of a binary into `tables`.
fn load(bytes: &[u8], tables: &mut Tables) -> Option<TableId> {
    let index = FdeIndex::parse(bytes).ok()?;
    let pages = index.page_range();
    let table = index.build_pages(bytes, pages.clone());
    let id = tables.add_file(pages.start, usize::try_from(pages.end - pages.start).ok()?, 1)?;
    assert!(tables.load(id, &table, 1), "one session's binaries fit");
    Some(id)
}

/// Binaries met so far, each once.
#[derive(Default)]
pub struct Images {
    files: HashMap<FileId, Option<Arc<Image>>>,
    vdso: Option<Arc<Image>>,
}

impl Images {
    /// What backs `mapping` of `pid`; `None` for generated code and what is no binary.
    pub fn of_mapping(&mut self, pid: u32, mapping: &Mapping, tables: &mut Tables) -> Option<Arc<Image>> {
        match &mapping.kind {
            MappingKind::File { id, path } => {
                if let Some(known) = self.files.get(id) {
                    return known.clone();
                }
                let mut bytes = Vec::new();
                let file = open_mapped_file(pid, mapping);
                let read =
                    file.ok().and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes).ok());
                let name = path.rsplit('/').next().unwrap_or(path).to_owned();
                let image = read.and_then(|_| Image::new(name, &bytes, tables)).map(Arc::new);
                self.files.insert(*id, image.clone());
                image
            }
            MappingKind::Vdso => {
                if self.vdso.is_none() {
                    let mut bytes = vec![0; mapping.len_bytes() as usize];
                    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
                    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, mapping.start.0).ok()?;
                    self.vdso = Image::new("[vdso]".to_owned(), &bytes, tables).map(Arc::new);
                }
                self.vdso.clone()
            }
            MappingKind::Vsyscall | MappingKind::Anonymous => None,
        }
    }
}
