//! What each service ran in the last minute, whatever it served: the profile that there is of everything.

use std::collections::{BTreeMap, HashMap};

use super::capture::Tally;
use super::requests::StackAt;

/// Stacks of a minute, 60 bytes each; the time of further ones has none.
const MAX_STACKS: usize = 1 << 16;

/// The stacks that ran in one service.
pub(super) type Stacks = HashMap<StackAt, Tally>;

/// What all services ran since the last minute began.
#[derive(Debug, Default)]
pub(super) struct Minute {
    services: BTreeMap<String, Stacks>,
    count: usize,
    /// Time that found no room, by service.
    rest_ns: BTreeMap<String, u64>,
}

impl Minute {
    /// Adds a sample of a process called `service`.
    pub(super) fn add(&mut self, service: &str, stack: StackAt, tally: Tally) {
        let is_known = self.services.get(service).is_some_and(|stacks| stacks.contains_key(&stack));
        if !is_known {
            if self.count >= MAX_STACKS {
                let rest_ns = self.rest_ns.entry(service.to_owned()).or_default();
                *rest_ns = rest_ns.saturating_add(tally.weight_ns);
                return;
            }
            self.count += 1;
        }
        if !self.services.contains_key(service) {
            self.services.insert(service.to_owned(), Stacks::new());
        }
        let sum = self.services.get_mut(service).map(|stacks| stacks.entry(stack).or_default());
        if let Some(sum) = sum {
            sum.count += tally.count;
            sum.weight_ns = sum.weight_ns.saturating_add(tally.weight_ns);
        }
    }

    /// All of it: each service with its stacks, and the time that has none. A new minute begins.
    pub(super) fn take(&mut self) -> Vec<(String, Stacks, u64)> {
        let Self { services, mut rest_ns, .. } = std::mem::take(self);
        let all = services.into_iter().map(|(service, stacks)| {
            let rest_ns = rest_ns.remove(&service).unwrap_or(0);
            (service, stacks, rest_ns)
        });
        all.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::capture::CaughtStack;
    use super::*;
    use crate::model::Outcome;

    /// Samples of a service are summed by stack; beyond the room there is, their time is kept all the same.
    #[test]
    fn services_are_summed_within_bounds() {
        let tally = Tally { count: 1, weight_ns: 5, ..Tally::default() };
        let stack = |epoch| StackAt { epoch, stack: CaughtStack::empty(Outcome::Complete, false) };
        let mut minute = Minute::default();
        for epoch in [1, 2, 1] {
            minute.add("web", stack(epoch), tally);
        }
        minute.add("worker", stack(1), tally);
        let taken = minute.take();
        let sums: Vec<(&str, usize, u64)> = taken
            .iter()
            .map(|(name, stacks, _)| (&**name, stacks.len(), stacks[&stack(1)].weight_ns))
            .collect();
        assert_eq!(sums, [("web", 2, 10), ("worker", 1, 5)]);
        assert!(minute.take().is_empty());
        (0..MAX_STACKS as u32 + 3).for_each(|epoch| minute.add("web", stack(epoch), tally));
        minute.add("web", stack(0), tally);
        let (_, stacks, rest_ns) = minute.take().remove(0);
        assert_eq!((stacks.len(), stacks[&stack(0)].weight_ns, rest_ns), (MAX_STACKS, 10, 15));
    }
}
