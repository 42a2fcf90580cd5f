//! Where the output is written: checked before the recording starts, written
//! whole or not at all when it ends.
//!
//! A regular file is written under a temporary name in the same folder, mode
//! 0600, and renamed when it is complete: a full disk or a crash leaves no
//! half file, and an earlier file stays until then. A symbolic link is
//! replaced, not followed. Devices and pipes are written directly.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::plan::Destination;
use crate::model::date;
use crate::output::Format;
use crate::{Error, ErrorKind, Result, ResultExt};

/// A checked place for one output.
#[derive(Debug)]
pub struct OutputFile {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Stdout,
    /// A device or pipe that exists.
    Special(PathBuf),
    Regular {
        folder: PathBuf,
        path: PathBuf,
    },
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The path as typed, or `standard output`.
    pub label: String,
    /// How many bytes.
    pub size_bytes: u64,
}

impl OutputFile {
    /// Checks that `destination` can be written, by writing to its folder. `name`
    /// (of the target) and `unix_seconds` (now) give [`Destination::Named`] its file name.
    ///
    /// Fails with [`ErrorKind::Output`] when the folder is missing or not
    /// writable, or when the path is a folder itself.
    pub fn open(destination: &Destination, format: Format, name: &str, unix_seconds: u64) -> Result<Self> {
        let path = match destination {
            Destination::Stdout => return Ok(Self { place: Place::Stdout }),
            Destination::File(path) => path.clone(),
            Destination::Named => free_name(&file_stem(name, unix_seconds), format.extension()),
        };
        let place = check(path.clone()).map_err(|error| {
            error
                .context(format!("cannot write `{}`", path.display()))
                .with_kind(ErrorKind::Output)
                .with_hint("choose another place with `-o FILE`, or `-o -` for standard output")
        })?;
        Ok(Self { place })
    }

    /// The path as typed, or `standard output`.
    pub fn label(&self) -> String {
        match &self.place {
            Place::Stdout => "standard output".to_owned(),
            Place::Special(path) | Place::Regular { path, .. } => path.display().to_string(),
        }
    }

    /// Lets `produce` write everything, then puts the file in its place. A
    /// reader that closed standard output early is no failure.
    ///
    /// Fails with [`ErrorKind::Output`]; nothing is left behind, unless only
    /// the final rename failed: then the hint says where the output is.
    pub fn write(self, produce: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<Written> {
        let label = self.label();
        let result = match &self.place {
            Place::Stdout => tolerate_closed(write_counted(io::stdout().lock(), produce)),
            Place::Special(path) => {
                let file = OpenOptions::new().write(true).open(path);
                tolerate_closed(file.and_then(|file| write_counted(file, produce)))
            }
            Place::Regular { folder, path } => return write_regular(folder, path, label, produce),
        };
        let size_bytes = result.map_err(|cause| write_failure(&label, cause))?;
        Ok(Written { label, size_bytes })
    }
}

fn check(path: PathBuf) -> Result<Place> {
    // The target of a link decides here, so that `/dev/stderr` is seen as what it is.
    if let Ok(metadata) = fs::metadata(&path) {
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(Error::new(ErrorKind::Output, "it is a folder")
                .with_hint(format!("name a file in it: `-o {}`", path.join("out.svg").display())));
        }
        if kind.is_char_device() || kind.is_fifo() {
            return Ok(Place::Special(path));
        }
        if !kind.is_file() {
            return Err(Error::new(ErrorKind::Output, "it is a block device or a socket"));
        }
    }
    if path.file_name().is_none() {
        return Err(Error::new(ErrorKind::Output, "it names no file"));
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Only a write tells: permissions alone know nothing of read-only mounts, quotas or root.
    let (probe, file) = create_temporary(&folder).map_err(|cause| {
        let shown = folder.display();
        match cause.kind() {
            // Such as /proc, which answers "no such file" to whoever creates one.
            io::ErrorKind::NotFound if folder.is_dir() => {
                Error::new(ErrorKind::Output, format!("folder `{shown}` takes no new files"))
            }
            io::ErrorKind::NotFound => {
                Error::from_io(format!("folder `{shown}`"), cause).with_hint(format!("mkdir -p {shown}"))
            }
            _ => Error::from_io(format!("folder `{shown}`"), cause),
        }
    })?;
    drop(file);
    fs::remove_file(probe).context(|| format!("folder `{}`", folder.display()))?;
    Ok(Place::Regular { folder, path })
}

fn write_regular(
    folder: &Path,
    path: &Path,
    label: String,
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<Written> {
    let (temporary, file) = create_temporary(folder).map_err(|cause| write_failure(&label, cause))?;
    let size_bytes = write_counted(&file, produce)
        // Reports what delayed allocation or a network file system has kept back.
        .and_then(|size| file.sync_data().map(|()| size))
        .map_err(|cause| {
            // The failure told is the write's; a leftover is all that a second one could mean.
            let _ = fs::remove_file(&temporary);
            write_failure(&label, cause)
        })?;
    give_to_invoking_user(&file, folder);
    fs::rename(&temporary, path).map_err(|cause| {
        write_failure(&label, cause).with_hint(format!("the output is kept in `{}`", temporary.display()))
    })?;
    Ok(Written { label, size_bytes })
}

/// A new empty file in `folder` that nobody else can read, and its path.
fn create_temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    /// Names left by dead programs of the same pid are skipped; more than a few mean that something is wrong.
    const ATTEMPTS: u32 = 100;
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for attempt in 0..ATTEMPTS {
        let path = folder.join(format!(".txprof-{}-{attempt}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn write_counted(
    target: impl Write,
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<u64> {
    let mut writer = Counted { inner: BufWriter::with_capacity(64 << 10, target), size_bytes: 0 };
    produce(&mut writer)?;
    writer.flush()?;
    Ok(writer.size_bytes)
}

struct Counted<W> {
    inner: W,
    size_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.size_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn tolerate_closed(result: io::Result<u64>) -> io::Result<u64> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        other => other,
    }
}

fn write_failure(label: &str, cause: io::Error) -> Error {
    let full = matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let error = Error::from_io(format!("failed to write `{label}`"), cause).with_kind(ErrorKind::Output);
    if full { error.with_hint("free some space, or choose another place with `-o FILE`") } else { error }
}

/// Under `sudo`, a file written to the invoking user's own folder is theirs;
/// being readable by root alone it would be of no use to them. Best effort.
fn give_to_invoking_user(file: &File, folder: &Path) {
    let id = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID")) else { return };
    if nix::unistd::geteuid().is_root() && fs::metadata(folder).is_ok_and(|folder| folder.uid() == uid) {
        let _ = nix::unistd::fchown(file, Some(uid.into()), Some(gid.into()));
    }
}

/// `txprof-NAME-TIME`: the target's [plain name](plain_name) and the time in UTC.
fn file_stem(name: &str, unix_seconds: u64) -> String {
    format!("txprof-{}-{}", plain_name(name), date::compact_utc(unix_seconds))
}

/// `name` with everything but letters, digits, `.`, `_` and `-` replaced, at most 40 characters.
pub(super) fn plain_name(name: &str) -> String {
    let harmless = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().map(harmless).take(40).collect()
}

/// The first of `STEM.EXT`, `STEM-2.EXT`, … that does not exist.
fn free_name(stem: &str, extension: &str) -> PathBuf {
    let first = PathBuf::from(format!("{stem}.{extension}"));
    let others = (2..100).map(|number| PathBuf::from(format!("{stem}-{number}.{extension}")));
    std::iter::once(first.clone()).chain(others).find(|path| !path.exists()).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn open(path: &Path) -> Result<OutputFile> {
        OutputFile::open(&Destination::File(path.to_owned()), Format::Svg, "x", 0)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("folder");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The file appears complete, readable by its owner only, and alone; an older one is replaced.
    #[test]
    fn file_is_written_whole_and_private() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.svg");
        fs::write(&path, "old").expect("older file");
        let output = open(&path).expect("writable");
        assert_eq!(fs::read(&path).expect("still there"), b"old");
        let written = output.write(|writer| writer.write_all(b"new!")).expect("written");
        assert_eq!(written.size_bytes, 4);
        assert_eq!(fs::read(&path).expect("file"), b"new!");
        assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["a.svg"]);
    }

    /// A write that fails in the middle leaves the older file and nothing else.
    #[test]
    fn failed_write_leaves_no_half_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.svg");
        fs::write(&path, "old").expect("older file");
        let error = open(&path)
            .expect("writable")
            .write(|writer| {
                writer.write_all(&[0; 100_000])?;
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            })
            .expect_err("disk full");
        assert_eq!(error.kind(), ErrorKind::Output);
        assert!(error.to_string().contains("No space left on device"), "{error}");
        assert!(error.hint().expect("hint").contains("free some space"));
        assert_eq!(fs::read(&path).expect("file"), b"old");
        assert_eq!(names(folder.path()), ["a.svg"]);
    }

    /// A device that is full gives the same error; `/dev/full` is one.
    #[test]
    fn full_device_is_one_clear_error() {
        let output = open(Path::new("/dev/full")).expect("a device is opened when written");
        let error = output.write(|writer| writer.write_all(&[0; 10])).expect_err("full");
        assert_eq!(error.to_string(), "failed to write `/dev/full`: No space left on device (os error 28)");
    }

    /// Missing folders, folders as files and paths below files are refused before anything is recorded.
    #[test]
    fn impossible_places_are_refused_at_once() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("file");
        for path in [folder.path().to_owned(), folder.path().join("no/a.svg"), file.join("a.svg"), "/".into()]
        {
            let error = open(&path).expect_err("not writable");
            assert_eq!(error.kind(), ErrorKind::Output, "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        assert_eq!(names(folder.path()), ["file"]);
    }

    /// A folder in which no file can be created is not called missing.
    #[test]
    fn folder_that_takes_no_files_is_not_called_missing() {
        let error = open(Path::new("/proc/a.svg")).expect_err("nobody creates files in /proc");
        assert_eq!(error.to_string(), "cannot write `/proc/a.svg`: folder `/proc` takes no new files");
    }

    /// A link is replaced by the output; what it pointed to stays.
    #[test]
    fn symbolic_link_is_replaced_not_followed() {
        let folder = tempfile::tempdir().expect("folder");
        let (target, link) = (folder.path().join("precious"), folder.path().join("a.svg"));
        fs::write(&target, "precious").expect("file");
        std::os::unix::fs::symlink(&target, &link).expect("link");
        open(&link).expect("writable").write(|writer| writer.write_all(b"x")).expect("written");
        assert_eq!(fs::read(&target).expect("file"), b"precious");
        assert!(fs::symlink_metadata(&link).expect("output").is_file());
    }

    /// Hostile process names give one plain file name in the current folder.
    #[test]
    fn names_of_targets_become_plain_file_names() {
        let stem = file_stem("../a b\n;é", 1_795_438_748);
        assert_eq!(stem, "txprof-.._a_b___-20261123T125908Z");
        assert!(file_stem(&"x".repeat(500), 0).len() < 80);
    }
}
