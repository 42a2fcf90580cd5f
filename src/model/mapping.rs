//! An executable address range of a process and what backs it.

use super::{Avma, Svma};

/// Identifies a file while it is mapped: two mappings with equal ids execute the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number as `/proc/PID/maps` shows it: major << 32 | minor.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Generation of the inode where known (perf's MMAP2 record), else 0.
    pub generation: u64,
}

/// What backs an executable mapping.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MappingKind {
    /// A file, deleted or not. `path` is as the process sees it, for display and
    /// as a starting point; ` (deleted)` is stripped.
    File {
        /// Identity of the bytes.
        id: FileId,
        /// The path as the target's mount namespace names it.
        path: String,
    },
    /// The kernel's vDSO.
    Vdso,
    /// The legacy vsyscall page.
    Vsyscall,
    /// Anonymous memory: JIT code, trampolines.
    Anonymous,
}

/// One executable range `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// First address, page aligned.
    pub start: Avma,
    /// First address behind it; `end > start`.
    pub end: Avma,
    /// Offset in the file of the byte at `start`.
    pub offset: u64,
    /// What backs it.
    pub kind: MappingKind,
}

impl Mapping {
    /// Whether `address` lies inside.
    pub fn contains(&self, address: Avma) -> bool {
        self.start <= address && address < self.end
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// The offset in the backing file of `address`, which must lie inside.
    pub fn file_offset(&self, address: Avma) -> u64 {
        self.offset.wrapping_add(address.0.wrapping_sub(self.start.0))
    }

    /// `AVMA − SVMA` for a file whose loaded segment maps file offset
    /// `segment_offset` to stated address `segment_svma`:
    /// `bias = (start − offset) − (segment_svma − segment_offset)`, wrapping.
    pub fn bias(&self, segment_svma: Svma, segment_offset: u64) -> u64 {
        let base = self.start.0.wrapping_sub(self.offset);
        base.wrapping_sub(segment_svma.0.wrapping_sub(segment_offset))
    }
}
