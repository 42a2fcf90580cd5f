//! The policies that are in force, and what they have seen.

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::budget::Budget;
use super::definition::Refusal;
use super::error::line_of;
use super::field::field;
use super::rate::Rate;
use super::top_k::TopK;
use super::{Counts, Policy, PolicyError, Verdict};
use crate::model::Request;

/// Most policies in a set: each looks at each request.
const MAX_POLICIES: usize = 256;

/// Longest text that is read, in bytes; 256 policies with some patterns each fit.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Policies in the order they were written, no two of one name, with what each has counted and
/// remembers for its limits. Changes keep that of the policies that stay.
#[derive(Debug, Default)]
pub struct PolicySet {
    policies: Vec<Policy>,
    /// One for each policy.
    states: Vec<State>,
}

/// What a policy has seen.
#[derive(Debug, Default)]
struct State {
    counts: Counts,
    rate: Rate,
    budget: Budget,
    top_k: TopK,
}

/// A policy with its counts, as `policy list` shows it: the keys of the policy and `counts`.
#[derive(Debug, Serialize)]
pub struct Listed<'a> {
    /// The policy.
    #[serde(flatten)]
    pub policy: &'a Policy,
    /// How often it had its say.
    pub counts: Counts,
}

/// The part of a configuration that is about policies; other tables are read elsewhere.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    policy: Vec<Spanned<Policy>>,
}

/// What is written back.
#[derive(Serialize)]
struct Written<'a> {
    policy: &'a [Policy],
}

impl PolicySet {
    /// Reads all `[[policy]]` tables of `text` (TOML, at most 1 MiB); other tables are not looked at. No
    /// such table: an empty set, which passes all. One wrong policy refuses the whole text.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(PolicyError::new("a text of more than 1 MiB").with_hint("write a shorter one"));
        }
        let document: Document =
            toml::from_str(text).map_err(|error| PolicyError::from_toml(text, &error))?;
        let mut set = Self::default();
        for (index, policy) in document.policy.into_iter().enumerate() {
            set.insert(policy.into_inner()).map_err(|Refusal { key, mut error }| {
                error.line = line_of(text, index, key);
                error
            })?;
        }
        Ok(set)
    }

    /// A set of `policies`, in their order; refuses all where one is refused.
    pub fn from_policies(policies: Vec<Policy>) -> Result<Self, PolicyError> {
        let mut set = Self::default();
        policies.into_iter().try_for_each(|policy| set.add(policy))?;
        Ok(set)
    }

    /// The policies in force, in their order.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The policies with their counts, in their order.
    pub fn list(&self) -> impl Iterator<Item = Listed<'_>> {
        let all = self.policies.iter().zip(&self.states);
        all.map(|(policy, state)| Listed { policy, counts: state.counts })
    }

    /// The `[[policy]]` tables that [`parse`](Self::parse) reads the same policies from.
    pub fn to_toml(&self) -> Result<String, PolicyError> {
        let written = Written { policy: &self.policies };
        toml::to_string(&written).map_err(|error| PolicyError::new(error.to_string()))
    }

    /// Puts `policy` behind the others. Refuses what makes no sense, a name that is taken, and more
    /// than 256 policies.
    pub fn add(&mut self, policy: Policy) -> Result<(), PolicyError> {
        self.insert(policy).map_err(|refusal| refusal.error)
    }

    fn insert(&mut self, policy: Policy) -> Result<(), Refusal> {
        policy.check()?;
        if self.policies.iter().any(|known| known.name() == policy.name()) {
            let reason = format!("two policies are called `{}`", policy.name());
            return Err(Refusal::at("name", reason, "give each a name of its own"));
        }
        if self.policies.len() == MAX_POLICIES {
            let reason = format!("more than {MAX_POLICIES} policies");
            return Err(Refusal::at("name", reason, "match several patterns in one policy"));
        }
        self.policies.push(policy);
        self.states.push(State::default());
        Ok(())
    }

    /// Takes the policy called `name` out of force; false where there is none.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(index) = self.policies.iter().position(|known| known.name() == name) else { return false };
        self.policies.remove(index);
        self.states.remove(index);
        true
    }

    /// Puts the policies of `new` in force instead of these. Those that are equal keep what they have
    /// counted and remember; changed ones begin anew.
    pub fn replace(&mut self, new: PolicySet) {
        let old = std::mem::replace(self, new);
        for (policy, state) in old.policies.iter().zip(old.states) {
            if let Some(index) = self.policies.iter().position(|known| known == policy)
                && let Some(place) = self.states.get_mut(index)
            {
                *place = state;
            }
        }
    }

    /// What becomes of `request`, which has ended, at `now_ns` (`CLOCK_MONOTONIC`). A policy that drops
    /// beats all others wherever it stands; else the first that keeps it, and whose limits are not
    /// reached, names the verdict. The policies of type `top_k` see each request that is not dropped,
    /// so that they keep the slowest of all, not of those that others leave.
    pub fn decide(&mut self, request: &Request, now_ns: u64) -> Verdict {
        let mut all = self.policies.iter().zip(&mut self.states);
        if let Some((policy, state)) = all.find(|(policy, _)| policy.is_drop() && policy.applies(request)) {
            state.counts.dropped = state.counts.dropped.saturating_add(1);
            return Verdict::Drop { policy: policy.name().to_owned() };
        }
        let mut kept_by = None;
        let mut limited_by = None;
        for (policy, state) in self.policies.iter().zip(&mut self.states) {
            let keeps = !policy.is_drop() && policy.applies(request);
            if !keeps || !state.admits(policy, request, now_ns) || kept_by.is_some() {
                continue;
            }
            if state.take(policy, now_ns) {
                kept_by = Some(policy);
            } else {
                limited_by = limited_by.or(Some(policy));
            }
        }
        match (kept_by, limited_by) {
            (Some(policy), _) => Verdict::Keep { policy: policy.name().to_owned() },
            (None, Some(policy)) => Verdict::Limited { policy: policy.name().to_owned() },
            (None, None) => Verdict::Pass,
        }
    }

    /// Says that the profile kept by `verdict` took `bytes`, at `now_ns` (`CLOCK_MONOTONIC`), for the limit
    /// of the policy that kept it. Other verdicts, and policies that are gone, are charged nothing.
    pub fn charge(&mut self, verdict: &Verdict, bytes: u64, now_ns: u64) {
        let Verdict::Keep { policy: name } = verdict else { return };
        let mut all = self.policies.iter().zip(&mut self.states);
        if let Some((policy, state)) = all.find(|(policy, _)| policy.name() == name)
            && let Some(per_second) = policy.bytes_per_second()
        {
            state.budget.charge(per_second, bytes, now_ns);
        }
    }
}

impl State {
    /// Whether `request` is among the slowest, where `policy` asks for them.
    fn admits(&mut self, policy: &Policy, request: &Request, now_ns: u64) -> bool {
        let Some(slowest) = policy.slowest() else { return true };
        field(request, slowest.key).is_some_and(|value| {
            self.top_k.admits(&value, request.duration_ns, slowest.k, slowest.window_ns, now_ns)
        })
    }

    /// Keeps one more in the name of `policy`, and counts that; false, and counted as such, where one of
    /// its limits is reached.
    fn take(&mut self, policy: &Policy, now_ns: u64) -> bool {
        let per_minute = policy.per_minute();
        let has_room = per_minute.is_none_or(|limit| self.rate.has_room(limit, now_ns))
            && (policy.bytes_per_second().is_none() || self.budget.has_room(now_ns));
        let count = if has_room { &mut self.counts.kept } else { &mut self.counts.limited };
        *count = count.saturating_add(1);
        if has_room && per_minute.is_some() {
            self.rate.take(now_ns);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn set(text: &str) -> PolicySet {
        PolicySet::parse(text).expect(text)
    }

    /// A request for `path` that took `ms`.
    fn request(path: &str, ms: u64) -> Request {
        let attributes = [("url.path".into(), path.to_owned().into())].into();
        Request { attributes, duration_ns: ms * 1_000_000, ..Request::default() }
    }

    fn keep(policy: &str) -> Verdict {
        Verdict::Keep { policy: policy.to_owned() }
    }

    fn counts(set: &PolicySet, name: &str) -> (u64, u64, u64) {
        let listed = set.list().find(|listed| listed.policy.name() == name).expect(name);
        (listed.counts.kept, listed.counts.dropped, listed.counts.limited)
    }

    /// The first that keeps names the verdict, one that drops beats it from behind, each counts.
    #[test]
    fn drop_beats_keep() {
        let mut set = set(r#"
            [[policy]]
            name = "slow"
            type = "latency"
            threshold_ms = 500
            [[policy]]
            name = "all"
            type = "always"
            match = { "url.path" = "/x*" }
            [[policy]]
            name = "bus"
            type = "drop"
            match = { "url.path" = ["/*/bus", "/healthz"] }
        "#);
        assert_eq!(set.decide(&request("/x", 500), 0), keep("slow"));
        assert_eq!(set.decide(&request("/x", 499), 0), keep("all"));
        assert_eq!(set.decide(&request("/y", 499), 0), Verdict::Pass);
        assert_eq!(set.decide(&request("/db/bus", 300_000), 0), Verdict::Drop { policy: "bus".to_owned() });
        assert_eq!(counts(&set, "slow"), (1, 0, 0));
        assert_eq!(counts(&set, "all"), (1, 0, 0));
        assert_eq!(counts(&set, "bus"), (0, 1, 0));
    }

    /// A policy that has reached its limit leaves the request to those behind it.
    #[test]
    fn limit_leaves_requests_to_others() {
        let mut set = set(r#"
            policy = [
                { name = "few", type = "always", rate_limiting = { profiles_per_minute = 1 } },
                { name = "slow", type = "latency", threshold_ms = 100 },
            ]
        "#);
        assert_eq!(set.decide(&request("/", 1), 0), keep("few"));
        assert_eq!(set.decide(&request("/", 100), 1), keep("slow"));
        assert_eq!(set.decide(&request("/", 1), 2), Verdict::Limited { policy: "few".to_owned() });
        assert_eq!(counts(&set, "few"), (1, 0, 2));
        assert_eq!(set.decide(&request("/", 1), 60 * SECOND_NS), keep("few"));
    }

    /// Both ways to limit the rate do the same.
    #[test]
    fn rate_limiting_is_a_type_too() {
        let mut set = set("policy = [{ name = 'some', type = 'rate_limiting', profiles_per_minute = 2 }]");
        let kept = (0..10).filter(|now| set.decide(&request("/", 1), *now) == keep("some")).count();
        assert_eq!((kept, counts(&set, "some")), (2, (2, 0, 8)));
    }

    /// What profiles took is charged to the policy that kept them, and to no other.
    #[test]
    fn bytes_are_charged_to_the_policy_that_kept() {
        let mut set = set(r#"
            policy = [
                { name = "a", type = "always", limits = { bytes_per_second = 1000 } },
                { name = "b", type = "always", limits = { bytes_per_second = 1000 } },
            ]
        "#);
        let verdict = set.decide(&request("/", 1), SECOND_NS);
        set.charge(&verdict, 3000, SECOND_NS);
        set.charge(&Verdict::Pass, 3000, SECOND_NS);
        set.charge(&keep("gone"), 3000, SECOND_NS);
        assert_eq!(set.decide(&request("/", 1), SECOND_NS), keep("b"));
        assert_eq!(set.decide(&request("/", 1), 3 * SECOND_NS), keep("b"));
        assert_eq!(set.decide(&request("/", 1), 3 * SECOND_NS + 1), keep("a"));
    }

    /// The slowest of each path are kept, counting those that another policy kept.
    #[test]
    fn slowest_are_kept_per_key_and_window() {
        let mut set = set(r#"
            policy = [
                { name = "slow", type = "latency", threshold_ms = 1000 },
                { name = "worst", type = "top_k", key = "subject", k = 1, window = "60s" },
                { name = "users", type = "top_k", key = "user.name", k = 1, window = "60s" },
            ]
        "#);
        assert_eq!(set.decide(&request("/a", 10), 0), keep("worst"));
        assert_eq!(set.decide(&request("/a", 9), 1), Verdict::Pass, "no user is known");
        assert_eq!(set.decide(&request("/a", 1000), 2), keep("slow"));
        assert_eq!(set.decide(&request("/a", 999), 3), Verdict::Pass, "the slowest is kept already");
        assert_eq!(set.decide(&request("/b", 1), 4), keep("worst"));
        assert_eq!(set.decide(&request("/a", 1), 60 * SECOND_NS), keep("worst"));
    }

    /// Live changes: what stays keeps its counts and limits, what changed begins anew.
    #[test]
    fn changes_keep_what_stays() {
        let few = "[[policy]]\nname = 'few'\ntype = 'always'\nrate_limiting = { profiles_per_minute = 1 }\n";
        let mut live = set(few);
        assert_eq!(live.decide(&request("/", 1), 0), keep("few"));
        live.add(set("[[policy]]\nname = 'all'\ntype = 'always'\n").policies()[0].clone())
            .expect("a new name");
        assert_eq!(live.decide(&request("/", 1), 1), keep("all"));
        assert!(live.add(set(few).policies()[0].clone()).is_err(), "the name is taken");

        let reordered = format!("[[policy]]\nname = 'slow'\ntype = 'latency'\nthreshold_ms = 1\n{few}");
        live.replace(set(&reordered));
        assert_eq!(counts(&live, "few"), (1, 0, 1));
        assert_eq!(live.decide(&request("/", 0), 2), Verdict::Limited { policy: "few".to_owned() });

        live.replace(set(&few.replace("= 1 }", "= 2 }")));
        assert_eq!(counts(&live, "few"), (0, 0, 0));
        assert!(live.remove("few") && !live.remove("few"));
        assert_eq!(live.decide(&request("/", 1), 3), Verdict::Pass);
    }

    /// Reason and line of each kind of mistake; nothing of the text is taken over.
    #[test]
    fn mistakes_are_found_with_their_line() {
        let good = "[agent]\npids = [1]\n[[policy]]\nname = 'slow'\ntype = 'latency'\nthreshold_ms = 500\n";
        set(good);
        let after = |more: &str| PolicySet::parse(&format!("{good}{more}")).expect_err(more);
        for (more, line, reason) in [
            ("[[policy]]\nname = 'slow'\ntype = 'always'", 8, "two policies are called `slow`"),
            ("[[policy]]\nname = ''\ntype = 'always'", 8, "the name is empty"),
            ("[[policy]]\nname = 'a b'\ntype = 'always'", 8, "cannot be typed"),
            ("[[policy]]\nname = 'a'\ntype = 'fast'", 9, "unknown variant `fast`"),
            ("[[policy]]\ntype = 'always'", 7, "missing field `name`"),
            ("[[policy]]\nname = 'a'\ntype = 'always'\n\ntreshold_ms = 5", 11, "unknown field `treshold_ms`"),
            ("upper_threshold_ms = 400", 7, "at least 500 and at most 400"),
            ("k = 3", 7, "`k` is no key"),
            ("latency = { threshold_ms = 1 }", 7, "`latency` is no key"),
            ("limits = { bytes_per_second = 0 }", 7, "0 is out of range"),
            ("limits = { bytes = 1 }", 7, "unknown field `bytes`"),
            ("sampling_percentage = 101", 7, "101 is not a percentage"),
            ("sampling_percentage = nan", 7, "NaN is not a percentage"),
            ("match = { 'url.path' = 're:(' }", 7, "not a regular expression"),
            ("match = { 'url.path' = [] }", 7, "an empty list"),
            ("match = {}", 7, "names no field"),
            ("match = { 'url.path' = 5 }", 7, "invalid type: integer `5`"),
            ("[[policy]]\nname = 'a'\ntype = 'latency'", 7, "without `threshold_ms`"),
            ("[[policy]]\nname = 'a'\ntype = 'latency'\nthreshold_ms = -1", 10, "-1 is out of range"),
            ("[[policy]]\nname = 'a'\ntype = 'drop'", 7, "without `match`"),
            ("[[policy]]\nname = 'a'\ntype = 'and'", 7, "without `match`"),
            (
                "[[policy]]\nname = 'a'\ntype = 'drop'\nmatch = {a = '*'}\nlimits = {bytes_per_second = 1}",
                11,
                "`limits`",
            ),
            ("[[policy]]\nname = 'a'\ntype = 'status_code'\nstatus_codes = []", 10, "one to three"),
            (
                "[[policy]]\nname = 'a'\ntype = 'status_code'\nstatus_codes = ['BAD']",
                10,
                "unknown variant `BAD`",
            ),
            ("[[policy]]\nname = 'a'\ntype = 'top_k'\nkey = 'status'\nk = 3", 7, "without `window`"),
            (
                "[[policy]]\nname = 'a'\ntype = 'top_k'\nkey = 'status'\nk = 3\nwindow = '60'",
                12,
                "not a length of time",
            ),
            (
                "[[policy]]\nname = 'a'\ntype = 'top_k'\nkey = 'status'\nk = 0\nwindow = '60s'",
                11,
                "0 is out of range",
            ),
            ("[[policy]\n", 7, ""),
        ] {
            let error = after(more);
            assert_eq!((error.line, error.reason.contains(reason)), (Some(line), true), "{more}: {error:?}");
            assert!(!error.reason.contains('\n') && !error.reason.ends_with('.'), "{error:?}");
        }
        let text = after("[[policy]]\nname = 'a'\ntype = 'latency'\nthreshold_ms = '200ms'");
        assert_eq!(text.hint.as_deref(), Some("expected a whole number"));
        assert!(after("treshold_ms = 5").hint.is_some_and(|hint| hint.contains("threshold_ms")));
        assert!(PolicySet::parse(&" ".repeat((1 << 20) + 1)).is_err());
    }

    /// What is written back is read as the same, as TOML and as JSON.
    #[test]
    fn policies_are_written_as_they_are_read() {
        let text = r#"
            [[policy]]
            name = "slow-search"
            type = "and"
            latency = { threshold_ms = 500, upper_threshold_ms = 60000 }
            match = { "rpc.method" = ["model.*.search_read"], "user.name" = ["alice", "re:^sales-"] }
            sampling_percentage = 99.5
            rate_limiting = { profiles_per_minute = 30 }
            limits = { bytes_per_second = 1048576 }
            [[policy]]
            name = "worst"
            type = "top_k"
            key = "rpc.method"
            k = 3
            window = "90s"
        "#;
        let read = set(text);
        let toml = read.to_toml().expect("policies are TOML");
        assert_eq!(set(&toml).policies(), read.policies(), "{toml}");
        let listed: Vec<Listed<'_>> = read.list().collect();
        let json = serde_json::to_value(&listed).expect("policies are JSON");
        assert_eq!(json[0]["match"]["rpc.method"], "model.*.search_read");
        assert_eq!(json[1]["counts"], serde_json::json!({ "kept": 0, "dropped": 0, "limited": 0 }));
        let json = serde_json::to_string(read.policies()).expect("policies are JSON");
        let again: Vec<Policy> = serde_json::from_str(&json).expect("policies are read from JSON");
        assert_eq!(again, read.policies());
        assert!(PolicySet::from_policies(again).is_ok());
    }

    /// Nesting as deep as a text can be is refused, not followed.
    #[test]
    fn deep_nesting_is_refused() {
        for (open, close) in [("[", "]"), ("{a=", "}")] {
            let deep = format!("a = {}1{}", open.repeat(100_000), close.repeat(100_000));
            assert!(PolicySet::parse(&deep).is_err());
        }
        let _ = PolicySet::parse(&format!("{}b = 1", "a.".repeat(200_000)));
        let _ = PolicySet::parse(&format!("[{}b]", "a.".repeat(200_000)));
    }

    /// More policies than there may be are refused.
    #[test]
    fn policies_are_bounded() {
        let text = |count| -> String {
            (0..count).map(|number| format!("[[policy]]\nname = 'p{number}'\ntype = 'always'\n")).collect()
        };
        assert!(PolicySet::parse(&text(MAX_POLICIES)).is_ok());
        assert_eq!(PolicySet::parse(&text(MAX_POLICIES + 1)).expect_err("too many").line, Some(770));
    }
}
