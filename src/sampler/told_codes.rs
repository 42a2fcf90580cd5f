//! Python frames that were read from outside, as they stand in a sample, and
//! what their code objects say of themselves, told before the first such sample.

use std::collections::HashSet;

use super::pythons::Python;
use super::tracee::Caught;
use crate::sys::abi::{CODE_FILE_BYTES, CODE_NAME_BYTES, CodeRecord, PythonFrame};
use crate::sys::remote_memory;
use crate::unwind::python::walk::CodeHead;

/// Code objects remembered as told; beyond it all are told again.
const MAX_TOLD: usize = 65_536;
/// Line tables are copied up to here, as by the walker in the kernel; the rest is read when it is wanted.
const MAX_LINES_BYTES: usize = 4096;

/// Code objects that were told, by interpreter, address and cookie.
#[derive(Debug, Default)]
pub(super) struct ToldCodes {
    told: HashSet<(u32, u64, u32)>,
}

impl ToldCodes {
    /// The Python frames of `caught` as they stand in a sample; code objects that are new are told before.
    pub(super) fn words(
        &mut self,
        pid: u32,
        python: &Python,
        caught: &Caught,
        tell: &mut dyn FnMut(CodeRecord<'_>),
    ) -> Vec<u8> {
        let Some(part) = &caught.python else { return Vec::new() };
        for (code, head) in part.codes.iter().filter_map(|(code, head)| Some((*code, (*head)?))) {
            if self.told.len() >= MAX_TOLD {
                self.told.clear();
            }
            if self.told.insert((python.instance, code, head.cookie)) {
                tell_code(pid, python, code, &head, tell);
            }
        }
        let words = part.walk.frames.iter().flat_map(|frame| {
            let head = frame.code.and_then(|code| part.codes.get(&code).copied().flatten());
            let frame = PythonFrame {
                code: frame.code.unwrap_or(0),
                cookie: head.map_or(0, |head| head.cookie),
                offset: frame.offset,
                is_entry: frame.is_entry,
                is_empty: frame.code.is_none(),
                is_unread: frame.code.is_some() && head.is_none(),
            };
            frame.to_words()
        });
        words.flat_map(u64::to_ne_bytes).collect()
    }
}

/// Copies the texts of a code object and tells them. It is alive: a thread is executing it.
fn tell_code(pid: u32, python: &Python, code: u64, head: &CodeHead, tell: &mut dyn FnMut(CodeRecord<'_>)) {
    let copy = |address: u64, most: usize| {
        let mut bytes = vec![0; most];
        let count = remote_memory::read_prefix(pid, address, &mut bytes).unwrap_or(0);
        bytes.truncate(count);
        bytes
    };
    let layout = &python.layout;
    let size = copy(head.line_table.wrapping_add(layout.bytes_size.into()), 8);
    let size = size.first_chunk().copied().map_or(0, u64::from_ne_bytes);
    let most = usize::try_from(size).map_or(MAX_LINES_BYTES, |size| size.min(MAX_LINES_BYTES));
    let (name, file) = (copy(head.name, CODE_NAME_BYTES), copy(head.file, CODE_FILE_BYTES));
    let lines = copy(head.line_table.wrapping_add(layout.bytes_data.into()), most);
    tell(CodeRecord {
        pid,
        code,
        cookie: head.cookie,
        instance: python.instance,
        first_line: head.first_line,
        line_table: head.line_table,
        line_table_bytes: u32::try_from(size).unwrap_or(u32::MAX),
        name: &name,
        file: &file,
        lines: &lines,
    });
}
