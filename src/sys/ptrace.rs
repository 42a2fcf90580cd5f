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

use super::precedence::{Precedence, Turn};
use super::rights::StopFacts;
use crate::model::Stops;
use crate::{Error, Result};

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
    late: Vec<Asked>,
    /// The signal mask before; SIGCHLD, which tells that a thread stopped, is waited for instead of delivered.
    mask: SigSet,
    /// How long threads were held, from when they were seen last not to have stopped, our own waiting for a CPU
    /// included: how often, all together, the longest.
    pub stops: Stops,
    /// Threads that did not stop in time.
    pub late_count: u64,
    turn: Turn,
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
    _precedence: Precedence,
}

/// A thread that was told to stop.
#[derive(Clone, Copy, Debug)]
struct Asked {
    tid: Pid,
    /// When it had not stopped yet.
    unstopped: Instant,
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
        Ok(Self {
            late: Vec::new(),
            mask,
            stops: Stops::default(),
            late_count: 0,
            turn: Turn::of_this_thread(),
            not_send: PhantomData,
        })
    }

    /// Stops thread `tid`, waiting at most `limit` for it. `None`: it did not stop in time, or ended.
    /// Fails where tracing it is not permitted or somebody else does so already.
    pub fn stop(&mut self, tid: u32, limit: Duration) -> Result<Option<Stopped<'_>>> {
        let tid = Pid::from_raw(tid.cast_signed());
        if self.late.iter().any(|late| late.tid == tid) {
            return Ok(None);
        }
        let precedence = self.turn.take_precedence();
        match ptrace::seize(tid, ptrace::Options::empty()) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(None),
            Err(Errno::EPERM) => {
                let number = tid.as_raw().cast_unsigned();
                return StopFacts::gather(number).map_or(Ok(None), |facts| Err(facts.explain(number)));
            }
            Err(errno) => return Err(Error::from_io(format!("failed to stop thread {tid}"), errno.into())),
        }
        let now = Instant::now();
        let mut asked = Asked { tid, unstopped: now };
        // A thread that ended just now needs no interruption.
        let _gone = ptrace::interrupt(tid);
        match self.wait_until(&mut asked, now + limit) {
            Waited::Stopped { signal } => {
                let since = asked.unstopped;
                Ok(Some(Stopped { stopper: self, tid, signal, since, _precedence: precedence }))
            }
            Waited::Gone => Ok(None),
            Waited::NotYet => {
                self.late.push(asked);
                self.late_count += 1;
                Ok(None)
            }
        }
    }

    fn wait_until(&self, asked: &mut Asked, deadline: Instant) -> Waited {
        loop {
            match asked.wait_once() {
                Waited::NotYet => {}
                over => return over,
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::NotYet;
            }
            asked.unstopped = self.sleep(left).max(asked.unstopped);
        }
    }

    /// Sleeps until a thread stops, for `limit` at most. Returns when it was over; since then we may have waited for
    /// a CPU. Where the kernel does not tell that, returns when it began.
    fn sleep(&self, limit: Duration) -> Instant {
        let mut set = SigSet::empty();
        set.add(Signal::SIGCHLD);
        let time = libc::timespec { tv_sec: 0, tv_nsec: limit.as_nanos().min(999_999_999) as i64 };
        let (began, delay) = (Instant::now(), self.turn.delay());
        // SAFETY: both pointers are valid for the call; what is told of the signal is not wanted.
        let _signal_or_timeout = unsafe { libc::sigtimedwait(set.as_ref(), std::ptr::null_mut(), &time) };
        let now = Instant::now();
        let waited = self.turn.delay().zip(delay).and_then(|(after, before)| after.checked_sub(before));
        waited.and_then(|waited| now.checked_sub(waited)).unwrap_or(began)
    }

    /// Lets go of threads that stopped later than they were waited for, as they do, for `limit` at most or until
    /// there is none.
    pub fn settle(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let _precedence = (!self.late.is_empty()).then(|| self.turn.take_precedence());
        loop {
            let Self { late, stops, .. } = self;
            late.retain_mut(|asked| match asked.wait_once() {
                Waited::Stopped { signal } => {
                    detach(asked.tid, signal);
                    stops.add(asked.unstopped.elapsed());
                    false
                }
                Waited::Gone => false,
                Waited::NotYet => true,
            });
            let left = deadline.saturating_duration_since(Instant::now());
            if self.late.is_empty() || left.is_zero() {
                return;
            }
            let woken = self.sleep(left);
            self.late.iter_mut().for_each(|asked| asked.unstopped = asked.unstopped.max(woken));
        }
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        /// What threads that are late are given to stop at last. The kernel lets go of the rest
        /// when this program ends.
        const LAST_WAIT: Duration = Duration::from_millis(20);
        self.settle(LAST_WAIT);
        let _best_effort = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

impl Stopped<'_> {
    /// When it stopped.
    pub fn since(&self) -> Instant {
        self.since
    }

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
        self.stopper.stops.add(self.since.elapsed());
    }
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

impl Asked {
    fn wait_once(&mut self) -> Waited {
        let (mut status, began) = (0, Instant::now());
        // SAFETY: `status` is a valid place for the answer.
        let answer = unsafe { libc::waitpid(self.tid.as_raw(), &mut status, libc::__WALL | libc::WNOHANG) };
        if answer == 0 {
            self.unstopped = began;
            return Waited::NotYet;
        }
        if answer < 0 || !libc::WIFSTOPPED(status) {
            return Waited::Gone;
        }
        // The event of an interruption, or of a stop of the whole process, which goes on by itself.
        let is_event = status >> 16 == libc::PTRACE_EVENT_STOP;
        Waited::Stopped { signal: if is_event { 0 } else { libc::WSTOPSIG(status) } }
    }
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
    /// A thread that stops too late is let go as soon as it does, and that is counted as any other stop.
    #[test]
    fn late_threads_are_let_go_at_once() {
        let mut child = sleeper();
        let mut stopper = Stopper::new().expect("SIGCHLD can be blocked");
        for _ in 0..100 {
            if stopper.stop(child.id(), Duration::ZERO).expect("own child").is_none() {
                break;
            }
        }
        let (late, before) = (stopper.late_count, stopper.stops);
        assert_eq!(late, 1, "no thread stops in no time");
        let began = Instant::now();
        stopper.settle(Duration::from_secs(10));
        assert!(began.elapsed() < Duration::from_secs(5), "it was waited for after it had stopped");
        assert_ne!(state(child.id()), 't');
        assert_eq!(stopper.stops.count, before.count + 1);
        child.kill().expect("it lives");
        child.wait().expect("it was killed");
    }
}
