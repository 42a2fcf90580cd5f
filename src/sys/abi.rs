//! `ebpf/shared.h` seen from Rust: the same structures, sizes and numbers.

use super::errand_record::ErrandRecord;
use super::lane_record::LaneRecord;
use super::wait_record::{ThreadRecord, WaitRecord};
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
/// Longest copy of the `str` of a code object's name.
pub const CODE_NAME_BYTES: usize = 384;
/// Longest copy of the `str` of its file's name.
pub const CODE_FILE_BYTES: usize = 512;
/// Set in the `task` of a sample whose task has a number only.
pub const TASK_NUMBERED: u64 = 1 << 63;
/// Number of `counters`.
pub const COUNTER_COUNT: usize = 14;

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
    /// Python code objects whose names found no room in the ring; they are told again when met again.
    pub codes_lost: u64,
    /// Waits whose stack was taken.
    pub waits: u64,
    /// Nanoseconds spent on switches, wake-ups and the stacks of waits.
    pub off_cpu_ns: u64,
    /// Threads that are not accounted for, or whose end was lost because the ring was full.
    pub threads_lost: u64,
    /// Transfers on sockets that found no room in the ring.
    pub lane_lost: u64,
    /// Times that a thread came to a CPU or left it unseen.
    pub switches_mended: u64,
    /// Connections to targets that began with TLS.
    pub tls: u64,
    /// Connections to targets that began with HTTP/2.
    pub http2: u64,
    /// Times that a thread on an errand told a loop something that was not seen.
    pub errands_unseen: u64,
}

impl Counters {
    /// In the order of `enum counter`.
    #[cfg(feature = "bpf")]
    pub(crate) fn from_values(values: [u64; COUNTER_COUNT]) -> Self {
        let [
            samples,
            ring_full,
            run_ns,
            processes_full,
            events_lost,
            codes_lost,
            waits,
            off_cpu_ns,
            threads_lost,
            lane_lost,
            switches_mended,
            tls,
            http2,
            errands_unseen,
        ] = values;
        Self {
            samples,
            ring_full,
            run_ns,
            processes_full,
            events_lost,
            codes_lost,
            waits,
            off_cpu_ns,
            threads_lost,
            lane_lost,
            switches_mended,
            tls,
            http2,
            errands_unseen,
        }
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
    /// Index into `pythons`; 0: none.
    pub python: u32,
}

impl TableProcess {
    /// The bytes as the kernel side reads them.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let words = [
            self.first_mapping,
            self.mapping_count,
            self.generation,
            self.pid,
            self.python,
            0, /* padding */
        ];
        for (chunk, value) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

const _: () = assert!(size_of::<TableMapping>() == 40);
const _: () = assert!(size_of::<TablePython>() == 120);

/// Offset of a field that a version does not have, `PYTHON_ABSENT`.
pub const PYTHON_ABSENT: u16 = 0xffff;
/// What one copy takes of a thread state, `PYTHON_THREAD_BYTES`.
pub const PYTHON_THREAD_BYTES: u16 = 512;
/// What one copy takes of a frame.
pub const PYTHON_FRAME_BYTES: u16 = 128;
/// What one copy takes of a code object.
pub const PYTHON_CODE_BYTES: u16 = 256;

/// `struct python`: an interpreter, as the walker sees it. Fields as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are explained in shared.h and in Layout")]
pub struct TablePython {
    pub runtime: u64,
    pub code_type: u64,
    pub text_type: u64,
    pub instance: u32,
    pub runtime_interpreters_head: u32,
    pub runtime_thread_current: u32,
    pub interpreter_next: u32,
    pub interpreter_threads_head: u32,
    pub thread_active_mask: u32,
    pub thread_running_task: u32,
    pub runtime_bytes: u32,
    pub interpreter_gil_holder: u32,
    pub thread_bytes: u16,
    pub thread_next: u16,
    pub thread_interpreter: u16,
    pub thread_id: u16,
    pub thread_status: u16,
    pub thread_cframe: u16,
    pub thread_frame: u16,
    pub frame_bytes: u16,
    pub frame_previous: u16,
    pub frame_code: u16,
    pub frame_instruction: u16,
    pub frame_owner: u16,
    pub code_bytes: u16,
    pub code_first_line: u16,
    pub code_name: u16,
    pub code_file_name: u16,
    pub code_line_table: u16,
    pub code_instructions: u16,
    pub text_hash: u16,
    pub text_length: u16,
    pub text_state: u16,
    pub text_ascii: u16,
    pub text_compact: u16,
    pub bytes_size: u16,
    pub bytes_data: u16,
    pub task_name: u16,
    pub code_flags: u16,
    pub frame_locals: u16,
    pub text_kind_shift: u8,
    pub form: u8,
    pub shim_owner: u8,
    pub padding: u8,
}

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
    /// `EVENT_CODE`.
    Code(CodeRecord<'a>),
    /// `EVENT_TASK`: the record's `code` is what samples call the task, its `name` the task's.
    Task(CodeRecord<'a>),
    /// `EVENT_WAIT`, `EVENT_WAIT_MORE`, `EVENT_WAKE`.
    Wait(WaitRecord<'a>),
    /// `EVENT_THREAD`.
    Thread(ThreadRecord),
    /// `EVENT_TRANSFER`, `EVENT_HANG_UP`.
    Lane(LaneRecord<'a>),
    /// `EVENT_ERRAND`.
    Errand(ErrandRecord<'a>),
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
    /// The thread's fs base, its `thread_id` in the interpreter; 0 where that does not know it.
    pub thread_pointer: u64,
    /// The asyncio task that it ran; with [`TASK_NUMBERED`] the N of its name Task-N, else told by [`Record::Task`].
    pub task: Option<u64>,
    /// Address of the frame of the outermost coroutine that it ran, which names it for as long as that lives.
    pub coroutine: Option<u64>,
    /// State of the process's mappings that the walk used.
    pub generation: u32,
    /// Number in `outcomes.def`.
    pub outcome: u8,
    /// Number in `outcomes.def`: how the walk along the interpreter's frames ended.
    pub python_outcome: u8,
    /// Which interpreter the Python frames belong to; 0: the thread is in none.
    pub python_instance: u32,
    /// The thread held its interpreter's lock.
    pub holds_gil: bool,
    /// It stands for as many ticks as [`LaneSettings::base_share`](super::lane_record::LaneSettings) says.
    pub is_thinned: bool,
    /// Thread name, zero padded.
    pub thread_comm: [u8; COMM_BYTES],
    /// Main thread's name, zero padded.
    pub process_comm: [u8; COMM_BYTES],
    /// Kernel frames, leaf first, 8 bytes each.
    pub(crate) kernel: &'a [u8],
    /// User frames, leaf first, 8 bytes each.
    pub(crate) user: &'a [u8],
    /// Python frames, leaf first, 16 bytes each.
    pub(crate) python: &'a [u8],
}

/// One frame of an interpreter, as the walker noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PythonFrame {
    /// Address of the code object; 0 where [`Self::is_empty`].
    pub code: u64,
    /// Of the code object's content.
    pub cookie: u32,
    /// Of the instruction, in bytes; `None`: it has not started.
    pub offset: Option<u32>,
    /// It entered the evaluation loop from C.
    pub is_entry: bool,
    /// Not a frame: an evaluation loop that has none yet or any more.
    pub is_empty: bool,
    /// The code object could not be read.
    pub is_unread: bool,
}

impl PythonFrame {
    /// From what stands in a sample.
    pub fn from_words([word, details]: [u64; 2]) -> Self {
        Self {
            code: word & ((1 << 56) - 1),
            cookie: (details >> 32) as u32,
            offset: Some(details as u32).filter(|offset| *offset != u32::MAX),
            is_entry: word >> 63 & 1 == 1,
            is_empty: word >> 62 & 1 == 1,
            is_unread: word >> 61 & 1 == 1,
        }
    }

    /// As it stands in a sample.
    pub fn to_words(self) -> [u64; 2] {
        let flags = [(self.is_entry, 63), (self.is_empty, 62), (self.is_unread, 61)];
        let word = flags.iter().fold(self.code, |word, (flag, bit)| word | u64::from(*flag) << bit);
        [word, u64::from(self.cookie) << 32 | u64::from(self.offset.unwrap_or(u32::MAX))]
    }
}

/// `struct code_event`: what a Python code object says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRecord<'a> {
    /// In which process it was met.
    pub pid: u32,
    /// Its address.
    pub code: u64,
    /// Names its content, together with the address and the instance.
    pub cookie: u32,
    /// Which interpreter.
    pub instance: u32,
    /// `co_firstlineno`.
    pub first_line: u32,
    /// Address of the `bytes` object of its line table.
    pub line_table: u64,
    /// True size of the line table; [`Self::lines`] may be shorter.
    pub line_table_bytes: u32,
    /// The `str` object of its name, as far as it was copied.
    pub name: &'a [u8],
    /// The `str` object of its file's name.
    pub file: &'a [u8],
    /// The content of its line table.
    pub lines: &'a [u8],
}

impl<'a> SampleRecord<'a> {
    /// What follows the head of `EVENT_SAMPLE`.
    pub(super) fn parse(time_ns: u64, pid: u32, mut rest: &'a [u8]) -> Option<Self> {
        let period = take_u64(&mut rest)?;
        let thread_pointer = take_u64(&mut rest)?;
        let (task, coroutine) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        let tid = take_u32(&mut rest)?;
        let generation = take_u32(&mut rest)?;
        let python_instance = take_u32(&mut rest)?;
        let kernel_count = take_u16(&mut rest)?;
        let user_count = take_u16(&mut rest)?;
        let python_count = take_u16(&mut rest)?;
        let [outcome, python_outcome, flags, ..] = *take(&mut rest, 6)? else { return None };
        let thread_comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let process_comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let kernel = take(&mut rest, usize::from(kernel_count) * 8)?;
        let user = take(&mut rest, usize::from(user_count) * 8)?;
        let python = take(&mut rest, usize::from(python_count) * 8)?;
        Some(Self {
            time_ns,
            pid,
            tid,
            period,
            thread_pointer,
            task: (task != 0).then_some(task),
            coroutine: (coroutine != 0).then_some(coroutine),
            generation,
            outcome,
            python_outcome,
            python_instance,
            holds_gil: flags & 2 != 0,
            is_thinned: flags & 4 != 0,
            thread_comm,
            process_comm,
            kernel,
            user,
            python,
        })
    }

    /// Kernel addresses, leaf first.
    pub fn kernel_frames(&self) -> impl DoubleEndedIterator<Item = u64> + 'a {
        words(self.kernel)
    }

    /// User addresses, leaf first, some with [`FRAME_INTERRUPTED`].
    pub fn user_frames(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + 'a {
        words(self.user)
    }

    /// Python frames, leaf first.
    pub fn python_frames(&self) -> impl ExactSizeIterator<Item = PythonFrame> + 'a {
        self.python.as_chunks::<16>().0.iter().map(|bytes| {
            let mut pair = words(bytes);
            PythonFrame::from_words([pair.next().unwrap_or(0), pair.next().unwrap_or(0)])
        })
    }
}

pub(super) fn words(bytes: &[u8]) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator + '_ {
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
        match kind {
            1 => return SampleRecord::parse(time_ns, pid, rest).map(Self::Sample),
            5 => return CodeRecord::parse(pid, rest).map(Self::Code),
            6 => return CodeRecord::parse(pid, rest).map(Self::Task),
            7..=9 => return WaitRecord::parse(time_ns, pid, kind, rest).map(Self::Wait),
            10 => return ThreadRecord::take(time_ns, pid, &mut rest).map(Self::Thread),
            11 | 12 => return LaneRecord::parse(time_ns, pid, kind, rest).map(Self::Lane),
            13 => return ErrandRecord::parse(time_ns, pid, rest).map(Self::Errand),
            _ => {}
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
}

impl<'a> CodeRecord<'a> {
    fn parse(pid: u32, mut rest: &'a [u8]) -> Option<Self> {
        let code = take_u64(&mut rest)?;
        let line_table = take_u64(&mut rest)?;
        let cookie = take_u32(&mut rest)?;
        let instance = take_u32(&mut rest)?;
        let first_line = take_u32(&mut rest)?;
        let line_table_bytes = take_u32(&mut rest)?;
        let name_bytes = take_u16(&mut rest)?;
        let file_bytes = take_u16(&mut rest)?;
        let lines_bytes = take_u16(&mut rest)?;
        let _padding = take_u16(&mut rest)?;
        let name = take(&mut rest, CODE_NAME_BYTES)?.get(..name_bytes.into())?;
        let file = take(&mut rest, CODE_FILE_BYTES)?.get(..file_bytes.into())?;
        let lines = take(&mut rest, lines_bytes.into())?;
        Some(Self {
            pid,
            code,
            cookie,
            instance,
            first_line,
            line_table,
            line_table_bytes,
            name,
            file,
            lines,
        })
    }
}

pub(super) fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

pub(super) fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(take(rest, 2)?.try_into().ok()?))
}

pub(super) fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(take(rest, 4)?.try_into().ok()?))
}

pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
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
        bytes.extend(11u64.to_ne_bytes());
        bytes.extend(0u64.to_ne_bytes());
        bytes.extend(0x7000u64.to_ne_bytes());
        bytes.extend(42u32.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(9u32.to_ne_bytes());
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend(2u16.to_ne_bytes());
        bytes.extend([5, 1, 2, 0, 0, 0]);
        bytes.extend(*b"thread\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(*b"process\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes.len(), 104);
        for frame in [0xffff_ffff_8100_0000u64, 0x1000, 0x2000, 1 << 63 | 0x3000, 7 << 32 | 24] {
            bytes.extend(frame.to_ne_bytes());
        }
        let Ok(Record::Sample(sample)) = Record::parse(&bytes) else { panic!("not a sample") };
        assert_eq!((sample.time_ns, sample.pid, sample.tid, sample.period), (7, 41, 42, 1000));
        assert_eq!((sample.generation, sample.outcome), (3, 5));
        assert_eq!((sample.task, sample.coroutine), (None, Some(0x7000)));
        assert_eq!((sample.python_instance, sample.python_outcome, sample.holds_gil), (9, 1, true));
        assert_eq!(sample.kernel_frames().collect::<Vec<_>>(), [0xffff_ffff_8100_0000]);
        assert_eq!(sample.user_frames().collect::<Vec<_>>(), [0x1000, 0x2000]);
        let expected = PythonFrame {
            code: 0x3000,
            cookie: 7,
            offset: Some(24),
            is_entry: true,
            is_empty: false,
            is_unread: false,
        };
        assert_eq!(sample.python_frames().collect::<Vec<_>>(), [expected]);
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
