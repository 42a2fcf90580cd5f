//! Where CPython keeps what a stack needs: offsets in bytes, one row per minor version.
//!
//! The rows here are those of release builds of 3.7 to 3.12 for x86-64 Linux. Debug builds
//! (`Py_DEBUG`, `Py_TRACE_REFS`) have other layouts and must not be looked up. From 3.13 on, the
//! interpreter tells its layout itself: see [`Layout::from_debug_offsets`]. `scripts/check-python-layouts` compares
//! every row with the debug information of the interpreters on the machine.

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
    /// 3.7 to 3.9: `PyFrameObject`, one evaluation loop call each; `f_lasti` in bytes, an `int`.
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
    /// `PyThreadState.datastack_chunk`, from 3.11: the last of the pieces of memory that frames are made in. Only the
    /// check at attach wants it, see [`self_check`](super::self_check).
    pub thread_data_stack: u32,
    /// `f_back` or `previous`.
    pub frame_previous: u32,
    /// `f_code` or `f_executable`; from 3.14 the low bits are a tag.
    pub frame_code: u32,
    /// `f_lasti` (an `int`), or `prev_instr` or `instr_ptr` (pointers into the code object).
    pub frame_instruction: u32,
    /// `is_entry` (3.11, a byte) or `owner` (3.12 and later, a byte).
    pub frame_owner: u32,
    /// `f_localsplus` or `localsplus`: the first local variable; from 3.14 the low bits are a tag.
    pub frame_locals: u32,
    /// The smallest value of `owner` of frames that are no Python calls.
    pub shim_owner: u32,
    /// `co_firstlineno`, an `int`.
    pub code_first_line: u32,
    /// `co_flags`, an `int`: tells the code of coroutines.
    pub code_flags: u32,
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

    /// The layout of release builds of `version`, 3.7 to 3.12; none for others.
    ///
    /// Rows hold for a whole minor version but 3.7, whose runtime state grew in 3.7.4: there, a
    /// `micro` of 0 (3.7.0, or not known) has no row.
    pub fn of(version: Version) -> Option<&'static Self> {
        match (version.major, version.minor, version.micro) {
            (3, 7, 1..=3) => Some(&PYTHON_3_7_0),
            (3, 7, 4..) => Some(&PYTHON_3_7_4),
            (3, 8, _) => Some(&PYTHON_3_8),
            (3, 9, _) => Some(&PYTHON_3_9),
            (3, 10, _) => Some(&PYTHON_3_10),
            (3, 11, _) => Some(&PYTHON_3_11),
            (3, 12, _) => Some(&PYTHON_3_12),
            _ => None,
        }
    }
}

// Each row after the first names what differs from the row before it. The sources are the
// interpreter's headers below `Include/` and the DWARF of a build of the version that is named.

/// 3.7.4 and later. `internal/pystate.h` (`_PyRuntimeState`), `pystate.h` (`_is`, `_ts`),
/// `frameobject.h`, `code.h`, `unicodeobject.h`, `bytesobject.h`; DWARF of 3.7.16.
const PYTHON_3_7_4: Layout = Layout {
    form: FrameForm::ObjectBytes,
    runtime_interpreters_head: 24,
    runtime_tstate_current: 1480,
    interpreter_next: 0,
    interpreter_threads_head: 8,
    interpreter_gil_holder: Layout::ABSENT,
    interpreter_gil_locked: Layout::ABSENT,
    thread_next: 8,
    thread_interpreter: 16,
    thread_id: 176,
    thread_status: Layout::ABSENT,
    thread_active_mask: 0,
    thread_cframe: Layout::ABSENT,
    thread_frame: 24,
    thread_data_stack: Layout::ABSENT,
    frame_previous: 24,
    frame_code: 32,
    frame_instruction: 104,
    frame_owner: Layout::ABSENT,
    frame_locals: 360,
    shim_owner: Layout::ABSENT,
    code_first_line: 36,
    code_flags: 32,
    code_name: 104,
    code_qualified_name: Layout::ABSENT,
    code_file_name: 96,
    code_line_table: 112,
    code_instructions: Layout::ABSENT,
    text_hash: 24,
    text_state: 32,
    text_kind_shift: 2,
    text_ascii: 48,
    text_compact: 72,
    text_length: 16,
    bytes_size: 16,
    bytes_data: 32,
};

/// Up to 3.7.3, whose `_PyRuntimeState` is 88 bytes shorter before this field. No build of it was at hand: the
/// offset is the one that `benfred/py-spy src/python_bindings/mod.rs` uses.
const PYTHON_3_7_0: Layout = Layout { runtime_tstate_current: 1392, ..PYTHON_3_7_4 };

/// `internal/pycore_pystate.h` (`_PyRuntimeState`, `_is`), `cpython/pystate.h` (`_ts`), `frameobject.h`,
/// `code.h` (`co_posonlyargcount` is new); DWARF of 3.8.18.
const PYTHON_3_8: Layout = Layout {
    runtime_interpreters_head: 32,
    runtime_tstate_current: 1368,
    code_first_line: 40,
    code_flags: 36,
    code_name: 112,
    code_file_name: 104,
    code_line_table: 120,
    ..PYTHON_3_7_4
};

/// `internal/pycore_runtime.h`, `internal/pycore_interp.h`, `cpython/{pystate,frameobject,code}.h`;
/// DWARF of 3.9.18 and of Debian's 3.9.2.
const PYTHON_3_9: Layout = Layout { runtime_tstate_current: 568, ..PYTHON_3_8 };

/// The same headers; `f_stackdepth` took the place of a pointer. DWARF of 3.10.13.
const PYTHON_3_10: Layout =
    Layout { form: FrameForm::ObjectUnits, frame_instruction: 96, frame_locals: 352, ..PYTHON_3_9 };

/// The same headers, and `internal/pycore_frame.h` (`_PyInterpreterFrame`), `cpython/pystate.h`
/// (`_PyCFrame`). DWARF of 3.11.7 and of Debian's 3.11.2.
const PYTHON_3_11: Layout = Layout {
    form: FrameForm::EntryFlag,
    runtime_interpreters_head: 40,
    runtime_tstate_current: 576,
    interpreter_threads_head: 16,
    thread_id: 152,
    thread_cframe: 56,
    thread_frame: 8,
    thread_data_stack: 296,
    frame_previous: 48,
    frame_code: 32,
    frame_instruction: 56,
    frame_owner: 68,
    frame_locals: 72,
    code_first_line: 72,
    code_flags: 48,
    code_name: 120,
    code_qualified_name: 128,
    code_file_name: 112,
    code_line_table: 136,
    code_instructions: 184,
    ..PYTHON_3_10
};

/// The same headers, and `internal/pycore_gil.h`. `shim_owner` is `FRAME_OWNED_BY_CSTACK` of
/// `internal/pycore_frame.h`; `active` is the fifth bit of `_status` in `cpython/pystate.h`.
/// DWARF of 3.12.1; the headers of 3.12.5 agree.
const PYTHON_3_12: Layout = Layout {
    form: FrameForm::Shim,
    runtime_tstate_current: Layout::ABSENT,
    interpreter_threads_head: 72,
    interpreter_gil_holder: 1048,
    interpreter_gil_locked: 1056,
    thread_id: 136,
    thread_status: 24,
    thread_active_mask: 1 << 4,
    thread_frame: 0,
    thread_data_stack: 232,
    frame_previous: 8,
    frame_code: 0,
    frame_owner: 70,
    shim_owner: 3,
    code_first_line: 68,
    code_instructions: 192,
    text_ascii: 40,
    text_compact: 56,
    ..PYTHON_3_11
};

#[cfg(test)]
mod tests {
    use super::*;

    fn of(minor: u8, micro: u8) -> Option<&'static Layout> {
        Layout::of(Version { major: 3, minor, micro })
    }

    /// Versions with rows, at both ends, and those without: too old, ambiguous, self-describing.
    #[test]
    fn rows_are_those_of_3_7_to_3_12() {
        for (minor, micro) in [(7, 1), (7, 16), (8, 0), (9, 2), (10, 13), (11, 0), (12, 0), (12, 255)] {
            assert!(of(minor, micro).is_some(), "3.{minor}.{micro}");
        }
        for (minor, micro) in [(6, 15), (7, 0), (13, 0), (14, 0), (0, 0)] {
            assert!(of(minor, micro).is_none(), "3.{minor}.{micro}");
        }
        assert!(Layout::of(Version { major: 2, minor: 7, micro: 18 }).is_none());
    }

    /// The one place known to have moved between bug fix releases.
    #[test]
    fn runtime_of_3_7_grew_in_3_7_4() {
        let current = |micro| of(7, micro).expect("3.7 has rows").runtime_tstate_current;
        assert_eq!((current(3), current(4)), (1392, 1480));
    }

    /// What a form of frames cannot be walked without is in each of its rows, and only there.
    #[test]
    fn rows_have_what_their_form_needs() {
        for minor in 7..=12 {
            let row = of(minor, 9).expect("3.7 to 3.12 have rows");
            let present = |offset: u32| offset != Layout::ABSENT;
            let newer = minor >= 11;
            assert_eq!(present(row.runtime_tstate_current), minor <= 11, "3.{minor}");
            assert_eq!(present(row.interpreter_gil_holder), minor >= 12, "3.{minor}");
            assert_eq!(present(row.thread_status), row.thread_active_mask != 0, "3.{minor}");
            assert_eq!(present(row.thread_cframe), newer, "3.{minor}");
            assert_eq!(present(row.frame_owner), newer, "3.{minor}");
            assert_eq!(present(row.code_qualified_name), newer, "3.{minor}");
            assert_eq!(present(row.code_instructions), newer, "3.{minor}");
            assert_eq!(present(row.shim_owner), row.form == FrameForm::Shim, "3.{minor}");
        }
    }
}
