//! Requests and their profiles, kept on disk: one SQLite file per UTC day in a
//! private folder.
//!
//! ```text
//! /var/lib/txprof/requests-2026-11-28.db        [schema]: tables and indexes
//!                 requests-2026-11-29.db        [body]: a request's samples, packed
//! ```
//!
//! * Strings, frames and stacks are stored once per day and found by a hash of
//!   their content (`content`): requests of one service share most of them.
//! * Retention unlinks whole days. Only a day that is too large on its own loses
//!   its oldest requests.
//! * Write-ahead logging: readers never block the writer, and a writer killed at
//!   any instant loses the batch that it was writing and nothing else.
//! * A file that is damaged is moved aside, with a warning; it never keeps the
//!   agent from running.
//!
//! What a file holds may come from anyone who could write to it: numbers and
//! lengths are checked, and nothing larger than the bounds of [`body`] is read.

pub mod body;
mod content;
mod day_file;
pub mod filter;
pub mod folder;
pub mod name;
mod names;
mod reader;
mod retention;
mod row;
mod schema;
mod varint;
mod writer;

pub use filter::{Filter, Order};
pub use folder::default_folder;
pub use reader::{Found, MAX_CANDIDATES, StoreReader, Summary};
pub use writer::{StoreWriter, WriteStats};

use crate::model::{Profile, Request};

/// Where the minutes of services are kept, beside the requests of `folder`: each as a request that took a minute.
pub fn minutes_folder(folder: &std::path::Path) -> std::path::PathBuf {
    folder.join("minutes")
}

/// A request as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRequest {
    /// Who asked for what. The writer may append `_2`, `_3`, … to the name.
    pub request: Request,
    /// Name of the policy that keeps it.
    pub policy: String,
    /// Where its time went. Kept are frames, stacks and samples, and of the recording everything but changes of the
    /// rate and cost; times of threads are not.
    pub profile: Profile,
}
