//! The very bytes that a mapping executes, whatever became of their path.
//!
//! Three ways lead to a mapped file, tried in this order:
//!
//! 1. `/proc/PID/map_files/START-END` is the file itself: deleted, replaced by an upgrade,
//!    never named (memfd), in another mount namespace. Needs CAP_CHECKPOINT_RESTORE or
//!    CAP_SYS_ADMIN.
//! 2. The path below the process's root: for containers.
//! 3. The path below our own root: for processes under chroot(2), whose mappings are shown with
//!    the paths of the whole mount namespace.
//!
//! A file found by its path counts only if it is the mapped one, by device and inode.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};

use super::namespace::{self, Root};
use crate::model::{FileId, Mapping, MappingKind};
use crate::{Error, ErrorKind, Result};

/// Opens the file that `mapping` of `pid` executes, for reading; always a regular one.
///
/// Fails with `InvalidInput` for a mapping without a file; `NotFound` when the process or the
/// mapping is gone, or the file is deleted or replaced and `map_files` is out of reach;
/// `PermissionDenied` when the process may not be traced or the file not be read; `Corrupt`
/// when something else than a regular file is mapped.
pub fn open_mapped_file(pid: u32, mapping: &Mapping) -> Result<File> {
    let MappingKind::File { id, path } = &mapping.kind else {
        return Err(Error::new(ErrorKind::InvalidInput, "the mapping is backed by no file"));
    };
    let intent = || format!("failed to open `{path}`, mapped by process {pid}");
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    if let Ok(file) = namespace::open_regular(&PathBuf::from(link))
        && compare(&file, *id) != Identity::Different
    {
        return Ok(file);
    }
    let path = Path::new(path);
    let mut failure = None;
    let inside = Root::of_process(pid).and_then(|root| root.open_file(path));
    for candidate in [inside, namespace::open_regular(path)] {
        match candidate {
            Ok(file) if compare(&file, *id) == Identity::Same => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let replaced = || {
        Error::new(ErrorKind::NotFound, "it was deleted or replaced after the process mapped it")
            .with_hint("only CAP_CHECKPOINT_RESTORE or root can read it still: run txprof with sudo")
    };
    Err(failure.unwrap_or_else(replaced).context(intent()))
}

/// Whether an open file is the one that a mapping named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    Same,
    Different,
    /// The file system tells mappings and stat(2) different numbers.
    Unknown,
}

fn compare(file: &File, id: FileId) -> Identity {
    let Ok(metadata) = file.metadata() else { return Identity::Unknown };
    let device = metadata.dev();
    let device = u64::from(libc::major(device)) << 32 | u64::from(libc::minor(device));
    if device == id.device {
        return if metadata.ino() == id.inode { Identity::Same } else { Identity::Different };
    }
    // An overlay maps the file of a layer, and a btrfs subvolume has a device number of
    // its own: there stat(2) shows another device, mostly with the same inode number.
    let numbers_differ = fstatfs(file)
        .is_ok_and(|system| [OVERLAYFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&system.filesystem_type()));
    match numbers_differ {
        true if metadata.ino() == id.inode => Identity::Same,
        true => Identity::Unknown,
        false => Identity::Different,
    }
}
