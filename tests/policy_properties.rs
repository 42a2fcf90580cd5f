//! Properties of policies and names on arbitrary input: what the slowest and the limits promise, and
//! that nothing written or asked for makes them panic or grow.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use txprof::agent::config::Config;
use txprof::model::{Attributes, Request, RequestStatus};
use txprof::transaction::name::{name_of, with_suffix};
use txprof::transaction::policy::{PolicySet, Verdict};

/// Texts of few letters, so that patterns often match, and hostile ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ab/.]{0,8}", "\\PC{0,12}", "(?s).{0,12}", "a{1000,3000}"]
}

fn request() -> impl Strategy<Value = Request> {
    let status = prop::sample::select(vec![RequestStatus::Ok, RequestStatus::Error, RequestStatus::Unset]);
    (text(), text(), any::<u64>(), status, prop::option::of(text())).prop_map(
        |(id, process, duration_ns, status, path)| {
            let attributes: Attributes =
                path.map(|path| ("url.path".into(), path.into())).into_iter().collect();
            Request { id, process, duration_ns, status, attributes, ..Request::default() }
        },
    )
}

/// Lines that configurations are made of, right and wrong.
fn line() -> impl Strategy<Value = String> {
    let known = [
        "[[policy]]",
        "[policy]",
        "[agent]",
        "[sampling]",
        "[transactions]",
        "[store]",
        "name = 'a'",
        "name = 'b'",
        "type = 'always'",
        "type = 'drop'",
        "type = 'top_k'",
        "threshold_ms = 500",
        "match = { 'url.path' = ['a*', 're:b'] }",
        "match = 're:('",
        "sampling_percentage = 1e300",
        "key = 'subject'",
        "k = 9223372036854775807",
        "window = '1m'",
        "hz = -1",
        "max_age = '7d'",
        "pids = [1, 2]",
    ];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => text()]
}

fn kept_by(policy: &str) -> Verdict {
    Verdict::Keep { policy: policy.to_owned() }
}

/// As a pattern is defined: `*` is any text, `?` one character. Exponential, for short texts.
fn glob_by_definition(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('*', rest)), _) => (0..=text.len()).any(|skipped| glob_by_definition(rest, &text[skipped..])),
        (Some((wanted, rest)), Some((found, text))) => {
            (*wanted == '?' || wanted == found) && glob_by_definition(rest, text)
        }
        _ => false,
    }
}

proptest! {
    /// Globs match what their definition says.
    #[test]
    fn globs_follow_their_definition(pattern in "[ab*?]{1,7}", path in "[abä]{0,8}") {
        let text = format!("[[policy]]\nname = 'p'\ntype = 'always'\nmatch = {{ 'url.path' = '{pattern}' }}");
        let mut set = PolicySet::parse(&text).unwrap();
        let attributes = BTreeMap::from([("url.path".into(), path.clone().into())]);
        let kept = set.decide(&Request { attributes, ..Request::default() }, 0) != Verdict::Pass;
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(kept, glob_by_definition(&chars(&pattern), &chars(&path)));
    }

    /// Whatever is written, it is taken over or refused, and what is taken over is written back as read.
    #[test]
    fn any_text_is_read_or_refused(
        lines in prop::collection::vec(line(), 0..12),
        requests in prop::collection::vec(request(), 0..4),
    ) {
        let text = lines.join("\n");
        let _ = Config::parse(&text, Path::new("txprof.toml"));
        match PolicySet::parse(&text) {
            Ok(mut set) => {
                let written = set.to_toml().unwrap();
                let again = PolicySet::parse(&written).unwrap();
                prop_assert_eq!(again.policies(), set.policies());
                for (now, request) in requests.iter().enumerate() {
                    set.decide(request, u64::MAX - now as u64);
                }
            }
            Err(error) => prop_assert!(error.line.is_none_or(|line| line <= lines.len() * 13 + 1)),
        }
    }

    /// However requests come, the K slowest of each window and path are among the kept.
    #[test]
    fn slowest_are_among_the_kept(
        times in prop::collection::vec((0_u64..3, 0_u64..20), 1..60),
        k in 1_usize..4,
    ) {
        let keys = format!("key = 'url.path'\nk = {k}\nwindow = '1s'");
        let text = format!("[[policy]]\nname = 'worst'\ntype = 'top_k'\n{keys}");
        let mut set = PolicySet::parse(&text).unwrap();
        let mut kept: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
        let mut all = kept.clone();
        for (index, (path, duration_ns)) in times.iter().enumerate() {
            let window = index as u64 / 20;
            let attributes = BTreeMap::from([("url.path".into(), path.to_string().into())]);
            let request = Request { duration_ns: *duration_ns, attributes, ..Request::default() };
            let verdict = set.decide(&request, window * 1_000_000_000 + index as u64);
            all.entry((window, *path)).or_default().push(*duration_ns);
            if verdict != Verdict::Pass {
                kept.entry((window, *path)).or_default().push(*duration_ns);
            }
        }
        for (place, mut durations) in all {
            let mut kept = kept.remove(&place).unwrap_or_default();
            for list in [&mut durations, &mut kept] {
                list.sort_unstable_by(|one, other| other.cmp(one));
                list.truncate(k);
            }
            prop_assert_eq!(durations, kept);
        }
    }

    /// No 60 seconds have more profiles than the limit, and each that is refused had a reason.
    #[test]
    fn no_minute_has_more_than_its_limit(
        steps in prop::collection::vec(0_u64..20, 1..80),
        limit in 1_usize..5,
    ) {
        let limit_line = format!("profiles_per_minute = {limit}");
        let text = format!("[[policy]]\nname = 'some'\ntype = 'rate_limiting'\n{limit_line}");
        let mut set = PolicySet::parse(&text).unwrap();
        let (mut now, mut kept) = (0, Vec::<u64>::new());
        for step in steps {
            now += step;
            let in_minute = kept.iter().filter(|second| now - **second < 60).count();
            let is_kept = set.decide(&Request::default(), now * 1_000_000_000) == kept_by("some");
            prop_assert_eq!(is_kept, in_minute < limit);
            if is_kept {
                kept.push(now);
            }
        }
    }

    /// Names are short, plain, and the same each time, whatever the ID.
    #[test]
    fn names_are_plain(id in text(), attempt in any::<u32>()) {
        let name = name_of(&id);
        prop_assert_eq!(&name, &name_of(&id));
        prop_assert!(name.len() <= 24 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
        prop_assert_eq!(name.matches('_').count(), 1);
        prop_assert!(with_suffix(&name, attempt).starts_with(&name));
    }
}
