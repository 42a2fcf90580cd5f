//! The entries of `.eh_frame` and `.debug_frame`: CIEs, FDEs and the pointer
//! encodings between them.
//!
//! Layout: LSB 5.0 Core, 10.6 "Exception Frames"; DWARF 5, 6.4.1. In
//! `.eh_frame` an FDE names its CIE by the distance back from the field itself
//! and a CIE has id 0; in `.debug_frame` it is the offset in the section and
//! the id is all ones.

use std::collections::HashMap;

use super::cfi::run_cie;
use super::reader::Reader;
use super::state::State;

/// Longest initial instructions accepted in a CIE; compilers write fewer than 64 bytes. A CIE with
/// more is ignored, and its FDEs with it.
const MAX_CIE_INSTRUCTION_BYTES: usize = 1024;
/// Most CIEs kept. Linkers merge them to a handful; unmerged there is one per object file. FDEs of
/// further ones are ignored.
const MAX_CIES: usize = 65_536;

/// Which of the two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Format {
    Eh,
    Debug,
}

/// The bytes of a section (or of what follows the place where one begins) and its stated address.
#[derive(Clone, Copy)]
pub(super) struct FrameSection<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) svma: u64,
    pub(super) format: Format,
}

/// What all FDEs of a compilation share.
#[derive(Clone, Debug)]
pub(super) struct Cie {
    pub(super) code_align: u64,
    pub(super) data_align: i64,
    /// Augmentation `S`.
    pub(super) signal_frame: bool,
    /// Augmentation `z`: FDEs have augmentation data, too.
    augmented: bool,
    pointer_encoding: u8,
    pub(super) initial: State,
}

/// The instructions for `[start, end)`, stated addresses, `start <= end`.
pub(super) struct Fde<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) instructions: &'a [u8],
}

/// One entry's frame, before its content is looked at.
pub(super) struct Entry<'a> {
    /// Where the CIE is; `None` if this entry is one.
    cie: Option<usize>,
    /// Behind the CIE pointer, up to the entry's end.
    body: Reader<'a>,
    body_offset: usize,
    /// Offset of the next entry.
    pub(super) next: usize,
}

impl<'a> FrameSection<'a> {
    /// The entry at `offset`; `None` at the terminator, at the end and for nonsense.
    pub(super) fn entry(&self, offset: usize) -> Option<Entry<'a>> {
        let mut reader = Reader::new(self.bytes.get(offset..)?);
        let (len, wide) = match reader.u32()? {
            0 => return None,
            u32::MAX => (usize::try_from(reader.u64()?).ok()?, true),
            len => (usize::try_from(len).ok()?, false),
        };
        let field = self.bytes.len() - reader.len();
        let mut body = Reader::new(reader.take(len)?);
        let next = field.checked_add(len)?;
        let cie = match self.format {
            Format::Eh => match usize::try_from(body.u32()?).ok()? {
                0 => None,
                distance => Some(field.checked_sub(distance)?),
            },
            Format::Debug if wide => match body.u64()? {
                u64::MAX => None,
                offset => Some(usize::try_from(offset).ok()?),
            },
            Format::Debug => match body.u32()? {
                u32::MAX => None,
                offset => Some(usize::try_from(offset).ok()?),
            },
        };
        Some(Entry { cie, body, body_offset: next.checked_sub(body.len())?, next })
    }

    fn cie(&self, offset: usize) -> Option<Cie> {
        let entry = self.entry(offset).filter(|entry| entry.cie.is_none())?;
        let mut body = entry.body;
        let version = body.u8().filter(|version| matches!(version, 1 | 3 | 4))?;
        let augmentation = body.c_string()?;
        if version == 4 {
            // address_size and segment_selector_size
            (body.take(2)? == [8, 0]).then_some(())?;
        }
        let code_align = body.uleb()?;
        let data_align = body.sleb()?;
        let return_address = if version == 1 { body.u8()?.into() } else { body.uleb()? };
        (return_address == u64::from(super::state::RETURN_ADDRESS)).then_some(())?;
        let mut cie = Cie {
            code_align,
            data_align,
            signal_frame: false,
            augmented: augmentation.first() == Some(&b'z'),
            pointer_encoding: DW_EH_PE_ABSPTR,
            initial: State::EMPTY,
        };
        if cie.augmented {
            let len = usize::try_from(body.uleb()?).ok()?;
            cie.read_augmentation(augmentation, Reader::new(body.take(len)?))?;
        } else if !augmentation.is_empty() {
            return None;
        }
        let code = Some(body.rest()).filter(|code| code.len() <= MAX_CIE_INSTRUCTION_BYTES)?;
        cie.initial = run_cie(code, code_align, data_align).ok()?;
        Some(cie)
    }

    fn fde(&self, entry: &Entry<'a>, cie: &Cie) -> Option<Fde<'a>> {
        let mut body = entry.body;
        let place = self.svma.wrapping_add(entry.body_offset as u64);
        let start = pointer(&mut body, cie.pointer_encoding, Bases { place, data: None })?;
        let len = pointer_value(&mut body, cie.pointer_encoding)?;
        if cie.augmented {
            let len = usize::try_from(body.uleb()?).ok()?;
            body.take(len)?;
        }
        Some(Fde { start, end: start.checked_add(len)?, instructions: body.rest() })
    }
}

impl Cie {
    fn read_augmentation(&mut self, letters: &[u8], mut data: Reader<'_>) -> Option<()> {
        for letter in letters.iter().skip(1) {
            match letter {
                b'S' => self.signal_frame = true,
                b'R' => self.pointer_encoding = data.u8()?,
                b'L' => drop(data.u8()?),
                b'P' => {
                    let encoding = data.u8()?;
                    pointer_value(&mut data, encoding)?;
                }
                // The length in front of the data lets us pass over what we do not know.
                _ => break,
            }
        }
        Some(())
    }
}

/// The CIEs parsed so far; nonsensical ones are remembered as such.
#[derive(Default)]
pub(super) struct Cies {
    parsed: Vec<Option<Cie>>,
    by_offset: HashMap<(Format, usize), usize>,
    last: Option<((Format, usize), usize)>,
}

impl Cies {
    /// The FDE at `entry` with its CIE; `None` if it is a CIE itself or nonsense.
    #[inline]
    pub(super) fn fde<'a>(
        &mut self,
        section: &FrameSection<'a>,
        entry: &Entry<'a>,
    ) -> Option<(&Cie, Fde<'a>)> {
        let offset = entry.cie?;
        let key = (section.format, offset);
        let index = match self.last {
            Some((last, index)) if last == key => index,
            _ => self.index_of(section, key)?,
        };
        let cie = self.parsed.get(index)?.as_ref()?;
        let fde = section.fde(entry, cie)?;
        Some((cie, fde))
    }

    fn index_of(&mut self, section: &FrameSection<'_>, key: (Format, usize)) -> Option<usize> {
        let index = match self.by_offset.get(&key) {
            Some(index) => *index,
            None if self.parsed.len() >= MAX_CIES => return None,
            None => {
                self.parsed.push(section.cie(key.1));
                self.by_offset.insert(key, self.parsed.len() - 1);
                self.parsed.len() - 1
            }
        };
        self.last = Some((key, index));
        Some(index)
    }
}

/// What encoded pointers may be relative to.
#[derive(Clone, Copy)]
pub(super) struct Bases {
    /// Stated address of the pointer itself.
    pub(super) place: u64,
    /// What "data relative" means: the start of `.eh_frame_hdr`, inside it.
    pub(super) data: Option<u64>,
}

const DW_EH_PE_ABSPTR: u8 = 0x00;

/// A pointer of the given `DW_EH_PE` encoding (LSB 5.0 Core, 10.5). Indirect ones and those
/// relative to text or function are never used for code addresses.
pub(super) fn pointer(reader: &mut Reader<'_>, encoding: u8, bases: Bases) -> Option<u64> {
    let value = pointer_value(reader, encoding)?;
    match encoding & 0xf0 {
        0x00 => Some(value),
        0x10 => Some(bases.place.wrapping_add(value)),
        0x30 => bases.data.map(|data| data.wrapping_add(value)),
        _ => None,
    }
}

/// The number alone, sign-extended to 64 bits.
pub(super) fn pointer_value(reader: &mut Reader<'_>, encoding: u8) -> Option<u64> {
    match encoding & 0x0f {
        0x00 | 0x04 | 0x0c => reader.u64(),
        0x01 => reader.uleb(),
        0x02 => reader.u16().map(u64::from),
        0x03 => reader.u32().map(u64::from),
        0x09 => reader.sleb().map(|value| value as u64),
        0x0a => reader.u16().map(|value| i64::from(value as i16) as u64),
        0x0b => reader.u32().map(|value| i64::from(value as i32) as u64),
        _ => None,
    }
}
