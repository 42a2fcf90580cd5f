//! One policy, as it is written down and as it judges a request. Every type of policy is the same
//! conjunction of conditions; the type says which of them must be given, and what follows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PolicyError;
use super::bounded::{Bounded, Percentage, Window};
use super::field::field;
use super::pattern::Patterns;
use crate::model::{Request, RequestStatus};
use crate::transaction::hash::hash_of;

/// Longest name in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Most names in one `match`, and most patterns in all of them: each is compared with each request.
const MAX_MATCH_NAMES: usize = 32;
const MAX_MATCH_PATTERNS: usize = 256;

/// What a policy decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyType {
    /// Keeps all requests.
    Always,
    /// Keeps by duration.
    Latency,
    /// Keeps by how they ended.
    StatusCode,
    /// Keeps where all conditions hold that are given.
    And,
    /// Keeps a share of them, by a hash of their ID.
    Probabilistic,
    /// Keeps so many a minute.
    RateLimiting,
    /// Keeps the slowest of each window of time and value of a field.
    TopK,
    /// Drops where all conditions hold that are given.
    Drop,
}

/// `OK`, `ERROR` or `UNSET`, as in the conventions of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum StatusCode {
    Ok,
    Error,
    Unset,
}

/// A number of milliseconds, up to a day.
type Milliseconds = Bounded<0, 86_400_000>;

/// Profiles in a minute; each takes 8 bytes while it is counted.
type PerMinute = Bounded<1, 60_000>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latency {
    threshold_ms: Milliseconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_threshold_ms: Option<Milliseconds>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RateLimiting {
    profiles_per_minute: PerMinute,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Up to 1 TiB.
    bytes_per_second: Bounded<1, { 1 << 40 }>,
}

/// One named rule of which requests are kept. Written as TOML or JSON with the keys that the essay of
/// this module tells; equal where the same is written. What was read is checked as a whole when it is
/// given to a [`PolicySet`](super::PolicySet).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    name: String,
    #[serde(rename = "type")]
    policy_type: PolicyType,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold_ms: Option<Milliseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper_threshold_ms: Option<Milliseconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency: Option<Latency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_codes: Option<Vec<StatusCode>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling_percentage: Option<Percentage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profiles_per_minute: Option<PerMinute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// At most 100, so that a window of 1,024 values takes less than a megabyte.
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<Bounded<1, 100>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Window>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    matches: Option<BTreeMap<String, Patterns>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limiting: Option<RateLimiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
}

/// What is wrong with a policy, and the key where that shows.
pub(super) struct Refusal {
    /// `None`: the policy as a whole.
    pub(super) key: Option<&'static str>,
    /// The reason, without a line.
    pub(super) error: PolicyError,
}

impl Refusal {
    /// Refuses what `key` says, for `reason`; `hint` tells what to write.
    pub(super) fn at(key: &'static str, reason: String, hint: impl Into<String>) -> Self {
        Self { key: Some(key), error: PolicyError::new(reason).with_hint(hint) }
    }
}

/// What a `top_k` policy tells apart and how much of it it keeps.
pub(super) struct Slowest<'a> {
    /// Name of the field.
    pub(super) key: &'a str,
    /// How many are kept of each value.
    pub(super) k: u64,
    /// Nanoseconds; not 0.
    pub(super) window_ns: u64,
}

impl Policy {
    /// Its name; not empty, and of one policy in a set.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it decides by.
    pub fn policy_type(&self) -> PolicyType {
        self.policy_type
    }

    /// Whether it drops what it applies to.
    pub(super) fn is_drop(&self) -> bool {
        self.policy_type == PolicyType::Drop
    }

    /// Whether all of its conditions hold for `request` that need no memory of other requests.
    pub(super) fn applies(&self, request: &Request) -> bool {
        self.lasts(request) && self.ended(request) && self.matches(request) && self.takes(request)
    }

    /// `threshold ≤ duration ≤ upper threshold`.
    fn lasts(&self, request: &Request) -> bool {
        let (least, most) = match self.latency {
            Some(latency) => (Some(latency.threshold_ms), latency.upper_threshold_ms),
            None => (self.threshold_ms, self.upper_threshold_ms),
        };
        let ns = |ms: Milliseconds| ms.get() * 1_000_000;
        least.is_none_or(|least| request.duration_ns >= ns(least))
            && most.is_none_or(|most| request.duration_ns <= ns(most))
    }

    fn ended(&self, request: &Request) -> bool {
        let code = match request.status {
            RequestStatus::Ok => StatusCode::Ok,
            RequestStatus::Error => StatusCode::Error,
            RequestStatus::Unset => StatusCode::Unset,
        };
        self.status_codes.as_ref().is_none_or(|wanted| wanted.contains(&code))
    }

    /// Each field named must be known, and one of its patterns match.
    fn matches(&self, request: &Request) -> bool {
        let mut wanted = self.matches.iter().flatten();
        wanted.all(|(name, patterns)| field(request, name).is_some_and(|text| patterns.matches(&text)))
    }

    /// The name is hashed with the ID, so that shares of different policies are independent, and the
    /// same request is judged alike by a policy on each machine.
    fn takes(&self, request: &Request) -> bool {
        self.sampling_percentage.is_none_or(|share| share.takes(hash_of(&[&self.name, &request.id])))
    }

    /// The most profiles that may be kept in its name in a minute.
    pub(super) fn per_minute(&self) -> Option<u64> {
        let limit = self.rate_limiting.map(|limit| limit.profiles_per_minute);
        limit.or(self.profiles_per_minute).map(Bounded::get)
    }

    /// The most bytes that profiles kept in its name may take in a second; not 0.
    pub(super) fn bytes_per_second(&self) -> Option<u64> {
        self.limits.map(|limits| limits.bytes_per_second.get())
    }

    /// What must be remembered of other requests, if anything.
    pub(super) fn slowest(&self) -> Option<Slowest<'_>> {
        Some(Slowest { key: self.key.as_deref()?, k: self.k?.get(), window_ns: self.window?.ns() })
    }

    /// Whether what is written makes sense together; what each key says alone was seen when it was read.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        self.check_name()?;
        self.check_keys()?;
        self.check_thresholds()?;
        self.check_lists()
    }

    fn check_name(&self) -> Result<(), Refusal> {
        let is_plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if self.name.is_empty() {
            return Err(Refusal::at(
                "name",
                "the name is empty".to_owned(),
                "write for example name = \"slow\"",
            ));
        }
        if self.name.len() > MAX_NAME_BYTES || !self.name.chars().all(is_plain) {
            let reason = "the name cannot be typed on a command line".to_owned();
            let hint = format!("use letters, digits, `-`, `_` and `.`, at most {MAX_NAME_BYTES} bytes");
            return Err(Refusal::at("name", reason, hint));
        }
        Ok(())
    }

    /// Each key that not every type has, whether it is given, and the types that have it.
    fn keys_of_types(&self) -> [(&'static str, bool, &'static [PolicyType]); 10] {
        use PolicyType::{Always, And, Drop, Latency, Probabilistic, RateLimiting, StatusCode, TopK};
        let keeping = &[Always, Latency, StatusCode, And, Probabilistic, RateLimiting, TopK];
        [
            ("threshold_ms", self.threshold_ms.is_some(), &[Latency]),
            ("upper_threshold_ms", self.upper_threshold_ms.is_some(), &[Latency]),
            ("latency", self.latency.is_some(), &[And, Drop]),
            ("status_codes", self.status_codes.is_some(), &[StatusCode, And, Drop]),
            ("profiles_per_minute", self.profiles_per_minute.is_some(), &[RateLimiting]),
            ("key", self.key.is_some(), &[TopK]),
            ("k", self.k.is_some(), &[TopK]),
            ("window", self.window.is_some(), &[TopK]),
            ("rate_limiting", self.rate_limiting.is_some(), &keeping[..]),
            ("limits", self.limits.is_some(), &keeping[..]),
        ]
    }

    /// No key of another type is given, and none of its own is missing.
    fn check_keys(&self) -> Result<(), Refusal> {
        let own = self.policy_type;
        let keys = self.keys_of_types();
        for (key, is_given, types) in keys {
            if is_given && !types.contains(&own) {
                let reason = format!("`{key}` is no key of a policy of type `{}`", word(own));
                let hint = match (key, own) {
                    ("latency", PolicyType::Latency) => {
                        "write threshold_ms = 500 in the policy itself".to_owned()
                    }
                    _ if own == PolicyType::Drop => "a policy that drops has no limits".to_owned(),
                    _ => format!("`{key}` is for {}", words(types)),
                };
                return Err(Refusal::at(key, reason, hint));
            }
        }
        if self.rate_limiting.is_some() && self.profiles_per_minute.is_some() {
            let reason = "two limits of profiles per minute".to_owned();
            return Err(Refusal::at("rate_limiting", reason, "remove `rate_limiting`"));
        }
        let missing: Option<(&str, &str)> = match own {
            PolicyType::Latency if self.threshold_ms.is_none() => {
                Some(("threshold_ms", "threshold_ms = 500"))
            }
            PolicyType::StatusCode if self.status_codes.is_none() => {
                Some(("status_codes", "status_codes = [\"ERROR\"]"))
            }
            PolicyType::Probabilistic if self.sampling_percentage.is_none() => {
                Some(("sampling_percentage", "sampling_percentage = 1"))
            }
            PolicyType::RateLimiting if self.profiles_per_minute.is_none() => {
                Some(("profiles_per_minute", "profiles_per_minute = 30"))
            }
            PolicyType::TopK if self.key.is_none() => Some(("key", "key = \"subject\"")),
            PolicyType::TopK if self.k.is_none() => Some(("k", "k = 3")),
            PolicyType::TopK if self.window.is_none() => Some(("window", "window = \"60s\"")),
            PolicyType::And | PolicyType::Drop if self.has_no_condition() => {
                Some(("match", "match = { \"url.path\" = \"/healthz\" }"))
            }
            _ => None,
        };
        match missing {
            Some((key, example)) => {
                let reason = format!("a policy of type `{}` without `{key}`", word(own));
                let error = PolicyError::new(reason).with_hint(format!("add for example {example}"));
                Err(Refusal { key: None, error })
            }
            None => Ok(()),
        }
    }

    fn has_no_condition(&self) -> bool {
        self.latency.is_none()
            && self.status_codes.is_none()
            && self.matches.is_none()
            && self.sampling_percentage.is_none()
    }

    fn check_thresholds(&self) -> Result<(), Refusal> {
        let (key, least, most) = match self.latency {
            Some(latency) => ("latency", Some(latency.threshold_ms), latency.upper_threshold_ms),
            None => ("upper_threshold_ms", self.threshold_ms, self.upper_threshold_ms),
        };
        match (least, most) {
            (Some(least), Some(most)) if most.get() < least.get() => {
                let reason = format!("nothing takes at least {} and at most {} ms", least.get(), most.get());
                Err(Refusal::at(key, reason, "write the longer time as upper_threshold_ms, or leave it out"))
            }
            _ => Ok(()),
        }
    }

    fn check_lists(&self) -> Result<(), Refusal> {
        if self.status_codes.as_ref().is_some_and(|codes| codes.is_empty() || codes.len() > 3) {
            let reason = "from one to three status codes can be asked for".to_owned();
            return Err(Refusal::at("status_codes", reason, "write for example [\"ERROR\"]"));
        }
        if self.key.as_ref().is_some_and(|key| key.is_empty() || key.len() > MAX_NAME_BYTES) {
            let reason = "the key is the name of no field".to_owned();
            return Err(Refusal::at("key", reason, "write for example \"subject\" or \"rpc.method\""));
        }
        let Some(matches) = &self.matches else { return Ok(()) };
        let patterns: usize = matches.values().map(Patterns::len).sum();
        if matches.is_empty() || matches.keys().any(String::is_empty) {
            let reason = "`match` names no field".to_owned();
            return Err(Refusal::at("match", reason, "write for example { \"url.path\" = \"/healthz\" }"));
        }
        if matches.len() > MAX_MATCH_NAMES || patterns > MAX_MATCH_PATTERNS {
            let reason = format!("{} names with {patterns} patterns are too many", matches.len());
            let hint =
                format!("write at most {MAX_MATCH_NAMES} names with {MAX_MATCH_PATTERNS} patterns in all");
            return Err(Refusal::at("match", reason, hint));
        }
        Ok(())
    }
}

/// How `policy_type` is written.
fn word(policy_type: PolicyType) -> &'static str {
    match policy_type {
        PolicyType::Always => "always",
        PolicyType::Latency => "latency",
        PolicyType::StatusCode => "status_code",
        PolicyType::And => "and",
        PolicyType::Probabilistic => "probabilistic",
        PolicyType::RateLimiting => "rate_limiting",
        PolicyType::TopK => "top_k",
        PolicyType::Drop => "drop",
    }
}

/// `types` as they are written, for a sentence.
fn words(types: &[PolicyType]) -> String {
    let words: Vec<String> = types.iter().map(|known| format!("type = \"{}\"", word(*known))).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The policy of type `and` with these `conditions`.
    fn and(conditions: &str) -> Policy {
        let text = format!("name = 'test'\ntype = 'and'\n{conditions}");
        let policy: Policy = toml::from_str(&text).expect(conditions);
        assert!(policy.check().is_ok(), "{conditions}");
        policy
    }

    /// A request that took 500 ms.
    fn request() -> Request {
        let attributes = [("rpc.method", "model.party.party.search_read"), ("user.name", "sales-7")];
        Request {
            id: "4bf92f3577b34da6".to_owned(),
            process: "trytond".to_owned(),
            pid: 4121,
            duration_ns: 500_000_000,
            status: RequestStatus::Error,
            attributes: attributes.map(|(name, value)| (name.into(), value.into())).into(),
            ..Request::default()
        }
    }

    /// Each condition holds or does not, by itself.
    #[test]
    fn conditions_hold_by_themselves() {
        for (conditions, holds) in [
            ("latency = { threshold_ms = 500 }", true),
            ("latency = { threshold_ms = 501 }", false),
            ("latency = { threshold_ms = 0, upper_threshold_ms = 500 }", true),
            ("latency = { threshold_ms = 0, upper_threshold_ms = 499 }", false),
            ("status_codes = ['OK', 'ERROR']", true),
            ("status_codes = ['OK', 'UNSET']", false),
            ("match = { 'rpc.method' = 'model.*.search_read' }", true),
            ("match = { 'rpc.method' = ['common.*', 'model.*'] }", true),
            ("match = { 'rpc.method' = 'model.*.search' }", false),
            ("match = { 'user.name' = ['alice', 're:^sales-'] }", true),
            ("match = { 'user.name' = 're:^sales$' }", false),
            ("match = { 'process.executable.name' = 'tryton?' }", true),
            ("match = { 'process.pid' = '4121' }", true),
            ("match = { status = 'ERROR' }", true),
            ("match = { status = 'OK' }", false),
            ("match = { subject = 'model.*' }", true),
            ("match = { 'http.route' = '*' }", false),
            ("sampling_percentage = 100", true),
            ("sampling_percentage = 0", false),
        ] {
            assert_eq!(and(conditions).applies(&request()), holds, "{conditions}");
        }
    }

    /// All conditions must hold, and all names of `match`.
    #[test]
    fn conditions_hold_together() {
        let all = "latency = { threshold_ms = 500 }\nstatus_codes = ['ERROR']\n";
        assert!(
            and(&format!("{all}match = {{ 'user.name' = '*', 'rpc.method' = '*' }}")).applies(&request())
        );
        assert!(!and(&format!("{all}match = {{ 'user.name' = '*', 'url.path' = '*' }}")).applies(&request()));
        assert!(!and(&all.replace("500", "501")).applies(&request()));
        assert!(!and(&all.replace("ERROR", "OK")).applies(&request()));
    }

    /// Of 10,000 IDs about the share is kept, the same ones each time, by policies of different names
    /// independently of each other.
    #[test]
    fn shares_are_deterministic_and_independent() {
        let (half, other) = (and("sampling_percentage = 50"), and("sampling_percentage = 50"));
        let other = Policy { name: "other".to_owned(), ..other };
        let of = |policy: &Policy, number: u32| {
            policy.applies(&Request { id: format!("{number}"), ..Request::default() })
        };
        let kept = |number: &u32| of(&half, *number);
        let count = (0..10_000).filter(kept).count();
        assert!((4800..=5200).contains(&count), "{count}");
        assert_eq!((0..10_000).filter(kept).count(), count);
        let both = (0..10_000).filter(kept).filter(|number| of(&other, *number)).count();
        assert!((2300..=2700).contains(&both), "{both}");
        let one = and("sampling_percentage = 1");
        let count = (0..10_000).filter(|number| of(&one, *number)).count();
        assert!((60..=140).contains(&count), "{count}");
    }
}
