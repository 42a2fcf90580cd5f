//! The configuration of the agent: one TOML text, all of it optional. Pure: what was read from where is
//! the caller's.
//!
//! ```toml
//! [agent]
//! pids = [4121]                # which processes; more may be named on the command line
//! names = ["trytond"]
//! cgroups = ["system.slice/trytond.service"]
//! store = "/var/lib/txprof"
//! socket = "/run/txprof/txprof.sock"
//! log = "stdout"               # or a file: where each kept request is a line of JSON
//! log_level = "info"           # error, warn, info or debug: what is told on standard error
//!
//! [sampling]
//! hz = 19                      # always, per CPU
//! request_hz = 499             # on threads that serve a request
//! kernel = true                # the kernel's part of stacks too
//!
//! [transactions]
//! decision_wait = "50ms"       # for samples that come late
//! max_duration = "120s"        # longer requests are marked as partial
//! ring_bytes = "64MiB"         # captures kept until a verdict
//!
//! [store]
//! max_age = "7d"
//! max_bytes = "2GiB"
//!
//! [[policy]]                   # see `transaction::policy`
//! name = "slow"
//! type = "latency"
//! threshold_ms = 500
//! ```
//!
//! Where no policy is written, [`DEFAULT_POLICIES`] are in force; `policy = []` means none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny};
use toml::Spanned;

use crate::error::{Result, ResultExt};
use crate::model::quantity::{parse_bytes, parse_time, time_text};
use crate::transaction::policy::{PolicyError, PolicySet};

/// The policies where none is written: what takes half a second or more, and the three slowest of each
/// subject in each minute.
pub const DEFAULT_POLICIES: &str = r#"
[[policy]]
name = "slow"
type = "latency"
threshold_ms = 500

[[policy]]
name = "worst"
type = "top_k"
key = "subject"
k = 3
window = "60s"
"#;

/// Most entries in a list of targets; more are better named by their cgroup.
const MAX_TARGETS: usize = 1024;

/// Longest path of a socket in bytes: `sun_path` of `struct sockaddr_un` (linux/un.h) with its end.
const MAX_SOCKET_BYTES: usize = 107;

/// What the agent watches, how, and what it keeps.
#[derive(Debug)]
pub struct Config {
    /// Which processes, and where the agent's files are.
    pub agent: AgentConfig,
    /// How often stacks are taken.
    pub sampling: SamplingConfig,
    /// How requests are told apart.
    pub transactions: TransactionConfig,
    /// How long profiles are kept.
    pub store: StoreConfig,
    /// Which requests are kept.
    pub policies: PolicySet,
}

/// The table `[agent]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Processes to watch, by id; not 0, at most 1,024, as the other two lists.
    #[serde(deserialize_with = "pids")]
    pub pids: Vec<u32>,
    /// Processes to watch, by name.
    #[serde(deserialize_with = "texts")]
    pub names: Vec<String>,
    /// Processes to watch, by cgroup.
    #[serde(deserialize_with = "texts")]
    pub cgroups: Vec<String>,
    /// Directory of the store; `None`: the user's, see [`default_folder`](crate::store::default_folder).
    #[serde(deserialize_with = "path")]
    pub store: Option<PathBuf>,
    /// The control socket, at most 107 bytes; `None`: the user's, see
    /// [`default_socket`](super::places::default_socket).
    #[serde(deserialize_with = "socket")]
    pub socket: Option<PathBuf>,
    /// Where each kept request is a line of JSON.
    pub log: Log,
    /// What the agent tells on standard error.
    pub log_level: LogLevel,
}

/// Where each kept request is a line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// On standard output, `"stdout"`.
    #[default]
    Stdout,
    /// At the end of a file.
    File(PathBuf),
}

/// What the agent tells on standard error: each level includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What it cannot do.
    Error,
    /// What is lost or refused.
    Warn,
    /// What it watches, what changes, and what it did.
    #[default]
    Info,
    /// Each process that is met or gone.
    Debug,
}

/// The table `[sampling]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingConfig {
    /// Samples per second and CPU of all threads, 1 to 10,000.
    #[serde(deserialize_with = "hz")]
    pub hz: u32,
    /// Samples per second and CPU of threads that serve a request, from `hz` to 10,000.
    #[serde(deserialize_with = "hz")]
    pub request_hz: u32,
    /// Whether stacks include the kernel's functions.
    pub kernel: bool,
}

/// The table `[transactions]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransactionConfig {
    /// How long after its end a request is judged, so that late samples are seen; 1 ms to 10 s.
    #[serde(deserialize_with = "time::<1, 10_000, _>")]
    pub decision_wait: Duration,
    /// A longer request is marked as partial, as its beginning may be overwritten; longer than `decision_wait`, 1 s to a day.
    #[serde(deserialize_with = "time::<1000, 86_400_000, _>")]
    pub max_duration: Duration,
    /// Memory for captures of all processes until a verdict, in bytes; 1 MiB to 64 GiB.
    #[serde(deserialize_with = "bytes::<0x10_0000, 0x10_0000_0000, _>")]
    pub ring_bytes: u64,
}

/// The table `[store]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// How long profiles are kept: a minute to ten years.
    #[serde(deserialize_with = "time::<60_000, 315_360_000_000, _>")]
    pub max_age: Duration,
    /// How much they may take, in bytes: 1 MiB to 1 PiB.
    #[serde(deserialize_with = "bytes::<0x10_0000, 0x4_0000_0000_0000, _>")]
    pub max_bytes: u64,
}

/// The whole text; policies are read by [`PolicySet`].
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    agent: AgentConfig,
    sampling: Option<Spanned<SamplingConfig>>,
    transactions: Option<Spanned<TransactionConfig>>,
    #[serde(default)]
    store: StoreConfig,
    policy: Option<IgnoredAny>,
}

impl Config {
    /// Reads `text`, which came from `origin`. Refuses the whole text for an unknown key, a wrong policy or
    /// a number that makes no sense: `InvalidInput`, with the file, the line, the reason and a hint.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let read = Self::read(text).map_err(crate::Error::from);
        read.context(|| format!("failed to use the configuration `{}`", origin.display()))
    }

    fn read(text: &str) -> Result<Self, PolicyError> {
        // Looked at first, as it bounds the text.
        let policies = PolicySet::parse(text)?;
        let document: Document =
            toml::from_str(text).map_err(|error| PolicyError::from_toml(text, &error))?;
        let sampling = document.sampling.map(|table| checked(text, table, SamplingConfig::check));
        let transactions = document.transactions.map(|table| checked(text, table, TransactionConfig::check));
        Ok(Self {
            agent: document.agent,
            sampling: sampling.transpose()?.unwrap_or_default(),
            transactions: transactions.transpose()?.unwrap_or_default(),
            store: document.store,
            policies: document.policy.map_or_else(default_policies, |_| policies),
        })
    }
}

/// A text that says nothing.
impl Default for Config {
    fn default() -> Self {
        Self {
            agent: AgentConfig::default(),
            sampling: SamplingConfig::default(),
            transactions: TransactionConfig::default(),
            store: StoreConfig::default(),
            policies: default_policies(),
        }
    }
}

impl Default for SamplingConfig {
    fn default() -> Self {
        Self { hz: 19, request_hz: 499, kernel: true }
    }
}

impl SamplingConfig {
    fn check(&self) -> Option<(String, &'static str)> {
        let reason = format!("request_hz = {} is less than hz = {}", self.request_hz, self.hz);
        (self.request_hz < self.hz).then_some((reason, "write at least hz as request_hz"))
    }
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            decision_wait: Duration::from_millis(50),
            max_duration: Duration::from_secs(120),
            ring_bytes: 64 << 20,
        }
    }
}

impl TransactionConfig {
    fn check(&self) -> Option<(String, &'static str)> {
        let (wait, longest) = (time_text(self.decision_wait), time_text(self.max_duration));
        let reason = format!("max_duration = \"{longest}\" is not longer than decision_wait = \"{wait}\"");
        (self.max_duration <= self.decision_wait).then_some((reason, "write a shorter decision_wait"))
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(7 * 24 * 3600), max_bytes: 2 << 30 }
    }
}

/// `policies` of [`DEFAULT_POLICIES`], which a test reads.
fn default_policies() -> PolicySet {
    PolicySet::parse(DEFAULT_POLICIES).unwrap_or_default()
}

/// The table, if what its keys say makes sense together; else where it begins, why and what to write.
fn checked<T>(
    text: &str,
    table: Spanned<T>,
    check: impl Fn(&T) -> Option<(String, &'static str)>,
) -> Result<T, PolicyError> {
    match check(table.get_ref()) {
        Some((reason, hint)) => Err(PolicyError::at(text, table.span().start, reason).with_hint(hint)),
        None => Ok(table.into_inner()),
    }
}

fn hz<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let hz = i64::deserialize(deserializer)?;
    let inside = u32::try_from(hz).ok().filter(|hz| (1..=10_000).contains(hz));
    inside.ok_or_else(|| {
        D::Error::custom(format!("{hz} Hz is out of range; write a whole number from 1 to 10000"))
    })
}

fn pids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let pids: Vec<i64> = bounded_list(deserializer)?;
    let pid = |pid: i64| {
        let known = i32::try_from(pid).ok().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        known.ok_or_else(|| D::Error::custom(format!("{pid} is no process id; write a number above 0")))
    };
    pids.into_iter().map(pid).collect()
}

fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts: Vec<String> = bounded_list(deserializer)?;
    match texts.iter().any(String::is_empty) {
        true => Err(D::Error::custom("an empty name names nothing; remove it")),
        false => Ok(texts),
    }
}

fn bounded_list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::deserialize(deserializer)?;
    match list.len() > MAX_TARGETS {
        true => Err(D::Error::custom(format!("too many targets; write at most {MAX_TARGETS}, or a cgroup"))),
        false => Ok(list),
    }
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.is_empty() || text.contains('\0') {
        true => Err(D::Error::custom("this is no path; write one, or leave the key out")),
        false => Ok(Some(PathBuf::from(text))),
    }
}

fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let socket = path(deserializer)?;
    match socket.as_ref().is_some_and(|path| path.as_os_str().len() > MAX_SOCKET_BYTES) {
        true => Err(D::Error::custom(format!(
            "the path is too long for a socket; write at most {MAX_SOCKET_BYTES} bytes"
        ))),
        false => Ok(socket),
    }
}

/// A time from `MIN_MS` to `MAX_MS` milliseconds.
fn time<'de, const MIN_MS: u64, const MAX_MS: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let time = parse_time(&text).map_err(D::Error::custom)?;
    let (least, most) = (Duration::from_millis(MIN_MS), Duration::from_millis(MAX_MS));
    match (least..=most).contains(&time) {
        true => Ok(time),
        false => Err(D::Error::custom(format!(
            "`{text}` is out of range; write a time from {} to {}",
            time_text(least),
            time_text(most)
        ))),
    }
}

/// An amount from `MIN` to `MAX` bytes.
fn bytes<'de, const MIN: u64, const MAX: u64, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = parse_bytes(&text).map_err(D::Error::custom)?;
    match (MIN..=MAX).contains(&bytes) {
        true => Ok(bytes),
        false => Err(D::Error::custom(format!(
            "`{text}` is out of range; write from {}MiB to {}GiB",
            MIN >> 20,
            MAX >> 30
        ))),
    }
}

impl<'de> Deserialize<'de> for Log {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let file = path(deserializer)?.filter(|path| path.as_os_str() != "stdout");
        Ok(file.map_or(Self::Stdout, Self::File))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::model::Request;
    use crate::transaction::policy::Verdict;

    fn parse(text: &str) -> Result<Config> {
        Config::parse(text, Path::new("txprof.toml"))
    }

    /// A text that says nothing, and the default, keep what is slow and the slowest of a minute.
    #[test]
    fn defaults_keep_the_slow_and_the_slowest() {
        for mut config in [Config::default(), parse("").expect("nothing is wrong")] {
            let names: Vec<&str> = config.policies.policies().iter().map(|policy| policy.name()).collect();
            assert_eq!(names, ["slow", "worst"]);
            assert_eq!(config.agent, AgentConfig::default());
            assert_eq!(
                (config.sampling.hz, config.sampling.request_hz, config.sampling.kernel),
                (19, 499, true)
            );
            let mut decide = |ms: u64| {
                let request = Request { duration_ns: ms * 1_000_000, ..Request::default() };
                config.policies.decide(&request, 0)
            };
            assert_eq!(decide(500), Verdict::Keep { policy: "slow".to_owned() });
            assert_eq!(decide(499), Verdict::Keep { policy: "worst".to_owned() });
        }
        let none = parse("policy = []").expect("no policy is a choice");
        assert!(none.policies.policies().is_empty());
    }

    /// Each key arrives where it belongs.
    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            [agent]
            pids = [1, 4121]
            names = ["trytond"]
            cgroups = ["system.slice"]
            store = "/srv/txprof"
            socket = "/srv/txprof.sock"
            log = "/var/log/txprof.json"
            log_level = "debug"
            [sampling]
            hz = 49
            request_hz = 999
            kernel = false
            [transactions]
            decision_wait = "100ms"
            max_duration = "5m"
            ring_bytes = "128MiB"
            [store]
            max_age = "30d"
            max_bytes = "10GiB"
            [[policy]]
            name = "all"
            type = "always"
            "#,
        );
        let config = config.expect("nothing is wrong");
        let agent = AgentConfig {
            pids: vec![1, 4121],
            names: vec!["trytond".to_owned()],
            cgroups: vec!["system.slice".to_owned()],
            store: Some("/srv/txprof".into()),
            socket: Some("/srv/txprof.sock".into()),
            log: Log::File("/var/log/txprof.json".into()),
            log_level: LogLevel::Debug,
        };
        assert_eq!(config.agent, agent);
        assert_eq!(config.sampling, SamplingConfig { hz: 49, request_hz: 999, kernel: false });
        let transactions = TransactionConfig {
            decision_wait: Duration::from_millis(100),
            max_duration: Duration::from_secs(300),
            ring_bytes: 128 << 20,
        };
        assert_eq!(config.transactions, transactions);
        let store = StoreConfig { max_age: Duration::from_secs(30 * 86_400), max_bytes: 10 << 30 };
        assert_eq!(config.store, store);
        assert_eq!(config.policies.policies().len(), 1);
        assert_eq!(parse("[agent]\nlog = 'stdout'").expect("nothing is wrong").agent.log, Log::Stdout);
    }

    /// Mistakes are told with file, line and reason, and with what to write instead.
    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line, reason, hint) in [
            ("\n[agnet]\npids = [1]", 2, "unknown field `agnet`", "`agent`"),
            ("[agent]\npid = 1", 2, "unknown field `pid`", "`pids`"),
            ("[agent]\npids = [\n0]", 2, "0 is no process id", "above 0"),
            ("[agent]\nnames = ['']", 2, "an empty name", "remove"),
            ("[agent]\nlog_level = 'loud'", 2, "unknown variant `loud`", "`debug`"),
            ("[agent]\nstore = ''", 2, "no path", "leave the key out"),
            ("[sampling]\n\nhz = 0", 3, "0 Hz is out of range", "1 to 10000"),
            ("\n[sampling]\nhz = 500", 2, "request_hz = 499 is less than hz = 500", "at least hz"),
            ("[transactions]\nmax_duration = '120'", 2, "not a length of time", "60s"),
            ("[transactions]\ndecision_wait = '1h'", 2, "out of range", "1ms to 10s"),
            ("[transactions]\ndecision_wait='2s'\nmax_duration='1s'", 1, "not longer", "shorter"),
            ("[transactions]\nring_bytes = '64MB/s'", 2, "not an amount of bytes", "64MiB"),
            ("[transactions]\nring_bytes = '1KiB'", 2, "out of range", "1MiB to 64GiB"),
            ("[store]\nmax_age = '1s'", 2, "out of range", "1m to 3650d"),
            ("[[policy]]\nname = 'a'\ntype = 'latency'", 1, "without `threshold_ms`", "threshold_ms = 500"),
        ] {
            let error = parse(text).expect_err(text);
            let told = error.to_string();
            let place = format!("failed to use the configuration `txprof.toml`: line {line}: ");
            assert!(told.starts_with(&place) && told.contains(reason), "{told}");
            assert!(error.hint().is_some_and(|told| told.contains(hint)), "{told}: {:?}", error.hint());
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        let long = format!("[agent]\nsocket = '/{}'", "a".repeat(MAX_SOCKET_BYTES));
        assert!(parse(&long).is_err() && parse(&long.replace("aa'", "a'")).is_ok());
        assert!(parse(&format!("[agent]\npids = [{}]", "1,".repeat(MAX_TARGETS + 1))).is_err());
    }
}
