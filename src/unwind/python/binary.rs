//! Recognises a CPython in the bytes of an ELF file: which version it is, and
//! where the things are that the walker begins with.
//!
//! An interpreter is what defines `_PyRuntime`, which CPython does from 3.7 on
//! and exports for its own extension modules, so that it is there in stripped
//! files. Its version is told by
//!
//! * `Py_Version`, a constant of the value of `PY_VERSION_HEX`, from 3.11 on;
//! * before, by which functions there are.
//!
//! From 3.13 on `_PyRuntime` begins with `struct _Py_DebugOffsets`
//! (`Include/internal/pycore_debug_offsets.h`; 3.13: `pycore_runtime.h`):
//!
//! ```text
//! char cookie[8] = "xdebugpy"; u64 version = PY_VERSION_HEX; u64 free_threaded;
//! ```

use std::ops::Range;

use crate::model::Svma;
use crate::unwind::FdeIndex;
use crate::unwind::reader::Reader;
use crate::{Error, ErrorKind, Result};

use super::Version;
use super::eval_loop;
use super::exports::{Export, Exports};

/// Every interpreter has it, and nothing else.
const RUNTIME: &str = "_PyRuntime";
/// What others export and CPython from 3.7 on does not without `_PyRuntime`.
const OTHERS: [(&str, &str); 2] =
    [("pypy_execute_source", "PyPy"), ("PyEval_EvalFrameEx", "CPython before 3.7")];
/// Holds it, from 3.10 on.
const RUNTIME_SECTION: &str = ".PyRuntime";
/// `_Py_Debug_Cookie`.
const COOKIE: &[u8] = b"xdebugpy";

/// An ELF file with a CPython in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonBinary {
    /// `micro` is 0 up to 3.10, which does not tell it.
    pub version: Version,
    /// `_PyRuntime`.
    pub runtime: Svma,
    /// Its size in bytes, as its symbol says.
    pub runtime_len: u64,
    /// `PyCode_Type`, the type of code objects.
    pub code_type: Svma,
    /// `PyUnicode_Type`, the type of `str`.
    pub text_type: Svma,
    /// `_PyEval_EvalFrameDefault`: where the loop is entered.
    pub eval_entry: Svma,
    /// Stated addresses of the evaluation loop, in all its parts; ascending, without overlaps, not empty.
    pub eval: Vec<Range<u64>>,
    /// The loop executes all instructions itself. If not, `_PyEval_EvalFrameDefault` calls functions that
    /// do so (`--with-tail-call-interp`, from 3.14), and their frames stand above its own.
    pub has_single_loop: bool,
    /// Built with `--with-pydebug`.
    pub is_debug_build: bool,
    /// Built with `--disable-gil`, from 3.13: objects have a longer header.
    pub is_free_threaded: bool,
}

/// The CPython in `elf`, `None` if there is none, which takes a microsecond or two to tell. Errors: an
/// `UnsupportedTarget`, for other Pythons and one that lacks what every supported version has; `Corrupt`.
pub fn recognise(elf: &[u8]) -> Result<Option<PythonBinary>> {
    let Some(exports) = Exports::parse(elf, RUNTIME, RUNTIME_SECTION) else { return Ok(None) };
    let Some(runtime) = exports.find(RUNTIME) else {
        let other = OTHERS.iter().find(|(symbol, _)| exports.find(symbol).is_some());
        return other.map_or(Ok(None), |(_, name)| {
            Err(Error::new(ErrorKind::UnsupportedTarget, format!("{name} is seen as a C program")))
        });
    };
    let find = |name: &str| {
        let missing = || Error::new(ErrorKind::UnsupportedTarget, format!("a Python without `{name}`"));
        exports.find(name).ok_or_else(missing)
    };
    let offsets = DebugOffsets::read(&exports, runtime);
    let version = version(&exports, offsets.as_ref())?;
    let eval = find("_PyEval_EvalFrameDefault")?;
    let eval_entry = eval.svma;
    let eval = eval_loop::find(elf, &FdeIndex::parse(elf)?, eval.svma, eval.len);
    Ok(Some(PythonBinary {
        version,
        runtime: runtime.svma,
        runtime_len: runtime.len,
        code_type: find("PyCode_Type")?.svma,
        text_type: find("PyUnicode_Type")?.svma,
        eval_entry,
        eval: eval.parts,
        has_single_loop: eval.dispatches,
        is_debug_build: exports.find("_Py_NegativeRefcount").is_some(),
        is_free_threaded: offsets.is_some_and(|offsets| offsets.free_threaded),
    }))
}

/// The beginning of `_PyRuntime` from 3.13 on.
struct DebugOffsets {
    version: u64,
    free_threaded: bool,
}

impl DebugOffsets {
    /// `None` where they do not begin with the cookie, or are not in the file.
    fn read(exports: &Exports<'_>, runtime: Export) -> Option<Self> {
        let mut reader = Reader::new(exports.bytes_at(runtime.svma)?.strip_prefix(COOKIE)?);
        Some(Self { version: reader.u64()?, free_threaded: reader.u64()? != 0 })
    }
}

fn version(exports: &Exports<'_>, offsets: Option<&DebugOffsets>) -> Result<Version> {
    let constant = || Reader::new(exports.bytes_at(exports.find("Py_Version")?.svma)?).u64();
    if let Some(hex) = offsets.map(|offsets| offsets.version).or_else(constant) {
        let unknown = || Error::new(ErrorKind::UnsupportedTarget, format!("a Python of version {hex:#x}"));
        return version_of_hex(hex).ok_or_else(unknown);
    }
    // Each came with the version beside it.
    let minors = [("PyModule_AddObjectRef", 10), ("PyFrame_GetCode", 9), ("PyCode_NewWithPosOnlyArgs", 8)];
    let newest = minors.iter().find(|(name, _)| exports.find(name).is_some());
    Ok(Version { major: 3, minor: newest.map_or(7, |(_, minor)| *minor), micro: 0 })
}

/// `PY_VERSION_HEX`: major, minor, micro, and the release level with its serial number, a byte each
/// (`Include/patchlevel.h`).
fn version_of_hex(hex: u64) -> Option<Version> {
    let [_level, micro, minor, major] = u32::try_from(hex).ok()?.to_le_bytes();
    (major == 3).then_some(Version { major, minor, micro })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of 3.11.2 and 3.14.0rc1, and two that no Python 3 has.
    #[test]
    fn version_is_read_from_its_hexadecimal_form() {
        assert_eq!(version_of_hex(0x030b_02f0), Some(Version { major: 3, minor: 11, micro: 2 }));
        assert_eq!(version_of_hex(0x030e_00c1), Some(Version { major: 3, minor: 14, micro: 0 }));
        assert_eq!(version_of_hex(0x0207_12f0), None);
        assert_eq!(version_of_hex(0x1_030b_02f0), None);
    }
}
