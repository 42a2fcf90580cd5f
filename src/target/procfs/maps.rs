//! `/proc/PID/maps`: which files a process executes, and where.
//!
//! One mapping per line, ascending, in hexadecimal except for the inode
//! (proc_pid_maps(5), Linux fs/proc/task_mmu.c):
//!
//! ```text
//! 55900b789000-55900b78e000 r-xp 00002000 fe:00 247030      /usr/bin/cat (deleted)
//! start        end          perm offset   major:minor inode path
//! ```
//!
//! A newline in a path is written as `\012`; nothing else is escaped, so a file
//! whose name holds those four characters reads the same. Paths are therefore
//! hints, checked against device and inode where a file is opened.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use crate::model::{Avma, FileId, Mapping, MappingKind};
use crate::{Result, ResultExt};

/// Executable mappings read of one process; the kernel's own limit for all mappings
/// (`vm.max_map_count`) is 65,530 by default. Samples in mappings beyond it count as
/// samples in an unknown mapping.
pub const MAX_MAPPINGS: usize = 65_536;

/// Text read of one process: a million mappings of usual length, some 100 ms.
const MAX_TEXT_BYTES: u64 = 128 << 20;

/// What the kernel appends to the path of an unlinked file.
pub(super) const DELETED: &[u8] = b" (deleted)";

/// Files that hold anonymous shared memory, never a binary.
const MEMORY_FILES: [&[u8]; 3] = [b"/dev/zero", b"/anon_hugepage", b"/SYSV"];

/// The executable mappings of `pid`, ascending by address, at most [`MAX_MAPPINGS`].
/// Empty for kernel threads and zombies.
///
/// Fails with `NotFound` when the process is gone and `PermissionDenied` when it
/// may not be traced. Mappings that change meanwhile are seen before or after.
pub fn read_mappings(pid: u32) -> Result<Vec<Mapping>> {
    let intent = || super::failed_to_read(pid, "maps");
    let file = File::open(super::path(pid, "maps")).context(intent)?;
    // The kernel hands out at most a page or so per call, whatever the buffer's size.
    let mut text = BufReader::with_capacity(16 << 10, file.take(MAX_TEXT_BYTES));
    let mut mappings = Vec::new();
    let mut line = Vec::new();
    while mappings.len() < MAX_MAPPINGS && text.read_until(b'\n', &mut line).context(intent)? > 0 {
        mappings.extend(parse_line(&line));
        line.clear();
    }
    mappings.sort_by_key(|mapping| mapping.start);
    Ok(mappings)
}

/// The executable mappings in the text of `/proc/PID/maps`, ascending by address,
/// at most [`MAX_MAPPINGS`]; lines of another shape are passed over.
pub fn parse_mappings(text: &[u8]) -> Vec<Mapping> {
    let lines = text.split(|byte| *byte == b'\n');
    let mut mappings: Vec<_> = lines.filter_map(parse_line).take(MAX_MAPPINGS).collect();
    mappings.sort_by_key(|mapping| mapping.start);
    mappings
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (range, rest) = split_at_byte(line, b' ')?;
    let (permissions, rest) = split_at_byte(rest, b' ')?;
    if permissions.get(2) != Some(&b'x') {
        return None;
    }
    let (start, end) = split_at_byte(range, b'-')?;
    let (start, end) = (parse_hexadecimal(start)?, parse_hexadecimal(end)?);
    let (offset, rest) = split_at_byte(rest, b' ')?;
    let (device, rest) = split_at_byte(rest, b' ')?;
    let (major, minor) = split_at_byte(device, b':')?;
    let device = parse_hexadecimal(major)?.checked_mul(1 << 32)? | parse_hexadecimal(minor)?;
    // An anonymous mapping's line ends behind the inode, with or without a space.
    let (inode, path) = split_at_byte(rest, b' ').unwrap_or((rest, b""));
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    let id = FileId { device, inode, generation: 0 };
    let kind = classify(id, trim_start(path));
    (start < end).then_some(Mapping {
        start: Avma(start),
        end: Avma(end),
        offset: parse_hexadecimal(offset)?,
        kind,
    })
}

fn classify(id: FileId, path: &[u8]) -> MappingKind {
    match path {
        b"[vdso]" => MappingKind::Vdso,
        b"[vsyscall]" => MappingKind::Vsyscall,
        _ if id.inode == 0 || !path.starts_with(b"/") => MappingKind::Anonymous,
        _ if MEMORY_FILES.iter().any(|name| path.starts_with(name)) => MappingKind::Anonymous,
        _ => {
            let path = path.strip_suffix(DELETED).unwrap_or(path);
            MappingKind::File { id, path: String::from_utf8_lossy(path).replace("\\012", "\n") }
        }
    }
}

fn split_at_byte(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == separator)?;
    let (before, after) = bytes.split_at_checked(position)?;
    Some((before, after.get(1..)?))
}

fn parse_hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Without the spaces that align the path; a path itself starts with `/` or `[`.
fn trim_start(path: &[u8]) -> &[u8] {
    let spaces = path.iter().take_while(|byte| **byte == b' ').count();
    path.get(spaces..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
55900b787000-55900b789000 r--p 00000000 fe:00 247030                     /usr/bin/cat\n\
55900b789000-55900b78e000 r-xp 00002000 fe:00 247030                     /usr/bin/cat\n\
55900c000000-55900c001000 rwxp 00000000 00:00 0 \n\
55900c002000-55900c003000 r-xp 00000000 00:00 0                          [anon:jit]\n\
7f0000000000-7f0000001000 r-xp 00001000 103:1a 18446744073709551615      /opt/a b/new\\012line (deleted)\n\
7f0000002000-7f0000003000 r-xs 00000000 00:01 77                         /memfd:a memfd (deleted)\n\
7f0000004000-7f0000005000 rwxs 00000000 00:01 78                         /dev/zero (deleted)\n\
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]\n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";

    fn file(device: u64, inode: u64, path: &str) -> MappingKind {
        MappingKind::File { id: FileId { device, inode, generation: 0 }, path: path.to_owned() }
    }

    /// Every kind of line is told apart; only executable ones stay, paths as the file is called.
    #[test]
    fn each_kind_of_line_is_recognised() {
        let mappings = parse_mappings(TEXT);
        let kinds: Vec<_> = mappings.iter().map(|mapping| mapping.kind.clone()).collect();
        assert_eq!(
            kinds,
            [
                file(0xfe << 32, 247030, "/usr/bin/cat"),
                MappingKind::Anonymous,
                MappingKind::Anonymous,
                file(0x103 << 32 | 0x1a, u64::MAX, "/opt/a b/new\nline"),
                file(1, 77, "/memfd:a memfd"),
                MappingKind::Anonymous,
                MappingKind::Vdso,
                MappingKind::Vsyscall,
            ]
        );
        assert_eq!((mappings[0].start, mappings[0].end), (Avma(0x55900b789000), Avma(0x55900b78e000)));
        assert_eq!((mappings[0].offset, mappings[3].offset), (0x2000, 0x1000));
    }

    /// Lines with a missing, overlong or senseless field are passed over, the others stay.
    #[test]
    fn broken_lines_are_passed_over() {
        let text = b"1000-1000 r-xp 0 0:0 0\n2000-1000 r-xp 0 0:0 0\nx-y r-xp 0 0:0 0\n1000-2000 r-xp\n\
            11112222333344445-3 r-xp 0 0:0 0\n1000-2000 r-xp 0 ffffffffffffffff:0 0\n5000-6000 r-xp 0 0:0 0\n";
        let mappings = parse_mappings(text);
        assert_eq!(mappings.len(), 1);
        assert_eq!(mappings[0].start, Avma(0x5000));
    }

    proptest! {
        /// Any bytes, and any damage to real text: no panic, ascending ranges that are not empty.
        #[test]
        fn any_bytes_give_ascending_ranges(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            position in 0..TEXT.len(),
        ) {
            let mut damaged = TEXT.to_vec();
            damaged.splice(position..(position + noise.len() / 8).min(TEXT.len()), noise.iter().copied());
            for text in [&damaged, &noise] {
                let mappings = parse_mappings(text);
                prop_assert!(mappings.is_sorted_by_key(|mapping| mapping.start));
                prop_assert!(mappings.iter().all(|mapping| mapping.len_bytes() > 0));
            }
        }
    }
}
