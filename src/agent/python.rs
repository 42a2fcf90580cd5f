//! The interpreters in the targets: recognised once per file, attached once
//! per process, checked on the first stacks, judged on every sample.

use std::ops::Range;
use std::sync::Arc;

use object::{Object, ObjectSegment};

use super::capture::RawFrame;
use super::codes::Codes;
use super::module::{ModuleId, Modules};
use super::process::MappedModule;
use super::self_check::{AttachCheck, Trust};
use crate::model::{Avma, Mapping, MappingKind, Svma};
use crate::sampler::table_builder::Source;
use crate::sampler::{Found, Python, Pythons};
use crate::sys::abi::{PythonFrame, SampleRecord};
use crate::sys::file_map::FileMap;
use crate::target::procfs;
use crate::unwind::python::entry::unready_pcs;
use crate::unwind::python::{Layout, PythonBinary, Version, recognise};
use crate::{Error, ErrorKind, Result};

/// A file that holds an interpreter.
#[derive(Debug)]
pub struct PythonModule {
    binary: PythonBinary,
    layout: Layout,
    /// Where the loop has published a frame that it has not yet written.
    unready: Range<u64>,
}

impl PythonModule {
    /// `None` for nearly all files. Fails with a reason for interpreters that cannot be walked.
    pub fn recognise(source: &Source) -> Result<Option<Self>> {
        match source {
            Source::Image(_) => Ok(None),
            Source::File(file) => match FileMap::map(file) {
                Ok(map) => Self::of(&map),
                Err(_) => Ok(None),
            },
        }
    }

    fn of(elf: &[u8]) -> Result<Option<Self>> {
        let Some(binary) = recognise(elf)? else { return Ok(None) };
        let layout = layout_of(&binary, bytes_at(elf, binary.runtime.0))?;
        let unready = match layout.thread_cframe {
            Layout::ABSENT => 0..0,
            cframe => {
                let start = binary.eval_entry.0;
                unready_pcs(bytes_at(elf, start), start, cframe, layout.thread_frame)
            }
        };
        Ok(Some(Self { binary, layout, unready }))
    }
}

/// The layout of a release build with one lock; `runtime` begins with `_PyRuntime` as it is in the file.
fn layout_of(binary: &PythonBinary, runtime: &[u8]) -> Result<Layout> {
    let Version { major, minor, .. } = binary.version;
    let refuse = |why: String| {
        let what = format!("CPython {major}.{minor} is seen as a C program: {why}");
        Err(Error::new(ErrorKind::UnsupportedTarget, what))
    };
    if binary.is_free_threaded {
        return refuse("it is free-threaded (built with --disable-gil)".to_owned());
    }
    if !binary.has_single_loop {
        return refuse("it has no single evaluation loop (built with --with-tail-call-interp)".to_owned());
    }
    if let Some(layout) = Layout::of(binary.version) {
        return match binary.is_debug_build {
            true => refuse("it is a debug build (--with-pydebug)".to_owned()),
            false => Ok(*layout),
        };
    }
    match Layout::from_debug_offsets(runtime, binary.version) {
        Ok(told) if told.free_threaded => refuse("it is free-threaded".to_owned()),
        Ok(told) => Ok(told.layout),
        Err(reason) => refuse(reason.to_string()),
    }
}

/// What is known of the Python in a process. Forked children share it.
#[derive(Clone, Debug, Default)]
pub enum PythonOf {
    /// None was mapped yet.
    #[default]
    None,
    /// The walker follows its frames.
    Walked(Attached),
    /// It is there, but what was read of it cannot be right, which this says, or it found no room.
    Refused(Option<String>),
}

/// An interpreter that the walker follows.
#[derive(Clone, Debug)]
pub struct Attached {
    python: Arc<Python>,
    id: ModuleId,
    module: Arc<PythonModule>,
    check: AttachCheck,
    agreed: u32,
    disagreed: u32,
}

impl PythonOf {
    /// Looks for an interpreter among the files that were opened so far and makes the walker follow it.
    /// Where tasks are wanted, an interpreter without them is given another chance: asyncio may have come since.
    pub fn attach(&mut self, mappings: &[MappedModule], modules: &Modules, pythons: &mut Pythons) {
        let tasks = || mappings.iter().find_map(|mapped| modules.get(mapped.module?).tasks);
        let tasks = match self {
            Self::None => pythons.wants_tasks.then(tasks).flatten(),
            Self::Walked(attached) if pythons.wants_tasks && !attached.python.has_tasks => match tasks() {
                Some(tasks) => Some(tasks),
                None => return,
            },
            Self::Walked(_) | Self::Refused(_) => return,
        };
        let found = mappings.iter().find_map(|mapped| {
            let id = mapped.module?;
            let module = modules.get(id);
            Some((id, Arc::clone(module.python.as_ref()?), module.bias(&mapped.mapping)?))
        });
        let Some((id, module, bias)) = found else { return };
        let at = |svma: Svma| Avma(svma.0.wrapping_add(bias));
        let binary = &module.binary;
        let python = pythons.add(Found {
            version: binary.version,
            layout: module.layout,
            runtime: at(binary.runtime),
            runtime_bytes: binary.runtime_len,
            code_type: at(binary.code_type),
            text_type: at(binary.text_type),
            tasks,
        });
        *self = match python {
            Some(python) => {
                let check = AttachCheck::default();
                Self::Walked(Attached { python, id, module, check, agreed: 0, disagreed: 0 })
            }
            None => Self::Refused(None),
        };
    }

    /// Whether a look at files that were opened since may find more.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The interpreter that the walker follows.
    pub fn walked(&self) -> Option<&Python> {
        match self {
            Self::Walked(attached) => Some(&attached.python),
            Self::None | Self::Refused(_) => None,
        }
    }

    /// Why the interpreter was given up, as what its frames do: `contradict ...`.
    pub fn doubt(&self) -> Option<&str> {
        match self {
            Self::Refused(doubt) => doubt.as_deref(),
            Self::None | Self::Walked(_) => None,
        }
    }

    /// The interpreter that the walker follows, to keep.
    pub fn shared(&self) -> Option<Arc<Python>> {
        match self {
            Self::Walked(attached) => Some(Arc::clone(&attached.python)),
            Self::None | Self::Refused(_) => None,
        }
    }

    /// Whether `frame` is a call of the interpreter's evaluation loop.
    pub fn is_loop(&self, frame: &RawFrame) -> bool {
        match (self, frame) {
            (Self::Walked(attached), RawFrame::Module(id, svma)) if *id == attached.id => {
                attached.module.binary.eval.iter().any(|part| part.contains(&svma.0))
            }
            _ => false,
        }
    }

    /// Whether a thread whose leaf is `frame` was about to fill in what leads to its Python frames.
    pub fn is_unready(&self, frame: Option<&RawFrame>) -> bool {
        match (self, frame) {
            (Self::Walked(attached), Some(RawFrame::Module(id, svma))) if *id == attached.id => {
                attached.module.unready.contains(&svma.0)
            }
            _ => false,
        }
    }

    /// Compares the first stacks with what the interpreter's memory says by other ways, once; whether `frames`, the
    /// Python part of `sample`, can be shown. Interpreters that are not as they were taken to be are given up.
    /// `mappings` are the process's as they were when the sample was taken.
    pub fn check(
        &mut self,
        sample: &SampleRecord<'_>,
        frames: &[PythonFrame],
        codes: &Codes,
        mappings: &[MappedModule],
    ) -> bool {
        let Self::Walked(attached) = self else { return false };
        match attached.check.judge(sample, frames, &attached.python, codes) {
            Trust::Trusted => true,
            // What was read may have been another program's, which the process runs by now.
            Trust::Lost(how) if is_mapped(sample.pid, attached.id, mappings) => {
                let Version { major, minor, .. } = attached.python.version;
                *self = Self::Refused(Some(format!("are not those of CPython {major}.{minor}, which {how}")));
                false
            }
            Trust::Doubted | Trust::Lost(_) => false,
        }
    }

    /// Takes note of whether a sample's two parts fit. The number of the loop's calls is told by the
    /// program's unwind information, that of the segments by the interpreter's memory: two independent
    /// readings of one stack. Interpreters whose frames are mostly contradicted are given up.
    pub fn judge(&mut self, agrees: bool) -> bool {
        /// Samples after which it is decided; what a moment's disturbance spoils is fewer.
        const JURY: u32 = 16;
        let Self::Walked(attached) = self else { return true };
        match agrees {
            true => attached.agreed = attached.agreed.saturating_add(1),
            false => attached.disagreed = attached.disagreed.saturating_add(1),
        }
        let is_wrong = attached.disagreed >= JURY && attached.disagreed > attached.agreed;
        if is_wrong {
            *self = Self::Refused(Some("contradict its native stack".to_owned()));
        }
        !is_wrong
    }
}

/// Whether process `pid` still has the module where it was known to be. Its path is told in more than one form.
fn is_mapped(pid: u32, module: ModuleId, known: &[MappedModule]) -> bool {
    let place = |mapping: &Mapping| match &mapping.kind {
        MappingKind::File { id, .. } => Some((mapping.start, *id)),
        _ => None,
    };
    let now = procfs::read_mappings(pid).unwrap_or_default();
    let mut wanted =
        known.iter().filter(|mapped| mapped.module == Some(module)).map(|mapped| &mapped.mapping);
    wanted.any(|wanted| place(wanted).is_some() && now.iter().any(|mapping| place(mapping) == place(wanted)))
}

/// The bytes of the file from stated address `svma` to the end of its segment; empty where there are none.
fn bytes_at(elf: &[u8], svma: u64) -> &[u8] {
    let Ok(file) = object::read::elf::ElfFile64::<object::Endianness>::parse(elf) else { return &[] };
    file.segments()
        .find_map(|segment| {
            let offset = usize::try_from(svma.checked_sub(segment.address())?).ok()?;
            segment.data().ok()?.get(offset..)
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own program is where it is; not elsewhere, and not in a process that is gone.
    #[test]
    fn programs_are_looked_for_where_they_were() {
        let own = std::process::id();
        let mut modules = Modules::default();
        let read = procfs::read_mappings(own).expect("we run");
        let known: Vec<MappedModule> = read
            .into_iter()
            .map(|mapping| MappedModule { module: modules.of_mapping(&mapping), mapping })
            .collect();
        let program = known.iter().find_map(|mapped| mapped.module).expect("we have a file");
        assert!(is_mapped(own, program, &known));
        let mut moved = known.clone();
        moved.iter_mut().for_each(|mapped| mapped.mapping.start.0 += 4096);
        assert!(!is_mapped(own, program, &moved));
        assert!(!is_mapped(u32::MAX >> 1, program, &known));
    }
}
