//! Patterns of the condition `match`: globs, and regular expressions behind `re:`.
//!
//! In a glob, `*` is any text, also none and also with dots and slashes, `?` is one character, and all
//! else is itself; a glob is matched from end to end, case and all. A regular expression (syntax of
//! the crate `regex-lite`) is found anywhere in the text.
//!
//! Both take at most `text × pattern` steps, whatever they are: globs go back to their last `*` alone,
//! and `regex-lite` follows all ways at once.

use std::fmt;
use std::str::Chars;

use regex_lite::{Regex, RegexBuilder};
use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::cut::cut;

/// Longest pattern in bytes; names and paths of services are shorter.
const MAX_PATTERN_BYTES: usize = 256;

/// Largest program of a regular expression in bytes: some hundred states, so that the worst takes
/// milliseconds on the longest text, and large repetitions are refused.
const MAX_REGEX_BYTES: usize = 16 << 10;

/// How much of a text is looked at, in bytes: more than names, and all that is kept of a path. What
/// follows is as if it were not there.
const MAX_TEXT_BYTES: usize = 1024;

/// Most patterns in one list.
const MAX_PATTERNS: usize = 64;

/// One pattern.
#[derive(Clone, Debug)]
struct Pattern {
    /// As written.
    text: String,
    /// The regular expression behind `re:`; `None` in a glob.
    regex: Option<Regex>,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty pattern matches nothing; write `*` for any text".to_owned());
        }
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern of {} bytes; write at most {MAX_PATTERN_BYTES}", text.len()));
        }
        let regex = text.strip_prefix("re:").map(|regex| {
            let built = RegexBuilder::new(regex).size_limit(MAX_REGEX_BYTES).build();
            built.map_err(|error| {
                format!(
                    "`{text}` is not a regular expression: {error}; write another, or a glob without `re:`"
                )
            })
        });
        Ok(Self { text: text.to_owned(), regex: regex.transpose()? })
    }

    fn matches(&self, text: &str) -> bool {
        match &self.regex {
            Some(regex) => regex.is_match(text),
            None => glob_matches(&self.text, text),
        }
    }
}

/// Patterns of which one must match; at least one. Written as one text or as a list.
#[derive(Clone, Debug)]
pub(super) struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Whether one of them matches `text`, of which at most 1,024 bytes are looked at.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text = cut(text, MAX_TEXT_BYTES);
        self.0.iter().any(|pattern| pattern.matches(text))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// As they are written.
impl PartialEq for Patterns {
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().map(|pattern| &pattern.text).eq(other.0.iter().map(|pattern| &pattern.text))
    }
}

impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &*self.0 {
            [only] => serializer.serialize_str(&only.text),
            all => serializer.collect_seq(all.iter().map(|pattern| &pattern.text)),
        }
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMany)
    }
}

/// Reads one pattern or a list of them.
struct OneOrMany;

impl<'de> Visitor<'de> for OneOrMany {
    type Value = Patterns;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pattern or a list of patterns")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Patterns, E> {
        Pattern::parse(text).map(|pattern| Patterns(vec![pattern])).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Patterns, A::Error> {
        let mut patterns = Vec::new();
        while let Some(text) = list.next_element::<String>()? {
            if patterns.len() == MAX_PATTERNS {
                let many = format!("too many patterns in one list; write at most {MAX_PATTERNS}");
                return Err(de::Error::custom(many));
            }
            patterns.push(Pattern::parse(&text).map_err(de::Error::custom)?);
        }
        if patterns.is_empty() {
            return Err(de::Error::custom("an empty list matches nothing; write `*` for any text"));
        }
        Ok(Patterns(patterns))
    }
}

/// Whether the whole `text` is what `pattern` describes. Goes back to the last `*` alone, which is
/// enough: what stood before it was matched as early as can be. So each character of `text` is tried
/// against each of `pattern` at most once.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern.chars(), text.chars());
    // What follows the last `*`, and the text from where it was tried last.
    let mut last_star: Option<(Chars<'_>, Chars<'_>)> = None;
    loop {
        let (mut wanted_on, mut found_on) = (pattern.clone(), text.clone());
        match (wanted_on.next(), found_on.next()) {
            (Some('*'), _) => {
                last_star = Some((wanted_on.clone(), text.clone()));
                pattern = wanted_on;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                (pattern, text) = (wanted_on, found_on);
            }
            (None, None) => return true,
            // More is wanted than there is; trying later leaves even less.
            (Some(_), None) => return false,
            (_, Some(_)) => {
                let Some((behind_star, tried)) = &mut last_star else { return false };
                tried.next();
                (pattern, text) = (behind_star.clone(), tried.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Globs are matched from end to end, and `*` crosses dots and slashes.
    #[test]
    fn globs_match_from_end_to_end() {
        for (pattern, text) in [
            ("*", ""),
            ("*", "a/b.c"),
            ("/*/bus", "/db/bus"),
            ("/*/bus", "/a/b/bus"),
            ("model.*.search_read", "model.party.party.search_read"),
            ("a*b*c", "a_b_b_c"),
            ("?b", "äb"),
            ("**a", "bba"),
            ("*ab", "aab"),
            ("a.c", "a.c"),
        ] {
            assert!(glob_matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("?", ""),
            ("/*/bus", "/bus"),
            ("/*/bus", "/db/busy"),
            ("a.c", "abc"),
            ("A", "a"),
            ("a*b", "ab_"),
            ("*a?", "bba"),
        ] {
            assert!(!glob_matches(pattern, text), "{pattern} {text}");
        }
    }

    /// Patterns that take others exponential or quadratic time, on long texts: bounded by the steps
    /// promised, which take milliseconds where more would take hours.
    #[test]
    fn hostile_texts_take_linear_time() {
        let text = "a".repeat(1 << 20);
        let stars = "a*".repeat(127) + "b";
        let nested = "re:^(a|a?)+(a|aa)+$b";
        for pattern in [&*stars, nested, "re:(.*)(.*)(.*)(.*)[^a]$"] {
            let pattern = Patterns(vec![Pattern::parse(pattern).expect("a pattern")]);
            assert!(!pattern.matches(&text));
        }
        assert!(!glob_matches(&stars, &text));
    }

    /// Expressions are found anywhere; those that would grow large are refused, as is nonsense.
    #[test]
    fn expressions_are_bounded() {
        let sales = Pattern::parse("re:^sales-").expect("an expression");
        assert!(sales.matches("sales-1") && !sales.matches("presales-1"));
        assert!(Pattern::parse("re:b").is_ok_and(|pattern| pattern.matches("abc")));
        let deep = format!("re:{}a{}", "(".repeat(120), ")".repeat(120));
        for wrong in ["", "re:(", "re:(a{100}){100}", "re:\\w{1000}", &deep, &"a".repeat(257)] {
            assert!(Pattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    /// What is cut off is not looked at, and a cut never splits a character.
    #[test]
    fn long_texts_are_cut() {
        let pattern = Patterns(vec![Pattern::parse("*b").expect("a glob")]);
        assert!(pattern.matches(&("a".repeat(1023) + "b")));
        assert!(!pattern.matches(&("a".repeat(1024) + "b")));
        assert!(pattern.matches(&("b".repeat(1023) + "ä")));
    }
}
