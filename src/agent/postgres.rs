//! Which PostgreSQL backends threads wait for at this moment, by the connections that they wait on.
//!
//! ```text
//! thread ─ system call ─► descriptors ─► sockets ─ their other ends ─► sockets ─ descriptors of `postgres` ─► backend
//! ```
//!
//! What costs most, a look at every process and the tables of connections, is done once for all threads. Between two of
//! these steps a thread may go on, or a descriptor stand for something else, so the system call is read again at the
//! end: whoever is in another one by then has no backend.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::sys::clock::monotonic_ns;
use crate::sys::remote_memory;
use crate::target::far_end::FarEnds;
use crate::target::procfs::{self, Call};

/// Threads looked at. Those with a request in flight are some dozens as a rule; a thousand take some 20 ms.
const MAX_THREADS: usize = 1024;
/// Descriptors of one `poll`. Who waits for an answer polls one or two; who polls more than this serves many
/// connections, and waits for none of them.
const MAX_POLLED: u64 = 16;
/// Descriptors looked at of each backend. The connection to its client is among the first, as it is there before any
/// table is opened; below it are listening sockets of the postmaster, 64 at most (`MAXLISTEN` of PostgreSQL's
/// `postmaster.c`), and its pipes.
const MAX_DESCRIPTORS: usize = 128;
/// How long is searched. `txprof ps` waits for it, and so does what is recorded; a machine with some hundred backends and
/// some thousand connections and processes takes a third of that. What was not found by then has no backend.
const SEARCH_NS: u64 = 50_000_000;

/// A thread that waits on sockets.
#[derive(Debug)]
struct Wait {
    pid: u32,
    tid: u32,
    call: Call,
    /// What it waits on.
    sockets: Vec<u64>,
    /// What may be at the other ends of these, once that is known.
    far_ends: Vec<u64>,
}

/// For those of `threads`, each a process and a thread in it, that wait for the answer of one backend: the thread with
/// the pid of the backend. A thread that waits for several backends at once has none.
pub(super) fn backends_waited_for(threads: &[(u32, u32)]) -> HashMap<u32, u32> {
    let until_ns = monotonic_ns().saturating_add(SEARCH_NS);
    let unique: BTreeSet<(u32, u32)> = threads.iter().take(MAX_THREADS).copied().collect();
    let in_time = || monotonic_ns() < until_ns;
    let mut waits: Vec<Wait> = unique.into_iter().take_while(|_| in_time()).filter_map(waited_on).collect();
    if waits.is_empty() {
        return HashMap::new();
    }
    let backends = backends(until_ns);
    let mut ends = FarEnds::new(&backends, until_ns);
    for wait in waits.iter_mut().take_while(|_| in_time()) {
        wait.far_ends = wait.sockets.iter().flat_map(|socket| ends.of(wait.pid, *socket)).collect();
    }
    let owners = owners(&waits, &backends, until_ns);
    waits.iter().filter_map(|wait| Some((wait.tid, wait.backend(&owners)?))).collect()
}

impl Wait {
    /// The backend that it waits for, as long as it still does.
    fn backend(&self, owners: &HashMap<u64, u32>) -> Option<u32> {
        let backend = self.only(owners)?;
        (procfs::call(self.tid) == Some(self.call)).then_some(backend)
    }

    /// The only backend that has one of the other ends.
    fn only(&self, owners: &HashMap<u64, u32>) -> Option<u32> {
        let found: BTreeSet<u32> = self.far_ends.iter().filter_map(|end| owners.get(end).copied()).collect();
        found.first().copied().filter(|_| found.len() == 1)
    }
}

/// What a thread waits on; `None` where that is no socket.
fn waited_on((pid, tid): (u32, u32)) -> Option<Wait> {
    let call = procfs::call(tid)?;
    let descriptors = descriptors(pid, &call);
    let sockets: Vec<u64> =
        descriptors.into_iter().filter_map(|number| procfs::socket_of_descriptor(tid, number)).collect();
    (!sockets.is_empty()).then_some(Wait { pid, tid, call, sockets, far_ends: Vec::new() })
}

/// The descriptors that a call of `pid` waits on, in no particular order.
fn descriptors(pid: u32, call: &Call) -> Vec<u32> {
    let [first, second, ..] = call.arguments;
    match call.number {
        libc::SYS_read | libc::SYS_readv | libc::SYS_recvfrom | libc::SYS_recvmsg => vec![first as u32],
        libc::SYS_write | libc::SYS_writev | libc::SYS_sendto | libc::SYS_sendmsg => vec![first as u32],
        libc::SYS_poll | libc::SYS_ppoll => polled(pid, first, second),
        // After a stop, as by a debugger, some calls go on under this name, with the same arguments. Of these, sleeping and
        // waiting for a futex never have 1 for their second, as poll has with one descriptor.
        libc::SYS_restart_syscall if second == 1 => polled(pid, first, second),
        _ => Vec::new(),
    }
}

/// The descriptors in an array of `count` at `address` of `pid`; none where that is not memory, or too many.
fn polled(pid: u32, address: u64, count: u64) -> Vec<u32> {
    if count > MAX_POLLED {
        return Vec::new();
    }
    let mut bytes = [0; MAX_POLLED as usize * POLLFD_BYTES];
    let wanted = bytes.get_mut(..count as usize * POLLFD_BYTES).unwrap_or_default();
    match remote_memory::read(pid, address, wanted) {
        Ok(()) => parse_polled(wanted),
        Err(_) => Vec::new(),
    }
}

/// `struct pollfd` in Linux `include/uapi/asm-generic/poll.h`: descriptor 4, events 2, events that came 2.
const POLLFD_BYTES: usize = 8;

/// The descriptors in an array of `struct pollfd`. Negative ones are not polled (poll(2)).
fn parse_polled(bytes: &[u8]) -> Vec<u32> {
    let entries = bytes.chunks_exact(POLLFD_BYTES).filter_map(|entry| entry.first_chunk());
    entries.filter_map(|number| u32::try_from(i32::from_ne_bytes(*number)).ok()).collect()
}

/// The processes called `postgres` whose parent is called so, ascending: backends, and what else a postmaster starts,
/// but not the postmaster, which for a moment has the connections that it accepts.
fn backends(until_ns: u64) -> Vec<u32> {
    let is_called_so = |pid: &u32| procfs::comm(*pid).is_ok_and(|comm| comm.starts_with("postgres"));
    let pids = procfs::pids().unwrap_or_default();
    let in_time = pids.into_iter().take_while(|_| monotonic_ns() < until_ns);
    let all: Vec<u32> = in_time.filter(is_called_so).collect();
    let is_child =
        |pid: &&u32| procfs::read_stat(**pid).is_ok_and(|stat| all.binary_search(&stat.parent_pid).is_ok());
    all.iter().filter(is_child).copied().collect()
}

/// Which backend has which of the other ends.
fn owners(waits: &[Wait], backends: &[u32], until_ns: u64) -> HashMap<u64, u32> {
    let mut wanted: HashSet<u64> = waits.iter().flat_map(|wait| wait.far_ends.iter().copied()).collect();
    let mut owners = HashMap::new();
    for pid in backends {
        if wanted.is_empty() || monotonic_ns() >= until_ns {
            break;
        }
        for socket in procfs::sockets(*pid, MAX_DESCRIPTORS) {
            if wanted.remove(&socket) {
                owners.insert(socket, *pid);
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use proptest::prelude::*;

    use super::*;

    fn inode(socket: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).expect("it is open").st_ino
    }

    /// What a thread waits on is told while it waits in `wait`, which gets one of two connected sockets.
    fn waited_on_in(wait: impl FnOnce(UnixStream) + Send) -> (Vec<u64>, u64) {
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        let own = inode(&one);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                tell.send(nix::unistd::gettid().as_raw().cast_unsigned()).expect("somebody listens");
                wait(one);
            });
            let tid = told.recv().expect("it says who it is");
            let found = (0..2000).find_map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(5));
                waited_on((std::process::id(), tid))
            });
            // Ends the wait.
            drop(other);
            (found.map(|wait| wait.sockets).unwrap_or_default(), own)
        })
    }

    /// A thread that reads, and one that polls, wait on their sockets; what else is polled, and what is not, is left out.
    #[test]
    fn threads_wait_on_sockets() {
        let (found, own) = waited_on_in(|mut socket| {
            socket.read_exact(&mut [0]).expect_err("nothing is sent");
        });
        assert_eq!(found, [own]);
        let (found, own) = waited_on_in(|socket| {
            let file = std::fs::File::open("/proc/self/exe").expect("it is there");
            let mut polled = [
                PollFd::new(socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(file.as_fd(), PollFlags::empty()),
            ];
            poll(&mut polled, PollTimeout::NONE).expect("it is woken");
        });
        assert_eq!(found, [own]);
        let own = nix::unistd::gettid().as_raw().cast_unsigned();
        assert!(waited_on((std::process::id(), own)).is_none(), "who runs waits for nothing");
    }

    /// Descriptors are taken of calls that wait on them, after a stop too, and of no others; too many are none.
    #[test]
    fn descriptors_are_arguments_of_calls() {
        let (one, other) = UnixStream::pair().expect("sockets can be made");
        let number = |socket: &UnixStream| socket.as_raw_fd().cast_unsigned();
        let mut array = [0_u8; 16];
        array[..4].copy_from_slice(&number(&one).to_ne_bytes());
        array[8..12].copy_from_slice(&number(&other).to_ne_bytes());
        let address = array.as_ptr() as u64;
        let of = |call, first, second| {
            let call = Call { number: call, arguments: [first, second, 0, 0, 0, 0], sp: 0, pc: 0 };
            descriptors(std::process::id(), &call)
        };
        assert_eq!(of(libc::SYS_recvfrom, 7, 0), [7]);
        assert_eq!(of(libc::SYS_poll, address, 2), [number(&one), number(&other)]);
        assert_eq!(of(libc::SYS_restart_syscall, address, 1), [number(&one)]);
        for (call, first, second) in [
            (libc::SYS_restart_syscall, address, 0),
            (libc::SYS_poll, address, MAX_POLLED + 1),
            (libc::SYS_poll, address, u64::MAX),
            (libc::SYS_poll, 8, 1),
            (libc::SYS_ppoll, u64::MAX, 1),
            (libc::SYS_futex, address, 1),
        ] {
            assert!(of(call, first, second).is_empty(), "{call}");
        }
    }

    /// A thread that waits for one backend has it, one that waits for two has none.
    #[test]
    fn several_backends_are_none() {
        let own = nix::unistd::gettid().as_raw().cast_unsigned();
        let owners = HashMap::from([(11, 1), (12, 1), (21, 2)]);
        // A call in which nobody is, as this thread runs.
        let call = Call { number: 0, arguments: [0; 6], sp: 0, pc: 0 };
        let wait = |far_ends: &[u64]| Wait {
            pid: std::process::id(),
            tid: own,
            call,
            sockets: Vec::new(),
            far_ends: far_ends.to_vec(),
        };
        assert_eq!(wait(&[11]).backend(&owners), None, "it has gone on");
        assert_eq!(wait(&[11, 12, 99]).only(&owners), Some(1));
        assert_eq!(wait(&[11, 21]).only(&owners), None);
        assert_eq!(wait(&[99]).only(&owners), None);
    }

    proptest! {
        /// Any bytes: as many descriptors as there are whole entries at most, none of them negative.
        #[test]
        fn any_bytes_are_descriptors(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let found = parse_polled(&bytes);
            prop_assert!(found.len() <= bytes.len() / POLLFD_BYTES);
            prop_assert!(found.iter().all(|number| i32::try_from(*number).is_ok()));
        }
    }
}
