//! `PERF_RECORD_MMAP2`: a process has a new executable mapping.
//!
//! Layout of the body (`include/uapi/linux/perf_event.h`, Linux 6.1):
//! `u32 pid, tid; u64 addr, len, pgoff; u32 maj, min; u64 ino, ino_generation;
//! u32 prot, flags; char filename[]`, zero padded to 8 bytes, then, as we ask
//! for it, `u64 time`.

use crate::model::{Avma, FileId, Mapping, MappingKind};

/// `PERF_RECORD_LOST`: records before this one did not fit.
pub const PERF_RECORD_LOST: u32 = 2;
/// `PERF_RECORD_MMAP2`.
pub const PERF_RECORD_MMAP2: u32 = 10;
/// In `misc`: not executable.
const PERF_RECORD_MISC_MMAP_DATA: u16 = 1 << 13;

/// A new executable mapping of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingRecord {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Whose.
    pub pid: u32,
    /// What; replaces whatever was there.
    pub mapping: Mapping,
}

impl MappingRecord {
    /// `None` for mappings that are not executable and bodies of another form.
    pub fn parse(misc: u16, body: &[u8]) -> Option<Self> {
        if misc & PERF_RECORD_MISC_MMAP_DATA != 0 {
            return None;
        }
        let (rest, time) = body.split_last_chunk::<8>()?;
        let (fields, name) = rest.split_first_chunk::<64>()?;
        let u32_at = |at: usize| fields.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let u64_at = |at: usize| fields.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
        let (start, len) = (u64_at(8)?, u64_at(16)?);
        let end = start.checked_add(len).filter(|end| *end > start)?;
        let id = FileId {
            device: u64::from(u32_at(32)?) << 32 | u64::from(u32_at(36)?),
            inode: u64_at(40)?,
            generation: 0,
        };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            time_ns: u64::from_ne_bytes(*time),
            pid: u32_at(0)?,
            mapping: Mapping {
                start: Avma(start),
                end: Avma(end),
                offset: u64_at(24)?,
                kind: kind_of(name, id),
            },
        })
    }
}

fn kind_of(name: &[u8], id: FileId) -> MappingKind {
    match name {
        b"[vdso]" => MappingKind::Vdso,
        b"[vsyscall]" => MappingKind::Vsyscall,
        _ if id.inode == 0 || name.starts_with(b"[") || name.starts_with(b"//anon") => MappingKind::Anonymous,
        _ => {
            let name = name.strip_suffix(b" (deleted)").unwrap_or(name);
            MappingKind::File { id, path: String::from_utf8_lossy(name).into_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(name: &[u8], inode: u64) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend([41u32, 42].iter().flat_map(|v| v.to_ne_bytes()));
        body.extend([0x7000u64, 0x2000, 0x1000].iter().flat_map(|v| v.to_ne_bytes()));
        body.extend([8u32, 1].iter().flat_map(|v| v.to_ne_bytes()));
        body.extend([inode, 7].iter().flat_map(|v| v.to_ne_bytes()));
        body.extend([5u32, 2].iter().flat_map(|v| v.to_ne_bytes()));
        body.extend(name);
        body.extend(vec![0; 8 - name.len() % 8]);
        body.extend(99u64.to_ne_bytes());
        body
    }

    /// A body laid out by hand as in the kernel's header gives its fields.
    #[test]
    fn mmap2_record_gives_pid_time_and_mapping() {
        let record = MappingRecord::parse(2, &body(b"/usr/lib/a.so (deleted)", 5)).expect("a record");
        assert_eq!((record.pid, record.time_ns), (41, 99));
        let id = FileId { device: 8 << 32 | 1, inode: 5, generation: 0 };
        let kind = MappingKind::File { id, path: "/usr/lib/a.so".to_owned() };
        let expected = Mapping { start: Avma(0x7000), end: Avma(0x9000), offset: 0x1000, kind };
        assert_eq!(record.mapping, expected);
        let anonymous = MappingRecord::parse(2, &body(b"//anon", 0)).expect("a record");
        assert_eq!(anonymous.mapping.kind, MappingKind::Anonymous);
        assert_eq!(MappingRecord::parse(PERF_RECORD_MISC_MMAP_DATA, &body(b"/x", 5)), None);
    }

    proptest::proptest! {
        /// Any bytes give a record with end > start or none, and no panic.
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            if let Some(record) = MappingRecord::parse(0, &bytes) {
                proptest::prop_assert!(record.mapping.end > record.mapping.start);
            }
        }
    }
}
