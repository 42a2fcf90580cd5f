//! What a thread is about, as `/proc/PID/task/TID` tells it.

use super::{call, read_small, read_stat};
use crate::Result;
use crate::model::snapshot::Activity;

/// CPU time of a thread so far, in nanoseconds: the first number of `schedstat`. 0 where the kernel does not tell.
pub fn cpu_ns(tid: u32) -> u64 {
    let text = read_small(tid, "schedstat").unwrap_or_default();
    let first = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    std::str::from_utf8(first).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// How often it has left a CPU, of its own accord or not. `None` when it is gone.
pub fn switches(tid: u32) -> Option<u64> {
    let status = read_small(tid, "status").ok()?;
    let status = std::str::from_utf8(&status).ok()?;
    let count =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse::<u64>().ok();
    Some(count("voluntary_ctxt_switches:")? + count("nonvoluntary_ctxt_switches:")?)
}

/// What it is about now. Needs the right to trace it for the name of a system call.
pub fn activity(tid: u32) -> Result<Activity> {
    let state = read_stat(tid)?.state;
    let name = call(tid).map(|call| system_call(call.number));
    Ok(match (state, name) {
        ('R', _) => Activity::Running,
        ('D', name) => Activity::Uninterruptible(name.unwrap_or_else(|| "the kernel".to_owned())),
        ('T' | 't', _) => Activity::Stopped,
        ('Z' | 'X' | 'x', _) => Activity::Ended,
        (_, Some(name)) => Activity::Waiting(name),
        (_, None) => Activity::Asleep,
    })
}

/// The name of a system call of x86-64: those that a thread may wait in.
pub fn system_call(number: i64) -> String {
    let known = WAITING_CALLS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("system call {number}"), |(_, name)| (*name).to_owned())
}

const WAITING_CALLS: &[(i64, &str)] = &[
    (libc::SYS_accept, "accept"),
    (libc::SYS_accept4, "accept4"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep"),
    (libc::SYS_close, "close"),
    (libc::SYS_connect, "connect"),
    (libc::SYS_epoll_pwait, "epoll_pwait"),
    (libc::SYS_epoll_pwait2, "epoll_pwait2"),
    (libc::SYS_epoll_wait, "epoll_wait"),
    (libc::SYS_fallocate, "fallocate"),
    (libc::SYS_fcntl, "fcntl"),
    (libc::SYS_fdatasync, "fdatasync"),
    (libc::SYS_flock, "flock"),
    (libc::SYS_fsync, "fsync"),
    (libc::SYS_futex, "futex"),
    (libc::SYS_getdents64, "getdents64"),
    (libc::SYS_io_getevents, "io_getevents"),
    (libc::SYS_io_uring_enter, "io_uring_enter"),
    (libc::SYS_ioctl, "ioctl"),
    (libc::SYS_madvise, "madvise"),
    (libc::SYS_mq_timedreceive, "mq_timedreceive"),
    (libc::SYS_mq_timedsend, "mq_timedsend"),
    (libc::SYS_msgrcv, "msgrcv"),
    (libc::SYS_msgsnd, "msgsnd"),
    (libc::SYS_msync, "msync"),
    (libc::SYS_munmap, "munmap"),
    (libc::SYS_nanosleep, "nanosleep"),
    (libc::SYS_newfstatat, "newfstatat"),
    (libc::SYS_open, "open"),
    (libc::SYS_openat, "openat"),
    (libc::SYS_pause, "pause"),
    (libc::SYS_poll, "poll"),
    (libc::SYS_ppoll, "ppoll"),
    (libc::SYS_pread64, "pread64"),
    (libc::SYS_preadv, "preadv"),
    (libc::SYS_pselect6, "pselect6"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_pwritev, "pwritev"),
    (libc::SYS_read, "read"),
    (libc::SYS_readv, "readv"),
    (libc::SYS_recvfrom, "recvfrom"),
    (libc::SYS_recvmmsg, "recvmmsg"),
    (libc::SYS_recvmsg, "recvmsg"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_restart_syscall, "restart_syscall"),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait"),
    (libc::SYS_select, "select"),
    (libc::SYS_semop, "semop"),
    (libc::SYS_semtimedop, "semtimedop"),
    (libc::SYS_sendfile, "sendfile"),
    (libc::SYS_sendmmsg, "sendmmsg"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_sendto, "sendto"),
    (libc::SYS_splice, "splice"),
    (libc::SYS_sync, "sync"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_wait4, "wait4"),
    (libc::SYS_waitid, "waitid"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// This very thread runs, and has used CPU time; a child that sleeps waits in a call that has a name.
    #[test]
    fn running_and_waiting_are_told_apart() {
        let own = nix::unistd::gettid().as_raw().cast_unsigned();
        assert_eq!(activity(own).expect("it lives"), Activity::Running);
        assert!(cpu_ns(own) > 0);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep exists");
        let waits = |_: &u32| {
            activity(child.id()).is_ok_and(|now| now == Activity::Waiting("clock_nanosleep".to_owned()))
        };
        let waited = (0..200).find(|n| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            waits(n)
        });
        child.kill().expect("it lives");
        child.wait().expect("it was killed");
        assert!(waited.is_some());
    }
}
