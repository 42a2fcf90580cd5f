//! Where CPython keeps what a stack needs: offsets in bytes, one row per minor version.

/// `3.11.2` as (3, 11, 2); the release level is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Always 3 so far.
    pub major: u8,
    /// Layouts are constant within one.
    pub minor: u8,
    /// Bug fix release; 0 where it is not known.
    pub micro: u8,
}

/// How the frames of an interpreter are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameForm {
    /// 3.8 and 3.9: `PyFrameObject`, one evaluation loop call each; `f_lasti` in bytes, an `int`.
    ObjectBytes,
    /// 3.10: as before, but `f_lasti` counts instructions of two bytes.
    ObjectUnits,
    /// 3.11: `_PyInterpreterFrame`; the frame that entered the evaluation loop has `is_entry` set.
    EntryFlag,
    /// 3.12 and later: a frame that is no Python call (see [`Layout::shim_owner`]) stands below each
    /// frame that entered the evaluation loop.
    Shim,
}

/// Offsets in bytes within the structure that the first word of the name says. A field that
/// a version does not have is [`Layout::ABSENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How frames are made.
    pub form: FrameForm,
    /// `_PyRuntimeState.interpreters.head`: pointer to `PyInterpreterState`.
    pub runtime_interpreters_head: u32,
    /// `_PyRuntimeState.gilstate.tstate_current`, up to 3.11: the thread state that holds the GIL.
    pub runtime_tstate_current: u32,
    /// `PyInterpreterState.next`.
    pub interpreter_next: u32,
    /// `PyInterpreterState.tstate_head` or `threads.head`.
    pub interpreter_threads_head: u32,
    /// `PyInterpreterState._gil.last_holder`, from 3.12: pointer to `PyThreadState`.
    pub interpreter_gil_holder: u32,
    /// `PyInterpreterState._gil.locked`, from 3.12: an `int`.
    pub interpreter_gil_locked: u32,
    /// `PyThreadState.next`.
    pub thread_next: u32,
    /// `PyThreadState.interp`.
    pub thread_interpreter: u32,
    /// `PyThreadState.thread_id`: `pthread_self()`, which is the thread pointer (fs base).
    pub thread_id: u32,
    /// `PyThreadState._status`, from 3.12: an `int` of flags, see [`Self::thread_active_mask`].
    pub thread_status: u32,
    /// The flag of `_status` that says that the thread state is the current one of its thread; 0: no such flag.
    pub thread_active_mask: u32,
    /// `PyThreadState.cframe`, 3.11 and 3.12: pointer to a structure on the C stack that holds `current_frame`.
    pub thread_cframe: u32,
    /// `frame` or `current_frame`, in `PyThreadState`, or in `_PyCFrame` where [`Self::thread_cframe`] is present.
    pub thread_frame: u32,
    /// `f_back` or `previous`.
    pub frame_previous: u32,
    /// `f_code` or `f_executable`; from 3.14 the low bits are a tag.
    pub frame_code: u32,
    /// `f_lasti` (an `int`), or `prev_instr` or `instr_ptr` (pointers into the code object).
    pub frame_instruction: u32,
    /// `is_entry` (3.11, a byte) or `owner` (3.12 and later, a byte).
    pub frame_owner: u32,
    /// The smallest value of `owner` of frames that are no Python calls.
    pub shim_owner: u32,
    /// `co_firstlineno`, an `int`.
    pub code_first_line: u32,
    /// `co_name`, a `str`.
    pub code_name: u32,
    /// `co_qualname`, from 3.11.
    pub code_qualified_name: u32,
    /// `co_filename`, a `str`.
    pub code_file_name: u32,
    /// `co_lnotab` up to 3.9, then `co_linetable`: a `bytes`.
    pub code_line_table: u32,
    /// `co_code_adaptive`, from 3.11: the first instruction, in the code object itself.
    pub code_instructions: u32,
    /// `PyASCIIObject.hash`, 8 bytes.
    pub text_hash: u32,
    /// `PyASCIIObject.state`, a bit field of 4 bytes.
    pub text_state: u32,
    /// Where `kind` begins in `state`, in bits; `compact` and `ascii` follow its three.
    pub text_kind_shift: u32,
    /// First character of a compact ASCII `str`: `sizeof(PyASCIIObject)`.
    pub text_ascii: u32,
    /// First character of any other compact `str`: `sizeof(PyCompactUnicodeObject)`.
    pub text_compact: u32,
    /// `PyUnicodeObject.length` in characters, 8 bytes.
    pub text_length: u32,
    /// `PyVarObject.ob_size` of a `bytes`, 8 bytes.
    pub bytes_size: u32,
    /// First byte of a `bytes`.
    pub bytes_data: u32,
}

impl Layout {
    /// Stands for a field that this version does not have.
    pub const ABSENT: u32 = u32::MAX;
}
