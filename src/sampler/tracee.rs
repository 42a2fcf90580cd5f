//! One thread, caught: what is copied of it while it is stopped, and what is
//! made of that when it runs again.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Instant;

use super::pythons::Python;
use super::tables::Tables;
use crate::model::Outcome;
use crate::sys::abi::{COMM_BYTES, FRAME_INTERRUPTED, MAX_USER_FRAMES, SampleRecord, TableProcess};
use crate::sys::ptrace::UserRegisters;
use crate::sys::remote_memory;
use crate::unwind::python::objects::Memory;
use crate::unwind::python::walk::{CodeHead, Interpreter, PythonWalk};
use crate::unwind::{Registers, WalkedFrame, walk};

const PAGE_BYTES: u64 = 4096;
/// Most that is copied of a stack. Ordinary threads use 5 to 50 KiB; a stack that is used further is walked
/// while the thread is stopped.
const MAX_COPY_BYTES: u64 = 256 << 10;
/// Pages of its memory that are looked at for one stack, 4 MiB; what lies in further ones cannot be read.
const MAX_PAGES: usize = 1024;
/// Below `rsp` (psABI, 3.2.2): registers that a function has restored already, where its unwind rows still look for them.
const RED_ZONE_BYTES: u64 = 128;
/// `rsp`'s DWARF number.
const RSP: usize = 7;

/// Memory of a process, each page read once. While the thread is stopped this is one moment's.
pub(super) struct RemotePages {
    pid: u32,
    /// Nothing is read any more from then on.
    deadline: Option<Instant>,
    pages: RefCell<HashMap<u64, Option<Box<[u8]>>>>,
    is_late: Cell<bool>,
}

impl RemotePages {
    pub(super) fn new(pid: u32, deadline: Option<Instant>) -> Self {
        Self { pid, deadline, pages: RefCell::new(HashMap::new()), is_late: Cell::new(false) }
    }

    /// Whether something was not read because time was over.
    pub(super) fn is_late(&self) -> bool {
        self.is_late.get()
    }

    fn read_page(&self, page: u64) -> Option<Box<[u8]>> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.is_late.set(true);
            return None;
        }
        let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
        remote_memory::read(self.pid, page * PAGE_BYTES, &mut bytes).ok().map(|()| bytes)
    }
}

impl Memory for RemotePages {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let mut pages = self.pages.borrow_mut();
        let (mut address, mut rest) = (address, buffer);
        while !rest.is_empty() {
            let page = address / PAGE_BYTES;
            if pages.len() >= MAX_PAGES && !pages.contains_key(&page) {
                return false;
            }
            let Some(bytes) = pages.entry(page).or_insert_with(|| self.read_page(page)) else { return false };
            let from = (address % PAGE_BYTES) as usize;
            let count = rest.len().min(bytes.len() - from);
            let (part, behind) = rest.split_at_mut(count);
            part.copy_from_slice(&bytes[from..from + count]);
            rest = behind;
            let Some(next) = address.checked_add(count as u64) else { return rest.is_empty() };
            address = next;
        }
        true
    }
}

/// The used part of a stack.
struct StackCopy {
    start: u64,
    bytes: Vec<u8>,
    /// It ends where the stack does.
    is_whole: bool,
}

impl StackCopy {
    /// The C library keeps a thread's own data at the upper end of its stack, where the thread pointer points to;
    /// behind the main thread's stack there is nothing.
    fn take(pid: u32, registers: &UserRegisters) -> Self {
        let start = registers.general[RSP].saturating_sub(RED_ZONE_BYTES);
        let to_thread_data = registers.fs_base.checked_sub(start).filter(|len| *len <= MAX_COPY_BYTES);
        let wanted = to_thread_data.unwrap_or(MAX_COPY_BYTES);
        let mut bytes = vec![0; wanted as usize];
        let count = remote_memory::read_prefix(pid, start, &mut bytes).unwrap_or(0);
        bytes.truncate(count);
        let ends_early = count > 0 && (count as u64) < wanted;
        Self { start, bytes, is_whole: ends_early || to_thread_data.is_some() }
    }

    fn word(&self, address: u64) -> Option<u64> {
        let offset = usize::try_from(address.checked_sub(self.start)?).ok()?;
        let word = self.bytes.get(offset..)?.first_chunk()?;
        Some(u64::from_ne_bytes(*word))
    }
}

/// What was read of a thread while it was stopped.
pub(super) struct Caught {
    registers: UserRegisters,
    stack: StackCopy,
    /// Pages that were read meanwhile.
    memory: RemotePages,
    /// The walk, where it could not wait.
    walked: Option<(Vec<WalkedFrame>, Outcome)>,
    /// The interpreter's frames, and what each one's code object says of itself.
    pub(super) python: Option<PythonPart>,
}

/// The interpreter's frames of a thread.
pub(super) struct PythonPart {
    pub(super) walk: PythonWalk,
    /// By address; `None` where there is no code object.
    pub(super) codes: HashMap<u64, Option<CodeHead>>,
}

/// Who was caught, and when.
pub(super) struct CaughtAt {
    pub(super) time_ns: u64,
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) thread_pointer: u64,
    /// State of the mappings by which it was walked.
    pub(super) generation: u32,
}

/// Frames as they stand in a sample.
pub(super) fn user_words(frames: &[WalkedFrame]) -> Vec<u8> {
    let word = |frame: &WalkedFrame| frame.pc | if frame.interrupted { FRAME_INTERRUPTED } else { 0 };
    frames.iter().flat_map(|frame| word(frame).to_ne_bytes()).collect()
}

/// By what a thread is walked.
#[derive(Clone, Copy)]
pub(super) struct Guide<'a> {
    pub(super) tables: &'a Tables,
    pub(super) process: &'a TableProcess,
    pub(super) python: Option<&'a Python>,
    /// Where its interpreters keep the states of threads, by thread pointer.
    pub(super) states: &'a HashMap<u64, Vec<u64>>,
}

/// An interpreter as the walk wants it.
pub(super) fn interpreter(python: &Python) -> Interpreter<'_> {
    Interpreter { layout: &python.layout, runtime: python.runtime.0, code_type: python.code_type.0 }
}

impl Caught {
    /// Reads what must be of one moment. The thread is stopped, at most until `deadline`. `walk_now`: its
    /// stack is known to be in several pieces, which are not copied.
    pub(super) fn take(
        pid: u32,
        registers: UserRegisters,
        deadline: Instant,
        walk_now: bool,
        guide: Guide<'_>,
    ) -> Self {
        let memory = RemotePages::new(pid, Some(deadline));
        let python = guide.python.and_then(|python| {
            let states = guide.states.get(&registers.fs_base)?;
            PythonPart::take(python, &memory, &registers, states)
        });
        let stack = StackCopy::take(pid, &registers);
        let mut caught = Self { registers, stack, memory, walked: None, python };
        if walk_now || !caught.stack.is_whole {
            caught.walked = Some(caught.walk(guide, true));
        }
        caught
    }

    /// Its native frames, leaf first; it may run again.
    pub(super) fn frames(&mut self, guide: Guide<'_>) -> (Vec<WalkedFrame>, Outcome) {
        match self.walked.take() {
            Some(walked) => walked,
            None => self.walk(guide, false),
        }
    }

    /// The sample of it, with frames that were spelled out before: the user's and Python's. `comms` are the names of
    /// the thread and of its process.
    pub(super) fn record<'a>(
        &self,
        at: CaughtAt,
        comms: ([u8; COMM_BYTES], [u8; COMM_BYTES]),
        outcome: Outcome,
        python: Option<&Python>,
        (user, python_words): (&'a [u8], &'a [u8]),
    ) -> SampleRecord<'a> {
        let part = self.python.as_ref();
        SampleRecord {
            time_ns: at.time_ns,
            pid: at.pid,
            tid: at.tid,
            period: 0,
            thread_pointer: part.map_or(0, |_| at.thread_pointer),
            task: None,
            coroutine: None,
            generation: at.generation,
            outcome: outcome as u8,
            python_outcome: part.map_or(0, |part| part.walk.outcome as u8),
            python_instance: part.and(python).map_or(0, |python| python.instance),
            holds_gil: part.is_some_and(|part| part.walk.holds_gil),
            is_thinned: false,
            thread_comm: comms.0,
            process_comm: comms.1,
            kernel: &[],
            user,
            python: python_words,
        }
    }

    /// `is_stopped`: memory beside the copy may be read. Code may be at any time, where a presumed return address
    /// is looked at: it does not change.
    fn walk(&self, guide: Guide<'_>, is_stopped: bool) -> (Vec<WalkedFrame>, Outcome) {
        let find_rule = |address| guide.tables.find_rule(guide.process, address);
        let read = |address| {
            self.stack.word(address).or_else(|| {
                let mut bytes = [0; 8];
                let is_code = || find_rule(address) != Err(Outcome::UnknownMapping);
                let is_there = (is_stopped || is_code()) && self.memory.read(address, &mut bytes);
                is_there.then(|| u64::from_ne_bytes(bytes))
            })
        };
        let start = Registers::new(self.registers.pc, self.registers.general);
        let (frames, outcome) = walk(start, MAX_USER_FRAMES, find_rule, read);
        match outcome {
            Outcome::ReadFailed if self.memory.is_late() => (frames, Outcome::StopLimit),
            outcome => (frames, outcome),
        }
    }
}

impl PythonPart {
    fn take(
        python: &Python,
        memory: &RemotePages,
        registers: &UserRegisters,
        states: &[u64],
    ) -> Option<Self> {
        /// Python frames of one stack.
        const MAX_PYTHON_FRAMES: usize = 1024;
        let interpreter = interpreter(python);
        let mut walk = interpreter.walk(memory, registers.fs_base, states, MAX_PYTHON_FRAMES)?;
        if memory.is_late() && walk.outcome == Outcome::ReadFailed {
            walk.outcome = Outcome::StopLimit;
        }
        let mut codes = HashMap::new();
        for code in walk.frames.iter().filter_map(|frame| frame.code) {
            codes.entry(code).or_insert_with(|| interpreter.code(memory, code));
        }
        Some(Self { walk, codes })
    }
}
