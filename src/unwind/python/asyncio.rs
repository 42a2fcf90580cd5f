//! Where the running task of an event loop is, as CPython 3.14 and later tell in their files.
//!
//! The extension module `_asyncio` (`_asyncio.cpython-314-….so`, or the interpreter itself where it is
//! built in) has a section `.AsyncioDebug` of words of 8 bytes, `struct _Py_AsyncioModuleDebugOffsets`
//! of `Modules/_asynciomodule.c`, equal in 3.14 and 3.15:
//!
//! ```text
//! word 0   size of a task object      word 7   size of PyInterpreterState     word 9   size of _PyThreadStateImpl
//!      1   task_name                       8   asyncio_tasks_head                 10   asyncio_running_loop
//!      2   task_awaited_by                                                        11   asyncio_running_task
//!      3   task_is_task                                                           12   asyncio_tasks_head
//!      4   task_awaited_by_is_set
//!      5   task_coro
//!      6   task_node
//! ```
//!
//! `_PyThreadStateImpl` begins with the `PyThreadState` that the walker knows. While a task runs, its
//! thread's `asyncio_running_task` points to it; between tasks it is 0. `task_name` is a `str`, or, of
//! a task that nobody named and whose name nobody asked for, the `int` N of `Task-N`.

use object::elf::FileHeader64;
use object::read::elf::{FileHeader, SectionHeader};
use object::{Endianness, NativeEndian};

/// Words of the structure.
const WORDS: usize = 13;
/// A task object has some 200 bytes.
const MAX_TASK_BYTES: u64 = 4096;
/// `_PyThreadStateImpl` has some 1 KB, with the free lists of a free-threaded build 10 KB.
const MAX_THREAD_BYTES: u64 = 65_536;

/// Offsets in bytes; each names a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncioOffsets {
    /// `asyncio_running_loop`, from the start of a `PyThreadState`: the loop that runs, or 0.
    pub thread_running_loop: u32,
    /// `asyncio_running_task`, from the start of a `PyThreadState`: the task that runs, or 0.
    pub thread_running_task: u32,
    /// `task_name`, in a task: a `str`, or the `int` N of `Task-N`.
    pub task_name: u32,
    /// `task_coro`, in a task: the coroutine that it drives.
    pub task_coro: u32,
}

impl AsyncioOffsets {
    /// What the file tells; `None` where it has no such section. Fails with a reason where the section
    /// cannot be what it should be.
    pub fn of_elf(elf: &[u8]) -> Result<Option<Self>, String> {
        section(elf, b".AsyncioDebug").map(Self::parse).transpose()
    }

    /// The section's content.
    fn parse(section: &[u8]) -> Result<Self, String> {
        let words: Vec<u64> =
            section.as_chunks::<8>().0.iter().take(WORDS).map(|word| u64::from_ne_bytes(*word)).collect();
        let [task_size, task_name, _, _, _, task_coro, _, _, _, thread_size, running_loop, running_task, _] =
            words[..]
        else {
            return Err(format!("`.AsyncioDebug` has {} bytes, not {}", section.len(), 8 * WORDS));
        };
        let within = |name: &str, offset: u64, size: u64, limit: u64| {
            let is_inside =
                offset.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= size.min(limit));
            let offset = u32::try_from(offset).ok().filter(|_| is_inside);
            offset.ok_or_else(|| format!("`.AsyncioDebug` tells an impossible offset of `{name}`"))
        };
        let in_thread = |name, offset| within(name, offset, thread_size, MAX_THREAD_BYTES);
        let in_task = |name, offset| within(name, offset, task_size, MAX_TASK_BYTES);
        Ok(Self {
            thread_running_loop: in_thread("asyncio_running_loop", running_loop)?,
            thread_running_task: in_thread("asyncio_running_task", running_task)?,
            task_name: in_task("task_name", task_name)?,
            task_coro: in_task("task_coro", task_coro)?,
        })
    }
}

/// The content of the section `name` of a file of this machine's kind.
fn section<'a>(elf: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let header = FileHeader64::<Endianness>::parse(elf).ok()?;
    let endian = header.endian().ok().filter(|endian| *endian == native())?;
    let sections = header.sections(endian, elf).ok()?;
    let (_, section) = sections.section_by_name(endian, name)?;
    section.data(endian, elf).ok()
}

fn native() -> Endianness {
    use object::Endian;
    if NativeEndian.is_little_endian() { Endianness::Little } else { Endianness::Big }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The section of Debian's `_asyncio.cpython-314-x86_64-linux-gnu.so` of 3.14.10.
    const DEBIAN_3_14: [u64; WORDS] =
        [0xa8, 0x88, 0x60, 0x6c, 0x6d, 0x80, 0x98, 0x3_7248, 0x2a80, 0x3a8, 0x360, 0x368, 0x370];

    fn bytes(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A file of two sections behind the mandatory one: names, and `.AsyncioDebug`.
    fn file(section: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.AsyncioDebug\0";
        let (names_at, section_at) = (64, 64 + names.len().next_multiple_of(8));
        let headers_at = section_at + section.len();
        let mut elf =
            vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 62, 0, 1, 0, 0, 0];
        elf.extend(bytes(&[0, 0, headers_at as u64]));
        elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 0, 0, 64, 0, 3, 0, 1, 0]);
        elf.extend(names);
        elf.resize(section_at, 0);
        elf.extend(section);
        elf.resize(headers_at + 64, 0);
        for (name, kind, at, size) in
            [(1u64, 3u64, names_at, names.len()), (11, 1, section_at, section.len())]
        {
            elf.extend(bytes(&[kind << 32 | name, 0, 0, at as u64, size as u64, 0, 1, 0]));
        }
        elf
    }

    /// A real section in a file gives its offsets; files without it give none.
    #[test]
    fn offsets_are_those_of_3_14() {
        let expected = AsyncioOffsets {
            thread_running_loop: 0x360,
            thread_running_task: 0x368,
            task_name: 0x88,
            task_coro: 0x80,
        };
        assert_eq!(AsyncioOffsets::of_elf(&file(&bytes(&DEBIAN_3_14))), Ok(Some(expected)));
        let mut other = file(&bytes(&DEBIAN_3_14));
        let at = other.windows(8).position(|window| window == b".Asyncio").expect("it is there");
        other[at] = b'_';
        assert_eq!(AsyncioOffsets::of_elf(&other), Ok(None));
        assert_eq!(AsyncioOffsets::of_elf(b"#!/bin/sh"), Ok(None));
    }

    /// Short sections, and offsets outside their structure or not those of a pointer, are refused by name.
    #[test]
    fn impossible_sections_are_refused() {
        let section = bytes(&DEBIAN_3_14);
        assert!(AsyncioOffsets::parse(&section[..103]).is_err());
        for (word, value) in [(1, 0xa8), (5, 0x81), (10, u64::MAX), (11, 0x3a4), (9, 0x360), (0, 0)] {
            let mut words = DEBIAN_3_14;
            words[word] = value;
            assert!(AsyncioOffsets::parse(&bytes(&words)).is_err(), "word {word}: {value:#x}");
        }
        let mut words = DEBIAN_3_14;
        (words[9], words[11]) = (1 << 40, 1 << 32);
        let refused = AsyncioOffsets::parse(&bytes(&words));
        assert_eq!(refused.map_err(|e| e.contains("`asyncio_running_task`")), Err(true));
    }

    proptest::proptest! {
        /// Any bytes, and any damage to a file: an answer.
        #[test]
        fn any_file_is_answered(
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
            damage in proptest::collection::vec((0usize..400, proptest::num::u8::ANY), 0..20),
        ) {
            let _any = (AsyncioOffsets::of_elf(&noise), AsyncioOffsets::parse(&noise));
            let mut elf = file(&bytes(&DEBIAN_3_14));
            let size = elf.len();
            for (at, byte) in damage {
                elf[at % size] = byte;
            }
            if let Ok(Some(offsets)) = AsyncioOffsets::of_elf(&elf) {
                proptest::prop_assert!(u64::from(offsets.task_name) < MAX_TASK_BYTES);
                proptest::prop_assert!(u64::from(offsets.thread_running_task) < MAX_THREAD_BYTES);
            }
        }
    }
}
