//! How long requests are kept: by age and by size, whole days at a time.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::StoreWriter;
use super::folder::{self, Day};
use crate::{Result, ResultExt};

impl StoreWriter {
    /// Removes days that lie more than `max_age` before `now_unix_ns`, then the oldest while all together take more
    /// than `max_bytes`; never today's. If that one alone is too large, its oldest requests are deleted. Gives the
    /// files that were removed, oldest first.
    ///
    /// Fails when a file cannot be removed or made smaller.
    pub fn retain(&mut self, now_unix_ns: u64, max_age: Duration, max_bytes: u64) -> Result<Vec<PathBuf>> {
        let max_age_ns = u64::try_from(max_age.as_nanos()).unwrap_or(u64::MAX);
        let (today, oldest) = (Day::of(now_unix_ns), Day::of(now_unix_ns.saturating_sub(max_age_ns)));
        let folder = self.folder.path().to_owned();
        let mut days: Vec<(Day, u64)> = folder::days(&folder)?
            .into_iter()
            .map(|day| {
                let size_bytes = folder::size_bytes(&day.path(&folder));
                (day, size_bytes)
            })
            .collect();
        days.reverse();
        let mut total_bytes: u64 = days.iter().map(|(_, size_bytes)| size_bytes).sum();
        let mut removed = Vec::new();
        for (day, size_bytes) in days.iter().filter(|(day, _)| *day != today) {
            if *day >= oldest && total_bytes <= max_bytes {
                continue;
            }
            self.open.retain(|file| file.day != *day);
            self.names.forget();
            removed.push(remove(&day.path(&folder))?);
            total_bytes -= size_bytes;
        }
        if total_bytes > max_bytes && days.iter().any(|(day, _)| *day == today) {
            let mut file = self.take_file(&today)?;
            file.shrink(max_bytes)?;
            self.names.forget();
            self.open.push(file);
        }
        Ok(removed)
    }
}

/// The companions go last: without the database they mean nothing.
fn remove(path: &std::path::Path) -> Result<PathBuf> {
    for file in folder::with_companions(path) {
        match fs::remove_file(&file) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            done => done.context(|| format!("failed to remove `{}`", file.display()))?,
        }
    }
    Ok(path.to_owned())
}
