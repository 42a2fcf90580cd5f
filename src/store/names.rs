//! Which names are taken on the days that are kept.

use std::path::{Path, PathBuf};

use ahash::AHashMap;
use rusqlite::Connection;

use super::{folder, name, schema};
use crate::Result;

/// Most bases whose highest number is remembered: some 5 MB.
const MAX_KNOWN: usize = 1 << 16;

/// Most days looked at, the newest, each with an open file.
const MAX_DAYS: usize = 64;

/// Gives out names that are free.
#[derive(Debug)]
pub(super) struct Names {
    folder: PathBuf,
    /// `None` until they are needed.
    days: Option<Vec<Connection>>,
    highest: AHashMap<String, u32>,
}

impl Names {
    /// Of the store in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), days: None, highest: AHashMap::new() }
    }

    /// Looks again, as files came or went, or another program has written to one.
    pub(super) fn forget(&mut self) {
        self.days = None;
        self.highest.clear();
    }

    /// Before a batch: makes room.
    pub(super) fn trim(&mut self) {
        if self.highest.len() > MAX_KNOWN {
            self.highest.clear();
        }
    }

    /// `wanted`, or if it is taken its base with the number behind the highest that is.
    pub(super) fn take(&mut self, wanted: &str) -> Result<String> {
        let (base, number) = name::parse(wanted);
        let highest = match self.highest.get(base) {
            Some(highest) => *highest,
            None => self.find_highest(base)?,
        };
        let number = if number > highest { number } else { highest.saturating_add(1) };
        self.highest.insert(base.to_owned(), number);
        Ok(name::join(base, number))
    }

    fn find_highest(&mut self, base: &str) -> Result<u32> {
        if self.days.is_none() {
            let mut days = Vec::new();
            for day in folder::days(&self.folder)?.iter().take(MAX_DAYS) {
                // Damage is told by whoever writes to the day or reads it; here its names are free.
                days.extend(schema::open_readable(&day.path(&self.folder)).ok().flatten());
            }
            self.days = Some(days);
        }
        let highest = |connection: &Connection| -> rusqlite::Result<Option<u32>> {
            let mut find =
                connection.prepare_cached("SELECT max(name_number) FROM request WHERE name_base = ?1")?;
            find.query_row([base], |row| row.get(0))
        };
        let days = self.days.iter().flatten();
        Ok(days.filter_map(|connection| highest(connection).ok().flatten()).max().unwrap_or(0))
    }
}
