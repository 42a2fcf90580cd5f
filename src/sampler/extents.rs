//! Who uses which part of a fixed array: first fit, freed parts rest before
//! they are used again, because the kernel may still be reading them.

use std::collections::{BTreeMap, VecDeque};

/// `[first, first + len)` of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// Index of the first element.
    pub first: u32,
    /// Number of elements, at least 1.
    pub len: u32,
}

/// An allocator of extents.
#[derive(Debug)]
pub struct Extents {
    /// Free parts by first index; never adjacent to one another.
    free: BTreeMap<u32, u32>,
    /// Freed parts, oldest first, with the tick in which they were freed.
    resting: VecDeque<(u64, Extent)>,
    tick: u64,
    in_use: u32,
}

/// Ticks that a freed extent rests. A walk that read the old place of a table
/// lasts microseconds and a fork event that still refers to it is drained with
/// the next tick; three ticks leave a whole one between the two.
const REST_TICKS: u64 = 3;

impl Extents {
    /// All of `[reserved, capacity)` is free.
    pub fn new(reserved: u32, capacity: u32) -> Self {
        let free = BTreeMap::from([(reserved, capacity.saturating_sub(reserved))]);
        Self { free, resting: VecDeque::new(), tick: 0, in_use: 0 }
    }

    /// `None` when no free part is long enough; resting parts do not count.
    pub fn allocate(&mut self, len: u32) -> Option<Extent> {
        let len = len.max(1);
        let (&first, &free_len) = self.free.iter().find(|(_, free_len)| **free_len >= len)?;
        self.free.remove(&first);
        if free_len > len {
            self.free.insert(first + len, free_len - len);
        }
        self.in_use += len;
        Some(Extent { first, len })
    }

    /// Gives `extent` back; it must come from [`Self::allocate`] and be given back once.
    pub fn free(&mut self, extent: Extent) {
        self.in_use = self.in_use.saturating_sub(extent.len);
        self.resting.push_back((self.tick, extent));
    }

    /// One drain of the ring is over: what has rested long enough can be used again.
    pub fn tick(&mut self) {
        self.tick += 1;
        while let Some((freed, extent)) = self.resting.front().copied() {
            if freed + REST_TICKS > self.tick {
                break;
            }
            self.resting.pop_front();
            self.insert_free(extent);
        }
    }

    /// Elements allocated now.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    fn insert_free(&mut self, extent: Extent) {
        let Extent { mut first, mut len } = extent;
        if let Some((&before, &before_len)) = self.free.range(..first).next_back()
            && before + before_len == first
        {
            self.free.remove(&before);
            (first, len) = (before, before_len + len);
        }
        if let Some(after_len) = self.free.remove(&(first + len)) {
            len += after_len;
        }
        self.free.insert(first, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Freed neighbours join, and only after their rest.
    #[test]
    fn freed_extents_rest_and_then_join() {
        let mut extents = Extents::new(2, 12);
        let [a, b] = [4, 6].map(|len| extents.allocate(len).expect("there is room"));
        assert_eq!((a.first, b.first), (2, 6));
        assert_eq!(extents.allocate(1), None);
        extents.free(a);
        extents.free(b);
        assert_eq!(extents.allocate(1), None, "still resting");
        (0..REST_TICKS).for_each(|_| extents.tick());
        assert_eq!(extents.in_use(), 0);
        assert_eq!(extents.allocate(10), Some(Extent { first: 2, len: 10 }));
    }

    proptest::proptest! {
        /// Whatever is allocated and freed, no two live extents overlap and all space comes back.
        #[test]
        fn live_extents_never_overlap(steps in proptest::collection::vec((1u32..20, proptest::bool::ANY), 1..200)) {
            let mut extents = Extents::new(0, 100);
            let mut live: Vec<Extent> = Vec::new();
            for (len, free_one) in steps {
                if free_one && !live.is_empty() {
                    extents.free(live.swap_remove(len as usize % live.len()));
                } else if let Some(new) = extents.allocate(len) {
                    for old in &live {
                        proptest::prop_assert!(new.first + new.len <= old.first || old.first + old.len <= new.first);
                    }
                    live.push(new);
                }
                extents.tick();
            }
            live.into_iter().for_each(|extent| extents.free(extent));
            (0..=REST_TICKS).for_each(|_| extents.tick());
            proptest::prop_assert_eq!(extents.allocate(100), Some(Extent { first: 0, len: 100 }));
        }
    }
}
