//! Unwind tables on disk, so that a binary is compiled once and not at every attach.
//!
//! One file per binary, named by build id and a fingerprint of what the table
//! depends on, below `$TXPROF_CACHE_DIR/tables`, else `/var/cache/txprof/tables` for root and
//! `$XDG_CACHE_HOME/txprof/tables` (or `~/.cache/…`) for others. Files are
//! 0600 and appear complete by `rename`. The directory is kept below a size
//! limit by removing what was used longest ago. Everything is best effort: a
//! cache that cannot be read or written only costs time. The content is checked
//! when it is read, see [`codec::decode`].

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::SystemTime;

use object::read::elf::{ElfFile64, FileHeader};
use object::{Endianness, Object, ObjectSection};

use crate::model::BuildId;
use crate::sys::file_map::FileMap;
use crate::unwind::{Table, codec};

/// 256 MiB hold the tables of about 300 binaries of the size of PostgreSQL.
const LIMIT_BYTES: u64 = 256 << 20;

/// A directory of tables.
#[derive(Clone, Debug)]
pub struct TableCache {
    directory: PathBuf,
    limit_bytes: u64,
}

/// Names one binary's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableKey(String);

impl TableCache {
    /// The user's cache; `None` when it cannot be created or is not ours.
    pub fn open() -> Option<Self> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = || match nix::unistd::geteuid().is_root() {
            true => Some(PathBuf::from("/var/cache/txprof")),
            false => variable("XDG_CACHE_HOME")
                .or_else(|| Some(variable("HOME")?.join(".cache")))
                .map(|base| base.join("txprof")),
        };
        Self::at(variable("TXPROF_CACHE_DIR").or_else(usual)?.join("tables"), LIMIT_BYTES)
    }

    /// A cache in `directory`, which is created, readable by its owner only.
    pub fn at(directory: PathBuf, limit_bytes: u64) -> Option<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
        let metadata = fs::symlink_metadata(&directory).ok()?;
        // A directory that others may write to could feed us tables of their making.
        let owned = std::os::unix::fs::MetadataExt::uid(&metadata) == nix::unistd::geteuid().as_raw();
        let private = metadata.permissions().mode() & 0o022 == 0;
        (metadata.is_dir() && owned && private).then_some(Self { directory, limit_bytes })
    }

    /// The table stored under `key`, if it is there and intact.
    pub fn read(&self, key: &TableKey) -> Option<Table> {
        let path = self.directory.join(&key.0);
        let file = File::open(&path).ok()?;
        let table = codec::decode(&FileMap::map(&file).ok()?, key.0.as_bytes()).ok()?;
        // The modification time says when it was used last; see `evict`.
        let _best_effort = file.set_modified(SystemTime::now());
        Some(table)
    }

    /// Stores `table` under `key`, then evicts what is over the limit.
    pub fn write(&self, key: &TableKey, table: &Table) {
        let temporary = self.directory.join(format!(".{}-{}", std::process::id(), key.0));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&temporary).and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&codec::encode(table, key.0.as_bytes()))?;
            fs::rename(&temporary, self.directory.join(&key.0))
        });
        if written.is_err() {
            let _best_effort = fs::remove_file(&temporary);
        }
        self.evict();
    }

    /// Removes the files used longest ago until the directory is below its limit.
    fn evict(&self) {
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let metadata = entry.metadata().ok()?;
                Some((metadata.modified().ok()?, metadata.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= self.limit_bytes {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }
}

impl TableKey {
    /// The key of the ELF file `elf`; `None` without a build id, because then nothing
    /// cheap identifies its content.
    ///
    /// A build id is only what the file says of itself. The fingerprint (file
    /// size, and a hash of the ends of its unwind section) keeps a file with a borrowed
    /// build id from replacing the table of another.
    pub fn of(elf: &[u8]) -> Option<Self> {
        /// Bytes hashed at each end of a section.
        const END_BYTES: usize = 4096;
        let file = ElfFile64::<Endianness>::parse(elf).ok()?;
        let build_id = BuildId::from_bytes(file.build_id().ok()??)?;
        let mut hash = fnv1a(0xcbf2_9ce4_8422_2325, &(elf.len() as u64).to_le_bytes());
        hash = fnv1a(hash, &file.elf_header().e_entry(Endianness::Little).to_le_bytes());
        for name in [".eh_frame_hdr", ".eh_frame", ".debug_frame", ".plt"] {
            let Some(data) = file.section_by_name(name).and_then(|section| section.data().ok()) else {
                continue;
            };
            hash = fnv1a(hash, &(data.len() as u64).to_le_bytes());
            hash = fnv1a(hash, &data[..data.len().min(END_BYTES)]);
            hash = fnv1a(hash, &data[data.len().saturating_sub(END_BYTES)..]);
        }
        Some(Self(format!("{build_id}-{hash:016x}")))
    }
}

/// FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>; stable across runs, unlike the standard hasher.
fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written is read back; over the limit the oldest goes; a damaged file is absent.
    #[test]
    fn tables_survive_and_the_oldest_goes_first() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let table = Table::default();
        let size = codec::encode(&table, b"a").len() as u64;
        let cache = TableCache::at(folder.path().join("tables"), 2 * size).expect("a cache");
        let keys = ["a", "b", "c"].map(|name| TableKey(name.to_owned()));
        for (key, age) in keys.iter().zip([300, 200, 100]) {
            cache.write(key, &table);
            let file = File::open(cache.directory.join(&key.0)).expect("written");
            let used = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(used).expect("own file");
        }
        assert_eq!(cache.read(&keys[0]), None);
        assert_eq!(cache.read(&keys[1]), Some(table));
        fs::write(cache.directory.join("c"), b"damaged").expect("own file");
        assert_eq!(cache.read(&keys[2]), None);
        let mode = fs::metadata(cache.directory.join("b")).expect("still there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// A directory that others can write to is not used.
    #[test]
    fn a_shared_directory_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let shared = folder.path().join("tables");
        fs::create_dir(&shared).expect("own folder");
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("own folder");
        assert!(TableCache::at(shared, 1).is_none());
    }
}
