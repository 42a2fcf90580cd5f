//! The only unsafe code: small, safe-to-call wrappers around what the kernel
//! offers. Owned descriptors and slices go in and out, no raw pointer leaves.

// Every unsafe block of the crate is below this module; `tests/tidy.rs` holds that.
pub mod abi;
#[cfg(feature = "bpf")]
pub mod bpf;
pub mod clock;
pub mod errand_record;
pub mod file_map;
#[cfg(feature = "bpf")]
mod kernel_types;
pub mod lane_record;
pub mod launch;
pub mod perf_event;
pub mod precedence;
pub mod private_folder;
pub mod ptrace;
pub mod remote_memory;
pub mod rights;
pub mod signal;
pub mod sock_diag;
pub mod table_memory;
pub mod wait_record;
