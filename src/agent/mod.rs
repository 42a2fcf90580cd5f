//! One recording, from attaching to a named profile.
//!
//! ```text
//! Sampler ────events──► Recorder ──addresses──► Capture ──► naming ──► Profile
//!     ▲                     │ keeps Processes and Modules
//!     └── mappings, rows ───┴──jobs──► TableBuilder (threads)
//! ```
//!
//! The recorder is one thread: it drains events in the order of time, keeps
//! what is mapped where, and turns each pc into a place in a file at once, so
//! that nothing depends on the process still being there at the end.

pub mod capture;
pub mod codes;
pub mod coverage;
pub mod governor;
pub mod module;
pub mod naming;
pub mod process;
pub mod python;
pub mod recorder;
mod replay;
pub mod self_stats;
pub mod snapshot;
pub mod thread_names;

pub use recorder::{Options, Progress, Recorder};
