//! Where an ELF file keeps what unwinding needs: its segments, and the frame
//! sections, found through program headers as far as possible so that files
//! without section headers work, too.

use std::ops::Range;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{CompressedData, CompressionFormat, LittleEndian as Le};

use crate::{Error, ErrorKind, Result};

use super::frames::{Bases, Format, FrameSection, pointer};
use super::reader::Reader;

/// Most loadable segments looked at; linkers write four to twenty. Further ones are as if absent.
const MAX_SEGMENTS: usize = 256;
/// A function's start and its FDE's address, 4 bytes each.
const PAIR_BYTES: usize = 8;
/// Largest `.debug_frame` accepted when it is compressed; Chrome's is below 100 MB. A larger one is ignored.
const MAX_DECOMPRESSED_BYTES: u64 = 256 << 20;

/// A `PT_LOAD` with its bytes in the file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) svma: Range<u64>,
    /// May be shorter than `svma`, or empty.
    pub(super) file: Range<usize>,
    pub(super) executable: bool,
}

/// Frame bytes of the file itself, or decompressed.
#[derive(Clone, Debug)]
pub(super) enum Bytes {
    File(Range<usize>),
    Owned(Box<[u8]>),
}

/// A frame section of some file.
#[derive(Clone, Debug)]
pub(super) struct Part {
    bytes: Bytes,
    svma: u64,
    format: Format,
}

impl Part {
    /// The section in `elf`; empty when `elf` is not what it was.
    pub(super) fn section<'a>(&'a self, elf: &'a [u8]) -> FrameSection<'a> {
        let bytes = match &self.bytes {
            Bytes::File(range) => elf.get(range.clone()).unwrap_or(&[]),
            Bytes::Owned(bytes) => bytes,
        };
        FrameSection { bytes, svma: self.svma, format: self.format }
    }
}

/// The binary search table of `.eh_frame_hdr`.
#[derive(Clone, Debug)]
pub(super) struct SearchTable {
    /// Where the pairs are, a multiple of 8 bytes long.
    file: Range<usize>,
    /// Stated address of the header, which both numbers of a pair count from.
    hdr_svma: u64,
}

impl SearchTable {
    /// Start and offset in `section` of each FDE that lies there, in the order of the table.
    pub(super) fn fdes<'a>(
        &'a self,
        elf: &'a [u8],
        section: &'a FrameSection<'_>,
    ) -> impl Iterator<Item = (u64, u32)> + 'a {
        let (pairs, _) = elf.get(self.file.clone()).unwrap_or(&[]).as_chunks::<PAIR_BYTES>();
        pairs.iter().filter_map(|&[a, b, c, d, e, f, g, h]| {
            let svma = |distance: i32| self.hdr_svma.wrapping_add(i64::from(distance) as u64);
            let start = svma(i32::from_le_bytes([a, b, c, d]));
            let offset = svma(i32::from_le_bytes([e, f, g, h])).checked_sub(section.svma)?;
            Some((start, u32::try_from(offset).ok()?))
        })
    }
}

/// The parts of one file.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) segments: Vec<Segment>,
    pub(super) entry: u64,
    pub(super) eh_frame: Option<Part>,
    pub(super) debug_frame: Option<Part>,
    pub(super) search_table: Option<SearchTable>,
}

impl Image {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, what.to_owned());
        let header = FileHeader64::<Le>::parse(bytes).map_err(|_| corrupt("not a 64-bit ELF file"))?;
        let endian = header.endian().map_err(|_| corrupt("not a little-endian ELF file"))?;
        if header.e_machine.get(endian) != elf::EM_X86_64 {
            return Err(Error::new(ErrorKind::UnsupportedTarget, "not an x86-64 ELF file"));
        }
        let headers =
            header.program_headers(endian, bytes).map_err(|_| corrupt("program headers out of bounds"))?;
        let mut segments = Vec::new();
        let mut hdr = None;
        for header in headers {
            let start = header.p_vaddr(endian);
            let (offset, len) = header.file_range(endian);
            let Some(file) = within(bytes, offset, len) else { continue };
            match header.p_type(endian) {
                elf::PT_LOAD if segments.len() < MAX_SEGMENTS => segments.push(Segment {
                    svma: start..start.saturating_add(header.p_memsz(endian)),
                    file,
                    executable: header.p_flags(endian).contains(elf::PF_X),
                }),
                elf::PT_GNU_EH_FRAME => hdr = Some((start, file)),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| (segment.svma.start, segment.svma.end));
        let entry = header.e_entry(endian);
        let mut image = Self { segments, entry, eh_frame: None, debug_frame: None, search_table: None };
        image.read_sections(header, bytes);
        if let Some((svma, range)) = hdr {
            image.read_hdr(bytes, svma, range);
        }
        Ok(image)
    }

    /// The executable segments, ascending.
    pub(super) fn executable(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.executable && !segment.svma.is_empty())
    }

    /// The machine code in `wanted` with its address, piece by piece, ascending.
    pub(super) fn code<'a>(
        &'a self,
        elf: &'a [u8],
        wanted: Range<u64>,
    ) -> impl Iterator<Item = (u64, &'a [u8])> {
        let mut done = 0;
        self.executable().filter_map(move |segment| {
            let start = wanted.start.max(segment.svma.start).max(done);
            let end = wanted.end.min(segment.svma.end);
            let skipped = usize::try_from(start.checked_sub(segment.svma.start)?).ok()?;
            let len = usize::try_from(end.checked_sub(start)?).ok()?;
            done = end;
            let code = elf.get(segment.file.clone())?.get(skipped..)?;
            Some((start, code.get(..len).unwrap_or(code)))
        })
    }

    /// From `svma` to the end of its segment's bytes in the file.
    fn file_range_from(&self, svma: u64) -> Option<Range<usize>> {
        let segment = self.segments.iter().find(|segment| segment.svma.contains(&svma))?;
        let skipped = usize::try_from(svma - segment.svma.start).ok()?;
        let start = segment.file.start.checked_add(skipped)?;
        (start < segment.file.end).then_some(start..segment.file.end)
    }

    /// Section headers are a convenience: without usable ones the program headers must do.
    fn read_sections(&mut self, header: &FileHeader64<Le>, bytes: &[u8]) {
        let Ok(sections) = header.sections(Le, bytes) else { return };
        for section in sections.iter() {
            let Ok(name) = sections.section_name(Le, section) else { continue };
            let format = match name {
                b".eh_frame" => Format::Eh,
                b".debug_frame" => Format::Debug,
                _ => continue,
            };
            let content = match section.compression(Le, bytes) {
                Ok(Some((header, offset, len))) => {
                    within(bytes, offset, len).and_then(|range| decompress(header, bytes.get(range)?))
                }
                Ok(None) => section
                    .file_range(Le)
                    .and_then(|(offset, len)| within(bytes, offset, len))
                    .map(Bytes::File),
                Err(_) => None,
            };
            let svma = section.sh_addr(Le);
            let part = content.map(|bytes| Part { bytes, svma, format });
            match format {
                Format::Eh => self.eh_frame = self.eh_frame.take().or(part),
                Format::Debug => self.debug_frame = self.debug_frame.take().or(part),
            }
        }
    }

    /// `.eh_frame_hdr` (LSB 5.0 Core, 10.6.2): version 1, three encodings, the address of
    /// `.eh_frame`, the number of pairs and the pairs. Any other form is as if absent.
    fn read_hdr(&mut self, bytes: &[u8], svma: u64, range: Range<usize>) -> Option<()> {
        /// `DW_EH_PE_datarel | DW_EH_PE_sdata4`: the only form of table that linkers write.
        const TABLE_ENCODING: u8 = 0x3b;
        let mut reader = Reader::new(bytes.get(range.clone())?);
        let total = reader.len();
        let &[1, frame_encoding, count_encoding, table_encoding] = reader.take(4)? else { return None };
        let place = |reader: &Reader<'_>| svma.wrapping_add((total - reader.len()) as u64);
        let bases = Bases { place: place(&reader), data: Some(svma) };
        let frame = pointer(&mut reader, frame_encoding, bases)?;
        if self.eh_frame.is_none() {
            let bytes = Bytes::File(self.file_range_from(frame)?);
            self.eh_frame = Some(Part { bytes, svma: frame, format: Format::Eh });
        }
        let bases = Bases { place: place(&reader), data: Some(svma) };
        let count = usize::try_from(pointer(&mut reader, count_encoding, bases)?).ok()?;
        if table_encoding != TABLE_ENCODING || count == 0 {
            return None;
        }
        let skipped = total - reader.len();
        let table_len = reader.take(count.checked_mul(PAIR_BYTES)?)?.len();
        let start = range.start + skipped;
        self.search_table = Some(SearchTable { file: start..start + table_len, hdr_svma: svma });
        Some(())
    }
}

fn decompress(header: &elf::CompressionHeader64<Le>, data: &[u8]) -> Option<Bytes> {
    let format = match header.ch_type.get(Le) {
        elf::ELFCOMPRESS_ZLIB => CompressionFormat::Zlib,
        elf::ELFCOMPRESS_ZSTD => CompressionFormat::Zstandard,
        _ => return None,
    };
    let uncompressed_size = header.ch_size.get(Le);
    if uncompressed_size > MAX_DECOMPRESSED_BYTES {
        return None;
    }
    let content = CompressedData { format, data, uncompressed_size }.decompress().ok()?;
    Some(Bytes::Owned(content.into_owned().into_boxed_slice()))
}

fn within(bytes: &[u8], offset: u64, len: u64) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    (end <= bytes.len()).then_some(start..end)
}
