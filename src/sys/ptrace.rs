//! Stopping one thread of another process for a moment.
//!
//! ```text
//! seize ──► interrupt ──► wait (bounded) ──► registers, memory ──► detach
//! ```
//!
//! A thread is seized anew for each stop and let go at its end: between stops
//! its signals are delivered without us, and a debugger finds its place free.
//! Whoever dies as a tracer, by SIGKILL too, lets go of all its threads: the
//! kernel detaches them and lets them run (`exit_ptrace`, `kernel/ptrace.c`).
//!
//! A thread that does not stop in time, because it waits where nothing may
//! disturb it, cannot be let go at once: that needs it to be stopped. It stays
//! seized, runs on, and is let go as soon as it did stop.

use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::Pid;

use crate::model::Stops;
use crate::{Error, ErrorKind, Result};

/// General registers of a stopped thread, in the order of DWARF's numbers (rax, rdx, rcx, rbx, rsi,
/// rdi, rbp, rsp, r8 … r15), and what else tells where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserRegisters {
    /// The sixteen.
    pub general: [u64; 16],
    /// The next instruction.
    pub pc: u64,
    /// The thread pointer.
    pub fs_base: u64,
    /// The code segment: 0x33 for 64-bit code.
    pub code_segment: u64,
}

/// Stops threads. Not `Send`: a tracer is a thread.
#[derive(Debug)]
pub struct Stopper {
    /// Seized and told to stop, but not stopped in time.
    late: Vec<Pid>,
    /// The signal mask before; SIGCHLD, which tells that a thread stopped, is waited for instead of delivered.
    mask: SigSet,
    /// How long threads were held, from the request to stop on, so a little less: how often, all together, the longest.
    pub stops: Stops,
    /// Threads that did not stop in time.
    pub late_count: u64,
    not_send: PhantomData<*const ()>,
}

/// A stopped thread; dropping this lets it go.
#[derive(Debug)]
pub struct Stopped<'a> {
    stopper: &'a mut Stopper,
    tid: Pid,
    /// The signal that it was about to be given, 0 if none.
    signal: i32,
    since: Instant,
}

/// How a wait for a thread ended.
enum Waited {
    Stopped { signal: i32 },
    Gone,
    NotYet,
}

impl Stopper {
    /// Nothing is stopped yet.
    pub fn new() -> Result<Self> {
        let mut child = SigSet::empty();
        child.add(Signal::SIGCHLD);
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&child), Some(&mut mask))
            .map_err(|errno| Error::from_io("failed to block SIGCHLD", errno.into()))?;
        prefer_this_thread();
        Ok(Self { late: Vec::new(), mask, stops: Stops::default(), late_count: 0, not_send: PhantomData })
    }

    /// Stops thread `tid`, waiting at most `limit` for it. `None`: it did not stop in time, or ended.
    /// Fails where tracing it is not permitted or somebody else does so already.
    pub fn stop(&mut self, tid: u32, limit: Duration) -> Result<Option<Stopped<'_>>> {
        let tid = Pid::from_raw(tid.cast_signed());
        if self.late.contains(&tid) {
            return Ok(None);
        }
        match ptrace::seize(tid, ptrace::Options::empty()) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(refusal(tid, errno)),
        }
        let since = Instant::now();
        // A thread that ended just now needs no interruption.
        let _gone = ptrace::interrupt(tid);
        match wait_until(tid, since + limit) {
            Waited::Stopped { signal } => Ok(Some(Stopped { stopper: self, tid, signal, since })),
            Waited::Gone => Ok(None),
            Waited::NotYet => {
                self.late.push(tid);
                self.late_count += 1;
                Ok(None)
            }
        }
    }

    /// Lets go of threads that stopped later than they were waited for.
    pub fn settle(&mut self) {
        self.late.retain(|tid| match wait_once(*tid) {
            Waited::Stopped { signal } => {
                detach(*tid, signal);
                false
            }
            Waited::Gone => false,
            Waited::NotYet => true,
        });
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        /// What threads that are late are given to stop at last. The kernel lets go of the rest
        /// when this program ends.
        const LAST_WAIT: Duration = Duration::from_millis(20);
        let deadline = Instant::now() + LAST_WAIT;
        for tid in std::mem::take(&mut self.late) {
            if let Waited::Stopped { signal } = wait_until(tid, deadline) {
                detach(tid, signal);
            }
        }
        let _best_effort = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

impl Stopped<'_> {
    /// The registers that it had in user mode: in a system call, those of its entry.
    pub fn registers(&self) -> Result<UserRegisters> {
        let read = ptrace::getregs(self.tid).map_err(|errno| {
            Error::from_io(format!("failed to read the registers of thread {}", self.tid), errno.into())
        })?;
        Ok(UserRegisters {
            general: [
                read.rax, read.rdx, read.rcx, read.rbx, read.rsi, read.rdi, read.rbp, read.rsp, read.r8,
                read.r9, read.r10, read.r11, read.r12, read.r13, read.r14, read.r15,
            ],
            pc: read.rip,
            fs_base: read.fs_base,
            code_segment: read.cs,
        })
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        detach(self.tid, self.signal);
        let held_ns = u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let stops = &mut self.stopper.stops;
        stops.count += 1;
        stops.total_ns = stops.total_ns.saturating_add(held_ns);
        stops.longest_ns = stops.longest_ns.max(held_ns);
    }
}

/// While we wait for a CPU, what we hold waits too: where it is permitted, this thread goes first.
fn prefer_this_thread() {
    // SAFETY: takes numbers only; 0 is the calling thread. Ordinary users are refused, which is as well.
    let _best_effort = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
}

/// Lets a stopped thread go, with the signal that it was about to be given.
fn detach(tid: Pid, signal: i32) {
    // SAFETY: takes numbers only. A thread that was killed meanwhile is gone, which is as well.
    let _gone = unsafe {
        libc::ptrace(
            libc::PTRACE_DETACH,
            tid.as_raw(),
            std::ptr::null_mut::<libc::c_void>(),
            signal as usize as *mut libc::c_void,
        )
    };
}

fn wait_until(tid: Pid, deadline: Instant) -> Waited {
    loop {
        match wait_once(tid) {
            Waited::NotYet => {}
            over => return over,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Waited::NotYet;
        }
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let time = libc::timespec { tv_sec: 0, tv_nsec: left.as_nanos().min(999_999_999) as i64 };
        // SAFETY: both pointers are valid for the call; what is told of the signal is not wanted.
        let _signal_or_timeout = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &time) };
    }
}

fn wait_once(tid: Pid) -> Waited {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let answer = unsafe { libc::waitpid(tid.as_raw(), &mut status, libc::__WALL | libc::WNOHANG) };
    if answer == 0 {
        return Waited::NotYet;
    }
    if answer < 0 || !libc::WIFSTOPPED(status) {
        return Waited::Gone;
    }
    // The event of an interruption, or of a stop of the whole process, which goes on by itself.
    let is_event = status >> 16 == libc::PTRACE_EVENT_STOP;
    Waited::Stopped { signal: if is_event { 0 } else { libc::WSTOPSIG(status) } }
}

/// Why thread `tid` cannot be seized.
fn refusal(tid: Pid, errno: Errno) -> Error {
    let message = format!("failed to stop thread {tid}");
    let error = Error::from_io(message, errno.into());
    if errno != Errno::EPERM {
        return error;
    }
    let tracer = tracer_of(tid);
    match tracer {
        Some(tracer) => Error::new(ErrorKind::PermissionDenied, format!("process {tracer} traces thread {tid} already"))
            .with_hint("end the debugger or strace that is attached; `txprof record --backend ebpf` needs no stop"),
        None => error.with_hint(
            "run txprof as the process's owner or as root; in a container start it with `--cap-add SYS_PTRACE`; \
             where Yama forbids it: sudo sysctl kernel.yama.ptrace_scope=0",
        ),
    }
}

fn tracer_of(tid: Pid) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let tracer = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    Some(tracer).filter(|tracer| *tracer != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A child that sleeps in its own program.
    fn sleeper() -> Child {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep exists");
        let sleeps = || {
            std::fs::read_to_string(format!("/proc/{}/wchan", child.id()))
                .is_ok_and(|text| text.contains("sleep"))
        };
        while !sleeps() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child
    }

    fn state(pid: u32) -> char {
        crate::target::procfs::read_stat(pid).expect("it lives").state
    }

    /// A child is stopped, its registers are those of 64-bit code, and it runs on; a second tracer is told who the first is.
    #[test]
    fn child_is_stopped_and_let_go() {
        let mut child = sleeper();
        let mut stopper = Stopper::new().expect("SIGCHLD can be blocked");
        for _ in 0..3 {
            let stopped = stopper.stop(child.id(), Duration::from_secs(2));
            let stopped = stopped.expect("own child").expect("it stops");
            let registers = stopped.registers().expect("it is stopped");
            assert_eq!((registers.code_segment, registers.fs_base != 0), (0x33, true));
            assert_eq!(state(child.id()), 't');
            drop(stopped);
            assert_ne!(state(child.id()), 't');
        }
        assert!(stopper.stops.count == 3 && stopper.stops.longest_ns > 0);
        child.kill().expect("it lives");
        child.wait().expect("it was killed");
        assert!(stopper.stop(child.id(), Duration::ZERO).expect("gone is no failure").is_none());
    }
}
