//! Members of a JSON object whose end may be missing: just enough to find what stands at the top.

/// The bytes from the value of the member `key` of the object that `text` begins with on, to the end of
/// `text`. Members of inner objects are not looked at. An array is entered: its first object counts.
/// `None` if there is no such member before `text` ends or is no JSON. Takes time linear in `text`.
pub(super) fn member<'a>(text: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut rest = text.trim_ascii_start();
    if let Some(inner) = rest.strip_prefix(b"[") {
        rest = inner.trim_ascii_start();
    }
    rest = rest.strip_prefix(b"{")?;
    loop {
        rest = rest.trim_ascii_start();
        let name_len = string_len(rest)?;
        let (name, behind) = rest.split_at(name_len);
        let value = behind.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
        if name.get(1..name_len - 1) == Some(key.as_bytes()) {
            return Some(value);
        }
        rest = value.get(value_len(value)?..)?.trim_ascii_start().strip_prefix(b",")?;
    }
}

/// The string that `value` begins with; `None` if it is of another type or its end is missing.
pub(super) fn string(value: &[u8]) -> Option<String> {
    serde_json::from_slice(value.get(..string_len(value)?)?).ok()
}

/// How many bytes the string literal at the front of `text` has, quotes included.
fn string_len(text: &[u8]) -> Option<usize> {
    let behind = text.strip_prefix(b"\"")?;
    let mut is_escaped = false;
    let end = behind.iter().position(|byte| {
        let is_end = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        is_end
    })?;
    Some(end + 2)
}

/// How many bytes the value at the front of `text` has.
fn value_len(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.get(at)? {
            b'"' => at += string_len(text.get(at..)?)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            b',' | b'}' | b']' if depth == 0 => return Some(at),
            _ => at += 1,
        }
        if depth == 0 && matches!(text.get(at.wrapping_sub(1)), Some(b'"' | b'}' | b']')) {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(text: &'a str, key: &str) -> Option<&'a str> {
        member(text.as_bytes(), key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Only members of the outermost object are found, whatever inner values look like.
    #[test]
    fn inner_members_are_passed_over() {
        let text = r#" { "params" : [{"method": "no,]}\""}, 1.5e3, null], "a": true ,"method":"yes"} "#;
        assert_eq!(member(text.as_bytes(), "method").and_then(string).as_deref(), Some("yes"));
        assert_eq!(found(r#"{"a":{"method":1}}"#, "method"), None);
        assert_eq!(found(r#"[{"method":1}]"#, "method"), Some("1}]"));
        assert_eq!(found(r#""method":1"#, "method"), None);
    }

    /// What stands before the cut is found, what is cut is not.
    #[test]
    fn text_may_end_anywhere() {
        assert_eq!(found(r#"{"id":7,"error":["UserEr"#, "error"), Some(r#"["UserEr"#));
        assert_eq!(found(r#"{"id":7,"params":[1,{"#, "method"), None);
        assert_eq!(string(b"\"cut"), None);
        assert_eq!(string(b"\"a\\u0041\\n\" x").as_deref(), Some("aA\n"));
    }
}
