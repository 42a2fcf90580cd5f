//! Who is at the other end of a UNIX socket: the kernel tells by netlink (sock_diag(7)).
//!
//! A datagram each way for each socket, in the machine's byte order (Linux `include/uapi/linux/netlink.h`,
//! `unix_diag.h`):
//!
//! ```text
//! question  nlmsghdr                                    unix_diag_req
//!           ├ len 4 │ type 2 │ flags 2 │ seq 4 │ pid 4 ┤ family 1 │ protocol 1 │ 2 │ states 4 │ ino 4 │ show 4 │ cookie 8 ┤
//! answer    nlmsghdr                                    unix_diag_msg                                        attributes
//!           ├ len 4 │ type 2 │ flags 2 │ seq 4 │ pid 4 ┤ family 1 │ type 1 │ state 1 │ 1 │ ino 4 │ cookie 8 ┤ len 2 │ type 2 │ value … ┤ …
//! ```
//!
//! An attribute's length is without the padding to four bytes behind it. Any other type of answer is a refusal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

use crate::{Error, ErrorKind, Result, ResultExt};

/// `SOCK_DIAG_BY_FAMILY` in Linux `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `UDIAG_SHOW_PEER` in Linux `include/uapi/linux/unix_diag.h`.
const UDIAG_SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER` in the same: four bytes, an inode.
const UNIX_DIAG_PEER: u16 = 2;
const QUESTION_BYTES: usize = 40;
/// Where the inode of the socket stands in an answer, and where its attributes begin.
const INODE_AT: usize = 20;
const ATTRIBUTES_AT: usize = 32;
/// With the peer alone an answer has 40 bytes, and some more when a later kernel tells what it was not asked for.
const ANSWER_BYTES: usize = 1024;

/// The UNIX sockets of one network namespace.
#[derive(Debug)]
pub struct UnixSockets(File);

impl UnixSockets {
    /// Those of our own network namespace. Fails where netlink is not permitted.
    pub fn here() -> Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: takes numbers only, and gives a descriptor or -1.
        let descriptor = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) };
        let descriptor =
            Errno::result(descriptor).context(|| "failed to open a netlink socket".to_owned())?;
        // SAFETY: it was opened above and belongs to nobody else.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })))
    }

    /// Those of the network namespace that is open as `namespace`. Fails with `PermissionDenied` without
    /// CAP_SYS_ADMIN.
    pub fn of_namespace(namespace: &File) -> Result<Self> {
        let intent = || "failed to enter a network namespace".to_owned();
        let enter = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context(intent)?;
            Self::here()
        };
        // A thread is in a namespace, and this one stays where it is; a socket stays where it was made.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, enter).context(intent)?;
            thread.join().unwrap_or_else(|_| Err(Error::new(ErrorKind::System, intent())))
        })
    }

    /// The inode of the socket that the one of `inode` is connected to; `None` where that is no UNIX socket of this
    /// namespace, or connected to none that some process has.
    pub fn peer(&self, inode: u64) -> Option<u64> {
        let inode = u32::try_from(inode).ok()?;
        (&self.0).write_all(&question(inode)).ok()?;
        let mut answer = [0; ANSWER_BYTES];
        // The kernel has answered when it has taken the question; there is nothing to wait for.
        let length = (&self.0).read(&mut answer).ok()?;
        parse_peer(answer.get(..length)?, inode)
    }
}

fn question(inode: u32) -> Vec<u8> {
    let mut question = Vec::with_capacity(QUESTION_BYTES);
    question.extend((QUESTION_BYTES as u32).to_ne_bytes());
    question.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    question.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    question.extend([0; 8]);
    question.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    // In any state.
    question.extend(u32::MAX.to_ne_bytes());
    question.extend(inode.to_ne_bytes());
    question.extend(UDIAG_SHOW_PEER.to_ne_bytes());
    // With any cookie (`INET_DIAG_NOCOOKIE`).
    question.extend([u8::MAX; 8]);
    question
}

/// The inode of the peer in an answer about the socket of `inode`; `None` in one about something else, and for peer 0,
/// which no process has.
fn parse_peer(answer: &[u8], inode: u32) -> Option<u64> {
    let length = usize::try_from(word_at(answer, 0)?).ok()?;
    let message = answer.get(..length)?;
    if half_at(message, 4)? != SOCK_DIAG_BY_FAMILY || word_at(message, INODE_AT)? != inode {
        return None;
    }
    let mut attributes = message.get(ATTRIBUTES_AT..)?;
    loop {
        let length = usize::from(half_at(attributes, 0)?);
        if half_at(attributes, 2)? == UNIX_DIAG_PEER {
            let peer = word_at(attributes.get(..length)?, 4)?;
            return (peer > 0).then_some(u64::from(peer));
        }
        // At least the head of this one, so that it ends.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn word_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use proptest::prelude::*;

    use super::*;

    fn inode(socket: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).expect("it is open").st_ino
    }

    /// Each of two connected sockets has the other as its peer; a listener, one that was not accepted, and the inode
    /// of something else have none.
    #[test]
    fn connected_sockets_are_peers() {
        let sockets = UnixSockets::here().expect("netlink is permitted");
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        assert_eq!(sockets.peer(inode(&one)), Some(inode(&other)));
        assert_eq!(sockets.peer(inode(&other)), Some(inode(&one)));
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("it is free");
        let near = UnixStream::connect(&path).expect("it listens");
        assert_eq!((sockets.peer(inode(&listener)), sockets.peer(inode(&near))), (None, None));
        let (far, _) = listener.accept().expect("it was connected to");
        assert_eq!(sockets.peer(inode(&near)), Some(inode(&far)));
        assert_eq!(
            (sockets.peer(inode(&sockets.0)), sockets.peer(0), sockets.peer(u64::MAX)),
            (None, None, None)
        );
        // As the last answer was not left behind.
        assert_eq!(sockets.peer(inode(&one)), Some(inode(&other)));
    }

    /// Sockets of another namespace are not ours, and ours are found through the file of our own.
    #[test]
    fn sockets_are_those_of_one_namespace() {
        let own = File::open("/proc/thread-self/ns/net").expect("it is there");
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        match UnixSockets::of_namespace(&own) {
            Ok(sockets) => assert_eq!(sockets.peer(inode(&one)), Some(inode(&other))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}"),
        }
        let elsewhere = std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).ok().and_then(|()| UnixSockets::here().ok())
        });
        if let Some(elsewhere) = elsewhere.join().expect("it does not panic") {
            assert_eq!(elsewhere.peer(inode(&one)), None);
        }
    }

    fn answer(kind: u16, inode: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut answer = vec![0; ATTRIBUTES_AT];
        answer[4..6].copy_from_slice(&kind.to_ne_bytes());
        answer[INODE_AT..INODE_AT + 4].copy_from_slice(&inode.to_ne_bytes());
        for (kind, value) in attributes {
            answer.extend((4 + value.len() as u16).to_ne_bytes());
            answer.extend(kind.to_ne_bytes());
            answer.extend(*value);
            answer.resize(answer.len().next_multiple_of(4), 0);
        }
        let length = answer.len() as u32;
        answer[..4].copy_from_slice(&length.to_ne_bytes());
        answer
    }

    /// The peer is found behind other attributes; refusals, other sockets' answers and what is cut short have none.
    #[test]
    fn peers_are_read_from_answers() {
        let peer = 77_u32.to_ne_bytes();
        let whole = answer(SOCK_DIAG_BY_FAMILY, 9, &[(0, b"/path"), (UNIX_DIAG_PEER, &peer)]);
        assert_eq!(parse_peer(&whole, 9), Some(77));
        assert_eq!(parse_peer(&whole, 8), None);
        assert_eq!(parse_peer(&whole[..whole.len() - 1], 9), None);
        assert_eq!(parse_peer(&answer(2, 9, &[(UNIX_DIAG_PEER, &peer)]), 9), None);
        assert_eq!(parse_peer(&answer(SOCK_DIAG_BY_FAMILY, 9, &[(UNIX_DIAG_PEER, &[0; 4])]), 9), None);
        assert_eq!(parse_peer(&answer(SOCK_DIAG_BY_FAMILY, 9, &[]), 9), None);
    }

    proptest! {
        /// Any bytes, alone or behind a real head: no panic, and an end.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_peer(&noise, 9);
            let mut whole = answer(SOCK_DIAG_BY_FAMILY, 9, &[(0, &noise)]);
            parse_peer(&whole, 9);
            whole.splice(ATTRIBUTES_AT.., noise);
            parse_peer(&whole, 9);
        }
    }
}
