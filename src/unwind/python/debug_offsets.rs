//! The layout that CPython 3.13 and later tell of themselves, at the start of `_PyRuntime`.
//!
//! `struct _Py_DebugOffsets` (`Include/internal/pycore_runtime.h` in 3.13,
//! `Include/internal/pycore_debug_offsets.h` from 3.14 on) is a row of words of 8 bytes:
//!
//! ```text
//! word 0   the cookie `xdebugpy`
//! word 1   PY_VERSION_HEX: major, minor, micro, release level and serial, from bit 24 down
//! word 2   1 in a free-threaded build
//! word 3…  for each structure its size, then the offsets of some of its fields
//! ```
//!
//! Which structures and fields follow differs per minor version and is no promise of the format, so
//! there is a row of `Words` for each. What the words do not tell is fixed here: `owner` of frames that are no
//! Python calls, the `active` flag, the hash of a `str`.
//!
//! The bytes are the target's and hostile. An offset is taken only if it is a multiple of its field's
//! size and small enough for what it points into; one that is not refuses the whole layout.

use std::fmt;

use super::layout::{FrameForm, Layout, Version};

/// What `_PyRuntime` tells of its interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugOffsets {
    /// The layout, as far as the walker needs it.
    pub layout: Layout,
    /// The version, micro included.
    pub version: Version,
    /// Built without a GIL: frames, bytecode and `str` differ beyond their offsets.
    pub free_threaded: bool,
}

/// Why debug offsets give no layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Fewer bytes than this version's offsets take.
    Short {
        /// What there is.
        bytes: usize,
        /// What is needed.
        needed: usize,
    },
    /// They do not begin with `xdebugpy`.
    NoCookie,
    /// They tell another minor version than the binary is of.
    OtherVersion {
        /// The version in the offsets.
        told: Version,
        /// The version of the binary.
        expected: Version,
    },
    /// An alpha or a beta: layouts settle with the first release candidate.
    PreRelease(Version),
    /// There is no row of words for this version.
    UnknownVersion(Version),
    /// An offset is too large, or not a multiple of its field's size.
    Offset {
        /// The field of [`Layout`].
        field: &'static str,
        /// The offset as told.
        told: u64,
    },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { bytes, needed } => write!(f, "{bytes} bytes of debug offsets, not {needed}"),
            Self::NoCookie => write!(f, "`_PyRuntime` does not begin with `xdebugpy`"),
            Self::OtherVersion { told, expected } => {
                let (told, expected) = (told.minor, expected.minor);
                write!(f, "debug offsets are of version 3.{told}, the binary is of 3.{expected}")
            }
            Self::PreRelease(told) => write!(f, "a pre-release of version {}.{}", told.major, told.minor),
            Self::UnknownVersion(told) => {
                write!(f, "debug offsets of version {}.{} are not known", told.major, told.minor)
            }
            Self::Offset { field, told } => {
                write!(f, "debug offset of `{field}` is out of bounds: {told:#x}")
            }
        }
    }
}

/// Which word of the debug offsets holds which field of [`Layout`].
struct Words {
    runtime_interpreters_head: usize,
    interpreter_next: usize,
    interpreter_threads_head: usize,
    interpreter_gil_locked: usize,
    interpreter_gil_holder: usize,
    thread_next: usize,
    thread_interpreter: usize,
    thread_frame: usize,
    thread_id: usize,
    thread_data_stack: usize,
    thread_status: usize,
    frame_previous: usize,
    frame_code: usize,
    frame_instruction: usize,
    frame_owner: usize,
    frame_locals: usize,
    code_file_name: usize,
    code_name: usize,
    code_qualified_name: usize,
    code_line_table: usize,
    code_first_line: usize,
    code_instructions: usize,
    bytes_size: usize,
    bytes_data: usize,
    text_state: usize,
    text_length: usize,
    text_ascii: usize,
}

/// `Include/internal/pycore_runtime.h`; the same in 3.13.0 and 3.13.18.
const WORDS_3_13: Words = Words {
    runtime_interpreters_head: 5,
    interpreter_next: 8,
    interpreter_threads_head: 9,
    interpreter_gil_locked: 17,
    interpreter_gil_holder: 18,
    thread_next: 21,
    thread_interpreter: 22,
    thread_frame: 23,
    thread_id: 24,
    thread_data_stack: 26,
    thread_status: 27,
    frame_previous: 29,
    frame_code: 30,
    frame_instruction: 31,
    frame_owner: 33,
    frame_locals: 32,
    code_file_name: 35,
    code_name: 36,
    code_qualified_name: 37,
    code_line_table: 38,
    code_first_line: 39,
    code_instructions: 43,
    bytes_size: 65,
    bytes_data: 66,
    text_state: 68,
    text_length: 69,
    text_ascii: 70,
};

/// `Include/internal/pycore_debug_offsets.h` of 3.14.10.
const WORDS_3_14: Words = Words {
    runtime_interpreters_head: 5,
    interpreter_next: 8,
    interpreter_threads_head: 9,
    interpreter_gil_locked: 18,
    interpreter_gil_holder: 19,
    thread_next: 24,
    thread_interpreter: 25,
    thread_frame: 26,
    thread_id: 27,
    thread_data_stack: 29,
    thread_status: 30,
    frame_previous: 32,
    frame_code: 33,
    frame_instruction: 34,
    frame_owner: 36,
    frame_locals: 35,
    code_file_name: 40,
    code_name: 41,
    code_qualified_name: 42,
    code_line_table: 43,
    code_first_line: 44,
    code_instructions: 48,
    bytes_size: 75,
    bytes_data: 76,
    text_state: 78,
    text_length: 79,
    text_ascii: 80,
};

/// `Include/internal/pycore_debug_offsets.h` of 3.15.2.
const WORDS_3_15: Words = Words {
    runtime_interpreters_head: 5,
    interpreter_next: 8,
    interpreter_threads_head: 9,
    interpreter_gil_locked: 18,
    interpreter_gil_holder: 19,
    thread_next: 24,
    thread_interpreter: 25,
    thread_frame: 26,
    thread_id: 30,
    thread_data_stack: 32,
    thread_status: 33,
    frame_previous: 40,
    frame_code: 41,
    frame_instruction: 42,
    frame_owner: 44,
    frame_locals: 43,
    code_file_name: 48,
    code_name: 49,
    code_qualified_name: 50,
    code_line_table: 51,
    code_first_line: 52,
    code_instructions: 56,
    bytes_size: 87,
    bytes_data: 88,
    text_state: 90,
    text_length: 91,
    text_ascii: 92,
};

/// The rows by minor version of 3.
const WORDS: [(u8, &Words); 3] = [(13, &WORDS_3_13), (14, &WORDS_3_14), (15, &WORDS_3_15)];

const COOKIE: &[u8; 8] = b"xdebugpy";

/// Offsets within `_PyRuntimeState` and `PyInterpreterState` end here: three times the largest of them,
/// the runtime state of 3.15, which holds the main interpreter's.
const STATE_LIMIT: u64 = 1 << 20;

/// Offsets within threads, frames, code objects and strings end here: one page, several times the largest.
const RECORD_LIMIT: u64 = 1 << 12;

/// `FRAME_OWNED_BY_CSTACK` in 3.13 (`Include/internal/pycore_frame.h`), `FRAME_OWNED_BY_INTERPRETER` later
/// (`Include/internal/pycore_interpframe_structs.h`; above it is only `FRAME_OWNED_BY_CSTACK`, in 3.14).
const SHIM_OWNER: u32 = 3;

/// `_status.active`, the fifth bit in 3.13 to 3.15 (`Include/cpython/pystate.h`).
const ACTIVE: u32 = 1 << 4;

impl DebugOffsets {
    /// How much of `_PyRuntime` is to be read: all words of the longest row.
    pub const BYTES: usize = (WORDS_3_15.text_ascii + 1) * 8;
}

impl Layout {
    /// The layout told by `bytes`, the first [`DebugOffsets::BYTES`] of `_PyRuntime`, in an interpreter whose
    /// binary is of `version` (its micro does not matter).
    ///
    /// A free-threaded build has a layout too; the caller must look at the flag before it trusts frames
    /// and strings to be as in other builds.
    pub fn from_debug_offsets(bytes: &[u8], version: Version) -> Result<DebugOffsets, Refused> {
        if !bytes.starts_with(COOKIE) {
            return Err(Refused::NoCookie);
        }
        let hex = word(bytes, 1)?;
        let [.., major, minor, micro, level] = hex.to_be_bytes();
        let told = Version { major, minor, micro };
        if (major, minor) != (version.major, version.minor) {
            return Err(Refused::OtherVersion { told, expected: version });
        }
        let row = WORDS.iter().find(|(known, _)| (3, *known) == (major, minor));
        let (_, words) = row.ok_or(Refused::UnknownVersion(told))?;
        // The release level is 0xa, 0xb, 0xc or 0xf (`Include/patchlevel.h`).
        if level >> 4 < 0xc {
            return Err(Refused::PreRelease(told));
        }
        Ok(DebugOffsets { layout: layout(bytes, words)?, version: told, free_threaded: word(bytes, 2)? != 0 })
    }
}

fn layout(bytes: &[u8], words: &Words) -> Result<Layout, Refused> {
    let bounded = |field, index, size: u64, limit| {
        let told = word(bytes, index)?;
        match u32::try_from(told) {
            Ok(offset) if told < limit && told % size == 0 => Ok(offset),
            _ => Err(Refused::Offset { field, told }),
        }
    };
    let state = |field, index| bounded(field, index, 8, STATE_LIMIT);
    let record = |field, index| bounded(field, index, 8, RECORD_LIMIT);

    let text_length = record("text_length", words.text_length)?;
    let text_ascii = record("text_ascii", words.text_ascii)?;
    Ok(Layout {
        form: FrameForm::Shim,
        runtime_interpreters_head: state("runtime_interpreters_head", words.runtime_interpreters_head)?,
        runtime_tstate_current: Layout::ABSENT,
        interpreter_next: state("interpreter_next", words.interpreter_next)?,
        interpreter_threads_head: state("interpreter_threads_head", words.interpreter_threads_head)?,
        interpreter_gil_holder: state("interpreter_gil_holder", words.interpreter_gil_holder)?,
        interpreter_gil_locked: bounded(
            "interpreter_gil_locked",
            words.interpreter_gil_locked,
            4,
            STATE_LIMIT,
        )?,
        thread_next: record("thread_next", words.thread_next)?,
        thread_interpreter: record("thread_interpreter", words.thread_interpreter)?,
        thread_id: record("thread_id", words.thread_id)?,
        thread_status: bounded("thread_status", words.thread_status, 4, RECORD_LIMIT)?,
        thread_active_mask: ACTIVE,
        thread_cframe: Layout::ABSENT,
        thread_frame: record("thread_frame", words.thread_frame)?,
        thread_data_stack: record("thread_data_stack", words.thread_data_stack)?,
        frame_previous: record("frame_previous", words.frame_previous)?,
        frame_code: record("frame_code", words.frame_code)?,
        frame_instruction: record("frame_instruction", words.frame_instruction)?,
        frame_owner: bounded("frame_owner", words.frame_owner, 1, RECORD_LIMIT)?,
        frame_locals: record("frame_locals", words.frame_locals)?,
        shim_owner: SHIM_OWNER,
        code_first_line: bounded("code_first_line", words.code_first_line, 4, RECORD_LIMIT)?,
        // `_PyCode_DEF` in `Include/cpython/code.h`, the same since 3.11; the check at attach compares it.
        code_flags: 48,
        code_name: record("code_name", words.code_name)?,
        code_qualified_name: record("code_qualified_name", words.code_qualified_name)?,
        code_file_name: record("code_file_name", words.code_file_name)?,
        code_line_table: record("code_line_table", words.code_line_table)?,
        code_instructions: record("code_instructions", words.code_instructions)?,
        // `PyASCIIObject` in `Include/cpython/unicodeobject.h`: length, hash, state.
        text_hash: text_length.saturating_add(8),
        text_state: bounded("text_state", words.text_state, 4, RECORD_LIMIT)?,
        // `interned` before it has 2 bits in builds with a GIL, in 3.14 and 3.15 as well.
        text_kind_shift: 2,
        text_ascii,
        // `PyCompactUnicodeObject` in the same file adds utf8_length and utf8.
        text_compact: text_ascii.saturating_add(16),
        text_length,
        bytes_size: record("bytes_size", words.bytes_size)?,
        bytes_data: bounded("bytes_data", words.bytes_data, 1, RECORD_LIMIT)?,
    })
}

/// The word at `index`, which is one of [`Words`] or of the three before them.
fn word(bytes: &[u8], index: usize) -> Result<u64, Refused> {
    let needed = (index + 1) * 8;
    let short = Refused::Short { bytes: bytes.len(), needed };
    let eight = bytes.get(needed - 8..).and_then(<[u8]>::first_chunk).ok_or(short)?;
    Ok(u64::from_le_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The words behind the cookie in a build of 3.13.0, in Debian's 3.14.10 and in Debian's 3.15.2.
    const REAL_3_13: [u64; 70] = [
        0x30d00f0, 0, 283320, 608, 632, 194968, 7272, 7264, 7344, 7400, 7656, 7640, 7648, 16, 7752, 0, 7768,
        7760, 304, 0, 8, 16, 72, 152, 160, 232, 32, 80, 8, 0, 56, 72, 70, 208, 112, 120, 128, 136, 68, 52,
        96, 104, 200, 16, 8, 416, 24, 88, 168, 32, 24, 16, 40, 24, 16, 48, 32, 40, 24, 16, 32, 16, 24, 40,
        16, 32, 64, 32, 16, 40,
    ];
    const REAL_3_14: [u64; 80] = [
        0x30e0af0, 0, 316616, 784, 808, 225864, 7280, 7272, 7344, 7360, 7408, 7688, 7672, 7680, 16, 7784, 0,
        7800, 7792, 7992, 0, 832, 0, 8, 16, 72, 152, 160, 232, 32, 88, 8, 0, 56, 80, 74, 64, 0, 216, 112,
        120, 128, 136, 68, 52, 96, 104, 208, 0, 16, 8, 416, 24, 88, 168, 40, 32, 16, 40, 24, 16, 200, 24, 40,
        32, 48, 32, 40, 24, 16, 32, 16, 24, 40, 16, 32, 64, 32, 16, 40,
    ];
    const REAL_3_15: [u64; 92] = [
        0x30f02f0, 0, 346568, 912, 936, 226240, 7272, 7264, 7336, 7352, 7400, 7592, 7576, 7584, 16, 7736, 0,
        7752, 7744, 7944, 0, 888, 0, 8, 16, 72, 80, 88, 96, 176, 184, 256, 32, 36, 40, 136, 288, 0, 88, 8, 0,
        56, 80, 74, 64, 0, 216, 112, 120, 128, 136, 68, 52, 96, 104, 208, 0, 16, 8, 424, 24, 88, 168, 32,
        288, 944, 888, 40, 32, 16, 40, 24, 16, 200, 24, 40, 32, 48, 32, 40, 24, 16, 32, 16, 24, 40, 16, 32,
        64, 32, 16, 40,
    ];

    /// As [`REAL_3_13`], of a build of 3.13.15 with `--disable-gil`: 16 more bytes before all that follows an object's header.
    const REAL_3_13_FREE_THREADED: [u64; 70] = [
        0x30d0ff0, 1, 328384, 608, 632, 215616, 7272, 7264, 7344, 7400, 7664, 7648, 7656, 16, 7760, 0, 7784,
        7776, 312, 0, 8, 16, 72, 152, 160, 232, 32, 80, 8, 0, 56, 72, 70, 224, 128, 136, 144, 152, 84, 68,
        112, 120, 216, 32, 24, 432, 40, 104, 184, 48, 40, 32, 56, 40, 32, 64, 48, 56, 40, 32, 48, 32, 40, 56,
        32, 48, 80, 48, 32, 56,
    ];

    const VERSION_3_13: Version = Version { major: 3, minor: 13, micro: 0 };
    const VERSION_3_14: Version = Version { major: 3, minor: 14, micro: 0 };
    const VERSION_3_15: Version = Version { major: 3, minor: 15, micro: 0 };

    fn bytes(words: &[u64]) -> Vec<u8> {
        COOKIE.iter().copied().chain(words.iter().flat_map(|word| word.to_le_bytes())).collect()
    }

    /// `REAL_3_13` with one word replaced; words are counted from the cookie.
    fn with(index: usize, value: u64) -> Result<DebugOffsets, Refused> {
        let mut words = REAL_3_13;
        words[index - 1] = value;
        Layout::from_debug_offsets(&bytes(&words), VERSION_3_13)
    }

    /// Every field of 3.13.0, as its DWARF has them.
    #[test]
    fn layout_of_3_13_is_that_of_its_debug_information() {
        let told = Layout::from_debug_offsets(&bytes(&REAL_3_13), VERSION_3_13).expect("a real one");
        assert_eq!((told.version, told.free_threaded), (VERSION_3_13, false));
        let row = Layout::of(Version { major: 3, minor: 12, micro: 1 }).expect("3.12 has a row");
        let expected = Layout {
            runtime_interpreters_head: 632,
            interpreter_next: 7264,
            interpreter_threads_head: 7344,
            interpreter_gil_holder: 7760,
            interpreter_gil_locked: 7768,
            thread_id: 152,
            thread_status: 32,
            thread_cframe: Layout::ABSENT,
            thread_frame: 72,
            code_instructions: 200,
            ..*row
        };
        assert_eq!(told.layout, expected);
    }

    /// What 3.14 and 3.15 changed, and the micro version that only the runtime tells.
    #[test]
    fn later_versions_have_their_words_elsewhere() {
        let told_3_13 = Layout::from_debug_offsets(&bytes(&REAL_3_13), VERSION_3_13).expect("a real one");
        let told = Layout::from_debug_offsets(&bytes(&REAL_3_14), VERSION_3_14).expect("a real one");
        assert_eq!(told.version, Version { micro: 10, ..VERSION_3_14 });
        let expected_3_14 = Layout {
            runtime_interpreters_head: 808,
            interpreter_next: 7272,
            interpreter_gil_holder: 7792,
            interpreter_gil_locked: 7800,
            frame_owner: 74,
            frame_locals: 80,
            code_instructions: 208,
            ..told_3_13.layout
        };
        assert_eq!(told.layout, expected_3_14);

        let told = Layout::from_debug_offsets(&bytes(&REAL_3_15), VERSION_3_15).expect("a real one");
        assert_eq!(told.version, Version { micro: 2, ..VERSION_3_15 });
        let expected_3_15 = Layout {
            runtime_interpreters_head: 936,
            interpreter_next: 7264,
            interpreter_threads_head: 7336,
            interpreter_gil_holder: 7744,
            interpreter_gil_locked: 7752,
            thread_id: 176,
            thread_data_stack: 256,
            ..expected_3_14
        };
        assert_eq!(told.layout, expected_3_15);
    }

    /// Each reason, provoked by one change of real bytes.
    #[test]
    fn nonsense_is_refused_by_name() {
        let real = bytes(&REAL_3_13);
        let of = Layout::from_debug_offsets;
        assert_eq!(of(b"", VERSION_3_13), Err(Refused::NoCookie));
        assert_eq!(of(b"xdebugpY", VERSION_3_13), Err(Refused::NoCookie));
        assert_eq!(of(COOKIE, VERSION_3_13), Err(Refused::Short { bytes: 8, needed: 16 }));
        assert_eq!(of(&real[..80], VERSION_3_13), Err(Refused::Short { bytes: 80, needed: 560 }));
        let expected = VERSION_3_14;
        assert_eq!(of(&real, expected), Err(Refused::OtherVersion { told: VERSION_3_13, expected }));
        assert_eq!(with(1, 0x030d_00a6), Err(Refused::PreRelease(VERSION_3_13)));
        assert_eq!(with(1, 0x030d_00c1).map(|told| told.version), Ok(VERSION_3_13));
        let version = Version { major: 3, minor: 16, micro: 0 };
        let mut later = REAL_3_15;
        later[0] = 0x0310_00f0;
        assert_eq!(of(&bytes(&later), version), Err(Refused::UnknownVersion(version)));
    }

    /// The limits themselves are refused, the last offset before them is not; so are misaligned offsets.
    #[test]
    fn offsets_are_bounded_and_aligned() {
        let refused = |field, told| Err(Refused::Offset { field, told });
        assert!(with(WORDS_3_13.interpreter_next, STATE_LIMIT - 8).is_ok());
        assert_eq!(with(WORDS_3_13.interpreter_next, STATE_LIMIT), refused("interpreter_next", 1 << 20));
        assert!(with(WORDS_3_13.frame_owner, RECORD_LIMIT - 1).is_ok());
        assert_eq!(with(WORDS_3_13.frame_owner, RECORD_LIMIT), refused("frame_owner", 1 << 12));
        assert_eq!(with(WORDS_3_13.thread_next, 12), refused("thread_next", 12));
        assert_eq!(with(WORDS_3_13.code_name, u64::MAX), refused("code_name", u64::MAX));
        assert_eq!(with(WORDS_3_13.thread_id, 152 + (1 << 32)), refused("thread_id", 152 + (1 << 32)));
    }

    /// A build without a GIL is told as such, with a layout of its own.
    #[test]
    fn free_threaded_builds_are_named() {
        let told =
            Layout::from_debug_offsets(&bytes(&REAL_3_13_FREE_THREADED), VERSION_3_13).expect("a real one");
        assert_eq!((told.version.micro, told.free_threaded), (15, true));
        assert_eq!((told.layout.code_name, told.layout.frame_previous, told.layout.text_ascii), (136, 8, 56));
    }

    proptest! {
        /// Any words behind the cookie and a known version: an answer, and no offset beyond its limit.
        #[test]
        fn any_bytes_are_answered(
            minor in 12u8..18,
            level in any::<u16>(),
            words in proptest::collection::vec(prop_oneof![40 => 0u64..4096, 1 => any::<u64>()], 0..120),
            odd in 0usize..8,
        ) {
            let version = Version { major: 3, minor, micro: 0 };
            let hex = 0x0300_0000 | u64::from(minor) << 16 | u64::from(level);
            let mut hostile = bytes(&[hex]);
            hostile.extend(words.iter().map(|word| word & !7).flat_map(u64::to_le_bytes));
            hostile.truncate(hostile.len() - odd);
            if let Ok(told) = Layout::from_debug_offsets(&hostile, version) {
                prop_assert!(u64::from(told.layout.interpreter_next) < STATE_LIMIT);
                prop_assert!(u64::from(told.layout.code_instructions) < RECORD_LIMIT);
            }
        }

        /// No cookie, no structure: no panic either.
        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..900)) {
            prop_assert!(Layout::from_debug_offsets(&noise, VERSION_3_13).is_err());
        }
    }
}
