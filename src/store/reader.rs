//! The one that reads: lists, finds and loads requests, while another writes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OptionalExtension};

use super::content::StackReader;
use super::filter::{Filter, MAX_LIMIT, Order};
use super::folder::{self, Day};
use super::schema::failure;
use super::{StoredRequest, body, row, schema};
use crate::model::{Profile, Request};
use crate::{Error, ErrorKind, Result};

/// Most candidates told for a key that fits several.
pub const MAX_CANDIDATES: usize = 20;

/// A request without its profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who asked for what, and where its time went.
    pub request: Request,
    /// Name of the policy that keeps it.
    pub policy: String,
    day: Day,
    number: i64,
}

/// What a key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No request.
    Nothing,
    /// This one.
    One(Box<Summary>),
    /// Several: at most [`MAX_CANDIDATES`] of them, newest first.
    Several(Vec<Summary>),
}

/// Reads a store. Never changes it, and never makes a writer wait.
#[derive(Debug)]
pub struct StoreReader {
    folder: PathBuf,
    /// One for each damaged day at most.
    warnings: Mutex<BTreeSet<String>>,
}

impl StoreReader {
    /// Opens the store in `folder`.
    ///
    /// Fails with a hint when there is no such folder, or it may not be read.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        folder::days(&folder).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::NotFound if nix::unistd::geteuid().is_root() => {
                    "say where requests are kept: `--store DIR`; `txprof agent -p PID` begins to keep some"
                }
                ErrorKind::NotFound => {
                    "say where requests are kept: `--store DIR`; those that root's agent keeps are seen with sudo"
                }
                ErrorKind::PermissionDenied => "run it as who has written them, or as root",
                _ => "say where requests are kept: `--store DIR`, a folder",
            };
            error.with_hint(hint)
        })?;
        Ok(Self { folder, warnings: Mutex::default() })
    }

    /// The requests that fit `filter`, in its order.
    ///
    /// A day that is damaged is left out, with a warning. Fails when the folder or a file cannot be read.
    pub fn list(&self, filter: &Filter) -> Result<Vec<Summary>> {
        let limit = filter.limit.min(MAX_LIMIT);
        let first = filter.since_unix_ns.map(Day::of);
        let last = filter.until_unix_ns.map(Day::of);
        let mut found = Vec::new();
        for day in folder::days(&self.folder)? {
            let is_before = first.as_ref().is_some_and(|first| day < *first);
            let is_behind = last.as_ref().is_some_and(|last| day > *last);
            if is_before || is_behind {
                continue;
            }
            // Days come newest first, so that of the newest enough are enough.
            let wanted = if filter.order == Order::Newest { limit - found.len() } else { limit };
            if wanted == 0 {
                break;
            }
            let (query, values) = filter.query(wanted);
            found.extend(self.query(&day, &query, rusqlite::params_from_iter(values))?);
            if filter.order == Order::Slowest {
                found.sort_by_key(|summary| std::cmp::Reverse(summary.request.duration_ns));
                found.truncate(limit);
            }
        }
        Ok(found)
    }

    /// The request whose id or name is `key`, or else the ones whose id or name begins with it.
    ///
    /// Fails as [`list`](Self::list) does.
    pub fn find(&self, key: &str) -> Result<Found> {
        if key.is_empty() {
            return Ok(Found::Nothing);
        }
        // Two queries, so that each walks its index.
        let exact = ["name = ?1", "request_id = ?1"];
        let prefix = ["name >= ?1 AND name < ?2", "request_id >= ?1 AND request_id < ?2"];
        for conditions in [exact, prefix] {
            let mut found: Vec<Summary> = Vec::new();
            for day in folder::days(&self.folder)? {
                for condition in conditions {
                    let query = format!(
                        "SELECT {} FROM request WHERE {condition} AND ?2 = ?2 LIMIT {MAX_CANDIDATES}",
                        row::COLUMNS
                    );
                    // Behind all that begin with the key.
                    let behind = format!("{key}{}", char::MAX);
                    for summary in self.query(&day, &query, (key, behind))? {
                        if !found.contains(&summary) {
                            found.push(summary);
                        }
                    }
                }
                if found.len() >= MAX_CANDIDATES {
                    break;
                }
            }
            found.sort_by_key(|summary| std::cmp::Reverse(summary.request.began_unix_ns));
            found.truncate(MAX_CANDIDATES);
            match found.len() {
                0 => {}
                1 => return Ok(found.pop().map_or(Found::Nothing, |one| Found::One(Box::new(one)))),
                _ => return Ok(Found::Several(found)),
            }
        }
        Ok(Found::Nothing)
    }

    /// The request of `summary` with its profile.
    ///
    /// Fails with [`ErrorKind::NotFound`] when it was removed meanwhile, and with [`ErrorKind::Corrupt`] when its
    /// profile contradicts itself.
    pub fn load(&self, summary: &Summary) -> Result<StoredRequest> {
        let path = summary.day.path(&self.folder);
        let name = &summary.request.name;
        let gone = || {
            Error::new(ErrorKind::NotFound, format!("request `{name}` is no longer kept"))
                .with_hint("`txprof list` shows those that are")
        };
        let connection = schema::open_readable(&path)?.ok_or_else(gone)?;
        // One transaction, so that what the body needs is still there when it is looked up.
        let transaction = connection.unchecked_transaction().map_err(|cause| failure(&path, cause))?;
        let profile = read_profile(&transaction, summary.number).map_err(|cause| failure(&path, cause))?;
        let damaged = || {
            let message = format!("the profile of request `{name}` in `{}` is damaged", path.display());
            Error::new(ErrorKind::Corrupt, message)
        };
        let profile = profile.ok_or_else(gone)?.ok_or_else(damaged)?;
        Ok(StoredRequest { request: summary.request.clone(), policy: summary.policy.clone(), profile })
    }

    /// What the user should know since this was last asked, each a sentence: days that are damaged.
    pub fn take_warnings(&self) -> Vec<String> {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *warnings).into_iter().collect()
    }

    /// What `query`, which asks for [`row::COLUMNS`], finds on `day`.
    fn query(&self, day: &Day, query: &str, values: impl rusqlite::Params) -> Result<Vec<Summary>> {
        let path = day.path(&self.folder);
        let read = |connection: &Connection| -> rusqlite::Result<Vec<Summary>> {
            let mut statement = connection.prepare(query)?;
            let rows = statement.query_map(values, |columns| {
                let (number, request, policy) = row::read(columns)?;
                Ok(Summary { request, policy, day: day.clone(), number })
            })?;
            rows.collect()
        };
        let found = match schema::open_readable(&path) {
            Ok(Some(connection)) => read(&connection).map_err(|cause| failure(&path, cause)),
            Ok(None) => Ok(Vec::new()),
            Err(error) => Err(error),
        };
        match found {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
                warnings.insert(format!("{error}; its requests are left out"));
                Ok(Vec::new())
            }
            found => found,
        }
    }
}

/// `None` when there is no such request, `Some(None)` when its profile is damaged.
fn read_profile(connection: &Connection, number: i64) -> rusqlite::Result<Option<Option<Profile>>> {
    let mut find = connection.prepare("SELECT content FROM body WHERE request = ?1")?;
    let Some(content) = find.query_row([number], |row| row.get::<_, Vec<u8>>(0)).optional()? else {
        return Ok(None);
    };
    let Some((recording, samples)) = body::unpack(&content) else { return Ok(Some(None)) };
    let mut profile = Profile { recording, ..Profile::default() };
    let mut stacks = StackReader::new(connection);
    for packed in samples {
        let Some(stack) = stacks.read(packed.stack, &mut profile)? else { return Ok(Some(None)) };
        let mut sample = packed.sample;
        sample.stack = stack;
        profile.samples.push(sample);
    }
    Ok(Some(Some(profile)))
}
