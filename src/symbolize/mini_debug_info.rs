//! MiniDebugInfo: a symbol table that Fedora and its kin leave in stripped
//! binaries, as an xz-compressed ELF file in the section `.gnu_debugdata`
//! (GDB manual, "Debugging information in a special section").

use std::io::Read as _;

use lzma_rust2::XzReader;
use object::{Object as _, ObjectSection as _};

use super::elf::Elf;

/// Largest image accepted. Those of large programs (libwebkit, the JVM) have
/// some 10 MB; what is longer is ignored as a whole.
const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// Memory for xz's dictionary; `xz -9` needs 65 MiB.
const MAX_DICTIONARY_KIB: u32 = 72 << 10;

/// The ELF image inside `elf`; `None` when there is none or it is damaged.
pub(super) fn read(elf: &Elf<'_>) -> Option<Vec<u8>> {
    let packed = elf.section_by_name(".gnu_debugdata")?.data().ok()?;
    let reader = XzReader::new_mem_limit(packed, false, MAX_DICTIONARY_KIB);
    let mut image = Vec::new();
    reader.take(MAX_IMAGE_BYTES + 1).read_to_end(&mut image).ok()?;
    (image.len() as u64 <= MAX_IMAGE_BYTES).then_some(image)
}
