//! XML-RPC: the method called, and faults told with HTTP status 200.

use memchr::memmem;

use crate::model::{Attributes, RequestStatus};

use super::extractor::Extractor;
use super::head::{RequestHead, decimal};
use super::text::text;

/// Longest method that is kept, in bytes.
const MAX_METHOD_BYTES: usize = 256;

/// The protocol.
#[derive(Debug)]
pub(super) struct XmlRpc;

impl Extractor for XmlRpc {
    fn request(&self, head: &RequestHead<'_>, body: &[u8], attributes: &mut Attributes) -> bool {
        if head.method != "POST" || !head.fields.media_type_contains("xml") {
            return false;
        }
        let Some(method) = element(body, b"<methodName>") else { return false };
        attributes.insert("rpc.system.name".into(), "xmlrpc".into());
        attributes.insert("rpc.method".into(), text(method.trim_ascii(), MAX_METHOD_BYTES).into());
        true
    }

    fn answer(&self, body: &[u8], attributes: &mut Attributes) -> RequestStatus {
        // A fault stands directly in the response; a string in a result has its `<` escaped.
        let Some(start) = memmem::find(body, b"<fault>") else { return RequestStatus::Ok };
        let fault = body.get(start..).unwrap_or_default();
        let value = memmem::find(fault, b"faultCode").and_then(|at| fault.get(at..)).unwrap_or_default();
        let code = element(value, b"<int>").or_else(|| element(value, b"<i4>")).map(<[u8]>::trim_ascii);
        if let Some(code) = code.filter(|code| decimal(code.strip_prefix(b"-").unwrap_or(code)).is_some()) {
            attributes.insert("rpc.status_code".into(), text(code, MAX_METHOD_BYTES).into());
        }
        RequestStatus::Error
    }
}

/// The text from the first `opening` to the next tag; `None` where either is missing.
fn element<'a>(xml: &'a [u8], opening: &[u8]) -> Option<&'a [u8]> {
    let start = memmem::find(xml, opening)? + opening.len();
    let behind = xml.get(start..)?;
    behind.get(..memchr::memchr(b'<', behind)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The method is read from bodies that are cut behind it, of the right type.
    #[test]
    fn method_is_read_from_a_cut_body() {
        let request = |media_type: &str, body: &str| {
            let head = format!("POST /RPC2 HTTP/1.1\r\nContent-Type: {media_type}\r\n\r\n");
            let head = RequestHead::parse(head.as_bytes(), false).expect("a head");
            let mut attributes = Attributes::new();
            XmlRpc.request(&head, body.as_bytes(), &mut attributes);
            attributes.remove("rpc.method").map(String::from)
        };
        let body = "<?xml version='1.0'?>\n<methodCall>\n<methodName> a.b </methodName>\n<par";
        assert_eq!(request("text/xml", body).as_deref(), Some("a.b"));
        assert_eq!(request("text/plain", body), None);
        assert_eq!(request("text/xml", "<methodCall><methodName>a.b"), None);
    }

    /// A fault is an error, with its code if that is a number.
    #[test]
    fn faults_are_errors() {
        let answer = |body: &str| {
            let mut attributes = Attributes::new();
            (
                XmlRpc.answer(body.as_bytes(), &mut attributes),
                attributes.remove("rpc.status_code").map(String::from),
            )
        };
        let fault = "<methodResponse><fault><value><struct><member><name>faultCode</name>\
                     <value><int>-4</int></value></member>";
        assert_eq!(answer(fault), (RequestStatus::Error, Some("-4".to_owned())));
        assert_eq!(answer("<methodResponse><fault><val"), (RequestStatus::Error, None));
        assert_eq!(answer("<methodResponse><params>&lt;fault>"), (RequestStatus::Ok, None));
    }
}
