//! A folder of files that can be made again: caches that only their owner can
//! read or write.
//!
//! Below `$TXPROF_CACHE_DIR`, else `/var/cache/txprof` for root and
//! `$XDG_CACHE_HOME/txprof` (or `~/.cache/txprof`) for others. Files are 0600
//! and appear complete by `rename`. Everything is best effort: a cache that
//! cannot be read or written only costs time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A folder that is ours alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// The user's cache folder called `name`; `None` when it cannot be created or is not ours.
    pub fn open(name: &str) -> Option<Self> {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let usual = || match nix::unistd::geteuid().is_root() {
            true => Some(PathBuf::from("/var/cache/txprof")),
            false => variable("XDG_CACHE_HOME")
                .or_else(|| Some(variable("HOME")?.join(".cache")))
                .map(|base| base.join("txprof")),
        };
        Self::at(variable("TXPROF_CACHE_DIR").or_else(usual)?.join(name))
    }

    /// The folder at `path`, which is created if need be, accessible to its owner only.
    pub fn at(path: PathBuf) -> Option<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).ok()?;
        let metadata = fs::symlink_metadata(&path).ok()?;
        // A folder that others may write to could feed us files of their making.
        let owned = metadata.uid() == nix::unistd::geteuid().as_raw();
        let private = metadata.permissions().mode() & 0o022 == 0;
        (metadata.is_dir() && owned && private).then_some(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file called `name`, if it is there.
    pub fn open_file(&self, name: &str) -> Option<File> {
        File::open(self.0.join(name)).ok()
    }

    /// Writes the file called `name`, or leaves things as they are.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let temporary = self.0.join(format!(".{}-{name}", std::process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let written = options.open(&temporary).and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(bytes)?;
            fs::rename(&temporary, self.0.join(name))
        });
        if written.is_err() {
            let _best_effort = fs::remove_file(&temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that others can write to is not used.
    #[test]
    fn a_shared_folder_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let shared = folder.path().join("shared");
        fs::create_dir(&shared).expect("own folder");
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("own folder");
        assert_eq!(PrivateFolder::at(shared), None);
    }

    /// Files are complete, and readable by their owner only.
    #[test]
    fn files_are_private() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let private = PrivateFolder::at(folder.path().join("new/private")).expect("a folder");
        private.write("a", b"content");
        assert_eq!(fs::read(private.path().join("a")).expect("written"), b"content");
        let mode = |path: &Path| fs::metadata(path).expect("exists").permissions().mode() & 0o777;
        assert_eq!((mode(private.path()), mode(&private.path().join("a"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(private.path()).expect("exists").count(), 1);
    }
}
