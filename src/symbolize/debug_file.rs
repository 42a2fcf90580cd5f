//! Finds the file that holds a stripped module's debug information.
//!
//! In this order, each first as the target sees the file system, then as we do:
//!
//! ```text
//! build id abcdef…      DEBUG/.build-id/ab/cdef….debug
//! .gnu_debuglink f      DIR/f   DIR/.debug/f   DEBUG/DIR/f
//! ```
//!
//! where DIR is the module's directory and DEBUG each configured directory. A
//! file is believed only if it has the module's build id or, where either has
//! none, the checksum that the link states; so a file of another version, or of
//! another root, never answers. The part that `dwz` shares between debug files
//! is named by `.gnu_debugaltlink` and always identified by build id.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use object::Object as _;

use super::elf::Elf;
use crate::model::BuildId;
use crate::sys::file_map::FileMap;
use crate::target::namespace::Root;

/// Largest file whose checksum is computed, at about 1 GB/s. Files with a build id need none.
const MAX_CHECKED_BYTES: usize = 2 << 30;

/// A debug file that was found.
#[derive(Debug)]
pub(super) struct DebugFile {
    /// Its content.
    pub(super) map: FileMap,
    /// Where it lies; its own links are relative to this.
    pub(super) directory: PathBuf,
}

/// Where to look on behalf of one module.
#[derive(Debug)]
pub(super) struct Search {
    roots: Vec<Root>,
    binary: PathBuf,
    debug_directories: Vec<PathBuf>,
}

impl Search {
    /// For the module at `binary`, which is a path below `root` and also tried below `/`.
    pub(super) fn new(root: Option<&Path>, binary: &Path, debug_directories: &[PathBuf]) -> Self {
        let roots =
            root.into_iter().chain([Path::new("/")]).filter_map(|root| Root::open(root).ok()).collect();
        Self { roots, binary: binary.to_owned(), debug_directories: debug_directories.to_vec() }
    }

    /// The directory of the module, `/` if it has none.
    pub(super) fn binary_directory(&self) -> &Path {
        self.binary.parent().unwrap_or(Path::new("/"))
    }

    /// The file at `path` in the first root that has it.
    pub(super) fn find(&self, path: &Path) -> Option<FileMap> {
        self.find_where(path, |_| true)
    }

    fn find_where(&self, path: &Path, accept: impl Fn(&[u8]) -> bool) -> Option<FileMap> {
        let maps = self.roots.iter().filter_map(|root| FileMap::map(&root.open_file(path).ok()?).ok());
        maps.into_iter().find(|map| accept(map))
    }

    /// The debug file of `elf`; `None` where there is none that matches.
    pub(super) fn find_debug_file(&self, elf: &Elf<'_>) -> Option<DebugFile> {
        let id = build_id(elf);
        if let Some(found) = id.as_ref().and_then(|id| self.find_by_build_id(id)) {
            return Some(found);
        }
        let (name, checksum) = elf.gnu_debuglink().ok()??;
        let name = plain_name(name)?;
        let accept = |bytes: &[u8]| match (&id, Elf::parse(bytes).ok().as_ref().and_then(build_id)) {
            (Some(id), Some(found)) => *id == found,
            _ => bytes.len() <= MAX_CHECKED_BYTES && crc32(bytes) == checksum,
        };
        let directory = self.binary_directory();
        let inside = directory.strip_prefix("/").unwrap_or(directory);
        let beside = [directory.to_owned(), directory.join(".debug")];
        let central = self.debug_directories.iter().map(|debug| debug.join(inside));
        beside.into_iter().chain(central).find_map(|directory| {
            let map = self.find_where(&directory.join(name), accept)?;
            Some(DebugFile { map, directory })
        })
    }

    /// What `dwz` moved out of `debug`, a debug file lying in `directory`.
    pub(super) fn find_supplement(&self, debug: &Elf<'_>, directory: &Path) -> Option<FileMap> {
        let (link, id) = debug.gnu_debugaltlink().ok()??;
        let id = BuildId::from_bytes(id)?;
        let path = directory.join(std::ffi::OsStr::from_bytes(link));
        let accept = |bytes: &[u8]| has_build_id(bytes, &id);
        self.find_where(&path, accept).or_else(|| Some(self.find_by_build_id(&id)?.map))
    }

    /// The split units of the module, packed by `dwp` into a file beside it.
    pub(super) fn find_package(&self) -> Option<FileMap> {
        let mut path = self.binary.as_os_str().to_owned();
        path.push(".dwp");
        self.find(Path::new(&path))
    }

    fn find_by_build_id(&self, id: &BuildId) -> Option<DebugFile> {
        let text = id.to_string();
        let (first, rest) = text.split_at_checked(2)?;
        self.debug_directories.iter().find_map(|debug| {
            let directory = debug.join(".build-id").join(first);
            let path = directory.join(format!("{rest}.debug"));
            let map = self.find_where(&path, |bytes| has_build_id(bytes, id))?;
            Some(DebugFile { map, directory })
        })
    }
}

fn build_id(elf: &Elf<'_>) -> Option<BuildId> {
    BuildId::from_bytes(elf.build_id().ok()??)
}

fn has_build_id(bytes: &[u8], id: &BuildId) -> bool {
    Elf::parse(bytes).ok().as_ref().and_then(build_id).as_ref() == Some(id)
}

/// A link names a file, not a way: with a separator in it, it is not followed.
fn plain_name(name: &[u8]) -> Option<&Path> {
    let plain = !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..";
    plain.then(|| Path::new(std::ffi::OsStr::from_bytes(name)))
}

/// The checksum of `.gnu_debuglink`: CRC-32 as in zlib, polynomial 0xedb88320
/// (GDB manual, "Debugging Information in Separate Files"). Four bytes a step.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLES: [[u32; 256]; 4] = crc32_tables();
    let entry = |table: usize, word: u32, shift: u32| TABLES[table][(word >> shift & 0xff) as usize];
    let (words, tail) = bytes.as_chunks::<4>();
    let mut crc = u32::MAX;
    for word in words {
        let word = crc ^ u32::from_le_bytes(*word);
        crc = entry(3, word, 0) ^ entry(2, word, 8) ^ entry(1, word, 16) ^ entry(0, word, 24);
    }
    for byte in tail {
        crc = entry(0, crc ^ u32::from(*byte), 0) ^ (crc >> 8);
    }
    !crc
}

const fn crc32_tables() -> [[u32; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][index] = crc;
        index += 1;
    }
    let mut index = 0;
    while index < 256 {
        let mut table = 1;
        while table < 4 {
            let before: u32 = tables[table - 1][index];
            tables[table][index] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            table += 1;
        }
        index += 1;
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value that every description of this CRC gives, and a length that is no multiple of four.
    #[test]
    fn checksum_is_that_of_zlib() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"12345678"), 0x9ae0_daaf);
    }

    /// A link cannot lead out of the directories that are searched.
    #[test]
    fn link_names_only_a_file() {
        assert_eq!(plain_name(b"a.debug"), Some(Path::new("a.debug")));
        for odd in [&b""[..], b".", b"..", b"../a", b"/etc/shadow", b"a/b"] {
            assert_eq!(plain_name(odd), None);
        }
    }
}
