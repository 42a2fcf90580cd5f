//! Opens files as a process sees them: below its root directory, in its mount
//! namespace, following symbolic links without ever leaving that root.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// The root directory of some process, or our own.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens `path`, for example `/proc/4121/root`. `None` when it has vanished or may not be read.
    pub fn open(path: &Path) -> Option<Self> {
        open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).ok().map(Self)
    }

    /// Opens the regular file at `path`, which is taken as absolute, for reading.
    /// Never blocks and never has side effects: anything but a regular file is absent.
    pub fn find(&self, path: &Path) -> Option<File> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // A rename elsewhere in the tree can make the walk give up once with EAGAIN.
        let file = (0..3).find_map(|_| openat2(self.0.as_fd(), path, how).ok())?;
        let file = File::from(file);
        file.metadata().ok()?.is_file().then_some(file)
    }
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
            let file = root.find(Path::new(name)).expect(name);
            assert_eq!(std::io::read_to_string(file).expect("read"), "inner");
        }
        for name in ["/pipe", "/", "/etc/passwd", ""] {
            assert!(root.find(Path::new(name)).is_none(), "{name}");
        }
        assert!(Root::open(&inside.join("gone")).is_none());
    }
}
