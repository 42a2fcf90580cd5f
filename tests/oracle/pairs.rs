//! Which of perf's samples was taken in the same interrupt as which of ours.
//!
//! Both name the thread and a time: ours when the walk began, perf's when it prepared its
//! sample, which is before the walk or behind it, as the kernel likes (`bpf_overflow_handler`
//! in `kernel/events/core.c`: before, since Linux 6.3). In one interrupt these are
//! microseconds apart; the interrupts of one thread are a period apart. So a pair is two
//! readings of one thread that are closer to each other than to any other.

use std::collections::HashMap;

use txprof::model::Outcome;
use txprof::sys::abi::{FRAME_INTERRUPTED, SampleRecord};

use super::Kept;

/// Our walk of an instant.
pub struct Ours {
    pub pid: u32,
    pub time_ns: u64,
    /// Leaf first.
    pub pcs: Vec<u64>,
    pub outcome: Outcome,
}

impl Ours {
    fn of(sample: &SampleRecord<'_>) -> Self {
        Self {
            pid: sample.pid,
            time_ns: sample.time_ns,
            pcs: sample.user_frames().map(|word| word & !FRAME_INTERRUPTED).collect(),
            outcome: Outcome::from_number(sample.outcome).expect("our own object's"),
        }
    }
}

/// More than a walk takes, less than half a period.
const APART_NS: u64 = 400_000;

enum Reading {
    Ours(Ours),
    Kept(Kept),
}

impl Reading {
    fn time_ns(&self) -> u64 {
        match self {
            Self::Ours(ours) => ours.time_ns,
            Self::Kept(kept) => kept.time_ns,
        }
    }
}

/// Readings that wait for their other halves.
#[derive(Default)]
pub struct Pairs {
    by_thread: HashMap<u32, Vec<Reading>>,
    /// Readings whose other half was lost: one of the rings was full.
    pub lost: u64,
}

impl Pairs {
    pub fn add_ours(&mut self, sample: &SampleRecord<'_>) {
        self.by_thread.entry(sample.tid).or_default().push(Reading::Ours(Ours::of(sample)));
    }

    pub fn add_kept(&mut self, kept: Kept) {
        self.by_thread.entry(kept.tid).or_default().push(Reading::Kept(kept));
    }

    /// The pairs of which both halves were surely delivered: those of before `before_ns`.
    pub fn take(&mut self, before_ns: u64) -> Vec<(Ours, Kept)> {
        let mut pairs = Vec::new();
        for readings in self.by_thread.values_mut() {
            readings.sort_by_key(Reading::time_ns);
            let times: Vec<u64> = readings.iter().map(Reading::time_ns).collect();
            let mut old = times.partition_point(|time_ns| *time_ns < before_ns);
            // The other half of the last one may be just behind.
            if old > 0 && times.get(old).is_some_and(|next| next - times[old - 1] < APART_NS) {
                old -= 1;
            }
            let mut before: Option<Reading> = None;
            for (index, reading) in readings.drain(..old).enumerate() {
                let gap_ns = |index: usize| Some(times.get(index)? - times.get(index.checked_sub(1)?)?);
                let is_near = gap_ns(index)
                    .is_some_and(|gap| gap < APART_NS && gap_ns(index + 1).is_none_or(|next| gap < next));
                before = match (before.take(), reading) {
                    (Some(Reading::Ours(ours)), Reading::Kept(kept)) if is_near => {
                        pairs.push((ours, kept));
                        None
                    }
                    (Some(Reading::Kept(kept)), Reading::Ours(ours)) if is_near => {
                        pairs.push((ours, kept));
                        None
                    }
                    (lonely, reading) => {
                        self.lost += u64::from(lonely.is_some());
                        Some(reading)
                    }
                }
            }
            self.lost += u64::from(before.is_some());
        }
        self.by_thread.retain(|_, readings| !readings.is_empty());
        pairs
    }
}

mod tests {
    use txprof::sys::abi::Record;

    use super::*;

    fn ours(tid: u32, time_ns: u64) -> Vec<u8> {
        let mut bytes = [0; 104];
        bytes[0..8].copy_from_slice(&time_ns.to_ne_bytes());
        bytes[12] = 1; // EVENT_SAMPLE
        bytes[48..52].copy_from_slice(&tid.to_ne_bytes());
        bytes.to_vec()
    }

    fn kept(tid: u32, time_ns: u64) -> Kept {
        let words = [u64::from(tid) << 32, time_ns, 2].into_iter().chain([0; 18]);
        let body: Vec<u8> = words.flat_map(u64::to_ne_bytes).collect();
        Kept::parse(&body).expect("it has registers")
    }

    /// Either may come first; what has lost its other half pairs with nobody, and what may still get it waits.
    #[test]
    fn readings_of_one_interrupt_are_paired() {
        let mut pairs = Pairs::default();
        let interrupts = [(1, 1_000_000, 1_009_000), (1, 2_009_000, 2_000_000), (2, 2_005_000, 2_001_000)];
        for (tid, ours_ns, kept_ns) in interrupts {
            pairs.add_kept(kept(tid, kept_ns));
            let bytes = ours(tid, ours_ns);
            let Ok(Record::Sample(sample)) = Record::parse(&bytes) else { panic!("not a sample") };
            pairs.add_ours(&sample);
        }
        for lonely_ns in [3_000_000, 9_000_000] {
            pairs.add_kept(kept(1, lonely_ns));
        }
        let found = |pairs: &mut Pairs, before_ns| {
            let mut times: Vec<_> = pairs
                .take(before_ns)
                .iter()
                .map(|(ours, kept)| (kept.tid, ours.time_ns, kept.time_ns))
                .collect();
            times.sort_unstable();
            times
        };
        assert_eq!(found(&mut pairs, 2_005_000), [(1, 1_000_000, 1_009_000)]);
        assert_eq!(found(&mut pairs, 8_000_000), [(1, 2_009_000, 2_000_000), (2, 2_005_000, 2_001_000)]);
        assert_eq!(pairs.lost, 1);
    }
}
