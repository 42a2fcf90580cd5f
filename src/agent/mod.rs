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
pub mod config;
pub mod coverage;
pub mod control;
mod courtesy;
mod frame_names;
mod gil;
mod idle;
pub mod in_flight;
pub mod governor;
mod growth;
pub mod keeper;
pub mod losses;
mod minute;
pub mod module;
pub mod naming;
pub mod notify;
mod offspring;
pub mod places;
mod pool;
mod postgres;
pub mod process;
pub mod python;
pub mod recorder;
mod replay;
mod request_profile;
pub mod requests;
mod self_check;
pub mod self_stats;
pub mod service;
mod shares;
pub mod snapshot;
mod stack;
pub mod thread_names;
mod troubles;
mod wait_names;
mod waits;

pub use recorder::{Ended, Options, Progress, Recorder};
