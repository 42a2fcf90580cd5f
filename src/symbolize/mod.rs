//! Turns addresses into names: the journey from `0x1139` to
//! `parse_header (http.c:88)`, inlined into `handle (server.c:120)`.
//!
//! Symbol sources, by kind of address:
//!
//! ```text
//! file of a module ─► its separate debug file, by build id or link   (debug_file)
//!   │                  └► what dwz moved out of it, split DWARF
//!   ├─ DWARF: inlined calls, file and line                            (dwarf)
//!   ├─ .symtab, .dynsym, MiniDebugInfo                                (elf, mini_debug_info)
//!   └─ none: module+0xoffset
//! kernel ─► /proc/kallsyms                                            (kernel)
//! generated code ─► /tmp/perf-PID.map                                 (perf_map)
//! ```
//!
//! Addresses come in batches, one module at a time, sorted. Files are mapped
//! for the batch and closed behind it, so memory is that of the largest module
//! and of the answers, however many modules there are.

mod debug_file;
mod demangle;
mod dwarf;
mod elf;
mod kernel;
mod kernel_cache;
mod mini_debug_info;
mod perf_map;
mod symbolizer;

pub use demangle::{MAX_NAME_BYTES, demangle};
pub use kernel::{KERNEL_MODULE, KernelSymbols};
pub use perf_map::{JIT_MODULE, PerfMap, PerfMapReader};
pub use symbolizer::{Config, ModuleFile, Stats, Symbolizer};
