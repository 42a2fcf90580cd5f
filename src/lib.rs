//! txprof: a sampling profiler that works from outside its targets.
//!
//! ```text
//! process ──► target ──► sampler ──► unwind ──► symbolize ──► aggregate ──► output
//!  (maps,      (who, and   (BPF on perf_event,    (addresses     (fold)      (svg, folded,
//!   exec,       what is     or ptrace: stacks      become                     json, dump)
//!   threads)    mapped)     of running threads)    names)
//! ```
//!
//! Beside it, `lane` finds the requests in the bytes on a process's sockets.
//!
//! A thread is caught in the act, or as it ends a wait, and its stack is walked inside the kernel by
//! rows compiled from the binaries' own unwind programs, the addresses are
//! named when the recording ends, and equal stacks are summed. Where BPF is not
//! allowed, the same rows are walked here, over a copy of what a stopped thread had.
//!
//! Requests that are kept, with their profiles, are in the [`store`].
//!
//! Invariants:
//! * The target is never written to, and never stopped except by `sampler::ptrace`,
//!   one thread at a time, which is read for 2 ms at most.
//! * Each stage uses only what stands before it in the list of modules below.
//! * `model`, `unwind`, `lane`, `transaction`, `aggregate` and `output` are pure: bytes and values
//!   in, values out.
//! * `unsafe` lives in `sys` alone.
//! * Every sample ends with an [`Outcome`](model::Outcome); every loss has a
//!   reason and is counted.
//! * Everything read from a target is hostile.
//!
//! Start reading at [`model`], then `ebpf/unwind.h`, then [`sampler`], then [`agent`].

pub mod error;

// In the order of the journey: each uses only what stands before it.
pub mod model;
pub mod sys;
pub mod target;
pub mod unwind;
pub mod symbolize;
pub mod sampler;
pub mod lane;
pub mod transaction;
pub mod aggregate;
pub mod store;
pub mod output;
pub mod agent;
pub mod cli;

pub use error::{Error, ErrorKind, Result, ResultExt};
