//! Python frames of one instant, read twice.
//!
//! ```text
//!                         ┌─ on_cpu walks the interpreter's frames ──────────► Ours ──┐
//! interrupt of a thread ──┤                                                           ├──► Account
//!                         └─ SIGTRAP ─► stopped before its next instruction ─► Reading ┘
//! ```
//!
//! [`Trapped`] traces a process whose threads' timers ([`PerfEvent::open_trap`]) give their threads SIGTRAP with each
//! sample. The kernel delivers that when the thread is about to return to user mode, so what the tracer finds is what
//! was sampled: nothing that the thread itself writes to has changed, and a Python thread's frames are written by that
//! thread alone. Of a sample that was taken in a system call this is true as well. [`Interpreted`] then reads the frames
//! from outside, as the ptrace backend does. The two walks are different programs that go by one [`Layout`], which
//! `tests/python_layouts.rs` judges by itself.
//!
//! [`Layout`]: txprof::unwind::python::Layout
//! [`PerfEvent::open_trap`]: txprof::sys::perf_event::PerfEvent::open_trap

// As in tests/support: a private crate whose items are public to one another.
#![allow(unreachable_pub)]

mod account;
mod interpreted;
mod trapped;

pub use account::Account;
pub use interpreted::Interpreted;
pub use trapped::{Instants, Trapped};

use txprof::model::Outcome;
use txprof::sys::abi::PythonFrame;

/// A thread at an instant, as one of the two read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// The next instruction in user mode; `None`: a thread that ends has none.
    pub pc: Option<u64>,
    /// `None`: the interpreter does not know the thread.
    pub python: Option<Frames>,
}

/// Its Python frames.
#[derive(Debug, PartialEq, Eq)]
pub struct Frames {
    /// Leaf first.
    pub frames: Vec<PythonFrame>,
    pub outcome: Outcome,
    pub holds_gil: bool,
}
