//! The heads of requests and answers, as RFC 9112 has them: first line, header fields, and how long the
//! body is that follows.

use super::encoding::Encoding;

/// Methods that a request may begin with: those of RFC 9110, section 9, RFC 5789 (PATCH), and of WebDAV
/// and CalDAV (RFC 4918, 3253, 4791, 5323). Anything else is taken for another protocol.
const METHODS: &[&str] = &[
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "CONNECT",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "MKCALENDAR",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "SEARCH",
    "REPORT",
    "QUERY",
    "PURGE",
];

/// How the end of a message's body is found (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// Neither is told: a request has no body, an answer lasts until the connection is closed.
    Untold,
    /// What is told contradicts itself.
    Contradictory,
}

/// What the first bytes of a request can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// The beginning of a request.
    Request,
    /// Too few bytes to say.
    TooShort,
    /// Something else.
    Other,
}

/// Whether `bytes`, of which more may follow, begin with a method and a blank.
pub(super) fn opening(bytes: &[u8]) -> Opening {
    let start = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let bytes = bytes.get(start..).unwrap_or_default();
    let matches = |method: &&&str| {
        let common = bytes.len().min(method.len());
        bytes.get(..common) == method.as_bytes().get(..common)
            && bytes.get(method.len()).is_none_or(|byte| *byte == b' ')
    };
    match METHODS.iter().find(matches) {
        Some(method) if bytes.len() > method.len() => Opening::Request,
        Some(_) => Opening::TooShort,
        None => Opening::Other,
    }
}

/// The header fields of a message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The values of all fields called `name`, in any case, without blanks around them, in their order.
    /// A last line without its end is left out, as its value may be cut.
    pub(super) fn all(self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.0.split_inclusive(|byte| *byte == b'\n').filter_map(move |line| {
            let line = line.strip_suffix(b"\n")?;
            let colon = memchr::memchr(b':', line)?;
            let (key, value) = (line.get(..colon)?, line.get(colon + 1..)?);
            key.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
        })
    }

    /// The first of them.
    pub(super) fn first(self, name: &'a str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// What the fields tell of the body's length.
    pub(super) fn framing(self) -> Framing {
        if let Some(codings) = self.all("transfer-encoding").last() {
            let last = codings.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
            let is_chunked = last.eq_ignore_ascii_case(b"chunked");
            return if is_chunked { Framing::Chunked } else { Framing::Contradictory };
        }
        let mut framing = Framing::Untold;
        for value in self.all("content-length") {
            let Some(length) = decimal(value) else { return Framing::Contradictory };
            if !matches!(framing, Framing::Untold) && framing != Framing::Length(length) {
                return Framing::Contradictory;
            }
            framing = Framing::Length(length);
        }
        framing
    }

    /// How the body is compressed.
    pub(super) fn encoding(self) -> Encoding {
        Encoding::named(self.first("content-encoding").unwrap_or_default())
    }

    /// Whether the media type of the body contains `word`, lower case.
    pub(super) fn media_type_contains(self, word: &str) -> bool {
        let value = self.first("content-type").unwrap_or_default();
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().to_ascii_lowercase();
        memchr::memmem::find(&media_type, word.as_bytes()).is_some()
    }
}

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestHead<'a> {
    /// One of the known methods.
    pub(super) method: &'static str,
    /// The target as it was sent, maybe cut.
    target: &'a [u8],
    /// `1.1`; `None` if the line was cut.
    pub(super) version: Option<&'static str>,
    /// Its header fields.
    pub(super) fields: Fields<'a>,
}

impl<'a> RequestHead<'a> {
    /// Reads the head that `bytes` begin with. `None` while the first line lacks its end, unless
    /// `is_cut` says that no more will come, and for what is not HTTP/1.
    pub(super) fn parse(bytes: &'a [u8], is_cut: bool) -> Option<Self> {
        let method = METHODS.iter().find(|method| {
            bytes.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
        })?;
        let behind = bytes.get(method.len() + 1..)?;
        let Some(line_end) = memchr::memchr(b'\n', behind) else {
            let looks_right = behind.starts_with(b"/") || behind.starts_with(b"http");
            let head = Self { method, target: behind, version: None, fields: Fields::default() };
            return (is_cut && looks_right).then_some(head);
        };
        let (line, fields) = (behind.get(..line_end)?, behind.get(line_end + 1..)?);
        let line = line.trim_ascii_end();
        let blank = memchr::memrchr(b' ', line)?;
        let target = line.get(..blank)?.trim_ascii();
        let version = minor_version(line.get(blank + 1..)?)?;
        (!target.is_empty()).then_some(Self {
            method,
            target,
            version: Some(version),
            fields: Fields(fields),
        })
    }

    /// The path that is asked for, without host, query and fragment; empty for CONNECT.
    pub(super) fn path(&self) -> &'a [u8] {
        let mut path = self.target;
        if let Some(scheme) = memchr::memmem::find(path, b"://").filter(|_| path.first() != Some(&b'/')) {
            let behind = path.get(scheme + 3..).unwrap_or_default();
            path = memchr::memchr(b'/', behind).and_then(|slash| behind.get(slash..)).unwrap_or(b"/");
        } else if self.method == "CONNECT" {
            return b"";
        }
        path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default()
    }

    /// The parts of the path between slashes: `db`, `rpc` and an empty one for `/db/rpc/`.
    pub(super) fn path_parts(&self) -> impl Iterator<Item = &'a [u8]> {
        self.path().split(|byte| *byte == b'/').skip(1)
    }
}

/// The head of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerHead<'a> {
    /// 100 to 999.
    pub(super) status: u16,
    /// Its header fields.
    pub(super) fields: Fields<'a>,
}

impl<'a> AnswerHead<'a> {
    /// Reads the head that `bytes` begin with. `None` if they are too few to tell the status, and for
    /// what is not HTTP/1.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        minor_version(bytes.get(..8)?)?;
        let (b' ', code) = (bytes.get(8)?, bytes.get(9..12)?) else { return None };
        let status =
            decimal(code).and_then(|status| u16::try_from(status).ok()).filter(|code| *code >= 100)?;
        let line_end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
        Some(Self { status, fields: Fields(bytes.get(line_end..).unwrap_or_default()) })
    }

    /// Whether `bytes`, of which more may follow, can begin an answer.
    pub(super) fn may_begin(bytes: &[u8]) -> bool {
        let common = bytes.len().min(ANSWER.len());
        bytes.get(..common) == ANSWER.get(..common)
    }
}

/// What an answer begins with.
const ANSWER: &[u8] = b"HTTP/1.";

/// `1.0` or `1.1` of `HTTP/1.0`, `HTTP/1.1`.
fn minor_version(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        b"HTTP/1.0" => Some("1.0"),
        b"HTTP/1.1" => Some("1.1"),
        _ => None,
    }
}

/// The number that `digits` are, nothing else among them.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Fields<'_> {
        Fields(text.as_bytes())
    }

    /// Only a method and a blank open a request, and the beginning of one leaves it open.
    #[test]
    fn requests_open_with_a_method() {
        assert_eq!(opening(b"\r\nGET /"), Opening::Request);
        assert_eq!(opening(b"PO"), Opening::TooShort);
        assert_eq!(opening(b"GET"), Opening::TooShort);
        assert_eq!(opening(b""), Opening::TooShort);
        assert_eq!(opening(b"GETX"), Opening::Other);
        assert_eq!(opening(b"\x16\x03\x01"), Opening::Other);
        assert_eq!(opening(b"PRI * HTTP/2.0"), Opening::Other);
    }

    /// The path has neither host nor query nor fragment, in each of the forms of RFC 9112, section 3.2.
    #[test]
    fn path_is_the_path_alone() {
        let path = |line: &str| {
            let bytes = format!("{line} HTTP/1.1\r\n\r\n").into_bytes();
            RequestHead::parse(&bytes, false).map(|head| String::from_utf8_lossy(head.path()).into_owned())
        };
        assert_eq!(path("GET /a/b?token=x").as_deref(), Some("/a/b"));
        assert_eq!(path("GET /a?b=http://c/d").as_deref(), Some("/a"));
        assert_eq!(path("GET http://u:p@host:80/a?b").as_deref(), Some("/a"));
        assert_eq!(path("GET http://host").as_deref(), Some("/"));
        assert_eq!(path("OPTIONS *").as_deref(), Some("*"));
        assert_eq!(path("CONNECT host:443").as_deref(), Some(""));
        assert_eq!(path("GET").as_deref(), None);
    }

    /// A line whose end was not seen is used for the path alone.
    #[test]
    fn cut_request_line_names_the_path() {
        assert!(RequestHead::parse(b"GET /long", false).is_none());
        let head = RequestHead::parse(b"GET /long", true).expect("it looks like a request");
        assert_eq!((head.path(), head.version), (&b"/long"[..], None));
        assert!(RequestHead::parse(b"GET key", true).is_none());
        assert!(RequestHead::parse(b"GET / HTTP/2.0\r\n", false).is_none());
    }

    /// The rules of RFC 9112, section 6.3; a value that may be cut is not believed.
    #[test]
    fn framing_follows_the_standard() {
        assert_eq!(fields("").framing(), Framing::Untold);
        assert_eq!(fields("Content-length: 12\r\n").framing(), Framing::Length(12));
        assert_eq!(fields("Content-Length: 12").framing(), Framing::Untold);
        assert_eq!(fields("Content-Length: 1\r\nContent-Length: 1\r\n").framing(), Framing::Length(1));
        assert_eq!(fields("Content-Length: 1\r\nContent-Length: 2\r\n").framing(), Framing::Contradictory);
        assert_eq!(fields("Content-Length: +1\r\n").framing(), Framing::Contradictory);
        assert_eq!(fields("Content-Length: 99999999999999999999\r\n").framing(), Framing::Contradictory);
        let both = "Content-Length: 5\r\nTransfer-Encoding: gzip, Chunked\r\n";
        assert_eq!(fields(both).framing(), Framing::Chunked);
        assert_eq!(fields("Transfer-Encoding: gzip\r\n").framing(), Framing::Contradictory);
    }

    /// The status needs no reason, and nothing but HTTP/1 has one.
    #[test]
    fn status_is_read() {
        assert_eq!(AnswerHead::parse(b"HTTP/1.1 204\r\n\r\n").map(|head| head.status), Some(204));
        assert_eq!(AnswerHead::parse(b"HTTP/1.0 200 OK\r\nA: b\r\n").map(|head| head.status), Some(200));
        assert!(AnswerHead::parse(b"HTTP/1.1 20").is_none());
        assert!(AnswerHead::parse(b"HTTP/1.1 099 x\r\n").is_none());
        assert!(AnswerHead::parse(b"HTTP/2.0 200 x\r\n").is_none());
        assert!(AnswerHead::may_begin(b"HT") && !AnswerHead::may_begin(b"HTTP/2"));
    }
}
