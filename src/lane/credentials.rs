//! Whom a request says it comes from. Passwords and tokens are looked for only in order to leave them out.

use super::base64;
use super::head::{Fields, decimal};
use super::text::text;

/// Longest user name that is kept, in bytes.
const MAX_USER_BYTES: usize = 128;

/// The cookie in which Tryton keeps its session.
const SESSION_COOKIE: &[u8] = b"tryton_session";

/// A user of Tryton.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionUser {
    /// The login.
    pub(super) name: String,
    /// The number in decimal; `None` if it is none.
    pub(super) id: Option<String>,
}

/// The user of `Authorization: Basic base64(user:password)` (RFC 7617).
pub(super) fn basic_user(fields: Fields<'_>) -> Option<String> {
    let decoded = base64::decode(scheme(fields, b"basic")?)?;
    let colon = memchr::memchr(b':', &decoded)?;
    Some(text(decoded.get(..colon)?, MAX_USER_BYTES)).filter(|user| !user.is_empty())
}

/// The user of `Authorization: Session base64(login:id:token)`, or of the cookie
/// `tryton_session=login:id:token`.
pub(super) fn session_user(fields: Fields<'_>) -> Option<SessionUser> {
    if let Some(encoded) = scheme(fields, b"session") {
        return session(&base64::decode(encoded)?);
    }
    let cookies = fields.all("cookie").flat_map(|cookies| cookies.split(|byte| *byte == b';'));
    let mut values = cookies.filter_map(|cookie| {
        let value = cookie.trim_ascii().strip_prefix(SESSION_COOKIE)?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    });
    session(&super::text::percent_decoded(values.next()?))
}

/// What follows the authentication scheme `name`, lower case.
fn scheme<'a>(fields: Fields<'a>, name: &[u8]) -> Option<&'a [u8]> {
    let value = fields.first("authorization")?;
    let (scheme, behind) = value.split_at(memchr::memchr(b' ', value)?);
    scheme.eq_ignore_ascii_case(name).then(|| behind.trim_ascii())
}

/// Splits `login:id:token`. A login may have colons, so it is split from the right.
fn session(value: &[u8]) -> Option<SessionUser> {
    let (before_token, _) = value.split_at(memchr::memrchr(b':', value)?);
    let colon = memchr::memrchr(b':', before_token)?;
    let (name, id) = (before_token.get(..colon)?, before_token.get(colon + 1..)?);
    let id = decimal(id).map(|id| id.to_string());
    let name = text(name, MAX_USER_BYTES);
    (!name.is_empty()).then_some(SessionUser { name, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::head::RequestHead;

    fn with(field: &str) -> (Option<String>, Option<SessionUser>) {
        let head = format!("GET / HTTP/1.1\r\n{field}\r\n\r\n");
        let head = RequestHead::parse(head.as_bytes(), false).expect("a head");
        (basic_user(head.fields), session_user(head.fields))
    }

    /// Names and numbers come out, passwords and tokens do not.
    #[test]
    fn users_are_read_without_their_secrets() {
        assert_eq!(with("Authorization: Basic dXNlcjpwYTpzcw=="), (Some("user".to_owned()), None));
        let alice = Some(SessionUser { name: "al:ice".to_owned(), id: Some("7".to_owned()) });
        assert_eq!(with("authorization: session YWw6aWNlOjc6dG9rZW4="), (None, alice.clone()));
        assert_eq!(with("Cookie: a=b; tryton_session=al:ice:7:token"), (None, alice.clone()));
        assert_eq!(with("Cookie: tryton_session=\"al%3Aice%3A7%3Atoken\""), (None, alice));
    }

    /// Anything else names nobody.
    #[test]
    fn other_credentials_name_nobody() {
        for field in [
            "Authorization: Bearer dXNlcjpwYTpzcw==",
            "Authorization: Basic",
            "Authorization: Basic dXNlcg==",
            "Authorization: Session dG9rZW4=",
            "Cookie: xtryton_session=a:1:b",
            "Cookie: tryton_session=a",
        ] {
            assert_eq!(with(field), (None, None), "{field}");
        }
    }
}
