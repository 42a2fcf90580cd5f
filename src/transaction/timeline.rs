//! What threads did of late: stacks, each with when and how long, in a ring of bounded size. A request that ends is
//! cut out of it; what no request wanted is overwritten.

use std::collections::{HashMap, VecDeque};

use crate::model::ThreadState;

/// What a [`Moment`]'s weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Nanoseconds that passed: a wait.
    Exact,
    /// Nanoseconds between two ticks: a sample of a running thread, to be weighed against the time that it ran.
    Tick,
    /// Parts of what the waits weigh for which this one stands.
    Share,
}

/// A stack of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment<S> {
    /// When it was seen, or the wait began, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What the thread was about.
    pub state: ThreadState,
    /// What `weight` is.
    pub measure: Measure,
    /// Its stack.
    pub stack: S,
    /// The outermost coroutine that ran there, named by an address that others get when it is gone.
    pub coroutine: Option<u64>,
    /// How many there were.
    pub count: u64,
    /// How much.
    pub weight: u64,
}

impl<S> Moment<S> {
    /// Whether it was over at `at_ns`, as far as is known: a thread that answers is no longer in a wait. One that waits
    /// right behind its answer may seem to have begun that right before, the scheduler's clock being known to a microsecond.
    pub fn is_over_by(&self, at_ns: u64) -> bool {
        self.measure != Measure::Exact || self.at_ns.saturating_add(self.weight) <= at_ns
    }
}

/// The moments of all threads, at most as many as `limit` bytes hold.
#[derive(Debug)]
pub struct Timeline<S> {
    threads: HashMap<u32, VecDeque<Moment<S>>>,
    /// The thread of each moment, oldest first.
    order: VecDeque<u32>,
    capacity: usize,
    /// Up to when moments were overwritten.
    forgotten_ns: u64,
}

/// Moments of one thread come in the order of their ends, not of their beginnings: behind so many that are older than
/// what is looked for, none is younger.
const DISORDER: usize = 64;

impl<S: Copy> Timeline<S> {
    /// One that holds moments in `limit` bytes.
    pub fn new(limit: usize) -> Self {
        let capacity = (limit / (size_of::<Moment<S>>() + size_of::<u32>())).max(1);
        Self { threads: HashMap::new(), order: VecDeque::new(), capacity, forgotten_ns: 0 }
    }

    /// Adds what thread `tid` did; the oldest moments give way.
    pub fn push(&mut self, tid: u32, moment: Moment<S>) {
        if self.order.len() >= self.capacity {
            self.forget();
        }
        self.threads.entry(tid).or_default().push_back(moment);
        self.order.push_back(tid);
    }

    fn forget(&mut self) {
        let Some(tid) = self.order.pop_front() else { return };
        let Some(moments) = self.threads.get_mut(&tid) else { return };
        if let Some(oldest) = moments.pop_front() {
            self.forgotten_ns = self.forgotten_ns.max(oldest.at_ns);
        }
        if moments.is_empty() {
            self.threads.remove(&tid);
        }
    }

    /// What thread `tid` did between `from_ns` and `to_ns`, in no particular order.
    pub fn between(&self, tid: u32, from_ns: u64, to_ns: u64) -> impl Iterator<Item = &Moment<S>> {
        let mut older = 0;
        let moments = self.threads.get(&tid).into_iter().flatten().rev();
        let recent = moments.take_while(move |moment| {
            older = if moment.at_ns < from_ns { older + 1 } else { 0 };
            older <= DISORDER
        });
        recent.filter(move |moment| (from_ns..=to_ns).contains(&moment.at_ns))
    }

    /// Whether what happened since `from_ns` is all there.
    pub fn reaches(&self, from_ns: u64) -> bool {
        self.forgotten_ns < from_ns
    }

    /// Forgets everything that has a stack for which `is_gone` holds.
    pub fn forget_stacks(&mut self, is_gone: impl Fn(&S) -> bool) {
        while let Some(tid) = self.order.front() {
            let oldest = self.threads.get(tid).and_then(VecDeque::front);
            if oldest.is_some_and(|moment| !is_gone(&moment.stack)) {
                break;
            }
            self.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_ns: u64, stack: u32) -> Moment<u32> {
        let (state, measure) = (ThreadState::Running, Measure::Tick);
        Moment { at_ns, state, measure, stack, coroutine: None, count: 1, weight: 1 }
    }

    fn stacks(timeline: &Timeline<u32>, tid: u32, from_ns: u64, to_ns: u64) -> Vec<u32> {
        let mut stacks: Vec<u32> = timeline.between(tid, from_ns, to_ns).map(|moment| moment.stack).collect();
        stacks.sort_unstable();
        stacks
    }

    /// A thread's moments are found by when they began, also where one that began earlier came later.
    #[test]
    fn moments_are_found_by_thread_and_time() {
        let mut timeline = Timeline::new(1 << 20);
        for (tid, at_ns, stack) in [(1, 10, 1), (2, 11, 2), (1, 30, 3), (1, 20, 4), (1, 41, 5)] {
            timeline.push(tid, moment(at_ns, stack));
        }
        assert_eq!(stacks(&timeline, 1, 20, 40), [3, 4]);
        assert_eq!(stacks(&timeline, 2, 0, 100), [2]);
        assert!(stacks(&timeline, 3, 0, 100).is_empty());
        assert!(timeline.reaches(1));
    }

    /// What a thread that answered at 20 waited for until 21 was not its answer.
    #[test]
    fn waits_that_last_are_not_over() {
        let wait = |at_ns, weight| Moment { measure: Measure::Exact, weight, ..moment(at_ns, 1) };
        assert!(wait(10, 10).is_over_by(20) && !wait(19, 2).is_over_by(20));
        assert!(Moment { weight: 9, ..moment(19, 1) }.is_over_by(20));
    }

    /// The oldest moments of all threads give way, and it is known since when all are there.
    #[test]
    fn room_is_bounded() {
        let mut timeline = Timeline::new(10 * (size_of::<Moment<u32>>() + 4));
        (0..100).for_each(|n| timeline.push(n % 3, moment(u64::from(n), n)));
        let kept: usize = (0..3).map(|tid| stacks(&timeline, tid, 0, 1000).len()).sum();
        assert_eq!((kept, timeline.threads.len()), (10, 3));
        assert!(!timeline.reaches(89) && timeline.reaches(90));
    }

    /// Stacks that have no frames any more go with their moments.
    #[test]
    fn moments_without_stacks_are_forgotten() {
        let mut timeline = Timeline::new(1 << 20);
        (0..9).for_each(|n| timeline.push(1, moment(u64::from(n), n)));
        timeline.forget_stacks(|stack| *stack < 5);
        assert_eq!(stacks(&timeline, 1, 0, 100), [5, 6, 7, 8]);
        assert!(!timeline.reaches(4) && timeline.reaches(5));
    }
}
