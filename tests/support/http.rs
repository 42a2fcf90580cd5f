//! A client that asks a server for paths over several connections at once, and takes down what it asked and when.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use txprof::sys::clock::monotonic_ns;

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its `X-Request-ID`.
    pub id: String,
    /// `GET` or `POST`.
    pub method: &'static str,
    /// What for.
    pub path: &'static str,
    /// `CLOCK_MONOTONIC` before its first byte was sent.
    pub sent_ns: u64,
    /// The same after the last byte of the answer was received.
    pub received_ns: u64,
    /// Of the answer.
    pub status: u16,
}

/// Bytes of the body of a POST.
pub const BODY_BYTES: usize = 100_000;

/// The text of a request.
pub fn request_text(id: &str, path: &str) -> Vec<u8> {
    let method = method_of(path);
    let length = if method == "POST" { BODY_BYTES } else { 0 };
    let mut text =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: {id}\r\n").into_bytes();
    if length > 0 {
        text.extend(format!("Content-Length: {length}\r\n").into_bytes());
    }
    text.extend(b"\r\n");
    text.resize(text.len() + length, b'x');
    text
}

fn method_of(path: &str) -> &'static str {
    if path == "/upload" { "POST" } else { "GET" }
}

/// A connection; it is made anew when the server has closed it.
#[derive(Debug)]
pub struct Client {
    port: u16,
    stream: Option<BufReader<TcpStream>>,
}

impl Client {
    /// One of the server at `port` of this machine, not connected yet.
    pub fn new(port: u16) -> Self {
        Self { port, stream: None }
    }

    fn stream(&mut self) -> Result<&mut BufReader<TcpStream>> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            self.stream = Some(BufReader::new(stream));
        }
        self.stream.as_mut().ok_or_else(|| ErrorKind::NotConnected.into())
    }

    /// Asks for `path` and waits for the answer.
    pub fn ask(&mut self, id: String, path: &'static str) -> Result<Asked> {
        Ok(self.ask_all(vec![(id, path)])?.remove(0))
    }

    /// Asks for all of `wanted` at once and waits for the answers.
    pub fn ask_all(&mut self, wanted: Vec<(String, &'static str)>) -> Result<Vec<Asked>> {
        let text: Vec<u8> = wanted.iter().flat_map(|(id, path)| request_text(id, path)).collect();
        self.stream()?;
        let sent_ns = monotonic_ns();
        self.stream()?.get_mut().write_all(&text)?;
        let mut asked = Vec::new();
        for (id, path) in wanted {
            let (status, is_last) = read_answer(self.stream()?)?;
            let received_ns = monotonic_ns();
            if is_last {
                self.stream = None;
            }
            asked.push(Asked { id, method: method_of(path), path, sent_ns, received_ns, status });
        }
        Ok(asked)
    }
}

/// The status of an answer, and whether the connection ends with it.
fn read_answer(stream: &mut BufReader<TcpStream>) -> Result<(u16, bool)> {
    let malformed = || Error::new(ErrorKind::InvalidData, "a malformed answer");
    let line = |stream: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        Ok(line.trim_end().to_ascii_lowercase())
    };
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    let (mut length, mut is_chunked, mut closes) = (None, false, first.starts_with("http/1.0"));
    loop {
        let field = line(stream)?;
        match field.split_once(": ") {
            None => break,
            Some(("content-length", text)) => length = text.parse().ok(),
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(("connection", text)) => closes = text == "close",
            Some(_) => {}
        }
    }
    let skip = |stream: &mut BufReader<TcpStream>, length: u64| {
        let copied = std::io::copy(&mut stream.take(length), &mut std::io::sink())?;
        if copied < length { Err(Error::from(ErrorKind::UnexpectedEof)) } else { Ok(()) }
    };
    if is_chunked {
        loop {
            let size = u64::from_str_radix(&line(stream)?, 16).map_err(|_| malformed())?;
            skip(stream, size + 2)?;
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = length {
        skip(stream, length)?;
    } else {
        std::io::copy(stream, &mut std::io::sink())?;
        closes = true;
    }
    Ok((status, closes))
}

/// Asks the server at `port` for `count` of `paths` in turn, over `connections` at once, by `pipelined` at a time. IDs are
/// `prefix` and a number. Panics when an answer is not whole.
pub fn ask_many(
    port: u16,
    prefix: &str,
    paths: &[&'static str],
    count: usize,
    connections: usize,
    pipelined: usize,
) -> Vec<Asked> {
    let (next, all) = (Mutex::new(0..count), Mutex::new(Vec::new()));
    let ask = || {
        let mut client = Client::new(port);
        loop {
            let numbers: Vec<usize> =
                next.lock().expect("no client panics here").by_ref().take(pipelined).collect();
            if numbers.is_empty() {
                break;
            }
            let wanted: Vec<_> =
                numbers.iter().map(|n| (format!("{prefix}-{n}"), paths[n % paths.len()])).collect();
            let asked = client.ask_all(wanted.clone()).unwrap_or_else(|error| panic!("{wanted:?}: {error}"));
            all.lock().expect("nor here").extend(asked);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(ask);
        }
    });
    all.into_inner().expect("all have ended")
}
