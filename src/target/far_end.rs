//! Which socket of this machine is at the other end of a socket.
//!
//! A UNIX socket's other end is what the kernel says. Of TCP connections it tells both ends apart, each with its own
//! address first, so that the other end is the connection whose addresses are the same two, swapped:
//!
//! ```text
//! network namespace of the client       of the server: the same, or another one where addresses are not translated
//!   172.18.0.3:50000 172.18.0.2:5432      172.18.0.2:5432 172.18.0.3:50000
//! ```
//!
//! Inodes of sockets are the machine's, whatever the namespace.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::procfs::{network_namespace, tcp_connections};
use crate::sys::clock::monotonic_ns;
use crate::sys::sock_diag::UnixSockets;

/// Network namespaces looked at for one question: those of a handful of containers that ask, and of their database. What
/// is in others has no other end.
const MAX_NAMESPACES: usize = 16;

/// The sockets of one network namespace.
#[derive(Debug)]
struct Namespace {
    /// A process in it.
    pid: u32,
    /// `None` where that is not permitted.
    unix: Option<UnixSockets>,
    /// Read when first needed.
    tcp: Option<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    by_inode: HashMap<u64, Ends>,
    by_ends: HashMap<Ends, u64>,
}

/// The near one first.
type Ends = (SocketAddr, SocketAddr);

/// What is found out for one question about sockets, no part of it twice.
#[derive(Debug)]
pub struct FarEnds<'a> {
    servers: &'a [u32],
    /// When no further table is read.
    until_ns: u64,
    own: Option<u64>,
    namespaces: HashMap<u64, Namespace>,
    /// Those of the servers, once they were looked for.
    server_namespaces: Option<Vec<u64>>,
}

impl<'a> FarEnds<'a> {
    /// Nothing is known yet. Other ends are looked for in the namespaces of `servers`, until `until_ns` (`CLOCK_MONOTONIC`).
    pub fn new(servers: &'a [u32], until_ns: u64) -> Self {
        let own = network_namespace(std::process::id()).ok().map(|(number, _)| number);
        Self { servers, until_ns, own, namespaces: HashMap::new(), server_namespaces: None }
    }

    /// The inodes of the sockets that may be the other end of the socket `inode` of `pid`: one as a rule, more where
    /// networks that know nothing of one another have the same addresses. None for what is no UNIX or TCP socket, what
    /// is not connected, or to another machine.
    pub fn of(&mut self, pid: u32, inode: u64) -> Vec<u64> {
        let Some(number) = self.namespace_of(pid) else { return Vec::new() };
        let unix = self.namespaces.get(&number).and_then(|namespace| namespace.unix.as_ref());
        if let Some(peer) = unix.and_then(|unix| unix.peer(inode)) {
            return vec![peer];
        }
        let ends = self.connections(number).and_then(|connections| connections.by_inode.get(&inode).copied());
        let Some((near, far)) = ends else { return Vec::new() };
        let swapped = (far, near);
        // The loopback leads to nowhere else.
        let namespaces = if near.ip().is_loopback() { vec![number] } else { self.server_namespaces() };
        let mut found: Vec<u64> = namespaces
            .into_iter()
            .filter_map(|number| self.connections(number)?.by_ends.get(&swapped).copied())
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The number of the network namespace of `pid`, which is among ours from here on.
    fn namespace_of(&mut self, pid: u32) -> Option<u64> {
        let (number, file) = network_namespace(pid).ok()?;
        if !self.namespaces.contains_key(&number) {
            if self.namespaces.len() >= MAX_NAMESPACES {
                return None;
            }
            let is_own = self.own == Some(number);
            let unix = if is_own { UnixSockets::here() } else { UnixSockets::of_namespace(&file) };
            self.namespaces.insert(number, Namespace { pid, unix: unix.ok(), tcp: None });
        }
        Some(number)
    }

    fn server_namespaces(&mut self) -> Vec<u64> {
        if let Some(known) = &self.server_namespaces {
            return known.clone();
        }
        let mut found: Vec<u64> = self.servers.iter().filter_map(|pid| self.namespace_of(*pid)).collect();
        found.sort_unstable();
        found.dedup();
        self.server_namespaces = Some(found.clone());
        found
    }

    /// The TCP connections of a namespace; `None` when there is no time to read them.
    fn connections(&mut self, number: u64) -> Option<&Connections> {
        let namespace = self.namespaces.get_mut(&number)?;
        if namespace.tcp.is_none() && monotonic_ns() < self.until_ns {
            namespace.tcp = Some(Connections::read(namespace.pid));
        }
        namespace.tcp.as_ref()
    }
}

impl Connections {
    fn read(pid: u32) -> Self {
        let mut connections = Self::default();
        for connection in tcp_connections(pid) {
            let ends = (connection.local, connection.remote);
            connections.by_inode.insert(connection.inode, ends);
            connections.by_ends.insert(ends, connection.inode);
        }
        connections
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn inode(socket: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).expect("it is open").st_ino
    }

    /// Connections of our own, by UNIX socket and by TCP of both versions, have their other ends; a listener, and a
    /// connection for whose table there is no time, have none.
    #[test]
    fn connections_have_their_other_ends() {
        let pid = std::process::id();
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        let mut ends = FarEnds::new(&[], u64::MAX);
        assert_eq!(ends.of(pid, inode(&one)), [inode(&other)]);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // Not every machine has IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let near = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
            let (far, _) = listener.accept().expect("it was connected to");
            let mut ends = FarEnds::new(&[], u64::MAX);
            assert_eq!(ends.of(pid, inode(&near)), [inode(&far)], "{address}");
            assert_eq!(ends.of(pid, inode(&far)), [inode(&near)], "{address}");
            assert!(ends.of(pid, inode(&listener)).is_empty());
            let mut late = FarEnds::new(&[], 0);
            assert!(late.of(pid, inode(&near)).is_empty());
            assert_eq!(late.of(pid, inode(&one)), [inode(&other)]);
        }
    }
}
