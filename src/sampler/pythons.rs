//! The interpreters that the walker knows: which element of the kernel side's
//! array describes which, and when it can be used again.

use std::collections::HashMap;
use std::sync::Arc;

use super::extents::{Extent, Extents};
use crate::model::Avma;
use crate::sys::abi::{
    PYTHON_ABSENT, PYTHON_CODE_BYTES, PYTHON_FRAME_BYTES, PYTHON_THREAD_BYTES, TablePython,
};
use crate::sys::table_memory::SharedArray;
use crate::unwind::python::asyncio::AsyncioOffsets;
use crate::unwind::python::{FrameForm, Layout, Version};

/// An interpreter in a process and its forked children, as long as one of them holds this.
#[derive(Debug)]
pub struct Python {
    /// Index into the kernel side's array, never 0.
    pub index: u32,
    /// Names it in samples and code records; never 0, never used twice.
    pub instance: u32,
    /// Which version.
    pub version: Version,
    /// Samples tell its running tasks.
    pub has_tasks: bool,
    /// `PyUnicode_Type`, which all names are of.
    pub text_type: Avma,
    /// `PyCode_Type`.
    pub code_type: Avma,
    /// Where its structures keep what is wanted.
    pub layout: Layout,
    /// Address of `_PyRuntime`.
    pub runtime: Avma,
}

/// An interpreter in a process, as its files tell it.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Which version.
    pub version: Version,
    /// Where its structures keep what is wanted.
    pub layout: Layout,
    /// `_PyRuntime`.
    pub runtime: Avma,
    /// Its size; 0 where that is not told.
    pub runtime_bytes: u64,
    /// `PyCode_Type`.
    pub code_type: Avma,
    /// `PyUnicode_Type`.
    pub text_type: Avma,
    /// Where the running asyncio task is, if that is wanted and told.
    pub tasks: Option<AsyncioOffsets>,
}

/// All of them. Not `Sync`: one thread manages them, the kernel reads them.
pub struct Pythons {
    memory: SharedArray<TablePython>,
    space: Extents,
    known: HashMap<u32, Arc<Python>>,
    next_instance: u32,
    /// Running asyncio tasks are to be told.
    pub wants_tasks: bool,
    /// Interpreters that found no room and are seen as C programs.
    pub refused: u64,
}

impl Pythons {
    /// None, in `memory`.
    pub fn new(memory: SharedArray<TablePython>) -> Self {
        let capacity = u32::try_from(memory.len()).unwrap_or(u32::MAX);
        Self {
            memory,
            space: Extents::new(1, capacity),
            known: HashMap::new(),
            next_instance: 1,
            wants_tasks: false,
            refused: 0,
        }
    }

    /// Describes one more interpreter to the walker. `None` when there is no room, or when
    /// `layout` goes beyond what the walker copies of a structure.
    pub fn add(&mut self, found: Found) -> Option<Arc<Python>> {
        let Found { version, layout, runtime, runtime_bytes, code_type, text_type, tasks } = found;
        let mut entry = describe(&layout)?;
        if let Some(tasks) = tasks {
            entry.task_name = u16::try_from(tasks.task_name).ok()?;
            entry.thread_running_task = tasks.thread_running_task;
        }
        let Some(Extent { first: index, .. }) = self.space.allocate(1) else {
            self.refused += 1;
            return None;
        };
        let instance = self.next_instance;
        // After 2³² interpreters, codes of the first would have to be remembered still to be mistaken.
        self.next_instance = self.next_instance.checked_add(1).unwrap_or(1);
        entry.instance = instance;
        entry.runtime = runtime.0;
        entry.runtime_bytes = u32::try_from(runtime_bytes).unwrap_or(u32::MAX);
        entry.code_type = code_type.0;
        entry.text_type = text_type.0;
        self.memory.write(index as usize, [entry].into_iter());
        let python = Arc::new(Python {
            index,
            instance,
            version,
            text_type,
            code_type,
            layout,
            runtime,
            has_tasks: tasks.is_some(),
        });
        self.known.insert(instance, Arc::clone(&python));
        Some(python)
    }

    /// The interpreter called `instance`, while a process holds it.
    pub fn get(&self, instance: u32) -> Option<&Arc<Python>> {
        self.known.get(&instance)
    }

    /// The interpreter at `index` of the array, while a process holds it.
    pub fn at(&self, index: u32) -> Option<&Arc<Python>> {
        self.known.values().find(|python| python.index == index)
    }

    /// The ring was drained: what no process holds any more can be used again some ticks later.
    pub fn tick(&mut self) {
        self.space.tick();
        let space = &mut self.space;
        self.known.retain(|_, python| {
            let is_held = Arc::strong_count(python) > 1;
            if !is_held {
                space.free(Extent { first: python.index, len: 1 });
            }
            is_held
        });
    }
}

/// The walker's form of `layout`; `None` when an offset lies beyond what it copies.
fn describe(layout: &Layout) -> Option<TablePython> {
    let short = |offset: u32| match offset {
        Layout::ABSENT => Some(PYTHON_ABSENT),
        offset => u16::try_from(offset).ok().filter(|offset| *offset < PYTHON_ABSENT),
    };
    let required = |offset: u32| (offset != Layout::ABSENT).then_some(offset);
    let or_zero = |offset: u32| if offset == Layout::ABSENT { 0 } else { offset };
    let has_cframe = layout.thread_cframe != Layout::ABSENT;
    let in_thread = [
        layout.thread_next,
        layout.thread_id,
        or_zero(layout.thread_status),
        if has_cframe { layout.thread_cframe } else { layout.thread_frame },
    ];
    let in_frame = [layout.frame_previous, layout.frame_code, layout.frame_instruction];
    let named = if layout.code_qualified_name == Layout::ABSENT {
        layout.code_name
    } else {
        layout.code_qualified_name
    };
    let in_code =
        [layout.code_first_line, layout.code_flags, named, layout.code_file_name, layout.code_line_table];
    let owner = or_zero(layout.frame_owner);
    Some(TablePython {
        runtime_interpreters_head: required(layout.runtime_interpreters_head)?,
        runtime_thread_current: or_zero(layout.runtime_tstate_current),
        interpreter_gil_holder: or_zero(layout.interpreter_gil_holder),
        interpreter_next: required(layout.interpreter_next)?,
        interpreter_threads_head: required(layout.interpreter_threads_head)?,
        thread_active_mask: layout.thread_active_mask,
        thread_bytes: block(&in_thread, PYTHON_THREAD_BYTES)?,
        thread_next: short(layout.thread_next)?,
        thread_interpreter: short(layout.thread_interpreter)?,
        thread_id: short(layout.thread_id)?,
        thread_status: short(or_zero(layout.thread_status))?,
        thread_cframe: short(layout.thread_cframe)?,
        thread_frame: short(layout.thread_frame)?,
        frame_bytes: block(&in_frame, PYTHON_FRAME_BYTES)?.max(u16::try_from(owner).ok()? + 1),
        frame_previous: short(layout.frame_previous)?,
        frame_code: short(layout.frame_code)?,
        frame_instruction: short(layout.frame_instruction)?,
        frame_owner: short(owner).filter(|owner| *owner < PYTHON_FRAME_BYTES)?,
        frame_locals: short(layout.frame_locals)?,
        code_bytes: block(&in_code, PYTHON_CODE_BYTES)?,
        code_first_line: short(layout.code_first_line)?,
        code_flags: short(layout.code_flags)?,
        code_name: short(named)?,
        code_file_name: short(layout.code_file_name)?,
        code_line_table: short(layout.code_line_table)?,
        code_instructions: short(or_zero(layout.code_instructions))?,
        text_hash: short(layout.text_hash)?,
        text_length: short(layout.text_length)?,
        text_state: short(layout.text_state)?,
        text_ascii: short(layout.text_ascii)?,
        text_compact: short(layout.text_compact)?,
        bytes_size: short(layout.bytes_size)?,
        bytes_data: short(layout.bytes_data)?,
        text_kind_shift: u8::try_from(layout.text_kind_shift).ok()?,
        form: match layout.form {
            FrameForm::ObjectBytes => 0,
            FrameForm::ObjectUnits => 1,
            FrameForm::EntryFlag => 2,
            FrameForm::Shim => 3,
        },
        shim_owner: u8::try_from(layout.shim_owner.min(255)).ok()?,
        ..TablePython::default()
    })
}

/// How many bytes of a structure hold the words at `offsets`, all aligned, if that is at most `limit`.
fn block(offsets: &[u32], limit: u16) -> Option<u16> {
    let end = offsets.iter().map(|offset| offset.saturating_add(8)).max()?;
    let end = u16::try_from(end).ok()?;
    (end <= limit && offsets.iter().all(|offset| offset % 4 == 0)).then_some(end)
}
