//! Names made harmless. What a target calls its functions and threads is
//! hostile text; in folded lines it must stay one frame on one line, in a
//! picture one label, on a terminal plain words.

/// Longest name shown, in characters. C++ templates fill pages; behind this
/// a name tells nothing more, and one hostile name must not blow up the output.
pub const MAX_NAME_CHARS: usize = 500;

/// `name` as a frame of a folded line: never empty, at most [`MAX_NAME_CHARS`]
/// and an ellipsis. In detail:
///
/// * `;`, which separates frames, becomes `:`;
/// * each run of white space becomes one blank, and none is left at the ends;
/// * control, private-use, bidirectional and other unprintable characters become `\u{FFFD}`;
/// * a number behind a last blank, which readers take for a count, is tied
///   to its word by `_`, and so is a leading `#`, which begins a comment;
/// * an ending like `_[k]`, which says what kind a frame is, is written `_{k}`.
///
/// Harmless names stay as they are, so that `harmless(harmless(x)) = harmless(x)`.
pub fn harmless(name: &str) -> String {
    let name = name.trim();
    let mut result = String::with_capacity(name.len().min(MAX_NAME_CHARS * 4));
    // Most names are plain to their end and copied at once.
    let (plain, rest) = name.split_at(plain_len(name));
    result.push_str(plain);
    let mut chars = plain.len();
    for c in rest.chars() {
        let c = match c {
            ';' => ':',
            c if c.is_whitespace() => ' ',
            c if is_unprintable(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        };
        if c == ' ' && result.ends_with(' ') {
            continue;
        }
        if chars == MAX_NAME_CHARS {
            result.truncate(result.trim_end_matches([' ', '…']).len());
            result.push('…');
            break;
        }
        result.push(c);
        chars += 1;
    }
    disarm(&mut result);
    if result.is_empty() { "?".to_owned() } else { result }
}

/// How many bytes of `name`, at most as many as are shown, stay as they are: printable ASCII without
/// `;` and without two blanks in a row.
fn plain_len(name: &str) -> usize {
    let mut before = 0;
    let is_plain = |byte: &u8| {
        let blank_again = *byte == b' ' && before == b' ';
        before = *byte;
        matches!(*byte, b' '..=b'~') && *byte != b';' && !blank_again
    };
    name.bytes().take(MAX_NAME_CHARS).take_while(is_plain).count()
}

/// Takes from the ends of `name` what readers of folded lines would misread.
fn disarm(name: &mut String) {
    if name.starts_with("# ") {
        name.replace_range(1..2, "_");
    }
    if let Some(blank) = name.rfind(' ') {
        let word = &name[blank + 1..];
        if word.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && word.chars().all(|c| c.is_ascii_digit() || c == '.')
        {
            name.replace_range(blank..=blank, "_");
        }
    }
    let bytes = name.as_bytes();
    if let [.., b'_', b'[', kind, b']'] = *bytes
        && kind.is_ascii_lowercase()
    {
        let tail = name.len() - 4;
        name.replace_range(tail.., &format!("_{{{}}}", char::from(kind)));
    }
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // zero width and bidirectional controls, which make a name look like another one
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            // private use, which the flamegraph writer uses itself
            | '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10ffff}'
            // not characters; XML forbids the first two
            | '\u{fffe}' | '\u{ffff}' | '\u{fdd0}'..='\u{fdef}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Each rule, on the shortest name that shows it.
    #[test]
    fn every_rule_holds_on_its_example() {
        for (name, expected) in [
            ("main", "main"),
            ("operator delete[](void*)", "operator delete[](void*)"),
            ("<[u8; 4] as T>::f", "<[u8: 4] as T>::f"),
            ("a\n\t b ", "a b"),
            ("\u{1b}[31mred", "\u{fffd}[31mred"),
            ("worker 12", "worker_12"),
            ("worker 1.5", "worker_1.5"),
            ("# comment", "#_comment"),
            ("fake_[k]", "fake_{k}"),
            ("f.<locals>.<lambda> (app.py:12)", "f.<locals>.<lambda> (app.py:12)"),
            ("<module> (<frozen runpy>)", "<module> (<frozen runpy>)"),
            ("array_[0]", "array_[0]"),
            ("\u{202e}gnp.exe", "\u{fffd}gnp.exe"),
            ("", "?"),
            (" \n", "?"),
        ] {
            assert_eq!(harmless(name), expected, "{name:?}");
        }
    }

    proptest! {
        /// Any text becomes one short line without separators, which stays as it is when read again.
        #[test]
        fn any_name_becomes_harmless(name in "\\PC{0,40}|(?s).{0,700}|[a; #_\\[\\]k0-9.…]{0,12}") {
            let once = harmless(&name);
            prop_assert!(!once.is_empty());
            prop_assert!(once.chars().count() <= MAX_NAME_CHARS + 1);
            prop_assert!(!once.contains([';', '\n', '\r', '\t']));
            prop_assert!(!once.chars().any(is_unprintable));
            prop_assert_eq!(once.trim(), &once);
            prop_assert_eq!(harmless(&once), once.clone());
        }
    }
}
