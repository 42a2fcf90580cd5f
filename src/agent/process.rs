//! The targets as they are now: what is mapped where, replayed from events in
//! the order of time.

use std::collections::HashMap;
use std::sync::Arc;

use super::module::{ModuleId, Modules};
use super::python::PythonOf;
use crate::Result;
use crate::model::{Avma, Mapping, Svma};
use crate::sampler::SliceId;
use crate::target::procfs;

/// An executable range and the file behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappedModule {
    /// The range.
    pub mapping: Mapping,
    /// `None` for anonymous memory.
    pub module: Option<ModuleId>,
}

/// A target process.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Sorted by start, disjoint; shared with children until either changes.
    pub mappings: Arc<Vec<MappedModule>>,
    /// What the walker was told of them, and how many entries that has.
    pub slice: Option<(SliceId, usize)>,
    /// The walker must be told anew.
    pub is_dirty: bool,
    /// When `/proc/PID/maps` was read last, `CLOCK_MONOTONIC`; 0: never.
    pub scanned_ns: u64,
    /// How many scans in a row explained nothing; each doubles the pause before the next.
    pub futile_scans: u32,
    /// Its Python.
    pub python: PythonOf,
}

/// Where a pc lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file, at this stated address.
    Module(ModuleId, Svma),
    /// In a file without usable headers, at this offset.
    Offset(ModuleId, u64),
    /// In anonymous executable memory.
    Anonymous,
    /// Nowhere that is known.
    Unknown,
}

impl Process {
    /// Reads the mappings from `/proc`. Ranges that are gone are forgotten.
    pub fn scan(&mut self, pid: u32, modules: &mut Modules, now_ns: u64) -> Result<()> {
        self.scanned_ns = now_ns;
        let mappings = procfs::read_mappings(pid)?;
        let mapped: Vec<MappedModule> = mappings
            .into_iter()
            .map(|mapping| MappedModule { module: modules.of_mapping(&mapping), mapping })
            .collect();
        if mapped != *self.mappings {
            self.is_dirty = true;
            self.mappings = Arc::new(mapped);
        }
        Ok(())
    }

    /// Whether reading the mappings anew could explain a pc seen at `time_ns`.
    pub fn may_scan(&self, time_ns: u64) -> bool {
        /// The first pause; ten doublings make it 2 s.
        const PAUSE_NS: u64 = 2_000_000;
        let pause_ns = PAUSE_NS << self.futile_scans.min(10);
        self.scanned_ns == 0
            || time_ns >= self.scanned_ns.saturating_add(if self.futile_scans == 0 { 0 } else { pause_ns })
    }

    /// A new mapping replaces what was in its range.
    pub fn map(&mut self, mapping: Mapping, modules: &mut Modules) {
        let module = modules.of_mapping(&mapping);
        let new = MappedModule { mapping, module };
        let (start, end) = (new.mapping.start, new.mapping.end);
        let position = self.mappings.partition_point(|old| old.mapping.start < start);
        if self.mappings.get(position) == Some(&new) {
            return;
        }
        self.is_dirty = true;
        let overlapping = |old: &MappedModule| old.mapping.start < end && start < old.mapping.end;
        let first = self.mappings.partition_point(|old| old.mapping.end <= start);
        let count = self.mappings[first..].iter().take_while(|old| overlapping(old)).count();
        let mappings = Arc::make_mut(&mut self.mappings);
        let cut: Vec<MappedModule> = mappings.drain(first..first + count).collect();
        mappings.extend(cut.into_iter().flat_map(|old| remainders(old, start, end)));
        mappings.push(new);
        mappings.sort_by_key(|mapped| mapped.mapping.start);
    }

    /// The mapping that holds `address`.
    pub fn find(&self, address: Avma) -> Option<&MappedModule> {
        let index = self.mappings.partition_point(|mapped| mapped.mapping.start <= address);
        let mapped = self.mappings.get(index.checked_sub(1)?)?;
        mapped.mapping.contains(address).then_some(mapped)
    }

    /// Where `address` lies. A module that is met for the first time is opened.
    pub fn place(&self, pid: u32, address: Avma, modules: &mut Modules) -> Place {
        let Some(mapped) = self.find(address) else { return Place::Unknown };
        let Some(id) = mapped.module else { return Place::Anonymous };
        modules.open(id, pid, &mapped.mapping);
        match modules.get(id).bias(&mapped.mapping) {
            Some(bias) => Place::Module(id, Svma::from_avma(address, bias)),
            None => Place::Offset(id, mapped.mapping.file_offset(address)),
        }
    }
}

/// What is left of `old` outside `[start, end)`: nothing, one part or two.
fn remainders(old: MappedModule, start: Avma, end: Avma) -> impl Iterator<Item = MappedModule> {
    let before = (old.mapping.start < start).then(|| {
        let mut part = old.clone();
        part.mapping.end = start;
        part
    });
    let after = (end < old.mapping.end).then(|| {
        let mut part = old;
        part.mapping.offset = part.mapping.file_offset(end);
        part.mapping.start = end;
        part
    });
    before.into_iter().chain(after)
}

/// All targets by pid.
pub type Processes = HashMap<u32, Process>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::MappingKind;

    fn anonymous(start: u64, end: u64) -> Mapping {
        Mapping { start: Avma(start), end: Avma(end), offset: 0, kind: MappingKind::Anonymous }
    }

    fn ranges(process: &Process) -> Vec<(u64, u64, u64)> {
        let range = |m: &MappedModule| (m.mapping.start.0, m.mapping.end.0, m.mapping.offset);
        process.mappings.iter().map(range).collect()
    }

    /// A new mapping cuts, splits or covers those in its way; offsets follow.
    #[test]
    fn new_mapping_replaces_its_range() {
        let mut modules = Modules::default();
        let mut process = Process::default();
        process.map(anonymous(0x1000, 0x5000), &mut modules);
        process.map(anonymous(0x2000, 0x3000), &mut modules);
        assert_eq!(ranges(&process), [(0x1000, 0x2000, 0), (0x2000, 0x3000, 0), (0x3000, 0x5000, 0x2000)]);
        process.map(anonymous(0x1000, 0x4000), &mut modules);
        assert_eq!(ranges(&process), [(0x1000, 0x4000, 0), (0x4000, 0x5000, 0x3000)]);
        assert_eq!(process.place(1, Avma(0x4fff), &mut modules), Place::Anonymous);
        assert_eq!(process.place(1, Avma(0x5000), &mut modules), Place::Unknown);
        process.is_dirty = false;
        process.map(anonymous(0x1000, 0x4000), &mut modules);
        assert!(!process.is_dirty, "the same again changes nothing");
    }

    proptest::proptest! {
        /// After any sequence of mappings the ranges are sorted and disjoint, and the last one is whole.
        #[test]
        fn mappings_stay_sorted_and_disjoint(steps in proptest::collection::vec((0u64..50, 1u64..20), 1..40)) {
            let mut modules = Modules::default();
            let mut process = Process::default();
            for (start, len) in steps {
                process.map(anonymous(start, start + len), &mut modules);
                for pair in process.mappings.windows(2) {
                    proptest::prop_assert!(pair[0].mapping.end <= pair[1].mapping.start);
                }
                proptest::prop_assert!(process.find(Avma(start)).is_some_and(|m| m.mapping.end.0 == start + len));
            }
        }
    }
}
