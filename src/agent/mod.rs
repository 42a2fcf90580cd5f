//! One recording, from attaching to a named profile.
//!
//! ```text
//! BpfSampler ──events──► Recorder ──addresses──► Capture ──► naming ──► Profile
//!     ▲                     │ keeps Processes and Modules
//!     └── mappings, rows ───┴──jobs──► TableBuilder (threads)
//! ```
//!
//! The recorder is one thread: it drains events in the order of time, keeps
//! what is mapped where, and turns each pc into a place in a file at once, so
//! that nothing depends on the process still being there at the end.

#[cfg(feature = "bpf")]
pub mod capture;
#[cfg(feature = "bpf")]
pub mod codes;
#[cfg(feature = "bpf")]
pub mod coverage;
pub mod governor;
#[cfg(feature = "bpf")]
pub mod module;
#[cfg(feature = "bpf")]
pub mod naming;
#[cfg(feature = "bpf")]
pub mod process;
#[cfg(feature = "bpf")]
pub mod python;
#[cfg(feature = "bpf")]
pub mod recorder;
#[cfg(feature = "bpf")]
mod replay;
pub mod self_stats;
#[cfg(feature = "bpf")]
pub mod thread_names;

#[cfg(feature = "bpf")]
pub use recorder::{Options, Progress, Recorder};
