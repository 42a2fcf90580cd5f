//! Catching threads in the act.
//!
//! [`BpfSampler`] owns the clocks (one perf event per CPU) and the programs in
//! the kernel, and delivers samples, process events and new mappings in the
//! order in which they happened. [`Tables`] is the memory that the in-kernel
//! walker searches; [`TableBuilder`] fills it from binaries on threads of its
//! own, with what was built before coming from [`TableCache`].

#[cfg(feature = "bpf")]
pub mod bpf;
pub mod clock;
#[cfg(feature = "bpf")]
pub mod extents;
pub mod mapping_record;
#[cfg(feature = "bpf")]
pub mod pythons;
pub mod table_builder;
pub mod table_cache;
#[cfg(feature = "bpf")]
pub mod tables;

#[cfg(feature = "bpf")]
pub use bpf::{BpfSampler, Event};
pub use clock::Clock;
#[cfg(feature = "bpf")]
pub use pythons::{Found, Python, Pythons};
pub use table_builder::{Built, Job, TableBuilder};
pub use table_cache::TableCache;
#[cfg(feature = "bpf")]
pub use tables::{RowsOf, SliceEntry, SliceId, TableId, Tables};
