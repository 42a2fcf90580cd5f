//! Names as the target says them: its own pid, and paths below its own root.
//!
//! A process in a container sees another file system and another pid than we do. Paths
//! are resolved as if its root were ours (`RESOLVE_IN_ROOT`, Linux 5.6, openat2(2)), so that
//! neither `..` nor a symbolic link planted there leads to a file of the host.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::procfs;
use crate::{Error, ErrorKind, Result, ResultExt};

/// What `pid` takes itself for: its pid in the innermost pid namespace, as in the name
/// of its `/tmp/perf-PID.map`.
pub fn innermost_pid(pid: u32) -> Result<u32> {
    let status = procfs::read_status(pid)?;
    Ok(status.namespace_tids.last().copied().unwrap_or(pid))
}

/// Opens the regular file at `path` below the root directory of `pid`, for reading.
///
/// Nothing but a regular file is ever opened, since opening a device or a pipe can
/// block or have effects. Fails with `NotFound` when there is no such file or process,
/// `PermissionDenied` when the process may not be traced, `Corrupt` for other files.
pub fn open_in_root(pid: u32, path: &Path) -> Result<File> {
    let intent = || format!("failed to open `{}` below the root of process {pid}", path.display());
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let root = open(&root, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let located = openat2(root.context(intent)?, path, how).context(intent)?;
    reopen_regular(&File::from(located)).map_err(|error| error.context(intent()))
}

/// Opens the regular file at `path`, followed as the kernel does, for reading; fails as
/// [`open_in_root`] does.
pub(super) fn open_regular(path: &Path) -> Result<File> {
    let intent = || format!("failed to open `{}`", path.display());
    let located = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context(intent)?;
    reopen_regular(&File::from(located)).map_err(|error| error.context(intent()))
}

/// Turns a descriptor that merely names a file (`O_PATH`) into one that reads it.
fn reopen_regular(located: &File) -> Result<File> {
    if !located.metadata().context(|| "fstat".to_owned())?.is_file() {
        return Err(Error::new(ErrorKind::Corrupt, "not a regular file"));
    }
    File::open(format!("/proc/self/fd/{}", located.as_raw_fd())).context(|| "open".to_owned())
}
