//! What `/proc` tells about a process: parsers that are pure functions over
//! bytes, and thin readers around them.
//!
//! Every reader names the process in its error and answers
//! [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when it is gone. Pids are those of the
//! pid namespace that `/proc` was mounted in.

mod call;
mod maps;
mod network;
mod process_tree;
mod stat;
mod status;
mod descriptor;
mod thread;

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::{Result, ResultExt};

pub use call::{Call, call, parse_call};
pub use descriptor::{file_of_descriptor, socket_of_descriptor, sockets};
pub use maps::{MAX_MAPPINGS, parse_mappings, read_mappings};
pub use network::{TcpConnection, network_namespace, parse_tcp_connections, tcp_connections};
pub use process_tree::{descendants, pids, thread_ids};
pub use stat::{Stat, parse_stat, read_stat};
pub use status::{Status, parse_status, read_status};
pub use thread::{activity, cpu_ns, switches, system_call};

/// What is read of a small file of `/proc/PID`; the longest that is used, `status`
/// of a process in thousands of groups, has its used lines in front.
const SMALL_FILE_BYTES: u64 = 64 << 10;

/// What is read of a command line. Only `argv[0]` is used, which is a path.
const COMMAND_LINE_BYTES: u64 = 4096;

/// Whether nothing can be read for now, as this process has as many files open as it may.
pub fn is_blind() -> bool {
    // Any descriptor will do; one that is closed tells nothing.
    let copy = std::io::stderr().as_fd().try_clone_to_owned();
    copy.is_err_and(|error| error.raw_os_error() == Some(libc::EMFILE))
}

/// Whether there is a process `pid`, alive or a zombie; no file is opened for that.
pub fn is_there(pid: u32) -> bool {
    path(pid, "").exists()
}

/// The name of the process's or thread's `comm`: at most 15 bytes, set by the
/// program itself; bytes that are no UTF-8 are replaced.
pub fn comm(tid: u32) -> Result<String> {
    let bytes = read_small(tid, "comm")?;
    Ok(String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned())
}

/// When the process started, in clock ticks since boot. Together with the pid
/// it names a process for good, although pids are used again.
pub fn start_time_ticks(pid: u32) -> Result<u64> {
    read_stat(pid).map(|stat| stat.start_time_ticks)
}

/// The first argument of the command line, which programs may rewrite; `None` for
/// kernel threads, zombies and where it was cleared.
pub fn argument_zero(pid: u32) -> Result<Option<OsString>> {
    let bytes = read_bounded(pid, "cmdline", COMMAND_LINE_BYTES)?;
    let first = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((!first.is_empty()).then(|| OsString::from_vec(first.to_vec())))
}

/// The path of the executed file as the process's mount namespace names it,
/// ` (deleted)` stripped. Needs the right to trace the process.
pub fn executable_path(pid: u32) -> Result<PathBuf> {
    let link = std::fs::read_link(path(pid, "exe")).context(|| failed_to_read(pid, "exe"))?;
    let bytes = link.into_os_string().into_vec();
    let stripped = bytes.strip_suffix(maps::DELETED).unwrap_or(&bytes);
    Ok(PathBuf::from(OsString::from_vec(stripped.to_vec())))
}

/// A file of `/proc/PID` in text, as far as [`SMALL_FILE_BYTES`].
pub(super) fn read_small(pid: u32, name: &str) -> Result<Vec<u8>> {
    read_bounded(pid, name, SMALL_FILE_BYTES)
}

fn read_bounded(pid: u32, name: &str, limit_bytes: u64) -> Result<Vec<u8>> {
    let intent = || failed_to_read(pid, name);
    let mut bytes = Vec::new();
    let file = File::open(path(pid, name)).context(intent)?;
    file.take(limit_bytes).read_to_end(&mut bytes).context(intent)?;
    Ok(bytes)
}

fn path(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

fn failed_to_read(pid: u32, name: &str) -> String {
    format!("failed to read `/proc/{pid}/{name}`")
}
