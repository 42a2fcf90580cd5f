//! Where CPython keeps modules, dicts, attributes and numbers: one row per minor version.
//!
//! What a stack needs is in [`Layout`](super::Layout); this is what reading the heap needs beyond it.
//! Free-threaded builds have other object headers and no row.

use super::Version;

/// Where the dict of all modules (`sys.modules`) hangs on a `PyInterpreterState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modules {
    /// At this offset, in bytes.
    At(u32),
    /// At the offset that this word of 8 bytes of `_Py_DebugOffsets` tells; see
    /// [`DebugOffsets`](super::DebugOffsets).
    Told(u32),
}

/// How a `PyDictKeysObject` is made.
///
/// ```text
/// up to 3.10   refcnt  size    lookup  usable   nentries  indices…  entries of (hash, key, value)…
///              0       8       16      24       32        40
/// from 3.11    refcnt  log₂ size, log₂ bytes of indices, kind  usable  nentries  indices…  entries…
///              0       8          9                      10    16      24        32
/// ```
///
/// From 3.11 on, only entries of kind 0 have a hash; those of str-keyed dicts do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeysForm {
    /// The number of indices is told, their size follows from it.
    Sized,
    /// The size of all indices is told.
    Logarithmic,
}

/// Where an object that has attributes of its own has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attributes {
    /// Up to 3.10: a pointer to a dict, `tp_dictoffset` bytes behind the object's start.
    Dict,
    /// 3.11: a pointer to bare values 4 words before the object, or else one to a dict 3 words before it.
    Beside,
    /// 3.12: a pointer 3 words before the object, to a dict, or, less one and thus odd, to bare values.
    Tagged,
    /// From 3.13: a pointer to a dict 3 words before the object, or else values behind the object.
    Inline,
}

/// How a `PyLongObject` tells its number of digits, of 30 bits each, from 24 bytes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntegerForm {
    /// Up to 3.11: `ob_size`, negative for negative numbers.
    Signed,
    /// From 3.12: `lv_tag`, the count from its fourth bit on; the two low bits are the sign (0: positive).
    Tagged,
}

/// What reading objects needs to know of a version. Offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    /// Where all modules are.
    pub modules: Modules,
    /// How the keys of dicts are made.
    pub keys: KeysForm,
    /// Where attributes are.
    pub attributes: Attributes,
    /// How integers are made.
    pub integer: IntegerForm,
    /// `PyHeapTypeObject.ht_cached_keys`: the keys that all instances of a class share.
    pub type_cached_keys: u32,
}

// The same in all versions of 64 bits that have a row.

/// `PyObject.ob_type`.
pub const OBJECT_TYPE: u64 = 8;
/// `PyModuleObject.md_dict`.
pub const MODULE_DICT: u64 = 16;
/// `PyDictObject.ma_keys`.
pub const DICT_KEYS: u64 = 32;
/// `PyDictObject.ma_values`; 0 when the keys hold the values.
pub const DICT_VALUES: u64 = 40;
/// `PyTypeObject.tp_basicsize`.
pub const TYPE_BASIC_SIZE: u64 = 32;
/// `PyTypeObject.tp_flags`.
pub const TYPE_FLAGS: u64 = 168;
/// `PyTypeObject.tp_dictoffset`.
pub const TYPE_DICT_OFFSET: u64 = 288;
/// `Py_TPFLAGS_MANAGED_DICT`, from 3.11.
pub const FLAG_MANAGED_DICT: u64 = 1 << 4;
/// `Py_TPFLAGS_INLINE_VALUES`, from 3.13.
pub const FLAG_INLINE_VALUES: u64 = 1 << 2;

impl ObjectLayout {
    /// The row of release builds of `version`, 3.7 to 3.15; none for others.
    pub fn of(version: Version) -> Option<&'static Self> {
        match (version.major, version.minor) {
            (3, 7) => Some(&PYTHON_3_7),
            (3, 8) => Some(&PYTHON_3_8),
            (3, 9) => Some(&PYTHON_3_9),
            (3, 10) => Some(&PYTHON_3_10),
            (3, 11) => Some(&PYTHON_3_11),
            (3, 12) => Some(&PYTHON_3_12),
            (3, 13) => Some(&PYTHON_3_13),
            (3, 14) => Some(&PYTHON_3_14),
            (3, 15) => Some(&PYTHON_3_15),
            _ => None,
        }
    }

    /// Bytes of `PyDictValues` before its first value: from 3.13 on `capacity`, `size`, `embedded`,
    /// `valid` and padding (`internal/pycore_dict.h`).
    pub fn values_header(&self) -> u64 {
        if self.attributes == Attributes::Inline { 8 } else { 0 }
    }
}

// Each row after the first names what differs from the row before it. The sources are headers below
// `Include/`, `Objects/dict-common.h` up to 3.10, and the DWARF of a build of the version that is named.

/// `pystate.h` (`_is`), `object.h` (`_heaptypeobject`), `longintrepr.h`; DWARF of 3.7.16.
const PYTHON_3_7: ObjectLayout = ObjectLayout {
    modules: Modules::At(40),
    keys: KeysForm::Sized,
    attributes: Attributes::Dict,
    integer: IntegerForm::Signed,
    type_cached_keys: 856,
};

/// `internal/pycore_pystate.h` (`_is`), `cpython/object.h`; DWARF of 3.8.18.
const PYTHON_3_8: ObjectLayout =
    ObjectLayout { modules: Modules::At(56), type_cached_keys: 872, ..PYTHON_3_7 };

/// `internal/pycore_interp.h` (`_is`); DWARF of 3.9.18.
const PYTHON_3_9: ObjectLayout =
    ObjectLayout { modules: Modules::At(856), type_cached_keys: 864, ..PYTHON_3_8 };

/// The same headers; DWARF of 3.10.13.
const PYTHON_3_10: ObjectLayout = ObjectLayout { type_cached_keys: 872, ..PYTHON_3_9 };

/// The same headers, `internal/pycore_dict.h`, `_PyObject_ValuesPointer` of `internal/pycore_object.h`;
/// DWARF of 3.11.7.
const PYTHON_3_11: ObjectLayout = ObjectLayout {
    modules: Modules::At(888),
    keys: KeysForm::Logarithmic,
    attributes: Attributes::Beside,
    ..PYTHON_3_10
};

/// The same headers (`_is.imports.modules`, `_PyObject_DictOrValuesPointer`), `internal/pycore_long.h`;
/// DWARF of 3.12.1.
const PYTHON_3_12: ObjectLayout = ObjectLayout {
    modules: Modules::At(944),
    attributes: Attributes::Tagged,
    integer: IntegerForm::Tagged,
    type_cached_keys: 880,
    ..PYTHON_3_11
};

/// `internal/pycore_runtime.h` (`interpreter_state.imports_modules`), `_PyObject_InlineValues` of
/// `internal/pycore_object.h`; DWARF of 3.13.0.
const PYTHON_3_13: ObjectLayout =
    ObjectLayout { modules: Modules::Told(11), attributes: Attributes::Inline, ..PYTHON_3_12 };

/// `internal/pycore_debug_offsets.h`; DWARF of Debian's 3.14.10.
const PYTHON_3_14: ObjectLayout = ObjectLayout { modules: Modules::Told(12), ..PYTHON_3_13 };

/// DWARF of Debian's 3.15.2.
const PYTHON_3_15: ObjectLayout = ObjectLayout { type_cached_keys: 888, ..PYTHON_3_14 };
