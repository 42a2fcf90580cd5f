//! Why policies were refused, told so that whoever wrote them can mend them.

use std::fmt;

use toml::de::DeTable;

use crate::error::{Error, ErrorKind};

/// Why policies were refused; none of them was taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The line that is wrong, from 1; `None` where no text was read.
    pub line: Option<usize>,
    /// What is wrong; lower case, one line, no full stop.
    pub reason: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl PolicyError {
    /// `reason`, on no known line.
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { line: None, reason: reason.into(), hint: None }
    }

    /// `reason`, on the line of the byte at `offset` of `text`.
    pub fn at(text: &str, offset: usize, reason: impl Into<String>) -> Self {
        Self { line: Some(line_at(text, offset)), ..Self::new(reason) }
    }

    /// Adds what to write instead.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Why `text` is not TOML of the expected shape. What stands behind `; ` or `, expected` tells what
    /// to write instead, both in the words of the crate `toml` and in ours.
    pub fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map(|span| span.start);
        let message = error.message().trim().replace('\n', ", ");
        let (reason, hint) = match (message.split_once("; "), message.split_once(", expected ")) {
            (Some((reason, hint)), _) => (reason, Some(hint.to_owned())),
            (None, Some((reason, expected))) => (reason, Some(format!("expected {}", plain(expected)))),
            (None, None) => (&*message, None),
        };
        Self { line: offset.map(|offset| line_at(text, offset)), reason: reason.to_owned(), hint }
    }
}

/// What is expected, where the crate `toml` calls it by its type in this program.
fn plain(expected: &str) -> &str {
    match expected {
        "i64" | "u64" | "u32" | "usize" => "a whole number",
        "f64" => "a number",
        other => other,
    }
}

/// As a compiler says it: `line 12: two policies are called `slow``.
impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for PolicyError {}

/// Invalid input, with the hint.
impl From<PolicyError> for Error {
    fn from(error: PolicyError) -> Self {
        let failure = Self::new(ErrorKind::InvalidInput, error.to_string());
        match error.hint {
            Some(hint) => failure.with_hint(hint),
            None => failure,
        }
    }
}

/// The line, from 1, of the `index`th `[[policy]]` of `text`: that of its `key`, else that where it
/// begins. `None` where there is no such policy.
pub(super) fn line_of(text: &str, index: usize, key: Option<&str>) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let policy = document.get_ref().get("policy")?.get_ref().as_array()?.get(index)?;
    let mut keys = policy.get_ref().as_table().into_iter().flat_map(DeTable::keys);
    let found = key.and_then(|key| keys.find(|known| known.get_ref() == key));
    let span = found.map_or_else(|| policy.span(), |key| key.span());
    Some(line_at(text, span.start))
}

/// The line, from 1, of the byte at `offset`.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines are found by policy and key, however the key is written.
    #[test]
    fn lines_are_found_by_key() {
        let text = "[agent]\n\n[[policy]]\nname = 'a'\n[[policy]]\n# name = 'x'\n'name' = 'b'\n";
        assert_eq!(line_of(text, 0, Some("name")), Some(4));
        assert_eq!(line_of(text, 1, Some("name")), Some(7));
        assert_eq!(line_of(text, 1, Some("type")), Some(5));
        assert_eq!(line_of(text, 2, None), None);
        assert_eq!(line_of("policy = 1", 0, None), None);
    }
}
