//! Tryton's server: database and user of a request, its REST routes and its bus.
//!
//! ```text
//! /<db>/              calls, up to 7.4          /<db>/session/login, …/logout
//! /<db>/rpc/          calls, from 8.2           /<db>/bus      long poll, up to 300 s
//! /rpc/               calls without database    /<db>/rest/model/<name>[/<id>[/<action>]]
//! ```
//!
//! Methods and errors are those of JSON-RPC and XML-RPC, in their files.

use crate::model::{Attributes, RequestStatus};

use super::credentials::session_user;
use super::extractor::Extractor;
use super::head::{RequestHead, decimal};
use super::jsonrpc::JsonRpc;
use super::text::{percent_decoded, text};

/// Longest database name that is kept, in bytes; PostgreSQL has 63.
const MAX_DATABASE_BYTES: usize = 128;
/// Longest model or action that is kept, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// The protocol. A request is taken for one if it bears Tryton's session, or if both its path and the type
/// of its body are Tryton's.
#[derive(Debug)]
pub(super) struct Tryton;

impl Extractor for Tryton {
    fn request(&self, head: &RequestHead<'_>, _: &[u8], attributes: &mut Attributes) -> bool {
        let user = session_user(head.fields);
        let is_call = head.method == "POST"
            && (head.fields.media_type_contains("json") || head.fields.media_type_contains("xml"));
        // One part more than any route has, to tell longer paths.
        let parts: Vec<&[u8]> = head.path_parts().take(7).collect();
        let database = match parts.as_slice() {
            [b"rpc", b""] if is_call => None,
            [database, b"rpc", b""] | [database, b"session", b"login" | b"logout"]
                if is_call || user.is_some() =>
            {
                Some(*database)
            }
            [database, b"bus"] if is_call || user.is_some() => {
                attributes.insert("tryton.bus".into(), "true".into());
                Some(*database)
            }
            [database, b"rest", b"model", rest @ ..] if !rest.is_empty() && rest.len() <= 3 => {
                attributes.insert("http.route".into(), rest_route(rest).into());
                Some(*database)
            }
            [database, ..] if user.is_some() => Some(*database),
            _ => return false,
        };
        if let Some(database) = database.filter(|database| !database.is_empty()) {
            let name = text(&percent_decoded(database), MAX_DATABASE_BYTES);
            attributes.insert("db.namespace".into(), name.into());
        }
        if let Some(user) = user {
            attributes.insert("user.name".into(), user.name.into());
            attributes.extend(user.id.map(|id| ("user.id".into(), id.into())));
        }
        is_call
    }

    fn answer(&self, body: &[u8], attributes: &mut Attributes) -> RequestStatus {
        // Also when the method was not seen: `{"id":N,"error":["UserError",…]}` with status 200.
        JsonRpc.answer(body, attributes)
    }
}

/// The route of `/<db>/rest/model/` and what follows: the model and the action by name, the record as such.
fn rest_route(rest: &[&[u8]]) -> String {
    let mut route = "/{database}/rest/model".to_owned();
    for part in rest {
        route.push('/');
        match decimal(part) {
            Some(_) => route.push_str("{id}"),
            None => route.push_str(&text(part, MAX_NAME_BYTES)),
        }
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(line: &str, fields: &str) -> Attributes {
        let head = format!("{line} HTTP/1.1\r\n{fields}\r\n\r\n");
        let head = RequestHead::parse(head.as_bytes(), false).expect("a head");
        let mut attributes = Attributes::new();
        Tryton.request(&head, b"", &mut attributes);
        attributes
    }

    const JSON: &str = "Content-Type: application/json";
    const SESSION: &str = "Authorization: Session YWxpY2U6Nzp0b2tlbg==";

    fn get<'a>(known: &'a Attributes, name: &str) -> Option<&'a str> {
        known.get(name).map(AsRef::as_ref)
    }

    /// Database and user of calls, in the old form and the new one.
    #[test]
    fn calls_name_database_and_user() {
        let known = request("POST /my%20db/rpc/", JSON);
        assert_eq!((get(&known, "db.namespace"), get(&known, "user.name")), (Some("my db"), None));
        let known = request("POST /db/", SESSION);
        assert_eq!(get(&known, "db.namespace"), Some("db"));
        assert_eq!((get(&known, "user.name"), get(&known, "user.id")), (Some("alice"), Some("7")));
        assert!(!known.values().any(|value| value.contains("token")));
        assert_eq!(request("POST /rpc/", JSON), Attributes::new());
        assert_eq!(get(&request("POST /db/session/login", JSON), "db.namespace"), Some("db"));
    }

    /// The bus is marked, so that policies can drop it.
    #[test]
    fn bus_is_marked() {
        assert_eq!(get(&request("POST /db/bus", SESSION), "tryton.bus"), Some("true"));
        assert_eq!(request("GET /city/bus", ""), Attributes::new());
    }

    /// Records share the route of their model.
    #[test]
    fn rest_has_a_route() {
        let known = request("GET /db/rest/model/party.party/12/run", "");
        assert_eq!(get(&known, "http.route"), Some("/{database}/rest/model/party.party/{id}/run"));
        assert_eq!(request("GET /db/rest/model/a/1/b/c", ""), Attributes::new());
    }

    /// Other services' paths are not taken for Tryton's.
    #[test]
    fn other_paths_are_left_alone() {
        assert_eq!(request("GET /a/rpc/", ""), Attributes::new());
        assert_eq!(request("POST /api/items", JSON), Attributes::new());
        assert_eq!(request("GET /", ""), Attributes::new());
    }
}
