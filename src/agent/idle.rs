//! Which waits are those of a thread that has nothing to do.
//!
//! ```text
//! loop ; get ; futex              home: between two pieces of work the thread comes back here
//! loop ; handle ; query ; poll    inside a piece of work
//! loop ; handle ; compute
//! ```
//!
//! The evidence is in the thread's own stacks. What a wait shares with any of its other stacks is what it
//! has been called from while it worked, too. Of waits for events, those that share least are the thread's home:
//! everything else that it does is below or beside. Waits there are idle, if it came back at least
//! once. A thread that never ran while it was watched was idle all the time.

use super::capture::{RawFrame, WaitFrame};
use crate::model::ThreadState;

/// System calls that wait for someone else to begin something. Not those that wait for what was asked for, as of a disk.
const WAITS_FOR_EVENTS: [i64; 27] = [
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_futex,
    libc::SYS_io_getevents,
    libc::SYS_mq_timedreceive,
    libc::SYS_msgrcv,
    libc::SYS_nanosleep,
    libc::SYS_pause,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_select,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_wait4,
    libc::SYS_waitid,
];

/// One stack of a thread.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// Root first.
    pub frames: Vec<RawFrame>,
    /// What the thread was about.
    pub state: ThreadState,
    /// How often.
    pub count: u64,
}

impl Observed {
    /// What stands below what a wait adds.
    fn user(&self) -> &[RawFrame] {
        let is_wait = |frame: &RawFrame| matches!(frame, RawFrame::Wait(_));
        let end = self.frames.iter().position(is_wait).unwrap_or(self.frames.len());
        &self.frames[..end]
    }

    fn waits_for_event(&self) -> bool {
        let call = self.frames.get(self.user().len());
        let Some(RawFrame::Wait(WaitFrame::Blocked(Some(call)))) = call else { return false };
        self.state == ThreadState::Blocked && WAITS_FOR_EVENTS.contains(&i64::from(*call))
    }
}

/// Which of a thread's stacks are idle, by index. `has_run`: it ran while it was watched.
pub(super) fn idle(stacks: &[Observed], has_run: bool) -> Vec<usize> {
    let events = (0..stacks.len()).filter(|index| stacks[*index].waits_for_event());
    if !has_run {
        return events.collect();
    }
    let mut users: Vec<&[RawFrame]> = stacks.iter().map(Observed::user).collect();
    users.sort_unstable();
    users.dedup();
    // Of sorted stacks, the one that shares most with another stands beside it.
    let shared_most = |user: &[RawFrame]| {
        let at = users.binary_search(&user).unwrap_or_else(|at| at);
        let before = at.checked_sub(1).and_then(|before| users.get(before));
        let beside = [before, users.get(at + 1)].into_iter().flatten();
        beside.map(|other| shared(user, other)).max().unwrap_or(0)
    };
    let candidates: Vec<(usize, usize)> =
        events.map(|index| (index, shared_most(stacks[index].user()))).collect();
    let Some(home) = candidates.iter().map(|(_, shared)| *shared).min() else { return Vec::new() };
    let comes_back = |index: usize| {
        let user = stacks[index].user();
        let here = stacks.iter().filter(|stack| stack.waits_for_event() && stack.user() == user);
        here.map(|stack| stack.count).sum::<u64>() >= 2
    };
    let at_home = candidates.into_iter().filter(|(index, shared)| *shared == home && comes_back(*index));
    at_home.map(|(index, _)| index).collect()
}

/// How many frames two stacks share from the root on.
fn shared(one: &[RawFrame], other: &[RawFrame]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Avma;

    /// `1 2 3 futex*7`: frames, root first, a call at the end for a wait, how often.
    fn stack(text: &str) -> Observed {
        let (path, count) = text.split_once('*').unwrap_or((text, "1"));
        let mut state = ThreadState::Running;
        let frames = path.split(' ').map(|word| {
            let call = match word {
                "futex" => libc::SYS_futex,
                "poll" => libc::SYS_poll,
                "fsync" => libc::SYS_fsync,
                number => return RawFrame::Kernel(Avma(number.parse().expect("a number"))),
            };
            state = ThreadState::Blocked;
            RawFrame::Wait(WaitFrame::Blocked(Some(call as u32)))
        });
        Observed { frames: frames.collect(), state, count: count.parse().expect("a number") }
    }

    fn idle_of(texts: &[&str], has_run: bool) -> Vec<usize> {
        let stacks: Vec<Observed> = texts.iter().map(|text| stack(text)).collect();
        idle(&stacks, has_run)
    }

    /// A worker is idle where it takes work, not where its work waits, however often.
    #[test]
    fn worker_is_idle_where_it_takes_work() {
        let worker = ["1 2 3 futex*9", "1 2 4 5 poll*90", "1 2 4 5 6", "1 2 4 7", "1 2 4 8 fsync*9"];
        assert_eq!(idle_of(&worker, true), [0]);
    }

    /// A wait that happened once is no place to come back to; a thread that never ran has done nothing else.
    #[test]
    fn single_wait_is_idle_only_without_work() {
        assert!(idle_of(&["1 2 3 futex", "1 2 4"], true).is_empty());
        assert_eq!(idle_of(&["1 2 3 futex"], false), [0]);
        assert!(idle_of(&["1 2 3 fsync"], false).is_empty());
        assert!(idle_of(&[], true).is_empty());
    }

    /// Both ways in which a home wait ends are home: its frames below are the same.
    #[test]
    fn home_has_several_leaves() {
        assert_eq!(idle_of(&["1 2 poll", "1 2 poll 9", "1 3 4"], true), [0, 1]);
    }
}
