//! Threads that have ended, and which of them a request began: what they did is why its own thread waited.

use std::collections::VecDeque;

/// A thread's life, from when it was made by another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// Its process.
    pub pid: u32,
    /// Itself.
    pub tid: u32,
    /// What the kernel called it.
    pub name: String,
    /// The thread that made it.
    pub parent_tid: u32,
    /// When it was made, `CLOCK_MONOTONIC`.
    pub born_ns: u64,
    /// When it was gone, on the same clock.
    pub died_ns: u64,
}

/// Lives remembered, 80 bytes each and the name.
const MAX_LIVES: usize = 8192;
/// Of them, those that one request may have begun; further ones are not told.
const MAX_FAMILY: usize = 64;

/// The threads that ended last, in the order of their ends.
#[derive(Debug, Default)]
pub struct Lives {
    ended: VecDeque<Life>,
}

impl Lives {
    /// A thread has ended.
    pub fn push(&mut self, life: Life) {
        if self.ended.len() >= MAX_LIVES {
            self.ended.pop_front();
        }
        self.ended.push_back(life);
    }

    /// The threads that `tid` made between `from_ns` and `to_ns`, those that they made in turn, and so on, as far as all
    /// of them have ended: one that lives on, as in a pool, may work for others. Oldest first.
    pub fn begun_by(&self, (pid, tid): (u32, u32), from_ns: u64, to_ns: u64) -> Vec<&Life> {
        let recent = self.ended.iter().rev().take_while(|life| life.died_ns >= from_ns);
        let mut candidates: Vec<&Life> =
            recent.filter(|life| life.pid == pid && (from_ns..=to_ns).contains(&life.born_ns)).collect();
        // A parent is older than its children.
        candidates.sort_by_key(|life| life.born_ns);
        let mut family: Vec<&Life> = Vec::new();
        for life in candidates {
            let is_child = |parent: &&Life| {
                parent.tid == life.parent_tid && (parent.born_ns..=parent.died_ns).contains(&life.born_ns)
            };
            if family.len() < MAX_FAMILY && (life.parent_tid == tid || family.iter().any(is_child)) {
                family.push(life);
            }
        }
        family
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(tid: u32, parent_tid: u32, born_ns: u64, died_ns: u64) -> Life {
        Life { pid: 1, tid, name: "t".to_owned(), parent_tid, born_ns, died_ns }
    }

    fn begun(lives: &Lives, tid: u32, from_ns: u64, to_ns: u64) -> Vec<u32> {
        lives.begun_by((1, tid), from_ns, to_ns).iter().map(|life| life.tid).collect()
    }

    /// Children and theirs, made in the time asked for; not those of others, nor of an earlier bearer of a number.
    #[test]
    fn family_is_found() {
        let mut lives = Lives::default();
        for life in [
            life(7, 1, 10, 20),   // before
            life(11, 10, 40, 50), // a child's child
            life(10, 1, 30, 60),
            life(12, 9, 35, 61),  // another's
            life(13, 11, 70, 80), // 11 had ended by then
            Life { pid: 2, ..life(14, 1, 32, 81) },
            life(15, 1, 90, 95), // after
        ] {
            lives.push(life);
        }
        assert_eq!(begun(&lives, 1, 25, 85), [10, 11]);
        assert_eq!(begun(&lives, 1, 0, 22), [7]);
        assert!(begun(&lives, 2, 0, 100).is_empty());
    }

    /// Lives and families are bounded; the oldest are forgotten.
    #[test]
    fn room_is_bounded() {
        let mut lives = Lives::default();
        (0..MAX_LIVES as u32 + 5).for_each(|n| lives.push(life(n + 2, 1, u64::from(n), u64::from(n))));
        assert_eq!(lives.ended.len(), MAX_LIVES);
        assert_eq!(begun(&lives, 1, 0, u64::MAX).len(), MAX_FAMILY);
        assert_eq!(begun(&lives, 1, 0, 6), [7, 8]);
    }
}
