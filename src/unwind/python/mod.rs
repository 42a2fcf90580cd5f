//! CPython as the walker must know it: which binaries hold an interpreter, where
//! its structures keep what a stack needs, and what a code object's bytes say.
//!
//! ```text
//! ELF bytes ──► binary ──► version, address of _PyRuntime, parts of the eval loop
//! version ────► layout ──► offsets, one row per minor version (3.13+: told by the runtime itself)
//! code object ─► text, line_table ──► qualified name, file, line
//! native frames + Python frames ──► merge ──► one stack in call order
//! memory ─────► walk ──► a stopped thread's frames
//! memory ─────► objects, thread_names ──► what `threading` calls its threads
//! memory ─────► self_check ──► whether the layout fits the interpreter
//! ```
//!
//! Pure, as everything in `unwind`: bytes and values in, values out; all bytes are hostile.

pub mod asyncio;
pub mod binary;
pub mod debug_offsets;
pub mod entry;
mod eval_loop;
mod exports;
pub mod layout;
pub mod line_table;
pub mod merge;
pub mod object_layout;
pub mod objects;
pub mod self_check;
pub mod text;
pub mod thread_names;
pub mod walk;

pub use asyncio::AsyncioOffsets;
pub use binary::{PythonBinary, recognise};
pub use debug_offsets::{DebugOffsets, Refused};
pub use layout::{FrameForm, Layout, Version};
