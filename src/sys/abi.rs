//! `ebpf/shared.h` seen from Rust: the same structures, sizes and numbers.

use crate::{Error, ErrorKind, Result};

/// Longest user stack, `MAX_USER_FRAMES`; beyond it a stack is marked truncated.
pub const MAX_USER_FRAMES: usize = 1024;
/// Longest kernel stack, `MAX_KERNEL_FRAMES`.
pub const MAX_KERNEL_FRAMES: usize = 128;
/// Set in a user frame whose pc was interrupted rather than returned to.
pub const FRAME_INTERRUPTED: u64 = 1 << 63;
/// `struct page.first_row` of a page whose rows userland has not loaded.
pub const PAGE_NOT_LOADED: u32 = u32::MAX;
/// Elements of `rules`.
pub const RULE_CAPACITY: usize = 65_536;
/// Bytes of a `comm`, `TASK_COMM_LEN` of `include/linux/sched.h`.
pub const COMM_BYTES: usize = 16;
/// Number of `counters`.
pub const COUNTER_COUNT: usize = 5;

/// `enum counter`: what the kernel side counts, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Samples of targets that were taken.
    pub samples: u64,
    /// Of these, lost because the ring was full.
    pub ring_full: u64,
    /// Nanoseconds spent in runs that sampled.
    pub run_ns: u64,
    /// Children not followed because `processes` was full.
    pub processes_full: u64,
    /// Fork, exec and exit events lost because the ring was full.
    pub events_lost: u64,
}

impl Counters {
    /// In the order of `enum counter`.
    #[cfg(feature = "bpf")]
    pub(crate) fn from_values(values: [u64; COUNTER_COUNT]) -> Self {
        let [samples, ring_full, run_ns, processes_full, events_lost] = values;
        Self { samples, ring_full, run_ns, processes_full, events_lost }
    }
}

/// `enum mapping_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MappingRows {
    /// Frame pointers only.
    None = 0,
    /// `first_page` and so on are valid.
    Pages = 1,
    /// The table was not asked for yet.
    NotLoaded = 2,
}

/// `struct mapping`: an executable range of a process and where its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct TableMapping {
    /// First AVMA.
    pub start: u64,
    /// First AVMA behind it.
    pub end: u64,
    /// AVMA − SVMA, wrapping.
    pub bias: u64,
    /// Index into `pages`.
    pub first_page: u32,
    /// `svma >> 16` of the page there.
    pub page_base: u32,
    /// How many pages the file has.
    pub page_count: u32,
    /// Which of the fields above count.
    pub rows: MappingRows,
}

/// `struct process`: a target, as the walker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableProcess {
    /// Index into `mappings`.
    pub first_mapping: u32,
    /// How many follow, sorted by start.
    pub mapping_count: u32,
    /// Names this state of the mappings; 0: not known.
    pub generation: u32,
    /// Whose.
    pub pid: u32,
}

impl TableProcess {
    /// The bytes as the kernel side reads them.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (chunk, value) in
            bytes.chunks_exact_mut(4).zip([self.first_mapping, self.mapping_count, self.generation, self.pid])
        {
            chunk.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

const _: () = assert!(size_of::<TableMapping>() == 40);
const _: () = assert!(size_of::<TableProcess>() == 16);

/// A birth, new program or death of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessChange {
    /// A target's child begins; it shares its parent's memory layout until it runs a program.
    Fork {
        /// The parent's pid.
        parent: u32,
    },
    /// A new program; all mappings are new.
    Exec,
    /// The last thread is gone.
    Exit,
}

/// One record of the ring, decoded. Frames borrow the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// `EVENT_SAMPLE`.
    Sample(SampleRecord<'a>),
    /// `EVENT_FORK`, `EVENT_EXEC`, `EVENT_EXIT`.
    Process {
        /// `CLOCK_MONOTONIC`.
        time_ns: u64,
        /// Whose.
        pid: u32,
        /// What happened.
        change: ProcessChange,
        /// Name of the task.
        comm: [u8; COMM_BYTES],
    },
}

/// `struct sample_event` and the frames behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRecord<'a> {
    /// `CLOCK_MONOTONIC`, when the thread was interrupted.
    pub time_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Nanoseconds (cpu-clock) or cycles since the sample before.
    pub period: u64,
    /// State of the process's mappings that the walk used.
    pub generation: u32,
    /// Number in `outcomes.def`.
    pub outcome: u8,
    /// Thread name, zero padded.
    pub thread_comm: [u8; COMM_BYTES],
    /// Main thread's name, zero padded.
    pub process_comm: [u8; COMM_BYTES],
    /// Kernel frames, leaf first, 8 bytes each.
    kernel: &'a [u8],
    /// User frames, leaf first, 8 bytes each.
    user: &'a [u8],
}

impl<'a> SampleRecord<'a> {
    /// Kernel addresses, leaf first.
    pub fn kernel_frames(&self) -> impl DoubleEndedIterator<Item = u64> + 'a {
        words(self.kernel)
    }

    /// User addresses, leaf first, some with [`FRAME_INTERRUPTED`].
    pub fn user_frames(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + 'a {
        words(self.user)
    }
}

fn words(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of 8 bytes")))
}

impl<'a> Record<'a> {
    /// Decodes one record. Fails when it is shorter than it says or of an unknown
    /// type: the BPF object and this program do not belong together.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        Self::parse_fields(bytes)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, "record of the BPF ring has an unknown form"))
    }

    fn parse_fields(bytes: &'a [u8]) -> Option<Self> {
        let mut rest = bytes;
        let time_ns = take_u64(&mut rest)?;
        let pid = take_u32(&mut rest)?;
        let kind = take_u32(&mut rest)?;
        if kind == 1 {
            return Self::parse_sample(time_ns, pid, rest);
        }
        let other = take_u32(&mut rest)?;
        let _padding = take_u32(&mut rest)?;
        let comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let change = match kind {
            2 => ProcessChange::Fork { parent: other },
            3 => ProcessChange::Exec,
            4 => ProcessChange::Exit,
            _ => return None,
        };
        Some(Self::Process { time_ns, pid, change, comm })
    }

    fn parse_sample(time_ns: u64, pid: u32, mut rest: &'a [u8]) -> Option<Self> {
        let period = take_u64(&mut rest)?;
        let tid = take_u32(&mut rest)?;
        let generation = take_u32(&mut rest)?;
        let counts = take_u32(&mut rest)?;
        let outcome = take(&mut rest, 4)?[0];
        let thread_comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let process_comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let kernel = take(&mut rest, (counts & 0xffff) as usize * 8)?;
        let user = take(&mut rest, (counts >> 16) as usize * 8)?;
        Some(Self::Sample(SampleRecord {
            time_ns,
            pid,
            tid,
            period,
            generation,
            outcome,
            thread_comm,
            process_comm,
            kernel,
            user,
        }))
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(take(rest, 4)?.try_into().ok()?))
}

fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(take(rest, 8)?.try_into().ok()?))
}

/// The name in a zero-padded `comm`; control characters and invalid UTF-8 are replaced.
pub fn comm_text(comm: &[u8]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end])
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record laid out by hand as in shared.h decodes to its fields; cut short it is refused.
    #[test]
    fn sample_record_decodes_as_laid_out() {
        let mut bytes = Vec::new();
        bytes.extend(7u64.to_ne_bytes());
        bytes.extend(41u32.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend(1000u64.to_ne_bytes());
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend([5, 0, 0, 0]);
        bytes.extend(*b"thread\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(*b"process\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes.len(), 72);
        for frame in [0xffff_ffff_8100_0000u64, 0x1000, 0x2000] {
            bytes.extend(frame.to_ne_bytes());
        }
        let Ok(Record::Sample(sample)) = Record::parse(&bytes) else { panic!("not a sample") };
        assert_eq!((sample.time_ns, sample.pid, sample.tid, sample.period), (7, 41, 42, 1000));
        assert_eq!((sample.generation, sample.outcome), (3, 5));
        assert_eq!(sample.kernel_frames().collect::<Vec<_>>(), [0xffff_ffff_8100_0000]);
        assert_eq!(sample.user_frames().collect::<Vec<_>>(), [0x1000, 0x2000]);
        assert_eq!(comm_text(&sample.process_comm), "process");
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_err());
        }
    }

    /// The constants are those of shared.h, read from its text.
    #[test]
    fn constants_are_those_of_shared_h() {
        let header = include_str!("../../ebpf/shared.h");
        for (name, value) in [("MAX_USER_FRAMES", MAX_USER_FRAMES), ("MAX_KERNEL_FRAMES", MAX_KERNEL_FRAMES)]
        {
            assert!(header.contains(&format!("#define {name} {value}\n")), "{name}");
        }
        assert!(header.contains(&format!("COUNTER_COUNT = {COUNTER_COUNT},")));
    }
}
