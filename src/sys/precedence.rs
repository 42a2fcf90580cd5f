//! This thread's turn among all that want a CPU.
//!
//! While we wait for a CPU, what we hold waits, too. So this thread is preferred as long as it lives, which makes it
//! catch threads at their time on a busy machine; and from the request to stop to the end of a stop it goes before all
//! ordinary threads. Either happens where it is permitted (CAP_SYS_NICE) and is left out elsewhere.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// How this thread was scheduled when it began, and how long it has waited since.
#[derive(Debug)]
pub struct Turn {
    own: Policy,
    /// `/proc/thread-self/schedstat` (Documentation/scheduler/sched-stats.rst): run time, waiting time, turns.
    account: Option<File>,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    policy: libc::c_int,
    priority: libc::c_int,
}

/// Going before all ordinary threads until it is dropped. Who holds it sleeps, or works for some milliseconds at
/// most, so that nobody starves; and the kernel holds back who does so for too long (`sched_rt_runtime_us`).
#[derive(Debug)]
#[must_use]
pub struct Precedence(Option<Policy>);

/// The calling thread, and those that it makes from now on, do not interrupt others as they wake up, but have their share of a
/// busy CPU all the same: `SCHED_BATCH`. One whose scheduling was chosen keeps it.
pub fn wait_for_others() {
    // SAFETY: 0 is the calling thread.
    if unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER {
        // Anyone may.
        let _best_effort = Policy { policy: libc::SCHED_BATCH, priority: 0 }.set();
    }
}

impl Turn {
    /// The calling thread's, which is preferred from now on.
    pub fn of_this_thread() -> Self {
        // SAFETY: takes numbers only; 0 is the calling thread. Ordinary users are refused, which is as well.
        let _best_effort = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
        let mut parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: `parameter` is a valid place for the answer; 0 is the calling thread.
        let (policy, _) = unsafe { (libc::sched_getscheduler(0), libc::sched_getparam(0, &mut parameter)) };
        let own = Policy { policy, priority: parameter.sched_priority };
        Self { own, account: File::open("/proc/thread-self/schedstat").ok() }
    }

    /// Goes first from here on. Who was given precedence of any kind already keeps that.
    pub fn take_precedence(&self) -> Precedence {
        let first = Policy { policy: libc::SCHED_FIFO, priority: 1 };
        let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE];
        Precedence((ordinary.contains(&self.own.policy) && first.set()).then_some(self.own))
    }

    /// How long the thread has waited for a CPU since it began; `None` where the kernel does not count that.
    pub fn delay(&self) -> Option<Duration> {
        let mut bytes = [0; 64];
        let count = self.account.as_ref()?.read_at(&mut bytes, 0).ok()?;
        parse_delay(std::str::from_utf8(bytes.get(..count)?).ok()?)
    }
}

/// The second number, nanoseconds. A thread that never ran is one of a kernel that does not count.
fn parse_delay(account: &str) -> Option<Duration> {
    let mut numbers = account.split_whitespace().map(str::parse::<u64>);
    let (run_ns, delay_ns) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (run_ns > 0).then(|| Duration::from_nanos(delay_ns))
}

impl Policy {
    fn set(self) -> bool {
        let parameter = libc::sched_param { sched_priority: self.priority };
        // SAFETY: `parameter` is valid for the call; 0 is the calling thread.
        unsafe { libc::sched_setscheduler(0, self.policy, &parameter) == 0 }
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        // The way back needs no permission.
        let _restored = self.0.map(Policy::set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: 0 is the calling thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    /// Precedence, where it is permitted, ends with its guard, and the preference stays.
    #[test]
    fn precedence_is_given_back() {
        std::thread::spawn(|| {
            let turn = Turn::of_this_thread();
            let before = policy();
            let precedence = turn.take_precedence();
            let is_permitted = policy() == libc::SCHED_FIFO;
            assert!(is_permitted || !nix::unistd::geteuid().is_root(), "root goes first");
            drop(precedence);
            assert_eq!(policy(), before);
            // SAFETY: 0 is the calling thread.
            let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
            assert_eq!(niceness == -20, is_permitted, "{niceness}");
        })
        .join()
        .expect("it ends");
    }

    /// Who waits for others does so with all threads that it makes, unless it was told to go first.
    #[test]
    fn threads_of_who_waits_do_so_too() {
        std::thread::spawn(|| {
            wait_for_others();
            assert_eq!(policy(), libc::SCHED_BATCH);
            let child = std::thread::spawn(policy).join().expect("it ends");
            assert_eq!(child, libc::SCHED_BATCH);
            let turn = Turn::of_this_thread();
            let precedence = turn.take_precedence();
            let first = policy();
            wait_for_others();
            assert_eq!(policy(), first);
            drop(precedence);
        })
        .join()
        .expect("it ends");
    }

    /// The waiting time is the second number, and only where the first says that anything is counted.
    #[test]
    fn delay_is_read_from_the_account() {
        assert_eq!(parse_delay("1234 56 7\n"), Some(Duration::from_nanos(56)));
        assert_eq!(parse_delay("0 0 0\n"), None);
        assert_eq!(parse_delay(""), None);
        assert!(Turn::of_this_thread().delay().is_some(), "this kernel counts");
    }
}
