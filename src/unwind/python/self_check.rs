//! The check of a layout against the interpreter that it is to be used on.
//!
//! A reading that uses the same offsets errs in the same way, so that nothing is compared with that. What is
//! compared is told elsewhere in the process:
//!
//! ```text
//! PyCode_Type.tp_members ─► { "co_name", offset } …    where its own attributes are    = offsets within code objects
//! a frame's ob_type ──────► { "f_back", offset } …     the same, up to 3.10            = offsets within frames
//! data stack ─► its first piece ─► its first frame     the thread's root, from 3.11    = where the chain of callers ends
//! the texts of a root's code, by the offsets told ─►   name and file                   = what the walker delivered
//! ```
//!
//! Types and their members are static: what they contradict is wrong. The texts of a code object are immutable, and
//! are compared only while its content is the one that was delivered. The chain of a thread that runs is of several
//! moments, and is wrong only if it is so time and again; that the caller judges. The end of the chain is the same
//! for whatever the thread calls next, so that a root that returned meanwhile contradicts nothing.

use super::layout::FrameForm;
use super::object_layout::{OBJECT_TYPE, ObjectLayout, TYPE_BASIC_SIZE};
use super::objects::{Heap, Memory};
use super::walk::{Interpreter, PythonWalk};
use super::{Layout, Version};
use crate::model::Outcome;

/// `PyTypeObject.tp_name` and `tp_members` (`Include/cpython/object.h`; the same in 3.7 to 3.15).
const TYPE_NAME: u64 = 24;
const TYPE_MEMBERS: u64 = 240;
/// `PyMemberDef` (`Include/descrobject.h`): name, type, offset, flags, doc.
const MEMBER_BYTES: u64 = 40;
const MEMBER_OFFSET: u64 = 16;
/// Members looked at; code objects have 16.
const MAX_MEMBERS: usize = 32;
/// The longest name of a type or member that is looked for, and the byte behind it.
const NAME_BYTES: usize = 16;
/// `_PyStackChunk` (`Include/cpython/pystate.h`): previous, size, top, data. The first piece keeps a word free.
const CHUNK_SIZE: u64 = 8;
const FIRST_FRAME: u64 = 32;
/// Pieces of a data stack that are looked at. Each is larger than the one before it or has 16 KiB.
const MAX_CHUNKS: usize = 1024;
/// Frames that are looked at; deeper stacks are not judged.
const MAX_FRAMES: usize = 2048;

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both readings are the same.
    Agrees,
    /// They are not, and this says how: `keeps ... elsewhere`.
    Differs(String),
    /// There was nothing to compare, or it could not be read.
    Unknown,
}

/// The outermost frame of a stack as it was delivered.
#[derive(Clone, Copy, Debug)]
pub struct Root<'a> {
    /// Address of its code object.
    pub code: u64,
    /// Of that object's content.
    pub cookie: u32,
    /// Its name, qualified from 3.11 on.
    pub function: &'a str,
    /// Its file.
    pub file: &'a str,
}

/// An interpreter and the memory that it lives in.
pub struct SelfCheck<'a> {
    /// The process's.
    pub memory: &'a dyn Memory,
    /// What is checked.
    pub interpreter: Interpreter<'a>,
    /// Which version it is.
    pub version: Version,
    /// Address of `PyUnicode_Type`.
    pub text_type: u64,
}

impl SelfCheck<'_> {
    /// Compares the layout of code objects and texts with what their types say. Contradictions are final.
    pub fn types(&self) -> Verdict {
        let code_type = self.interpreter.code_type;
        for (address, name) in [(code_type, "code"), (self.text_type, "str")] {
            match self.is_called(address, name) {
                None => return Verdict::Unknown,
                Some(false) => return Verdict::Differs(format!("keeps its type `{name}` elsewhere")),
                Some(true) => {}
            }
        }
        let Some(members) = self.members(code_type) else { return Verdict::Unknown };
        let size_of = |address: u64| word(self.memory, address.checked_add(TYPE_BASIC_SIZE)?);
        let (Some(code_size), Some(text_size)) = (size_of(code_type), size_of(self.text_type)) else {
            return Verdict::Unknown;
        };
        let layout = self.interpreter.layout;
        let mut pairs = vec![
            ("code_name", layout.code_name, told(&members, "co_name")),
            ("code_qualified_name", layout.code_qualified_name, told(&members, "co_qualname")),
            ("code_file_name", layout.code_file_name, told(&members, "co_filename")),
            ("code_first_line", layout.code_first_line, told(&members, "co_firstlineno")),
            // A text that is not compact adds a pointer to what a compact one has.
            ("text_compact", layout.text_compact, text_size.checked_sub(8)),
            // Up to 3.10 the instructions are an object of their own.
            ("code_instructions", layout.code_instructions, Some(code_size)),
            ("code_flags", layout.code_flags, told(&members, "co_flags")),
        ];
        let line_tables = ["co_linetable", "co_lnotab"].iter().find_map(|name| told(&members, name));
        pairs.push(("code_line_table", layout.code_line_table, line_tables));
        compare(&pairs)
    }

    /// Compares what the walker delivered of a root with what its code object says where its type says that it does.
    /// A contradiction is final.
    pub fn root(&self, root: Root<'_>) -> Verdict {
        let is_the_one = || {
            let head = self.interpreter.code(self.memory, root.code);
            head.is_some_and(|head| head.cookie == root.cookie)
        };
        let texts = || {
            let members = self.members(self.interpreter.code_type)?;
            let heap = Heap::new(
                self.memory,
                self.interpreter.layout,
                ObjectLayout::of(self.version)?,
                self.text_type,
            );
            let text = |name| heap.text(heap.pointer(root.code.checked_add(told(&members, name)?)?)?);
            Some((text("co_qualname").or_else(|| text("co_name"))?, text("co_filename")?))
        };
        let Some((function, file)) = is_the_one().then(texts).flatten().filter(|_| is_the_one()) else {
            return Verdict::Unknown;
        };
        // Either may be cut, each with an ellipsis.
        let is_same = |read: &str, delivered: &str| {
            let read = read.trim_end_matches('…');
            let delivered = delivered.trim_end_matches('…');
            read.starts_with(delivered) || delivered.starts_with(read)
        };
        match is_same(&function, root.function) && is_same(&file, root.file) {
            true => Verdict::Agrees,
            false => Verdict::Differs(format!(
                "calls a root `{function}` (`{file}`), not `{}` (`{}`)",
                root.function, root.file
            )),
        }
    }

    /// Compares how the frames of a thread are linked with what else tells it. Except in versions up to 3.10, a thread
    /// that runs may contradict by chance.
    pub fn frames(&self, thread_pointer: u64) -> Verdict {
        let states = self.interpreter.states(self.memory);
        let Some([state]) = states.get(&thread_pointer).map(Vec::as_slice) else { return Verdict::Unknown };
        let Some(walk) = self.interpreter.walk(self.memory, thread_pointer, &[*state], MAX_FRAMES) else {
            return Verdict::Unknown;
        };
        let code_of = |code: u64| word(self.memory, code.checked_add(OBJECT_TYPE)?);
        let codes = walk.frames.iter().filter_map(|frame| frame.code);
        let is_code = |code: u64| code_of(code) == Some(self.interpreter.code_type);
        match walk.outcome {
            _ if !codes.into_iter().all(is_code) => {
                Verdict::Differs("has frames of what is no code".to_owned())
            }
            Outcome::ReadFailed => Verdict::Differs("has frames that cannot be followed".to_owned()),
            // A thread that enters a frame has not linked it yet. That it never has is an error, too.
            Outcome::Complete | Outcome::PythonEntering => match self.interpreter.layout.form {
                FrameForm::ObjectBytes | FrameForm::ObjectUnits => self.frame_objects(&walk),
                FrameForm::EntryFlag | FrameForm::Shim => self.data_stack(*state, &walk),
            },
            _ => Verdict::Unknown,
        }
    }

    /// Up to 3.10 frames are objects, whose type tells of them.
    fn frame_objects(&self, walk: &PythonWalk) -> Verdict {
        let compared = || {
            let frame_type = word(self.memory, walk.frames.last()?.address.checked_add(OBJECT_TYPE)?)?;
            if !self.is_called(frame_type, "frame")? {
                return Some(Verdict::Differs("has frames of another type".to_owned()));
            }
            let members = self.members(frame_type)?;
            let layout = self.interpreter.layout;
            Some(compare(&[
                ("frame_previous", layout.frame_previous, told(&members, "f_back")),
                ("frame_code", layout.frame_code, told(&members, "f_code")),
                ("frame_instruction", layout.frame_instruction, told(&members, "f_lasti")),
            ]))
        };
        compared().unwrap_or(Verdict::Unknown)
    }

    /// From 3.11 on frames are made in the thread's data stack, the root's at its very bottom. A root that is a
    /// generator's has its frame in the generator; a lone frame has nothing that links it.
    fn data_stack(&self, state: u64, walk: &PythonWalk) -> Verdict {
        let Some(root) = walk.frames.last() else { return Verdict::Unknown };
        let mut chunk =
            word(self.memory, state.saturating_add(self.interpreter.layout.thread_data_stack.into()));
        let mut is_inside = false;
        for _ in 0..MAX_CHUNKS {
            let Some(at) = chunk.filter(|at| *at != 0) else { return Verdict::Unknown };
            let (Some(size), Some(previous)) =
                (word(self.memory, at.saturating_add(CHUNK_SIZE)), word(self.memory, at))
            else {
                return Verdict::Unknown;
            };
            is_inside |= root.address.checked_sub(at).is_some_and(|offset| offset < size);
            if previous == 0 {
                return match (is_inside, root.address == at.saturating_add(FIRST_FRAME)) {
                    (true, true) if walk.frames.len() > 1 => Verdict::Agrees,
                    (true, false) => Verdict::Differs("has more frames than were found".to_owned()),
                    _ => Verdict::Unknown,
                };
            }
            chunk = Some(previous);
        }
        Verdict::Unknown
    }

    /// Whether the type at `address` is called so; `None` where it has no name.
    fn is_called(&self, address: u64, name: &str) -> Option<bool> {
        let mut bytes = [0; NAME_BYTES];
        let found = bytes.get_mut(..=name.len())?;
        let is_read = self.memory.read(word(self.memory, address.checked_add(TYPE_NAME)?)?, found);
        is_read.then(|| found.strip_prefix(name.as_bytes()) == Some(&[0]))
    }

    /// Names and offsets of the attributes that the type at `address` keeps in its objects.
    fn members(&self, address: u64) -> Option<Vec<(String, u64)>> {
        let mut at = word(self.memory, address.checked_add(TYPE_MEMBERS)?)?;
        let mut members = Vec::new();
        for _ in 0..MAX_MEMBERS {
            let name = word(self.memory, at)?;
            if name == 0 {
                return Some(members);
            }
            let mut bytes = [0; NAME_BYTES];
            // Names at the end of a page, which is not one of those that are looked for, cannot be read as far.
            let _unread_is_unnamed = self.memory.read(name, &mut bytes);
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            let offset = word(self.memory, at.checked_add(MEMBER_OFFSET)?)?;
            members.push((String::from_utf8_lossy(text).into_owned(), offset));
            at = at.checked_add(MEMBER_BYTES)?;
        }
        None
    }
}

/// Where `members` say that the attribute `name` is.
fn told(members: &[(String, u64)], name: &str) -> Option<u64> {
    members.iter().find(|(known, _)| known == name).map(|(_, offset)| *offset)
}

/// A field of [`Layout`], where it is believed to be and where it is told to be.
type Pair = (&'static str, u32, Option<u64>);

fn compare(pairs: &[Pair]) -> Verdict {
    let told = pairs.iter().filter(|(_, believed, _)| *believed != Layout::ABSENT);
    let mut verdict = Verdict::Unknown;
    for (field, believed, told) in
        told.filter_map(|(field, believed, told)| Some((field, believed, (*told)?)))
    {
        if u64::from(*believed) != told {
            return Verdict::Differs(format!("has {told} for `{field}`, not {believed}"));
        }
        verdict = Verdict::Agrees;
    }
    verdict
}

fn word(memory: &dyn Memory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).then(|| u64::from_ne_bytes(bytes))
}
