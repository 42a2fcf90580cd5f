//! Texts made as short as their bound.

/// The beginning of `text`, at most `max_bytes` long, cut between two characters.
pub(super) fn cut(text: &str, max_bytes: usize) -> &str {
    let ends = (0..=max_bytes.min(text.len())).rev();
    // A character has at most four bytes, so that the fourth end is one at the latest.
    ends.take(4).find_map(|end| text.get(..end)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No character is split, and short texts stay whole.
    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!((cut("añb", 2), cut("añb", 3), cut("añb", 9)), ("a", "añ", "añb"));
        assert_eq!((cut("🦀", 3), cut("🦀", 4), cut("", 1), cut("a", 0)), ("", "🦀", "", ""));
    }
}
