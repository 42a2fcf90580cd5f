//! The records of `ebpf/shared.h` about what targets receive and send: `struct lane_event`.

use std::net::{IpAddr, SocketAddr};

use super::abi::{COMM_BYTES, take, take_u16, take_u32, take_u64};
use crate::model::ThreadSums;

/// How requests are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneSettings {
    /// One tick in so many is a sample of threads in processes that serve no request; at least 1.
    pub base_share: u32,
}

/// A transfer on a socket that speaks HTTP, or the end of such a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRecord<'a> {
    /// `CLOCK_MONOTONIC`, when the call returned.
    pub time_ns: u64,
    /// Whose socket.
    pub pid: u32,
    /// Names the socket.
    pub socket: u64,
    /// What happened.
    pub part: LanePart<'a>,
}

/// What a [`LaneRecord`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanePart<'a> {
    /// Bytes moved.
    Transfer(Transfer<'a>),
    /// Nothing more will be received; what is asked may still be answered.
    EndOfInput,
    /// The socket was shut down.
    HangUp,
}

/// Bytes that a thread received or sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Which thread.
    pub tid: u32,
    /// Its name, zero padded.
    pub comm: [u8; COMM_BYTES],
    /// Sent; else received.
    pub is_sent: bool,
    /// How many.
    pub length: u64,
    /// The first of them, as far as they were copied.
    pub head: &'a [u8],
    /// The last of them, at most 8; empty where `head` has all.
    pub tail: &'a [u8],
    /// The other end, of an Internet socket.
    pub client: Option<SocketAddr>,
    /// What the thread had done by then.
    pub sums: ThreadSums,
    /// Of what is sent, of threads that were sampled in one: as in a sample, the outermost coroutine that ran.
    pub coroutine: Option<u64>,
}

/// `LANE_RECEIVED` and `LANE_SENT` of `shared.h`.
const RECEIVED: u8 = 1;
const SENT: u8 = 2;

impl<'a> LaneRecord<'a> {
    /// What follows the head of a record of type `kind`, 11 or 12.
    pub(super) fn parse(time_ns: u64, pid: u32, kind: u32, mut rest: &'a [u8]) -> Option<Self> {
        let (socket, length) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        let mut word = || take_u64(&mut rest);
        let sums = ThreadSums {
            run_ns: word()?,
            queue_ns: word()?,
            blocked_ns: word()?,
            thin_queue_ns: word()?,
            thin_blocked_ns: word()?,
            short_queue_ns: word()?,
            short_blocked_ns: word()?,
        };
        let coroutine = Some(word()?).filter(|address| *address != 0);
        let address: [u8; 16] = take(&mut rest, 16)?.try_into().ok()?;
        let tid = take_u32(&mut rest)?;
        let (port, family) = (take_u16(&mut rest)?, take_u16(&mut rest)?);
        let head_bytes = take_u16(&mut rest)?;
        let [direction, tail_bytes] = *take(&mut rest, 2)? else { return None };
        let _padding = take_u32(&mut rest)?;
        let tail = take(&mut rest, 8)?.get(..usize::from(tail_bytes))?;
        let comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let head = rest.get(..usize::from(head_bytes))?;
        let client = address_of(family, address).map(|address| SocketAddr::new(address, port));
        let is_sent = direction == SENT;
        let part = match kind {
            11 => LanePart::Transfer(Transfer {
                tid,
                comm,
                is_sent,
                length,
                head,
                tail,
                client,
                sums,
                coroutine,
            }),
            _ if direction == RECEIVED => LanePart::EndOfInput,
            _ => LanePart::HangUp,
        };
        Some(Self { time_ns, pid, socket, part })
    }
}

fn address_of(family: u16, address: [u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(IpAddr::from([address[0], address[1], address[2], address[3]])),
        libc::AF_INET6 => Some(IpAddr::from(address).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::abi::Record;

    /// The fields laid out by hand as in shared.h; room behind the head is ignored, a cut record refused.
    #[test]
    fn lane_record_decodes_as_laid_out() {
        let words =
            |values: &[u64]| -> Vec<u8> { values.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        let mut bytes = words(&[9, 11 << 32 | 41, 77, 300, 1, 2, 3, 4, 5, 6, 7, 0x7000]);
        bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend([8080u16, 2, 5].map(u16::to_ne_bytes).concat());
        bytes.extend([2, 4, 0, 0, 0, 0]);
        bytes.extend(*b"tail\0\0\0\0thread\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes.len(), 152);
        bytes.extend(*b"HTTP/and room");
        let Ok(Record::Lane(record)) = Record::parse(&bytes) else { panic!("not of a lane") };
        assert_eq!((record.time_ns, record.pid, record.socket), (9, 41, 77));
        let LanePart::Transfer(transfer) = record.part else { panic!("{record:?}") };
        assert_eq!((transfer.tid, transfer.length, transfer.is_sent), (42, 300, true));
        assert_eq!((transfer.head, transfer.tail), (&b"HTTP/"[..], &b"tail"[..]));
        assert_eq!(transfer.coroutine, Some(0x7000));
        assert_eq!(transfer.client, "127.0.0.1:8080".parse().ok());
        assert_eq!(
            (transfer.sums.run_ns, transfer.sums.blocked_ns, transfer.sums.short_blocked_ns),
            (1, 3, 7)
        );
        for cut in 0..157 {
            assert!(Record::parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
