//! The one that writes: batches of requests, each in one transaction.

use std::fs;
use std::path::PathBuf;

use super::StoredRequest;
use super::day_file::DayFile;
use super::folder::{self, Day};
use super::names::Names;
use crate::sys::private_folder::PrivateFolder;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Days open at once: around midnight requests of two come in turn.
const MAX_OPEN: usize = 2;

/// Most damaged files of a day that are set aside; one more is refused, as the disk must be at fault.
const MAX_ASIDE: u32 = 100;

/// What a batch came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteStats {
    /// Bytes of samples, and of strings, frames and stacks that were not known yet.
    pub bytes: u64,
    /// The names that the requests were given, in the order of the batch; `None` for those that were left out.
    pub names: Vec<Option<String>>,
    /// Requests left out because their samples exceed [`MAX_CONTENT_BYTES`](super::body::MAX_CONTENT_BYTES).
    pub too_large: u64,
}

impl WriteStats {
    /// Adds what another transaction came to.
    pub(super) fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.names.extend(other.names);
        self.too_large += other.too_large;
    }
}

/// Writes requests. Meant to be the only one of its folder; of several, each waits for the others.
#[derive(Debug)]
pub struct StoreWriter {
    pub(super) folder: PrivateFolder,
    /// Dropped before `open`, as only who writes to a file can empty its log, and only when nobody else has it open.
    pub(super) names: Names,
    /// The one used last comes last; at most [`MAX_OPEN`].
    pub(super) open: Vec<DayFile>,
    warnings: Vec<String>,
}

impl StoreWriter {
    /// Opens the store in `folder`, which is made (0700) if it is missing. What another writer left when it died is
    /// recovered when its day is written to or read.
    ///
    /// Fails with a hint when the folder cannot be made, or others than its owner may write to it.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let path = folder.into();
        let folder = folder::create(&path)
            .context(|| format!("failed to open the store of requests in `{}`", path.display()))?;
        Ok(Self { folder, open: Vec::new(), names: Names::new(&path), warnings: Vec::new() })
    }

    /// Writes `batch`, each request to the file of the day on which it began, in one transaction per day. When it
    /// returns, a crash of this program loses none of it; one of the machine may lose the last seconds.
    ///
    /// Fails with a hint when the disk is full or cannot be written, [`ErrorKind::Output`]: of the day that failed
    /// nothing is kept, and the caller drops the batch and counts it. A later call may succeed again.
    pub fn write(&mut self, batch: &[StoredRequest]) -> Result<WriteStats> {
        let mut stats = WriteStats::default();
        let mut names = vec![None; batch.len()];
        let mut left: Vec<(usize, &StoredRequest)> = batch.iter().enumerate().collect();
        while let Some((_, first)) = left.first() {
            let day = Day::of(first.request.began_unix_ns);
            let (of_day, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(_, stored)| Day::of(stored.request.began_unix_ns) == day);
            left = others;
            let requests: Vec<&StoredRequest> = of_day.iter().map(|(_, stored)| *stored).collect();
            self.write_day(&day, &requests, &mut stats).context(|| {
                format!("failed to write to the store of requests in `{}`", self.folder.path().display())
            })?;
            for ((place, _), name) in of_day.iter().zip(stats.names.drain(..)) {
                names[*place] = name;
            }
        }
        Ok(WriteStats { names, ..stats })
    }

    /// What the user should know since this was last asked, each a sentence: damaged files that were moved aside.
    pub fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    fn write_day(&mut self, day: &Day, batch: &[&StoredRequest], stats: &mut WriteStats) -> Result<()> {
        match self.try_write_day(day, batch, stats) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.move_aside(day, &error)?;
                self.try_write_day(day, batch, stats)
            }
            result => result,
        }
    }

    /// What fails is closed, so that the next try begins afresh.
    fn try_write_day(&mut self, day: &Day, batch: &[&StoredRequest], stats: &mut WriteStats) -> Result<()> {
        let mut file = self.take_file(day)?;
        let written = file.write(batch, &mut self.names, stats);
        match written {
            Ok(()) => self.open.push(file),
            Err(_) => self.names.forget(),
        }
        written
    }

    /// The file of `day`, open; not among those that are any more.
    pub(super) fn take_file(&mut self, day: &Day) -> Result<DayFile> {
        if let Some(place) = self.open.iter().position(|file| file.day == *day) {
            let file = self.open.remove(place);
            if file.is_in_place() {
                return Ok(file);
            }
        }
        let file = DayFile::open(self.folder.path(), day)?;
        self.names.forget();
        if self.open.len() >= MAX_OPEN {
            self.open.remove(0);
        }
        Ok(file)
    }

    /// Renames the damaged file of `day` and what belongs to it, and warns.
    fn move_aside(&mut self, day: &Day, damage: &Error) -> Result<()> {
        self.open.retain(|file| file.day != *day);
        self.names.forget();
        let path = day.path(self.folder.path());
        let aside = |number: u32| path.with_extension(format!("db.damaged-{number}"));
        let free = (1..=MAX_ASIDE).map(aside).find(|path| !path.exists()).ok_or_else(|| {
            let message = format!("`{}` is damaged once more, after {MAX_ASIDE} times", path.display());
            Error::new(ErrorKind::System, message).with_hint("check the disk: `dmesg`")
        })?;
        let companions = folder::with_companions(&path).into_iter().zip(folder::with_companions(&free));
        for (from, to) in companions.filter(|(from, _)| from.exists()) {
            fs::rename(&from, &to).context(|| format!("failed to move `{}` aside", from.display()))?;
        }
        self.warnings.push(format!("{damage}; it was moved to `{}` and a new one begun", free.display()));
        Ok(())
    }
}
