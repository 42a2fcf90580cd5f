//! What the head of a request tells, by the names of the OpenTelemetry semantic conventions.

use core::net::IpAddr;
use std::borrow::Cow;

use crate::model::Attributes;

use super::credentials::basic_user;
use super::head::{Framing, RequestHead};
use super::text::text;

/// Longest path that is kept, in bytes.
const MAX_PATH_BYTES: usize = 1024;
/// Longest user agent that is kept, in bytes.
const MAX_AGENT_BYTES: usize = 200;
/// Longest host name that is kept, in bytes: the most that DNS has (RFC 1035, section 2.3.4).
const MAX_HOST_BYTES: usize = 255;
/// Longest request id that is kept, in bytes. A UUID has 36.
const MAX_ID_BYTES: usize = 128;

/// Adds what `head` tells to `attributes`.
pub(super) fn identify(head: &RequestHead<'_>, client: Option<IpAddr>, attributes: &mut Attributes) {
    let mut add = |name: &'static str, value: Cow<'static, str>| {
        if !value.is_empty() {
            attributes.insert(name.into(), value);
        }
    };
    let field = |name| head.fields.first(name).unwrap_or_default();
    add("http.request.method", head.method.into());
    add("url.path", text(head.path(), MAX_PATH_BYTES).into());
    add("network.protocol.version", head.version.unwrap_or_default().into());
    let (host, port) = host_and_port(field("host"));
    add("server.address", text(host, MAX_HOST_BYTES).into());
    add("server.port", port.map(|port| port.to_string()).unwrap_or_default().into());
    add("user_agent.original", text(field("user-agent"), MAX_AGENT_BYTES).into());
    add("http.request.header.x-request-id", text(field("x-request-id"), MAX_ID_BYTES).into());
    add("trace_id", trace_id(field("traceparent")).unwrap_or_default().to_owned().into());
    add("user.name", basic_user(head.fields).unwrap_or_default().into());
    add("client.address", client.map(|client| client.to_canonical().to_string()).unwrap_or_default().into());
    if let Framing::Length(length) = head.fields.framing() {
        add("http.request.body.size", length.to_string().into());
    }
}

/// Splits `host`, `host:port`, `[v6]:port`; brackets are left out.
fn host_and_port(host: &[u8]) -> (&[u8], Option<u16>) {
    let split = memchr::memrchr(b':', host).and_then(|colon| host.split_at_checked(colon));
    // A colon within brackets belongs to the address.
    let (name, port) = split.filter(|(_, port)| !port.contains(&b']')).unwrap_or((host, b""));
    let port = port.strip_prefix(b":").and_then(|port| std::str::from_utf8(port).ok()?.parse().ok());
    let inner = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]"));
    (inner.unwrap_or(name), port)
}

/// The trace id of a `traceparent` (W3C Trace Context, section 3.2):
/// `00-` 32 digits `-` 16 digits `-` 2 digits, lower case; ids of zeros are not valid. Later versions
/// may have more behind.
fn trace_id(value: &[u8]) -> Option<&str> {
    let value = std::str::from_utf8(value).ok()?;
    let mut parts = value.split('-');
    let mut hex = |len| {
        let part = parts.next()?;
        let is_hex = part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (part.len() == len && is_hex).then_some(part)
    };
    let (version, trace, parent, _flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
    let has_more = parts.next().is_some();
    let is_invalid = version == "ff" || (version == "00" && has_more) || is_zero(trace) || is_zero(parent);
    (!is_invalid).then_some(trace)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything that a head can tell, and nothing that is secret.
    #[test]
    fn head_names_the_request() {
        let head = "POST /db/rpc/?token=secret HTTP/1.1\r\nHost: erp.example:8000\r\nUser-Agent: t/1\r\n\
                    X-Request-ID: abc\r\nContent-Length: 12\r\nCookie: secret\r\n\
                    Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\
                    traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n";
        let head = RequestHead::parse(head.as_bytes(), false).expect("a head");
        let mut known = Attributes::new();
        identify(&head, "::ffff:10.0.0.1".parse().ok(), &mut known);
        let expected = [
            ("client.address", "10.0.0.1"),
            ("http.request.body.size", "12"),
            ("http.request.header.x-request-id", "abc"),
            ("http.request.method", "POST"),
            ("network.protocol.version", "1.1"),
            ("server.address", "erp.example"),
            ("server.port", "8000"),
            ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
            ("url.path", "/db/rpc/"),
            ("user.name", "user"),
            ("user_agent.original", "t/1"),
        ];
        assert_eq!(known.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect::<Vec<_>>(), expected);
    }

    /// Host names with and without port, and addresses of IPv6.
    #[test]
    fn host_is_split_from_port() {
        assert_eq!(host_and_port(b"a.b"), (&b"a.b"[..], None));
        assert_eq!(host_and_port(b"a:80"), (&b"a"[..], Some(80)));
        assert_eq!(host_and_port(b"[::1]:80"), (&b"::1"[..], Some(80)));
        assert_eq!(host_and_port(b"[::1]"), (&b"::1"[..], None));
    }

    /// Only what the standard calls valid is a trace id.
    #[test]
    fn invalid_trace_parents_are_left_out() {
        let (trace, zeros) = ("4bf92f3577b34da6a3ce929d0e0e4736", "0".repeat(32));
        let of = |value: String| trace_id(value.as_bytes()).map(str::to_owned);
        assert!(of(format!("00-{trace}-00f067aa0ba902b7-01")).is_some());
        assert!(of(format!("01-{trace}-00f067aa0ba902b7-01-more")).is_some());
        for invalid in [
            format!("00-{trace}-00f067aa0ba902b7-01-more"),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{zeros}-00f067aa0ba902b7-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", trace.to_uppercase()),
            format!("00-{trace}-00f067aa0ba902b7"),
            String::new(),
        ] {
            assert_eq!(of(invalid.clone()), None, "{invalid}");
        }
    }
}
