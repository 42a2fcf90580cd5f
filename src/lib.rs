//! txprof: a sampling profiler that works from outside its targets.
//!
//! ```text
//! process ──► target ──► sampler ──► unwind ──► symbolize ──► aggregate ──► output
//!  (maps,      (who, and   (BPF on perf_event:    (addresses     (fold)      (svg, folded,
//!   exec,       what is     stacks of the          become                     json)
//!   threads)    mapped)     interrupted thread)    names)
//! ```
//!
//! A thread is caught in the act, its stack is walked inside the kernel by
//! rows compiled from the binaries' own unwind programs, the addresses are
//! named when the recording ends, and equal stacks are summed.
//!
//! Invariants:
//! * The target is never stopped and never written to.
//! * Each stage uses only what stands before it in the list of modules below.
//! * `model`, `unwind`, `aggregate` and `output` are pure: bytes and values
//!   in, values out.
//! * `unsafe` lives in `sys` alone.
//! * Every sample ends with an [`Outcome`](model::Outcome); every loss has a
//!   reason and is counted.
//! * Everything read from a target is hostile.
//!
//! Start reading at [`model`], then `ebpf/unwind.h`, then [`agent`].

pub mod error;

// In the order of the journey: each uses only what stands before it.
pub mod model;
pub mod sys;
pub mod target;
pub mod unwind;
pub mod symbolize;
pub mod sampler;
pub mod aggregate;
pub mod output;
pub mod agent;
pub mod cli;

pub use error::{Error, ErrorKind, Result, ResultExt};
