//! What the policies say of a request, and how often each had its say.

use serde::Serialize;

/// What becomes of a request that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Its profile is written.
    Keep {
        /// Name of the first policy that keeps it.
        policy: String,
    },
    /// Its profile is not written, whatever else matches.
    Drop {
        /// Name of the first policy that drops it.
        policy: String,
    },
    /// It would be kept, but each policy that keeps it has reached its limit.
    Limited {
        /// Name of the first of them.
        policy: String,
    },
    /// No policy matches.
    Pass,
}

/// How often a policy had its say, since it was added or changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Requests that were kept in its name: the first that keeps a request counts.
    pub kept: u64,
    /// Requests that it dropped.
    pub dropped: u64,
    /// Requests that it would have kept, had its limit not been reached.
    pub limited: u64,
}
