//! Names as the target says them: its own pid, and paths below its own root.
//!
//! A process in a container sees another file system and another pid than we do. Paths
//! are resolved as if its root were ours (`RESOLVE_IN_ROOT`, Linux 5.6, openat2(2)), so that
//! neither `..` nor a symbolic link planted there leads to a file of the host.
//!
//! Nothing but a regular file is ever opened, since opening a device or a pipe can block or
//! have effects: a path is located first (`O_PATH`), and what is located then opened.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
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

/// The root directory of some process, or our own; stays what it is when the process ends.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens the directory at `path`, for example `/proc/4121/root`. Fails with `NotFound` when it
    /// has vanished, and with `PermissionDenied` when the process may not be traced.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty());
        root.map(Self).context(|| format!("failed to open the root directory `{}`", path.display()))
    }

    /// Opens the root directory of `pid`; fails as [`Root::open`] does.
    pub fn of_process(pid: u32) -> Result<Self> {
        Self::open(format!("/proc/{pid}/root").as_ref())
    }

    /// Opens the regular file at `path`, which is taken as absolute, for reading. Fails with
    /// `NotFound` when there is none, and with `Corrupt` when it is of another kind.
    pub fn open_file(&self, path: &Path) -> Result<File> {
        let intent = || format!("failed to open `{}` below another root", path.display());
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // A rename elsewhere in the tree can make the walk give up, hardly ever twice.
        let mut renames = 0..2;
        let located = loop {
            match openat2(self.0.as_fd(), path, how) {
                Err(Errno::EAGAIN) if renames.next().is_some() => {}
                located => break located,
            }
        };
        reopen_regular(&File::from(located.context(intent)?)).map_err(|error| error.context(intent()))
    }
}

/// Opens the regular file at `path`, followed as the kernel does, for reading; fails as
/// [`Root::open_file`] does.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// An absolute link inside a root leads to a file of that root, `..` does not climb out, and a
    /// pipe or a directory is not a file.
    #[test]
    fn links_stay_inside_the_root() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let inside = directory.path();
        std::fs::write(inside.join("passwd"), "inner").expect("write");
        symlink("/passwd", inside.join("absolute")).expect("symlink");
        symlink("../../../../passwd", inside.join("relative")).expect("symlink");
        nix::unistd::mkfifo(&inside.join("pipe"), Mode::S_IRWXU).expect("mkfifo");
        let root = Root::open(inside).expect("root");
        for name in ["/passwd", "/absolute", "/relative", "/../passwd"] {
            let file = root.open_file(Path::new(name)).expect(name);
            assert_eq!(std::io::read_to_string(file).expect("read"), "inner");
        }
        let kind = |name: &str| root.open_file(Path::new(name)).expect_err(name).kind();
        for (name, expected) in [
            ("/pipe", ErrorKind::Corrupt),
            ("/", ErrorKind::Corrupt),
            ("/etc/passwd", ErrorKind::NotFound),
            ("", ErrorKind::NotFound),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
        let gone = Root::open(&inside.join("gone")).expect_err("there is no such directory");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
}
