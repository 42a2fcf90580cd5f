//! The Python functions that samples name: what their code objects said of
//! themselves, kept although process and code object may be gone.

use std::collections::HashMap;

use crate::sampler::Python;
use crate::sys::abi::{CodeRecord, TASK_NUMBERED};
use crate::sys::remote_memory;
use crate::unwind::python::{Version, text};

/// Names a code object's content within one recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CodeId(pub u32);

/// What a code object says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    /// Whose line table it is.
    pub version: Version,
    /// Qualified name, from 3.11 on; before, the plain name.
    pub function: Box<str>,
    /// File, as the interpreter was told: a path, `<string>`, `<frozen importlib._bootstrap>`.
    pub file: Box<str>,
    /// Line of its `def`.
    pub first_line: u32,
    /// Line table; `None` where it could not be read, or only in a part that does not tell where it ends.
    pub lines: Option<Box<[u8]>>,
}

/// Functions kept. A large service executes some 10,000; programs that make functions without end
/// have unnamed ones beyond it.
const MAX_CODES: usize = 65_536;
/// Bytes of all line tables together. Beyond it, functions have no lines.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Longest line table read; a generated function of 100,000 lines has some 500 KB.
const MAX_TABLE_BYTES: u32 = 1 << 20;

/// Of `ob_type` in every object of a build with one lock (`Include/object.h`).
const TYPE_OFFSET: usize = 8;

/// All code objects met.
#[derive(Debug, Default)]
pub struct Codes {
    list: Vec<Code>,
    by_content: HashMap<Code, CodeId>,
    /// Interpreter's instance, address, cookie.
    by_place: HashMap<(u32, u64, u32), CodeId>,
    /// Names of asyncio tasks, by what samples call them.
    tasks: HashMap<u64, Box<str>>,
    line_bytes: usize,
    /// Functions that found no room.
    pub refused: u64,
}

impl Codes {
    /// Takes note of a record that `python` sent. What cannot be decoded is not known.
    pub fn add(&mut self, record: &CodeRecord<'_>, python: &Python) {
        let place = (record.instance, record.code, record.cookie);
        if self.by_place.contains_key(&place) {
            return;
        }
        if self.list.len() >= MAX_CODES || self.by_place.len() >= 4 * MAX_CODES {
            self.refused += 1;
            return;
        }
        let decode = |bytes: &[u8]| {
            let kind = bytes.get(TYPE_OFFSET..)?.first_chunk().copied().map(u64::from_ne_bytes);
            (kind == Some(python.text_type.0)).then(|| text::decode(bytes, &python.layout)).flatten()
        };
        let (Some(function), Some(file)) = (decode(record.name), decode(record.file)) else { return };
        let has_room = |lines: &Vec<u8>| self.line_bytes + lines.len() <= MAX_LINE_BYTES;
        let lines = line_table(record, python).filter(has_room).map(Into::into);
        let code = Code {
            version: python.version,
            function: function.into(),
            file: file.into(),
            first_line: record.first_line,
            lines,
        };
        let id = self.by_content.get(&code).copied().unwrap_or_else(|| {
            let id = CodeId(self.list.len() as u32);
            self.line_bytes += code.lines.as_ref().map_or(0, |lines| lines.len());
            self.list.push(code.clone());
            self.by_content.insert(code, id);
            id
        });
        self.by_place.insert(place, id);
    }

    /// Takes note of an asyncio task's name.
    pub fn add_task(&mut self, record: &CodeRecord<'_>, python: &Python) {
        if self.tasks.len() >= MAX_CODES {
            self.refused += 1;
        } else if let Some(name) = text::decode(record.name, &python.layout) {
            self.tasks.insert(record.code, name.into());
        }
    }

    /// The name of the task that samples call `task`; asyncio's own for those that nobody named.
    pub fn task_name(&self, task: u64) -> String {
        match (task & TASK_NUMBERED != 0, self.tasks.get(&task)) {
            (true, _) => format!("Task-{}", task & !TASK_NUMBERED),
            (false, Some(name)) => name.to_string(),
            (false, None) => "?".to_owned(),
        }
    }

    /// The code object at `code` of an interpreter's instance, if it was told.
    pub fn find(&self, instance: u32, code: u64, cookie: u32) -> Option<CodeId> {
        self.by_place.get(&(instance, code, cookie)).copied()
    }

    /// Whether it is the interpreter's own frame between a class that is called and its `__init__`: not a function
    /// of anybody's. The name is all there is to its file (`_Py_InitCleanup` in Python/specialize.c, 3.13 and 3.14).
    pub fn is_glue(&self, id: CodeId) -> bool {
        const INIT: &str = "__init__";
        let code = self.get(id);
        &*code.function == INIT && &*code.file == INIT
    }

    /// What it says.
    pub fn get(&self, id: CodeId) -> &Code {
        &self.list[id.0 as usize]
    }
}

/// The record's line table, read anew where it is longer than what was copied.
fn line_table(record: &CodeRecord<'_>, python: &Python) -> Option<Vec<u8>> {
    /// Before 3.10 the beginning of a table answers for instructions behind its end, too.
    const FIRST_MINOR_WITH_ENDS: u8 = 10;
    let wanted = record.line_table_bytes;
    let copied = || record.lines.to_vec();
    if record.lines.len() as u64 >= u64::from(wanted) {
        return Some(copied());
    }
    let at = record.line_table.wrapping_add(u64::from(python.layout.bytes_data));
    let mut whole = vec![0; wanted.min(MAX_TABLE_BYTES) as usize];
    let is_read = remote_memory::read(record.pid, at, &mut whole).is_ok();
    // The process went on since: what is read must continue what was copied.
    if is_read && wanted <= MAX_TABLE_BYTES && whole.starts_with(record.lines) {
        return Some(whole);
    }
    (python.version.minor >= FIRST_MINOR_WITH_ENDS).then(copied)
}
