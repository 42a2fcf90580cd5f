//! Who is recorded, and what runs there.
//!
//! [`select`] turns what the user named (pids, names, cgroups) into processes
//! and says precisely why one cannot be recorded; [`launch`] starts a command
//! that waits until sampling is on. [`procfs`] reads what the kernel tells about
//! a process, [`mapped_file`] opens the very bytes that it executes, and
//! [`namespace`] finds paths and pids as the process itself says them.
//!
//! Processes come and go while they are read: a process that is gone is an
//! [`ErrorKind::NotFound`](crate::ErrorKind::NotFound), never a surprise. Nothing here stops,
//! signals or writes to a process.

pub mod candidate;
pub mod cgroup;
mod closest_names;
pub mod far_end;
pub mod launch;
pub mod mapped_file;
pub mod namespace;
pub mod procfs;
pub mod select;
