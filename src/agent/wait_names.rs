//! What waits refer to: threads that end them or hold a lock, and what a
//! system call was for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::capture::{RawFrame, WaitFrame};
use super::thread_names::ThreadNames;
use crate::model::{Frame, FrameKind};
use crate::sys::wait_record::{WaitObject, WaitRecord};
use crate::target::procfs::{file_of_descriptor, system_call};

/// Threads and objects told apart; further ones have no name.
const MAX_NAMES: usize = 1 << 14;

/// Both, by number.
#[derive(Debug, Default)]
pub(super) struct WaitNames {
    threads: Vec<(u32, u32, String)>,
    thread_ids: HashMap<(u32, u32), u32>,
    objects: Vec<String>,
    object_ids: HashMap<String, u32>,
}

impl WaitNames {
    /// The number of a thread; `comm` is what the kernel calls it.
    pub(super) fn thread(&mut self, pid: u32, tid: u32, comm: &str) -> u32 {
        if let Some(id) = self.thread_ids.get(&(pid, tid)) {
            return *id;
        }
        if self.threads.len() >= MAX_NAMES {
            return MAX_NAMES as u32;
        }
        let id = self.threads.len() as u32;
        self.threads.push((pid, tid, comm.to_owned()));
        self.thread_ids.insert((pid, tid), id);
        id
    }

    /// The number of what a wait's system call was for, if that can be told.
    pub(super) fn object(&mut self, record: &WaitRecord<'_>) -> Option<u32> {
        let call = record.call.filter(|call| TAKES_DESCRIPTOR.contains(&i64::from(*call)))?;
        let text = object_text(&record.object, i64::from(call), || {
            file_of_descriptor(record.pid, record.argument, record.object.inode)
        })?;
        if let Some(id) = self.object_ids.get(&text) {
            return Some(*id);
        }
        if self.objects.len() >= MAX_NAMES {
            return None;
        }
        let id = self.objects.len() as u32;
        self.objects.push(text.clone());
        self.object_ids.insert(text, id);
        Some(id)
    }

    /// Threads get the names that Python gives them.
    pub(super) fn rename(&mut self, names: &ThreadNames) {
        self.threads.iter_mut().for_each(|thread| rename(thread, names));
    }

    /// The same for those that are in `frames`.
    pub(super) fn rename_those_in(&mut self, frames: impl Iterator<Item = RawFrame>, names: &ThreadNames) {
        let of_frame = |frame| if let RawFrame::Wait(wait) = frame { wait.thread() } else { None };
        for thread in frames.filter_map(of_frame) {
            if let Some(thread) = self.threads.get_mut(thread as usize) {
                rename(thread, names);
            }
        }
    }

    /// A frame that stands for a wait.
    pub(super) fn frame(&self, frame: WaitFrame) -> Frame {
        let (kind, text) = match frame {
            WaitFrame::Blocked(Some(call)) => {
                (FrameKind::Blocked, format!("[blocked: {}]", system_call(i64::from(call))))
            }
            WaitFrame::Blocked(None) => (FrameKind::Blocked, "[blocked: page fault or stop]".to_owned()),
            WaitFrame::Object(id) => {
                let text = self.objects.get(id as usize).map_or("?", String::as_str);
                (FrameKind::Blocked, format!("[{text}]"))
            }
            WaitFrame::Queue => (FrameKind::RunQueue, "[run queue]".to_owned()),
            WaitFrame::Gil => (FrameKind::Gil, "[waiting for the GIL]".to_owned()),
            WaitFrame::HeldBy(id) => (FrameKind::Gil, format!("[held by {}]", self.thread_text(id))),
            WaitFrame::HeldByUnknown => (FrameKind::Gil, "[held by unknown]".to_owned()),
            WaitFrame::WokenBy(id) => (FrameKind::Waker, format!("[woken by {}]", self.thread_text(id))),
            WaitFrame::WokenByInterrupt => (FrameKind::Waker, "[woken by an interrupt]".to_owned()),
            WaitFrame::Short => (FrameKind::Blocked, "[short waits]".to_owned()),
            WaitFrame::Unsampled => (FrameKind::Blocked, "[waits of which none was sampled]".to_owned()),
            WaitFrame::Bare => (FrameKind::Blocked, "[waits without a stack]".to_owned()),
            WaitFrame::Forgotten => (FrameKind::Marker, "[stacks that found no room]".to_owned()),
            WaitFrame::HandedOver => (FrameKind::Blocked, "[waiting for a thread to take it]".to_owned()),
            WaitFrame::WorkedBy(id) => (FrameKind::Waker, format!("[{} worked]", self.thread_text(id))),
            WaitFrame::LoopIdle => (FrameKind::Blocked, "[awaiting]".to_owned()),
            WaitFrame::LoopBusy => {
                (FrameKind::Blocked, "[awaiting, or its turn: its thread ran others]".to_owned())
            }
            WaitFrame::NobodyKnown => {
                (FrameKind::Marker, "[no thread is known to have worked for it]".to_owned())
            }
            WaitFrame::NotSampled => (FrameKind::Native, "[running, but never sampled]".to_owned()),
        };
        Frame::named(kind, text)
    }

    /// `worker (4121)`, or `worker (4121/4125)` for a thread other than its process's first.
    fn thread_text(&self, id: u32) -> String {
        match self.threads.get(id as usize) {
            Some((pid, tid, name)) if pid == tid => format!("{name} ({pid})"),
            Some((pid, tid, name)) => format!("{name} ({pid}/{tid})"),
            None => "another thread".to_owned(),
        }
    }
}

fn rename((pid, tid, name): &mut (u32, u32, String), names: &ThreadNames) {
    if let Some(found) = names.find(*pid, *tid).filter(|found| found != name) {
        found.clone_into(name);
    }
}

/// System calls that wait for the descriptor that is their first argument.
const TAKES_DESCRIPTOR: [i64; 27] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_ioctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a descriptor stands for, in words: `tcp 10.0.0.7:5432`, `a client of :8080`, `pipe`, `/var/lib/x`.
fn object_text(object: &WaitObject, call: i64, path: impl FnOnce() -> Option<String>) -> Option<String> {
    match u32::from(object.mode) {
        libc::S_IFSOCK => Some(socket_text(object, call)),
        libc::S_IFIFO => Some("pipe".to_owned()),
        libc::S_IFREG | libc::S_IFBLK | libc::S_IFCHR => path(),
        _ => None,
    }
}

fn socket_text(object: &WaitObject, call: i64) -> String {
    /// Where Linux takes ports from for those who do not ask for one, `ip_local_port_range`.
    const FIRST_EPHEMERAL: u16 = 32_768;
    let WaitObject { local_port, remote_port, address, .. } = *object;
    let host = match i32::from(object.family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = address;
            Ipv4Addr::new(a, b, c, d).to_string()
        }
        libc::AF_INET6 => match Ipv6Addr::from(address) {
            mapped if mapped.to_ipv4_mapped().is_some() => {
                mapped.to_ipv4_mapped().map(|address| address.to_string()).unwrap_or_default()
            }
            address => format!("[{address}]"),
        },
        libc::AF_UNIX => return "unix socket".to_owned(),
        _ => return "socket".to_owned(),
    };
    match (local_port, remote_port) {
        (0, 0) => "socket".to_owned(),
        (_, 0) if matches!(call, libc::SYS_accept | libc::SYS_accept4) => format!("clients of :{local_port}"),
        (_, 0) => format!("socket at :{local_port}"),
        // Thousands of these would be thousands of frames.
        _ if local_port < FIRST_EPHEMERAL && remote_port >= FIRST_EPHEMERAL => {
            format!("a client of :{local_port}")
        }
        _ => format!("{host}:{remote_port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(family: i32, address: [u8; 16], local_port: u16, remote_port: u16) -> WaitObject {
        WaitObject { inode: 1, address, local_port, remote_port, mode: 0o140_000, family: family as u16 }
    }

    /// Servers are told by address and port, clients by whom they are clients of, files by their path.
    #[test]
    fn objects_have_words() {
        let text = |object: &WaitObject, call| object_text(object, call, || Some("/x".to_owned()));
        let v4 = [10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1];
        let read = libc::SYS_read;
        for (object, call, expected) in [
            (socket(libc::AF_INET, v4, 40_000, 5432), read, "10.0.0.7:5432"),
            (socket(libc::AF_INET, v4, 8080, 40_000), read, "a client of :8080"),
            (socket(libc::AF_INET6, mapped, 40_000, 80), read, "127.0.0.1:80"),
            (socket(libc::AF_INET6, [1; 16], 40_000, 80), read, "[101:101:101:101:101:101:101:101]:80"),
            (socket(libc::AF_INET, [0; 16], 8080, 0), libc::SYS_accept4, "clients of :8080"),
            (socket(libc::AF_UNIX, [0; 16], 0, 0), read, "unix socket"),
            (WaitObject { mode: 0o10_000, ..WaitObject::default() }, read, "pipe"),
            (WaitObject { mode: 0o100_000, ..WaitObject::default() }, read, "/x"),
        ] {
            assert_eq!(text(&object, call).as_deref(), Some(expected));
        }
        assert_eq!(text(&WaitObject::default(), read), None);
    }
}
