//! What a process sees of the network: its network namespace, and the TCP connections in that.
//!
//! A line of `/proc/PID/net/tcp` for each socket, below a heading (proc_pid_net(5), Linux `net/ipv4/tcp_ipv4.c`,
//! `get_tcp4_sock`; `tcp6` has 32 digits for an address):
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid  timeout inode …
//!    0: 0100007F:1538 0100007F:C350 01 00000000:00000000 00:00000000 00000000   109        0 25602 …
//! ```
//!
//! An address is one or four words of the machine's byte order whose bytes are the address; a port is a number.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use crate::{Result, ResultExt};

/// Text read of a table of one network namespace: 27,000 connections of 150 bytes, which the kernel needs some 30 ms
/// to write. Those beyond it are as if they were not there.
const MAX_TABLE_BYTES: u64 = 4 << 20;
/// `TCP_ESTABLISHED` in Linux `include/net/tcp_states.h`.
const ESTABLISHED: &str = "01";

/// An established connection, from one of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConnection {
    /// The end that it is seen from. An IPv4 address is one also where the socket is of IPv6.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Of the socket at the local end; not 0.
    pub inode: u64,
}

/// The network namespace of `pid`, opened, and the number that names it as long as it is open.
///
/// Fails with `NotFound` when the process is gone and `PermissionDenied` when it may not be traced.
pub fn network_namespace(pid: u32) -> Result<(u64, File)> {
    let intent = || super::failed_to_read(pid, "ns/net");
    let file = File::open(super::path(pid, "ns/net")).context(intent)?;
    let number = file.metadata().context(intent)?.ino();
    Ok((number, file))
}

/// The established TCP connections in the network namespace of `pid`, in no particular order; none where the kernel
/// does not tell.
pub fn tcp_connections(pid: u32) -> Vec<TcpConnection> {
    let tables = ["net/tcp", "net/tcp6"].map(|name| super::read_bounded(pid, name, MAX_TABLE_BYTES));
    tables.into_iter().flatten().flat_map(|text| parse_tcp_connections(&text).collect::<Vec<_>>()).collect()
}

/// The established connections in the text of `net/tcp` or `net/tcp6`; other lines, and those of another shape, are
/// passed over.
pub fn parse_tcp_connections(text: &[u8]) -> impl Iterator<Item = TcpConnection> + '_ {
    text.split(|byte| *byte == b'\n').filter_map(parse_line)
}

fn parse_line(line: &[u8]) -> Option<TcpConnection> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(1);
    let (local, remote) = (words.next()?, words.next()?);
    if words.next()? != ESTABLISHED {
        return None;
    }
    // Behind queues, timer, retransmissions, user and timeout. 0 when no descriptor stands for it any more.
    let inode = words.nth(5)?.parse().ok().filter(|inode| *inode > 0)?;
    Some(TcpConnection { local: parse_end(local)?, remote: parse_end(remote)?, inode })
}

fn parse_end(text: &str) -> Option<SocketAddr> {
    let (digits, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match digits.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (n, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(n * 8)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use proptest::prelude::*;

    use super::*;

    /// Both ends of a connection of our own are there, mirrored, each with the inode of its descriptor; its listener
    /// is not.
    #[test]
    fn own_connection_has_both_its_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has free ports");
        let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
        let (far, _) = listener.accept().expect("it was connected to");
        let inode = |descriptor: &dyn AsRawFd| {
            let number = u32::try_from(descriptor.as_raw_fd()).expect("it is open");
            super::super::socket_of_descriptor(std::process::id(), number).expect("it is a socket")
        };
        let all = tcp_connections(std::process::id());
        let find = |wanted| all.iter().find(|connection| connection.inode == wanted);
        let (one, other) = (find(inode(&near)).expect("near"), find(inode(&far)).expect("far"));
        assert_eq!((one.local, one.remote), (other.remote, other.local));
        assert_eq!(Some(one.local), near.local_addr().ok());
        assert_eq!(find(inode(&listener)), None);
        let (number, _) = network_namespace(std::process::id()).expect("we live");
        let link = std::fs::read_link("/proc/self/ns/net").expect("it is a link");
        assert_eq!(link.to_string_lossy(), format!("net:[{number}]"));
    }

    const TCP6: &[u8] = b"\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr\n\
   0: 00000000000000000000000000000000:1538 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000   109        0 11 1 ffff 100 0 0 10 0\n\
   1: 0000000000000000FFFF00000100007F:1538 0000000000000000FFFF00000200007F:C350 01 00000000:00000000 02:000A8D2F 00000000   109        0 25602 2 ffff 20 4 30 10 -1\n\
   2: B80D01200000000000000000010000FF:1538 00000000000000000000000001000000:C350 01 00000000:00000000 02:000A8D2F 00000000   109        0 25603 2 ffff 20 4 30 10 -1\n\
   3: 00000000000000000000000001000000:1538 00000000000000000000000001000000:C351 01 00000000:00000000 00:00000000 00000000     0        0 0 2 ffff 20 4 30 10 -1\n\
   4: 00000000000000000000000001000000:1538 00000000000000000000000001000000:C3521 01 00000000:00000000 00:00000000 00000000     0        0 7 2\n\
   5: 0000000000000000000000000100000:1538 00000000000000000000000001000000:C352 01 00000000:00000000 00:00000000 00000000     0        0 7 2\n\
   6: 00000000000000000000000001000000:1538 00000000000000000000000001000000:C352 01 00000000:00000000 00:00000000\n";

    /// Established connections are read, IPv4 as such, and listeners, orphans and broken lines are passed over.
    #[test]
    fn tables_of_ipv6_are_read() {
        let found: Vec<TcpConnection> = parse_tcp_connections(TCP6).collect();
        let connection = |local: &str, remote: &str, inode| TcpConnection {
            local: local.parse().expect("an address"),
            remote: remote.parse().expect("an address"),
            inode,
        };
        assert_eq!(
            found,
            [
                connection("127.0.0.1:5432", "127.0.0.2:50000", 25602),
                connection("[2001:db8::ff00:1]:5432", "[::1]:50000", 25603),
            ]
        );
    }

    proptest! {
        /// Any bytes, alone or in a real table: no panic, and no connection of nobody.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..100), at in 0..TCP6.len()) {
            let damaged = [&TCP6[..at], &noise, &TCP6[at..]].concat();
            for text in [&noise, &damaged] {
                prop_assert!(parse_tcp_connections(text).all(|connection| connection.inode > 0));
            }
        }
    }
}
