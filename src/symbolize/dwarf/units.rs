//! Which unit holds which address, so that addresses can be resolved unit by unit.
//!
//! The order of addresses is not the order of units: linkers put the cold,
//! startup and hot parts of all units next to each other. Whoever resolves in
//! the order of addresses needs each unit again and again.

use gimli::Dwarf;

use super::guard::{Guard, GuardedReader};
use crate::model::Svma;

/// Addresses to resolve one after the other, as indices into the batch.
pub(super) type Part = Vec<usize>;

/// Divides a batch among `threads` so that each unit belongs to one of them,
/// with about the same number of bytes of units each. Addresses in no known
/// unit come first. `addresses` ascend; `guard` bounds the work, and what was
/// not reached counts as in no unit.
pub(super) fn divide(
    dwarf: &Dwarf<GuardedReader<'_>>,
    guard: &Guard<'_>,
    addresses: &[Svma],
    threads: usize,
) -> Vec<Part> {
    let units = units_of(dwarf, guard, addresses);
    let mut order: Vec<(Unit, usize)> = units.into_iter().zip(0..).collect();
    order.sort_unstable();
    let sizes = order.chunk_by(|left, right| left.0.offset == right.0.offset).map(|group| group[0].0.bytes);
    let share = sizes.sum::<u64>() / threads.max(1) as u64;
    let (mut parts, mut filled) = (vec![Part::new()], 0);
    for group in order.chunk_by(|left, right| left.0.offset == right.0.offset) {
        if filled > share && parts.len() < threads {
            parts.push(Part::new());
            filled = 0;
        }
        filled += group[0].0.bytes;
        if let Some(part) = parts.last_mut() {
            part.extend(group.iter().map(|(_, index)| *index));
        }
    }
    parts
}

/// Sorted by offset first.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    /// In `.debug_info`, plus one; zero for no unit.
    offset: u64,
    bytes: u64,
}

fn units_of(dwarf: &Dwarf<GuardedReader<'_>>, guard: &Guard<'_>, addresses: &[Svma]) -> Vec<Unit> {
    let mut found = vec![Unit::default(); addresses.len()];
    let mut headers = dwarf.units();
    while let Ok(Some(header)) = headers.next() {
        let Some(offset) = header.debug_info_offset() else { continue };
        let known = Unit { offset: offset.0 as u64 + 1, bytes: header.length_including_self() as u64 };
        let Ok(unit) = dwarf.unit(header) else { continue };
        let Ok(mut ranges) = dwarf.unit_ranges(&unit) else { continue };
        while let Ok(Some(range)) = ranges.next() {
            let first = addresses.partition_point(|address| address.0 < range.begin);
            let covered = addresses.iter().zip(&mut found).skip(first);
            for (_, unit) in covered.take_while(|(address, _)| address.0 < range.end) {
                if guard.charge(1).is_err() {
                    return found;
                }
                if unit.offset == 0 {
                    *unit = known;
                }
            }
        }
    }
    found
}
