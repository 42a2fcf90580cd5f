//! JSON-RPC, 1.0 and 2.0: the method called, and errors told with HTTP status 200.

use crate::model::{Attributes, RequestStatus};

use super::extractor::Extractor;
use super::head::RequestHead;
use super::json::{member, string};
use super::text::text;

/// Longest method and status that are kept, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// The protocol. A batch is taken for its first call.
#[derive(Debug)]
pub(super) struct JsonRpc;

impl Extractor for JsonRpc {
    fn request(&self, head: &RequestHead<'_>, body: &[u8], attributes: &mut Attributes) -> bool {
        if head.method != "POST" || !head.fields.media_type_contains("json") {
            return false;
        }
        let has = |key| member(body, key).is_some();
        let Some(method) = member(body, "method").and_then(string) else { return false };
        // Other JSON has a `method` too, but hardly beside these.
        if !(has("jsonrpc") || has("params") || has("id")) {
            return false;
        }
        attributes.insert("rpc.system.name".into(), "jsonrpc".into());
        attributes.insert("rpc.method".into(), text(method.as_bytes(), MAX_NAME_BYTES).into());
        true
    }

    fn answer(&self, body: &[u8], attributes: &mut Attributes) -> RequestStatus {
        let Some(error) = member(body, "error").filter(|error| !may_be_null(error)) else {
            return RequestStatus::Ok;
        };
        if let Some(code) = code(error) {
            attributes.insert("rpc.status_code".into(), code.into());
        }
        RequestStatus::Error
    }
}

/// Whether `value`, which may be cut, is `null`.
fn may_be_null(value: &[u8]) -> bool {
    b"null".starts_with(value.get(..4).unwrap_or(value))
}

/// What an error is called: the `code` of an object, the first string of an array, or the string
/// that it is.
fn code(error: &[u8]) -> Option<String> {
    let inner = error.strip_prefix(b"[").map_or(error, <[u8]>::trim_ascii_start);
    let name = match member(error, "code") {
        Some(code) if code.first() != Some(&b'"') => {
            let end = code.iter().position(|byte| !matches!(byte, b'-' | b'0'..=b'9'))?;
            return Some(text(code.get(..end)?, MAX_NAME_BYTES)).filter(|code| !code.is_empty());
        }
        Some(code) => code,
        None => inner,
    };
    string(name).map(|name| text(name.as_bytes(), MAX_NAME_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str, body: &str) -> Option<Attributes> {
        let mut attributes = Attributes::new();
        let head = RequestHead::parse(head.as_bytes(), false).expect("a head");
        JsonRpc.request(&head, body.as_bytes(), &mut attributes).then_some(attributes)
    }

    const HEAD: &str = "POST / HTTP/1.1\r\nContent-Type: application/json; charset=utf-8\r\n\r\n";

    /// The method is read from bodies that are cut behind it.
    #[test]
    fn method_is_read_from_a_cut_body() {
        let known =
            request(HEAD, r#"{"id":1,"method":"model.party.party.read","params":[[1,2"#).expect("a call");
        assert_eq!(known["rpc.method"], "model.party.party.read");
        assert_eq!(known["rpc.system.name"], "jsonrpc");
        let batch = r#"[{"jsonrpc": "2.0", "params": {"method": "no"}, "method": "a"}, {"method": "b"}]"#;
        assert_eq!(request(HEAD, batch).expect("a call")["rpc.method"], "a");
    }

    /// Other JSON, and other types, are left alone.
    #[test]
    fn other_json_is_no_call() {
        assert_eq!(request(HEAD, r#"{"method":"card","amount":1}"#), None);
        assert_eq!(request(HEAD, r#"{"id":1,"meth"#), None);
        assert_eq!(request("POST / HTTP/1.1\r\n\r\n", r#"{"id":1,"method":"a"}"#), None);
    }

    /// An error is one that is not null; its code is a number, or the name that Tryton gives first.
    #[test]
    fn errors_of_answers_are_recognised() {
        let answer = |body: &str| {
            let mut attributes = Attributes::new();
            let status = JsonRpc.answer(body.as_bytes(), &mut attributes);
            (status, attributes.remove("rpc.status_code").map(String::from))
        };
        use RequestStatus::{Error, Ok};
        assert_eq!(answer(r#"{"id":1,"result":{"error":1}}"#), (Ok, None));
        assert_eq!(answer(r#"{"id":1,"error":null,"result":1}"#), (Ok, None));
        assert_eq!(answer(r#"{"id":1,"error":nu"#), (Ok, None));
        assert_eq!(answer(r#"{"id":1,"error":["UserError",["no"#), (Error, Some("UserError".to_owned())));
        assert_eq!(
            answer(r#"{"jsonrpc":"2.0","error":{"message":"x","code":-32601},"id":1}"#),
            (Error, Some("-32601".to_owned()))
        );
        assert_eq!(answer(r#"{"id":1,"error":{"mess"#), (Error, None));
        assert_eq!(answer(r#"{"id":1,"error":"failed"}"#), (Error, Some("failed".to_owned())));
    }
}
