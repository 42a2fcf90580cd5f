//! What Python's `threading` calls the threads that were sampled.
//!
//! Only asked for when threads are told apart. A process's memory is read when one of its threads was
//! sampled for the first time, after a pause again while some have no name, and once more when the
//! recording ends, so that a thread that was renamed has its last name. Threads have one name for the
//! whole recording; those that `threading` does not know keep their `comm`.
//!
//! `threading` is asked by thread pointer, and the C library gives that of a thread that ended to the
//! next one. A name is therefore believed only if the thread was still there behind the reading.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use crate::sampler::Python;
use crate::sys::remote_memory;
use crate::unwind::python::objects::Memory;
use crate::unwind::python::thread_names::thread_names;

/// The pause after a reading that named someone; each that did not doubles it, four times, until a thread is met.
const PAUSE_NS: u64 = 200_000_000;
const DOUBLINGS: u32 = 4;
/// Threads known in all processes together; further ones keep their `comm`.
const MAX_THREADS: usize = 65_536;

/// The sampled threads of Python programs.
#[derive(Debug, Default)]
pub struct ThreadNames {
    processes: HashMap<u32, Threads>,
    /// Processes in which threads have no name that may get one.
    waiting: BTreeSet<u32>,
    count: usize,
}

/// Those of a process.
#[derive(Debug, Default)]
struct Threads {
    by_tid: HashMap<u32, Thread>,
    /// The last reading, `CLOCK_MONOTONIC`.
    read_ns: u64,
    /// The next one.
    next_read_ns: u64,
    futile_reads: u32,
}

/// Which threads a reading is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whom {
    Unnamed,
    All,
}

#[derive(Debug, Default)]
struct Thread {
    pointer: u64,
    name: Option<String>,
    is_gone: bool,
}

impl ThreadNames {
    /// Takes note of a sampled thread of a Python program and its thread pointer.
    pub fn note(&mut self, pid: u32, tid: u32, pointer: u64) {
        let threads = self.processes.entry(pid).or_default();
        if threads.by_tid.get(&tid).is_some_and(|thread| thread.pointer == pointer) {
            return;
        }
        if self.count >= MAX_THREADS {
            return;
        }
        self.count += 1;
        threads.next_read_ns = threads.next_read_ns.min(threads.read_ns.saturating_add(PAUSE_NS));
        threads.futile_reads = 0;
        threads.by_tid.insert(tid, Thread { pointer, ..Thread::default() });
        self.waiting.insert(pid);
    }

    /// Asks the processes in which threads have no name, if it is time. `python_of` is the interpreter in one.
    pub fn refresh<'a>(&mut self, now_ns: u64, python_of: impl Fn(u32) -> Option<&'a Python>) {
        let Self { processes, waiting, .. } = self;
        waiting.retain(|pid| {
            let (Some(threads), Some(python)) = (processes.get_mut(pid), python_of(*pid)) else {
                return false;
            };
            if now_ns >= threads.next_read_ns {
                threads.read(*pid, python, now_ns, Whom::Unnamed);
            }
            threads.are_waiting()
        });
    }

    /// Asks all processes for the last time.
    pub fn refresh_all<'a>(&mut self, now_ns: u64, python_of: impl Fn(u32) -> Option<&'a Python>) {
        for (pid, threads) in &mut self.processes {
            if let Some(python) = python_of(*pid) {
                threads.read(*pid, python, now_ns, Whom::All);
            }
        }
    }

    /// The thread of this thread pointer; of several that had it one after the other, any.
    pub fn thread_of(&self, pid: u32, pointer: u64) -> Option<u32> {
        let threads = self.processes.get(&pid)?.by_tid.iter();
        threads.filter(|(_, thread)| thread.pointer == pointer).map(|(tid, _)| *tid).max()
    }

    /// The name of a thread, not empty, without control characters.
    pub fn find(&self, pid: u32, tid: u32) -> Option<&str> {
        self.processes.get(&pid)?.by_tid.get(&tid)?.name.as_deref()
    }
}

impl Threads {
    fn read(&mut self, pid: u32, python: &Python, now_ns: u64, whom: Whom) {
        let is_asked_for = |thread: &Thread| !thread.is_gone && (whom == Whom::All || thread.name.is_none());
        let pointers: HashSet<u64> =
            self.by_tid.values().filter(|thread| is_asked_for(thread)).map(|thread| thread.pointer).collect();
        let wanted = |pointer| pointers.contains(&pointer);
        let Python { version, layout, runtime, text_type, .. } = python;
        let names = thread_names(&Pages::of(pid), *version, layout, runtime.0, text_type.0, &wanted);
        let mut named = 0;
        for (tid, thread) in self.by_tid.iter_mut().filter(|(_, thread)| is_asked_for(thread)) {
            thread.is_gone = !Path::new(&format!("/proc/{pid}/task/{tid}")).exists();
            let name = names.get(&thread.pointer).map(|name| plain(name)).filter(|name| !name.is_empty());
            if !thread.is_gone && name.is_some() {
                named += u32::from(thread.name.is_none());
                thread.name = name;
            }
        }
        self.futile_reads = if named > 0 { 0 } else { (self.futile_reads + 1).min(DOUBLINGS) };
        self.read_ns = now_ns;
        self.next_read_ns = now_ns.saturating_add(PAUSE_NS << self.futile_reads);
    }

    fn are_waiting(&self) -> bool {
        self.by_tid.values().any(|thread| thread.name.is_none() && !thread.is_gone)
    }
}

/// As [`comm_text`](crate::sys::abi::comm_text) does with names that the kernel knows.
fn plain(name: &str) -> String {
    name.trim().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The memory of a process during one reading, by pages: names of a dict's keys lie close together, and
/// a system call for each would cost more than all else.
struct Pages {
    pid: u32,
    known: RefCell<HashMap<u64, Option<Box<[u8]>>>>,
    cost_left: Cell<usize>,
}

const PAGE_BYTES: u64 = 4096;
/// Pages read at once, 16 MB: a process of 10,000 modules takes less. What lies beyond cannot be read.
const MAX_PAGES: usize = 4096;
/// What the pieces of one reading may cost, in bytes; hostile heaps, in which each of many threads has a huge
/// dict, end here.
const MAX_COST_BYTES: usize = 64 << 20;
/// Finding a small piece takes as long as copying so much.
const LEAST_COST_BYTES: usize = 128;

impl Pages {
    fn of(pid: u32) -> Self {
        Self { pid, known: RefCell::default(), cost_left: Cell::new(MAX_COST_BYTES) }
    }
}

impl Memory for Pages {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let cost = buffer.len().max(LEAST_COST_BYTES);
        let Some(left) = self.cost_left.get().checked_sub(cost) else { return false };
        self.cost_left.set(left);
        let mut known = self.known.borrow_mut();
        let mut at = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let start = at % PAGE_BYTES;
            let number = at / PAGE_BYTES;
            if !known.contains_key(&number) {
                let mut page = vec![0; PAGE_BYTES as usize].into_boxed_slice();
                let is_read = known.len() < MAX_PAGES
                    && remote_memory::read(self.pid, number * PAGE_BYTES, &mut page).is_ok();
                known.insert(number, is_read.then_some(page));
            }
            let page = known.get(&number).and_then(Option::as_deref);
            let Some(source) = page.and_then(|page| page.get(start as usize..)) else { return false };
            let count = source.len().min(rest.len());
            let (part, behind) = rest.split_at_mut(count);
            part.copy_from_slice(&source[..count]);
            rest = behind;
            let Some(next) = at.checked_add(count as u64) else { return false };
            at = next;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own memory through pages is what it is, also across their borders; addresses that are not
    /// mapped and those at the end of the address space are refused.
    #[test]
    fn pages_are_the_memory() {
        let secret: Vec<u8> = (0..20_000u32).map(|number| (number % 251) as u8).collect();
        let pages = Pages::of(std::process::id());
        let mut copy = vec![0; secret.len()];
        assert!(pages.read(secret.as_ptr() as u64, &mut copy));
        assert_eq!(copy, secret);
        let mut part = [0; 10];
        assert!(pages.read(secret.as_ptr() as u64 + 4090, &mut part));
        assert_eq!(part, secret[4090..4100]);
        assert!(!pages.read(8, &mut part));
        assert!(!pages.read(u64::MAX - 3, &mut part));
    }

    /// A reading ends when its pieces have cost enough, however small they are.
    #[test]
    fn cost_is_bounded() {
        let pages = Pages::of(std::process::id());
        pages.cost_left.set(2 * LEAST_COST_BYTES + 5);
        let byte = 7u8;
        let mut copy = [0];
        let mut read = || pages.read(std::ptr::from_ref(&byte) as u64, &mut copy);
        assert_eq!([read(), read(), read()], [true, true, false]);
    }

    /// Control characters are no part of a name.
    #[test]
    fn names_are_plain() {
        assert_eq!(plain(" a\n\u{1b}[1mß; "), "a\u{fffd}\u{fffd}[1mß;");
    }
}
