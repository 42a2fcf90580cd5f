//! Which requests are kept, decided when they have ended: named policies in the terms of the
//! OpenTelemetry collector's tail sampling, plus `top_k`.
//!
//! ```toml
//! [[policy]]
//! name = "slow-search"
//! type = "and"
//! latency = { threshold_ms = 500 }
//! match = { "rpc.method" = "model.*.search_read", "user.name" = ["alice", "re:^sales-"] }
//! rate_limiting = { profiles_per_minute = 30 }
//! ```
//!
//! | type | keeps | own keys |
//! |---|---|---|
//! | `always` | every request | |
//! | `latency` | those that took as long | `threshold_ms`, `upper_threshold_ms` |
//! | `status_code` | those that ended so | `status_codes` |
//! | `and` | those for which all holds that is given | `latency = { … }`, `status_codes` |
//! | `probabilistic` | a share of them, by a hash of their ID | `sampling_percentage` |
//! | `rate_limiting` | so many a minute | `profiles_per_minute` |
//! | `top_k` | those among the slowest so far of a window of time, per value of a field | `key`, `k`, `window` |
//! | `drop` | none of those: it beats all that keep | as `and` |
//!
//! Any policy may add `match` and `sampling_percentage`, and any but `drop` the limits
//! `rate_limiting = { profiles_per_minute = … }` and `limits = { bytes_per_second = … }`.
//!
//! A [`PolicySet`] holds the [`Policy`]s and what they have seen; a request's [`Verdict`] names the
//! first policy that keeps it. Requests are hostile: what is remembered of them is bounded, and
//! comparing them takes a time that grows with their length, not with its powers.

mod bounded;
mod budget;
mod cut;
mod definition;
mod error;
mod field;
mod pattern;
mod rate;
mod set;
mod top_k;
mod verdict;

pub use definition::{Policy, PolicyType};
pub use error::PolicyError;
pub use set::{Listed, PolicySet};
pub use verdict::{Counts, Verdict};
