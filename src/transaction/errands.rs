//! Work that coroutines gave to threads of pools, called errands, and which of it was for a request: why that waited.
//!
//! An errand is known when it is done, and certain then. Where a pool's threads take from one queue, one may take what another
//! was woken for; so what was put into the queue is held against what was worked at.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// An errand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errand {
    /// Its process.
    pub pid: u32,
    /// The thread of the pool.
    pub tid: u32,
    /// The thread whose coroutine gave it.
    pub giver_tid: u32,
    /// That coroutine, named by an address that others get when it is gone.
    pub coroutine: u64,
    /// When the pool's thread was woken for it, `CLOCK_MONOTONIC`.
    pub from_ns: u64,
    /// When it had done it, on the same clock.
    pub to_ns: u64,
}

/// What may have been put into a queue: addresses of objects that the giver had in its hands, among them the [`Item`].
pub type Candidates = [u64; 8];

/// What a thread took from a queue, by the addresses of two objects: the item, and what its result is put into. One alone may be
/// another one's by then: what was taken by a third thread and is done has left its place to others.
pub type Item = [u64; 2];

/// Errands under way, each of a thread, 120 bytes; further ones are not told.
const MAX_OPEN: usize = 8192;
/// Errands remembered, 40 bytes each: of some seconds of the busiest service that was seen. The oldest give way.
const MAX_DONE: usize = 1 << 15;
/// Of them, those that one request may have given; further ones, its first, are not told.
const MAX_GIVEN: usize = 256;
/// Processes of which it is known when they gave what is forgotten: as many as are watched at once. What further ones gave may
/// have been anybody's request.
const MAX_FORGETFUL: usize = 8192;
/// Stands for all of them; it is no process.
const ANYBODY: u32 = 0;

/// All of them.
#[derive(Debug, Default)]
pub struct Errands {
    /// By process and thread; `None`: the thread has a queue of its own.
    open: BTreeMap<(u32, u32), (Errand, Option<Candidates>)>,
    /// In the order of their ends.
    done: VecDeque<Errand>,
    /// By process, when it gave the last one that is forgotten.
    forgotten_ns: HashMap<u32, u64>,
    /// What was not told.
    pub losses: ErrandLosses,
}

/// What of errands was not told to who asked, or never will be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrandLosses {
    /// Errands: too many were under way, or of one request.
    pub errands: u64,
    /// Requests that were asked for when some were forgotten that may have been theirs.
    pub requests: u64,
}

impl Errands {
    /// A thread that waits for work is woken by who gives it `errand`, as one of `candidates` unless its queue is its own. The
    /// end of an earlier one was not seen: when that was is not known.
    pub fn give(&mut self, errand: Errand, candidates: Option<Candidates>) {
        let key = (errand.pid, errand.tid);
        if self.open.len() < MAX_OPEN || self.open.contains_key(&key) {
            self.open.insert(key, (errand, candidates));
        } else {
            self.losses.errands += 1;
        }
    }

    /// A thread has done what it worked at: `item`, where its queue is not its own. Who was woken for that has got something
    /// else, or nothing.
    pub fn finish(&mut self, pid: u32, tid: u32, item: Option<Item>, time_ns: u64) {
        let done = self.open.remove(&(pid, tid));
        if let Some([item, _]) = item {
            let others = self.open.range((pid, 0)..=(pid, u32::MAX));
            let is_void = |candidates: &Option<Candidates>| candidates.is_some_and(|of| of.contains(&item));
            let void = others.filter(|(_, (_, candidates))| is_void(candidates)).map(|(key, _)| *key);
            for key in Vec::from_iter(void) {
                self.open.remove(&key);
            }
        }
        let Some((errand, candidates)) = done else { return };
        let is_it = match (candidates, item) {
            (None, None) => true,
            (Some(candidates), Some(item)) => item.iter().all(|one| *one != 0 && candidates.contains(one)),
            _ => false,
        };
        if !is_it {
            return;
        }
        if self.done.len() >= MAX_DONE {
            self.forget_oldest();
        }
        self.done.push_back(Errand { to_ns: time_ns, ..errand });
    }

    fn forget_oldest(&mut self) {
        let Some(Errand { pid, from_ns, .. }) = self.done.pop_front() else { return };
        let has_room = self.forgotten_ns.len() < MAX_FORGETFUL || self.forgotten_ns.contains_key(&pid);
        let last_ns = self.forgotten_ns.entry(if has_room { pid } else { ANYBODY }).or_default();
        *last_ns = from_ns.max(*last_ns);
    }

    /// A thread is gone.
    pub fn forget(&mut self, pid: u32, tid: u32) {
        self.open.remove(&(pid, tid));
    }

    /// A process is gone.
    pub fn bury(&mut self, pid: u32) {
        self.open.retain(|(of, _), _| *of != pid);
    }

    /// What thread `tid` gave between `from_ns` and `to_ns` for a request and was done by then, by `coroutine` alone where there
    /// is one: what the request did not wait for may not be its own. Later ones first; what is missing is counted.
    pub fn given_by(
        &mut self,
        (pid, tid): (u32, u32),
        coroutine: Option<u64>,
        from_ns: u64,
        to_ns: u64,
    ) -> Vec<Errand> {
        let recent = self.done.iter().rev().take_while(|errand| errand.to_ns >= from_ns);
        let mut own = recent.filter(|errand| {
            (errand.pid, errand.giver_tid) == (pid, tid)
                && coroutine.is_none_or(|coroutine| errand.coroutine == coroutine)
                && errand.from_ns >= from_ns
                && errand.to_ns <= to_ns
        });
        let given = own.by_ref().take(MAX_GIVEN).copied().collect();
        self.losses.errands += own.count() as u64;
        let mut forgotten = [pid, ANYBODY].into_iter().filter_map(|of| self.forgotten_ns.get(&of));
        self.losses.requests += u64::from(forgotten.any(|last_ns| *last_ns >= from_ns));
        given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: Option<Candidates> = Some([10, 20, 30, 0, 0, 0, 0, 0]);

    fn errand(tid: u32, coroutine: u64, from_ns: u64) -> Errand {
        Errand { pid: 1, tid, giver_tid: 5, coroutine, from_ns, to_ns: 0 }
    }

    fn given(errands: &mut Errands, coroutine: Option<u64>, from_ns: u64, to_ns: u64) -> Vec<(u32, u64)> {
        let given = errands.given_by((1, 5), coroutine, from_ns, to_ns);
        given.iter().map(|errand| (errand.tid, errand.to_ns)).collect()
    }

    /// Those of a coroutine, or of all of its thread, that began and ended in the time asked for; not what is under way.
    #[test]
    fn errands_are_found_by_who_gave_them() {
        let mut errands = Errands::default();
        for (tid, coroutine, from_ns) in [(11, 7, 100), (12, 8, 110), (13, 7, 120), (14, 7, 50)] {
            errands.give(errand(tid, coroutine, from_ns), None);
        }
        errands.give(Errand { giver_tid: 6, ..errand(15, 7, 130) }, None);
        for (tid, to_ns) in [(14, 105), (15, 140), (11, 150), (12, 160)] {
            errands.finish(1, tid, None, to_ns);
        }
        assert_eq!(given(&mut errands, Some(7), 90, 200), [(11, 150)]);
        assert_eq!(given(&mut errands, None, 90, 200), [(12, 160), (11, 150)]);
        assert_eq!(given(&mut errands, None, 0, 149), [(14, 105)]);
        assert_eq!(given(&mut errands, None, 0, 150), [(11, 150), (14, 105)]);
        errands.finish(1, 13, None, 170);
        assert_eq!(given(&mut errands, Some(7), 90, 200), [(13, 170), (11, 150)]);
        assert!(errands.given_by((2, 5), None, 0, 200).is_empty());
    }

    /// Of a shared queue, what was worked at must be what was put into it, and so its result: else another thread has taken it,
    /// and what this one did is not known, up to its next errand.
    #[test]
    fn what_another_thread_took_is_not_told() {
        let mut errands = Errands::default();
        for (from_ns, items, item) in [
            (100, ITEMS, Some([20, 10])),
            (200, ITEMS, Some([21, 10])),
            (300, ITEMS, Some([20, 11])),
            (400, ITEMS, Some([0, 10])), // not read
            (500, ITEMS, None),
            (600, None, Some([20, 10])),
        ] {
            errands.give(errand(11, 7, from_ns), items);
            errands.finish(1, 11, item, from_ns + 50);
            errands.finish(1, 11, Some([20, 10]), from_ns + 60);
        }
        assert_eq!(given(&mut errands, None, 0, 900), [(11, 150)]);
    }

    /// What another thread of the process has done is no errand of who was woken for it, though what it does next has the
    /// same place in memory; one of another process is.
    #[test]
    fn what_another_thread_did_is_not_told() {
        let mut errands = Errands::default();
        errands.give(errand(11, 7, 100), ITEMS);
        errands.give(Errand { pid: 2, ..errand(11, 7, 100) }, ITEMS);
        errands.finish(1, 12, Some([20, 10]), 150);
        for pid in [1, 2] {
            errands.finish(pid, 11, Some([20, 10]), 200);
        }
        assert!(given(&mut errands, None, 0, 900).is_empty());
        assert_eq!(errands.given_by((2, 5), None, 0, 900).len(), 1);
    }

    /// One whose end was not seen, of a thread that is gone, or of a process, is not told.
    #[test]
    fn errands_without_an_end_are_not_told() {
        let mut errands = Errands::default();
        let lose: [fn(&mut Errands); 3] = [
            |errands| errands.give(errand(11, 8, 200), None),
            |errands| errands.forget(1, 11),
            |errands| errands.bury(1),
        ];
        for lose in lose {
            errands.give(errand(11, 7, 100), None);
            lose(&mut errands);
            errands.finish(1, 11, None, 300);
        }
        assert!(given(&mut errands, Some(7), 0, 900).is_empty());
        assert_eq!(given(&mut errands, Some(8), 0, 900), [(11, 300)]);
    }

    /// Errands are bounded, those under way, those that are done, and those of a request; the oldest are forgotten. What is
    /// missing is counted: errands as such, and a request once it asks for what may be forgotten.
    #[test]
    fn room_is_bounded_and_what_finds_none_is_counted() {
        let mut errands = Errands::default();
        (0..MAX_OPEN as u32 + 5).for_each(|n| errands.give(errand(n, 7, 1), None));
        assert_eq!((errands.open.len(), errands.losses.errands), (MAX_OPEN, 5));
        for n in 0..MAX_DONE as u64 + 5 {
            errands.give(errand(1, 7, n), None);
            errands.finish(1, 1, None, n);
        }
        assert_eq!((errands.done.len(), errands.losses.requests), (MAX_DONE, 0));
        assert!(given(&mut errands, None, 0, 4).is_empty());
        assert_eq!(errands.losses, ErrandLosses { errands: 5, requests: 1 });
        assert_eq!(given(&mut errands, None, 5, u64::MAX).len(), MAX_GIVEN);
        let further = (MAX_DONE - MAX_GIVEN) as u64;
        assert_eq!(errands.losses, ErrandLosses { errands: 5 + further, requests: 1 });
    }

    /// What other processes gave and is forgotten is missing to nobody, nor is what was given before a request began; of more
    /// processes than can be told apart, it may be anybody's.
    #[test]
    fn what_others_gave_is_not_missing() {
        let mut errands = Errands::default();
        let give = |errands: &mut Errands, pid: u32, time_ns: u64| {
            errands.give(Errand { pid, ..errand(11, 7, time_ns) }, None);
            errands.finish(pid, 11, None, time_ns + 1);
        };
        (0..MAX_DONE as u64 + 10).for_each(|n| give(&mut errands, 2, n));
        let missing = |errands: &mut Errands, pid: u32, from_ns: u64| {
            let before = errands.losses.requests;
            let _told = errands.given_by((pid, 5), None, from_ns, u64::MAX);
            errands.losses.requests - before
        };
        for (pid, from_ns, expected) in [(1, 0, 0), (2, 0, 1), (2, 9, 1), (2, 10, 0)] {
            assert_eq!(missing(&mut errands, pid, from_ns), expected, "{pid} {from_ns}");
        }
        // Its requests may still wait to be judged.
        errands.bury(2);
        assert_eq!(missing(&mut errands, 2, 0), 1);
        let pids = 3..MAX_FORGETFUL as u32 + 4;
        for pid in pids.chain(std::iter::repeat_n(3, MAX_DONE)) {
            give(&mut errands, pid, 1 << 20);
        }
        assert_eq!(errands.forgotten_ns.len(), MAX_FORGETFUL + 1);
        assert_eq!([0, 1 << 21].map(|from_ns| missing(&mut errands, 1, from_ns)), [1, 0]);
    }
}
