//! Where requests are kept, and how the files of its days are called.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::model::date;
use crate::sys::private_folder::PrivateFolder;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Most day files looked at, the newest: eleven years.
const MAX_DAYS: usize = 4096;

/// The usual folder: `/var/lib/txprof` for root, for others `$XDG_STATE_HOME/txprof` or `~/.local/state/txprof`.
/// Variables that are no absolute path do not count (XDG Base Directory Specification 0.8).
///
/// Fails with [`ErrorKind::NotFound`] for a user without a home.
pub fn default_folder() -> Result<PathBuf> {
    folder_of(nix::unistd::geteuid().is_root(), |name| std::env::var_os(name).map(PathBuf::from))
}

/// That of root, or of a user with these environment variables.
fn folder_of(is_root: bool, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/txprof"));
    }
    let variable = |name: &str| variable(name).filter(|path| path.is_absolute());
    let base = variable("XDG_STATE_HOME").or_else(|| Some(variable("HOME")?.join(".local/state")));
    let base = base.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "neither `XDG_STATE_HOME` nor `HOME` is set")
            .with_hint("say where requests are kept: `--store DIR`")
    })?;
    Ok(base.join("txprof"))
}

/// Creates `folder` if need be, accessible to its owner only.
pub(super) fn create(folder: &Path) -> Result<PrivateFolder> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    let created = created.map_err(|cause| Error::from_io(format!("folder `{}`", folder.display()), cause));
    created.map_err(|error| {
        // No such place is not no such target.
        let is_absent = error.kind() == ErrorKind::NotFound;
        let error = if is_absent { error.with_kind(ErrorKind::Output) } else { error };
        error.with_hint("choose another place with `--store DIR`")
    })?;
    PrivateFolder::at(folder.to_owned()).ok_or_else(|| {
        let shown = folder.display();
        Error::new(ErrorKind::PermissionDenied, format!("others than its owner may write to `{shown}`"))
            .with_hint(format!("`chmod go-w {shown}`, or choose another place with `--store DIR`"))
    })
}

/// A day with a file of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(String);

impl Day {
    /// The day of an instant.
    pub(super) fn of(unix_ns: u64) -> Self {
        Self(date::day(unix_ns / 1_000_000_000))
    }

    /// Its file.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("requests-{}.db", self.0))
    }

    /// The day of a file called `name`.
    fn from_file_name(name: &str) -> Option<Self> {
        let day = name.strip_prefix("requests-")?.strip_suffix(".db")?;
        let is_day = day.len() == 10
            && day.bytes().enumerate().all(|(index, byte)| match index {
                4 | 7 => byte == b'-',
                _ => byte.is_ascii_digit(),
            });
        is_day.then(|| Self(day.to_owned()))
    }
}

/// The days that have a file in `folder`, newest first, at most [`MAX_DAYS`].
pub(super) fn days(folder: &Path) -> Result<Vec<Day>> {
    let read = || format!("failed to read folder `{}`", folder.display());
    let mut days = Vec::new();
    for entry in fs::read_dir(folder).context(read)? {
        let name = entry.context(read)?.file_name();
        days.extend(name.to_str().and_then(Day::from_file_name));
    }
    days.sort_unstable_by(|one, other| other.cmp(one));
    days.truncate(MAX_DAYS);
    Ok(days)
}

/// A database and the files that SQLite puts beside it.
pub(super) fn with_companions(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|ending| {
        let mut name = path.as_os_str().to_owned();
        name.push(ending);
        PathBuf::from(name)
    })
}

/// How many bytes a day takes, companions included; files that are missing take none.
pub(super) fn size_bytes(path: &Path) -> u64 {
    let sizes = with_companions(path).map(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
    sizes.iter().fold(0, |sum, size| sum.saturating_add(*size))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Root's folder does not depend on who became root, that of others follows their variables.
    #[test]
    fn the_usual_folder_follows_the_user() {
        let of = |is_root, variables: &[(&str, &str)]| {
            let found = |name: &str| variables.iter().find(|(known, _)| *known == name);
            folder_of(is_root, |name| found(name).map(|(_, value)| value.into())).ok()
        };
        let all = [("HOME", "/h"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(of(true, &all), Some("/var/lib/txprof".into()));
        assert_eq!(of(false, &all), Some("/s/txprof".into()));
        assert_eq!(
            of(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "s")]),
            Some("/h/.local/state/txprof".into())
        );
        assert_eq!(of(false, &[]), None);
    }

    /// Only files of days are days; the newest comes first.
    #[test]
    fn days_are_listed_newest_first() {
        let folder = tempfile::tempdir().expect("folder");
        for name in [
            "requests-2026-11-28.db",
            "requests-2026-11-28.db-wal",
            "requests-2027-01-01.db",
            "requests-2026-11-28.db.damaged",
            "requests-20261128.db",
            "requests-2026-11-2é.db",
            "other",
        ] {
            fs::write(folder.path().join(name), "").expect("file");
        }
        let day = |text: &str| Day(text.to_owned());
        assert_eq!(days(folder.path()).expect("readable"), [day("2027-01-01"), day("2026-11-28")]);
        assert_eq!(Day::of(1_795_438_748_000_000_000), day("2026-11-23"));
    }
}
