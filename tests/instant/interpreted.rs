//! The interpreter in a process, and the frames of its stopped threads.

use std::collections::HashMap;
use std::io::Read as _;

use object::{Object, ObjectSegment};
use txprof::model::{Avma, Mapping};
use txprof::sampler::Found;
use txprof::sys::abi::{MAX_USER_FRAMES, PythonFrame};
use txprof::sys::remote_memory;
use txprof::target::mapped_file::open_mapped_file;
use txprof::target::procfs;
use txprof::unwind::python::objects::Memory;
use txprof::unwind::python::walk::Interpreter;
use txprof::unwind::python::{DebugOffsets, Layout, recognise};

use super::Frames;

/// Memory of a process, read when it is asked for.
struct Remote(u32);

impl Memory for Remote {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        remote_memory::read(self.0, address, buffer).is_ok()
    }
}

pub struct Interpreted {
    pid: u32,
    pub found: Found,
}

impl Interpreted {
    /// Looks for it in the files that `pid` has mapped.
    pub fn find(pid: u32) -> Self {
        let mappings = procfs::read_mappings(pid).expect("the target lives");
        let found = mappings.iter().find_map(|mapping| Self::in_mapping(pid, mapping));
        Self { pid, found: found.expect("the target is an interpreter") }
    }

    fn in_mapping(pid: u32, mapping: &Mapping) -> Option<Found> {
        let mut elf = Vec::new();
        open_mapped_file(pid, mapping).ok()?.read_to_end(&mut elf).ok()?;
        let binary = recognise(&elf).ok()??;
        let file = object::File::parse(&*elf).ok()?;
        let (first, last) = (mapping.offset, mapping.offset + mapping.len_bytes());
        let shown = file.segments().find(|segment| {
            let (offset, len) = segment.file_range();
            offset < last && first < offset + len
        })?;
        let bias = (mapping.start.0 - mapping.offset).wrapping_sub(shown.address() - shown.file_range().0);
        let at = |svma: u64| Avma(svma.wrapping_add(bias));
        let runtime = at(binary.runtime.0);
        let told = || {
            let mut bytes = [0; DebugOffsets::BYTES];
            remote_memory::read(pid, runtime.0, &mut bytes).expect("the runtime is mapped");
            Layout::from_debug_offsets(&bytes, binary.version).expect("it tells its layout").layout
        };
        Some(Found {
            version: binary.version,
            layout: Layout::of(binary.version).copied().unwrap_or_else(told),
            runtime,
            runtime_bytes: binary.runtime_len,
            code_type: at(binary.code_type.0),
            text_type: at(binary.text_type.0),
            tasks: None,
        })
    }

    /// The frames of a stopped thread; `None` where the interpreter does not know it.
    pub fn read(&self, thread_pointer: u64) -> Option<Frames> {
        let memory = Remote(self.pid);
        let Found { layout, runtime, code_type, .. } = &self.found;
        let interpreter = Interpreter { layout, runtime: runtime.0, code_type: code_type.0 };
        let states = interpreter.states(&memory).remove(&thread_pointer)?;
        let walk = interpreter.walk(&memory, thread_pointer, &states, MAX_USER_FRAMES)?;
        let mut heads = HashMap::new();
        let frames = walk.frames.iter().map(|frame| {
            let head = frame
                .code
                .and_then(|code| *heads.entry(code).or_insert_with(|| interpreter.code(&memory, code)));
            PythonFrame {
                code: frame.code.unwrap_or(0),
                cookie: head.map_or(0, |head| head.cookie),
                offset: frame.offset,
                is_entry: frame.is_entry,
                is_empty: frame.code.is_none(),
                is_unread: frame.code.is_some() && head.is_none(),
            }
        });
        Some(Frames { frames: frames.collect(), outcome: walk.outcome, holds_gil: walk.holds_gil })
    }
}
