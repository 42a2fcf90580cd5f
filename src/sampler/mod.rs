//! Catching threads in the act.
//!
//! A [`Backend`] takes the samples: programs in the kernel ([`bpf`]), which
//! never stop the target, or this process itself ([`ptrace`]), which stops one
//! thread at a time for some 50 µs. Either delivers samples, process events and
//! new mappings in the order in which they happened. [`Tables`] is the memory
//! that the walker searches; [`TableBuilder`] fills it from binaries on threads
//! of its own, with what was built before coming from [`TableCache`].

pub mod asleep;
pub mod backend;
#[cfg(feature = "bpf")]
pub mod bpf;
pub mod clock;
pub mod extents;
pub mod mapping_record;
pub mod ptrace;
pub mod pythons;
pub mod table_builder;
pub mod table_cache;
pub mod tables;
mod told_codes;
mod threads;
mod tracee;

pub use asleep::AsleepReader;
pub use backend::{Backend, Event, Sampler, SamplerSettings};
pub use clock::Clock;
pub use pythons::{Found, Python, Pythons};
pub use table_builder::{Built, Job, TableBuilder};
pub use table_cache::TableCache;
pub use tables::{RowsOf, SliceEntry, SliceId, TableId, Tables};
