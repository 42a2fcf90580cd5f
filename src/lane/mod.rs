//! Bytes seen on a socket become requests: when each began and ended, which threads read and answered
//! it, what was asked for and how it went.
//!
//! ```text
//! segment ──► connection ──┬─ received ──► incoming ─┐                     ┌─► event
//! (one receive             │              (head,     ├─► pending, a queue ─┤  (Began, Named, Read,
//!  or send)                └─ sent ──────► outgoing ─┘   in order of time  └─   Written, Ended)
//!                                          body)
//! ```
//!
//! A [`Connection`] is fed the [`Segment`]s of one server-side socket and tells [`LaneEvent`]s. It speaks
//! HTTP/1.0 and 1.1 (RFC 9110, 9112), keep-alive and pipelined; anything else is recognised as such and left
//! alone. A request lasts from the call that received its first byte to the one that sent the last byte of its
//! answer, never until the next request.
//!
//! Of a large segment the middle is not seen. A body of told length is counted through such a hole,
//! a chunk as well; where a hole hides how a message is framed, its end is recognised by how segments end
//! and by the change of direction; where it hides which messages there are, sync is lost, which is counted,
//! and found again at the next request that follows an answer.
//!
//! `identity` names what HTTP tells; the protocols above it are `extractor`s, one file each.
//!
//! Nothing here does I/O: of `core::net` only addresses are used, which are values. All bytes are hostile:
//! heads are kept up to 16 KiB, bodies up to their first 4 KiB, 64 requests may wait on a connection.
//! Passwords, tokens, cookies and query strings are in no event.

mod segment;
mod event;
mod text;
mod base64;
mod beginning;
mod encoding;
mod chunks;
mod body;
mod head_bytes;
mod head;
mod credentials;
mod identity;
mod json;
mod jsonrpc;
mod xmlrpc;
mod tryton;
mod extractor;
mod incoming;
mod outgoing;
mod pending;
mod search;
mod connection;

pub use connection::Connection;
pub use event::LaneEvent;
pub use segment::{Direction, Segment};
