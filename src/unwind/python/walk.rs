//! The walk along an interpreter's own frames, over memory that is handed in:
//! what `ebpf/python.h` does inside the interrupted thread, for a thread that
//! was stopped.

use std::collections::HashMap;

use super::objects::Memory;
use super::{FrameForm, Layout};
use crate::model::Outcome;

/// Interpreters and thread states looked at by one search.
const MAX_SEARCH_STEPS: usize = 4096;
/// Further states of one thread that are looked at.
const MAX_OTHER_STATES: usize = 4;
/// Largest structure of which a copy is taken; offsets beyond are as memory that cannot be read.
const MAX_BLOCK_BYTES: usize = 512;
/// The low bits of a frame's code, a tag from 3.14 on, and the bits above an address.
const CODE_MASK: u64 = ((1 << 56) - 1) & !7;
/// Where an object's type is, `PyObject.ob_type`.
const OBJECT_TYPE: u64 = 8;

/// An interpreter in a process.
#[derive(Clone, Copy, Debug)]
pub struct Interpreter<'a> {
    /// Where it keeps what is wanted.
    pub layout: &'a Layout,
    /// Address of `_PyRuntime`.
    pub runtime: u64,
    /// Address of `PyCode_Type`.
    pub code_type: u64,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonWalkedFrame {
    /// Where it was found.
    pub address: u64,
    /// What it executes; `None`: not a frame, but a call of the evaluation loop that has none.
    pub code: Option<u64>,
    /// Offset of the instruction in bytes; `None`: it has not started.
    pub offset: Option<u32>,
    /// It entered the evaluation loop from C.
    pub is_entry: bool,
}

/// The frames of a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonWalk {
    /// Leaf first.
    pub frames: Vec<PythonWalkedFrame>,
    /// Whether they were followed to the last.
    pub outcome: Outcome,
    /// The thread held its interpreter's lock.
    pub holds_gil: bool,
}

/// A code object as it was read: what its texts are read from, and what names its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeHead {
    /// Of the content, together with the address.
    pub cookie: u32,
    /// `co_firstlineno`.
    pub first_line: u32,
    /// The `str` of its name.
    pub name: u64,
    /// The `str` of its file's name.
    pub file: u64,
    /// The `bytes` of its line table.
    pub line_table: u64,
}

impl Interpreter<'_> {
    /// The states of all threads by thread pointer, those of a thread newest interpreter first.
    pub fn states(&self, memory: &dyn Memory) -> HashMap<u64, Vec<u64>> {
        let layout = self.layout;
        let mut found: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut steps = 0..MAX_SEARCH_STEPS;
        let mut interpreter = word(memory, self.runtime, layout.runtime_interpreters_head).unwrap_or(0);
        while interpreter != 0 && steps.next().is_some() {
            let mut state = word(memory, interpreter, layout.interpreter_threads_head).unwrap_or(0);
            while state != 0 && steps.next().is_some() {
                if let Some(thread_pointer) = word(memory, state, layout.thread_id) {
                    found.entry(thread_pointer).or_default().push(state);
                }
                state = word(memory, state, layout.thread_next).unwrap_or(0);
            }
            interpreter = word(memory, interpreter, layout.interpreter_next).unwrap_or(0);
        }
        found
    }

    fn is_of(&self, memory: &dyn Memory, state: u64, thread_pointer: u64) -> bool {
        word(memory, state, self.layout.thread_id) == Some(thread_pointer)
    }

    /// Walks the frames of the stopped thread whose states are `states`, as [`Self::states`] told them some
    /// time ago. `None` when none of them is the thread's any more.
    pub fn walk(
        &self,
        memory: &dyn Memory,
        thread_pointer: u64,
        states: &[u64],
        limit: usize,
    ) -> Option<PythonWalk> {
        let own = |state: &&u64| self.is_of(memory, **state, thread_pointer);
        let mut own: Vec<u64> = states.iter().filter(own).copied().collect();
        let current = self.current(memory, &own);
        let first = current.or(own.first().copied())?;
        own.retain(|state| *state != first);
        let mut walk =
            PythonWalk { frames: Vec::new(), outcome: Outcome::Complete, holds_gil: current.is_some() };
        self.walk_state(memory, first, limit, &mut walk);
        if own.len() > MAX_OTHER_STATES && walk.outcome == Outcome::Complete {
            walk.outcome = Outcome::PythonInterpreters;
        }
        let mut are_callers_found = false;
        for state in own {
            if walk.outcome != Outcome::Complete {
                break;
            }
            let before = walk.frames.len();
            self.walk_state(memory, state, limit, &mut walk);
            if walk.frames.len() > before && std::mem::replace(&mut are_callers_found, true) {
                // Which of several interpreters called which is not known.
                walk.frames.truncate(before);
                walk.outcome = Outcome::PythonInterpreters;
            }
        }
        Some(walk)
    }

    /// Which of a thread's states is the current one and holds the lock.
    fn current(&self, memory: &dyn Memory, states: &[u64]) -> Option<u64> {
        let layout = self.layout;
        if layout.runtime_tstate_current != Layout::ABSENT {
            let holder = word(memory, self.runtime, layout.runtime_tstate_current)?;
            return states.iter().find(|state| **state == holder).copied();
        }
        let is_active = |state: &&u64| {
            int(memory, **state, layout.thread_status)
                .is_some_and(|status| status & layout.thread_active_mask != 0)
        };
        states.iter().find(is_active).copied()
    }

    fn walk_state(&self, memory: &dyn Memory, state: u64, limit: usize, walk: &mut PythonWalk) {
        let layout = self.layout;
        let holder = match layout.thread_cframe {
            Layout::ABSENT => Some(state),
            cframe => word(memory, state, cframe),
        };
        let Some(mut frame) = holder.and_then(|holder| word(memory, holder, layout.thread_frame)) else {
            walk.outcome = Outcome::ReadFailed;
            return;
        };
        let mut in_segment = false;
        let mut shims = 0;
        loop {
            if frame == 0 {
                walk.outcome = if in_segment && layout.form == FrameForm::Shim {
                    Outcome::PythonEntering
                } else {
                    Outcome::Complete
                };
                return;
            }
            if walk.frames.len() >= limit || shims > limit {
                walk.outcome = Outcome::TruncatedDepth;
                return;
            }
            let Some(read) = self.frame(memory, frame) else {
                walk.outcome = Outcome::ReadFailed;
                return;
            };
            if read.is_shim {
                shims += 1;
                match walk.frames.last_mut().filter(|_| in_segment) {
                    Some(last) => last.is_entry = true,
                    // The base below all frames, which entered nothing.
                    None if read.previous == 0 => {}
                    None => walk.frames.push(PythonWalkedFrame {
                        address: frame,
                        code: None,
                        offset: None,
                        is_entry: true,
                    }),
                }
                in_segment = false;
            } else {
                in_segment = !read.is_entry;
                walk.frames.push(PythonWalkedFrame {
                    address: frame,
                    code: Some(read.code),
                    offset: read.offset,
                    is_entry: read.is_entry,
                });
            }
            frame = read.previous;
        }
    }

    fn frame(&self, memory: &dyn Memory, frame: u64) -> Option<Frame> {
        let layout = self.layout;
        let wanted = [layout.frame_previous, layout.frame_code, layout.frame_instruction, layout.frame_owner];
        let block = Block::read(memory, frame, &wanted)?;
        let code = block.word(layout.frame_code)? & CODE_MASK;
        let owner = block.byte(layout.frame_owner);
        let offset = match layout.form {
            FrameForm::ObjectBytes => u32::try_from(block.int(layout.frame_instruction)?.cast_signed()).ok(),
            FrameForm::ObjectUnits => u32::try_from(block.int(layout.frame_instruction)?.cast_signed())
                .ok()
                .and_then(|n| n.checked_mul(2)),
            FrameForm::EntryFlag | FrameForm::Shim => {
                let first = code.wrapping_add(layout.code_instructions.into());
                let at = block.word(layout.frame_instruction)?;
                at.checked_sub(first).and_then(|distance| u32::try_from(distance).ok())
            }
        };
        Some(Frame {
            previous: block.word(layout.frame_previous)?,
            code,
            offset: offset.filter(|offset| *offset <= i32::MAX.cast_unsigned()),
            is_entry: match layout.form {
                FrameForm::ObjectBytes | FrameForm::ObjectUnits => true,
                FrameForm::EntryFlag => owner? != 0,
                FrameForm::Shim => false,
            },
            is_shim: layout.form == FrameForm::Shim && u32::from(owner?) >= layout.shim_owner,
        })
    }

    /// What a code object says of itself; `None` when there is none at `code`.
    pub fn code(&self, memory: &dyn Memory, code: u64) -> Option<CodeHead> {
        let layout = self.layout;
        let name = match layout.code_qualified_name {
            Layout::ABSENT => layout.code_name,
            qualified => qualified,
        };
        let wanted = [layout.code_first_line, name, layout.code_file_name, layout.code_line_table];
        let block = Block::read(memory, code, &wanted)?;
        if block.word(OBJECT_TYPE as u32)? != self.code_type {
            return None;
        }
        let first_line = block.int(layout.code_first_line)?;
        let (name, file) = (block.word(name)?, block.word(layout.code_file_name)?);
        let line_table = block.word(layout.code_line_table)?;
        let text_hash = word(memory, name, layout.text_hash)?;
        let mut hash = mix(u64::from(first_line) ^ text_hash);
        for part in [name, file, line_table] {
            hash = mix((hash ^ hash >> 29).wrapping_add(part));
        }
        Some(CodeHead { cookie: (hash >> 32) as u32, first_line, name, file, line_table })
    }
}

/// A multiplication by 2⁶⁴ over the golden ratio: spreads what differs.
fn mix(value: u64) -> u64 {
    value.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

struct Frame {
    previous: u64,
    code: u64,
    offset: Option<u32>,
    is_entry: bool,
    is_shim: bool,
}

/// The beginning of a structure, read at once.
struct Block {
    bytes: [u8; MAX_BLOCK_BYTES],
    len: usize,
}

impl Block {
    /// As many bytes from `address` on as hold the words at `offsets`, of which some may be absent.
    fn read(memory: &dyn Memory, address: u64, offsets: &[u32]) -> Option<Self> {
        let ends =
            offsets.iter().filter(|offset| **offset != Layout::ABSENT).map(|offset| *offset as usize + 8);
        let len = ends.max()?;
        let mut block = Self { bytes: [0; MAX_BLOCK_BYTES], len };
        memory.read(address, block.bytes.get_mut(..len)?).then_some(block)
    }

    fn part(&self, offset: u32, len: usize) -> Option<&[u8]> {
        self.bytes[..self.len].get(offset as usize..)?.get(..len)
    }

    fn word(&self, offset: u32) -> Option<u64> {
        Some(u64::from_ne_bytes(self.part(offset, 8)?.try_into().ok()?))
    }

    fn int(&self, offset: u32) -> Option<u32> {
        Some(u32::from_ne_bytes(self.part(offset, 4)?.try_into().ok()?))
    }

    fn byte(&self, offset: u32) -> Option<u8> {
        Some(self.part(offset, 1)?[0])
    }
}

fn word(memory: &dyn Memory, base: u64, offset: u32) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(base.checked_add(offset.into())?, &mut bytes).then(|| u64::from_ne_bytes(bytes))
}

fn int(memory: &dyn Memory, base: u64, offset: u32) -> Option<u32> {
    let mut bytes = [0; 4];
    memory.read(base.checked_add(offset.into())?, &mut bytes).then(|| u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Version;
    use super::*;

    /// Words by address; what is absent cannot be read.
    #[derive(Default)]
    struct Words(HashMap<u64, u64>);

    impl Words {
        fn put(&mut self, base: u64, offset: u32, value: u64) {
            self.0.insert(base + u64::from(offset), value);
        }
    }

    impl Memory for Words {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (address, slot) in (address..).zip(buffer.iter_mut()) {
                let word = self.0.get(&(address & !7)).copied().unwrap_or(0);
                *slot = word.to_ne_bytes()[(address & 7) as usize];
            }
            address != 0
        }
    }

    const RUNTIME: u64 = 0x1000;
    const POINTER: u64 = 0x7f00_0000_1000;

    fn layout(minor: u8) -> &'static Layout {
        Layout::of(Version { major: 3, minor, micro: 0 }).expect("a version with a row")
    }

    fn interpreter(layout: &Layout) -> Interpreter<'_> {
        Interpreter { layout, runtime: RUNTIME, code_type: 0x9000 }
    }

    /// The runtime of 3.10 with two interpreters; the thread has a state in each, with `newer` and `older` frames.
    fn two_interpreters(newer: u64, older: u64) -> Words {
        let layout = layout(10);
        let mut words = Words::default();
        words.put(RUNTIME, layout.runtime_interpreters_head, 0x2000);
        words.put(0x2000, layout.interpreter_next, 0x3000);
        for (interpreter, state, frames) in [(0x2000, 0x4000, newer), (0x3000, 0x5000, older)] {
            words.put(interpreter, layout.interpreter_threads_head, state);
            words.put(state, layout.thread_id, POINTER);
            for index in 0..frames {
                let frame = state * 16 + index * 0x400;
                let holder = if index == 0 { state } else { frame - 0x400 };
                let offset = if index == 0 { layout.thread_frame } else { layout.frame_previous };
                words.put(holder, offset, frame);
                words.put(frame, layout.frame_code, frame + 0x200);
            }
        }
        words
    }

    /// Frames of the interpreter that the thread came from follow those of the one that it is in.
    #[test]
    fn callers_in_another_interpreter_follow() {
        let layout = layout(10);
        let words = two_interpreters(2, 3);
        let interpreter = interpreter(layout);
        let states = interpreter.states(&words);
        assert_eq!(states, HashMap::from([(POINTER, vec![0x4000, 0x5000])]));
        let walk = interpreter.walk(&words, POINTER, &states[&POINTER], 100).expect("it is the thread's");
        let codes: Vec<u64> = walk.frames.iter().filter_map(|frame| frame.code).collect();
        assert_eq!(codes, [0x40200, 0x40600, 0x50200, 0x50600, 0x50a00]);
        assert_eq!((walk.outcome, walk.holds_gil), (Outcome::Complete, false));
        let walk = interpreter.walk(&words, POINTER, &states[&POINTER], 4).expect("it is the thread's");
        assert_eq!((walk.frames.len(), walk.outcome), (4, Outcome::TruncatedDepth));
        assert!(interpreter.walk(&words, POINTER + 8, &states[&POINTER], 4).is_none(), "another thread's");
    }

    /// A frame that is its own caller is followed up to the limit.
    #[test]
    fn cyclic_frames_end_at_the_limit() {
        let layout = layout(10);
        let mut words = two_interpreters(1, 0);
        words.put(0x40000, layout.frame_previous, 0x40000);
        words.put(0x4000, layout.thread_next, 0x4000);
        let interpreter = interpreter(layout);
        let walk = interpreter.walk(&words, POINTER, &[0x4000], 64).expect("it is the thread's");
        assert_eq!((walk.frames.len(), walk.outcome), (64, Outcome::TruncatedDepth));
        assert!(interpreter.states(&words)[&POINTER].len() <= MAX_SEARCH_STEPS);
    }

    /// Memory in which every word is made of its address.
    struct Noise(u64);

    impl Memory for Noise {
        fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
            for (address, slot) in (address..).zip(buffer.iter_mut()) {
                *slot = mix(address ^ self.0) as u8 & 0x7f;
            }
            address % 7 != self.0 % 7
        }
    }

    proptest! {
        /// Whatever is in memory, the walk ends within its limits.
        #[test]
        fn noise_is_survived(seed: u64, minor in 8u8..=12) {
            let layout = layout(minor);
            let interpreter = interpreter(layout);
            let states = interpreter.states(&Noise(seed));
            prop_assert!(states.values().map(Vec::len).sum::<usize>() <= MAX_SEARCH_STEPS);
            for (pointer, states) in states.iter().take(3) {
                if let Some(walk) = interpreter.walk(&Noise(seed), *pointer, states, 200) {
                    prop_assert!(walk.frames.len() <= 200);
                }
            }
            let _head_or_none = interpreter.code(&Noise(seed), seed);
        }
    }
}
