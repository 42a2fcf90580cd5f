//! The records of `ebpf/shared.h` about threads that do not run: waits, who
//! ends them, and the sums of a thread.

use super::abi::{COMM_BYTES, PythonFrame, SampleRecord, take, take_u16, take_u32, take_u64};
use super::ptrace::UserRegisters;
use crate::{Error, ErrorKind, Result};

/// How waits are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffCpuSettings {
    /// Shorter waits have no stack, in nanoseconds.
    pub min_wait_ns: u32,
    /// Stacks of waits a second on one CPU, up to two and a half times as many where there are few waits; with more, shorter
    /// waits have stacks by sample only.
    pub stacks_per_second: u32,
    /// And those of waits for Python's lock, which come on top.
    pub gil_stacks_per_second: u32,
    /// These bounds do not hold: every wait that is not shorter has a stack.
    pub every: bool,
    /// The stacks of those who end waits are told, not only of those who give up Python's lock.
    pub wakers: bool,
}

impl OffCpuSettings {
    /// The times in which the kernel side wants `WAIT_BUDGET` of `budget.h`, at most a second: of waits, and of those for
    /// Python's lock.
    #[cfg(feature = "bpf")]
    pub(crate) fn windows_ns(&self) -> [u32; 2] {
        const WAIT_BUDGET: u32 = 10;
        [self.stacks_per_second, self.gil_stacks_per_second]
            .map(|wanted| WAIT_BUDGET * (1_000_000_000 / wanted.max(WAIT_BUDGET)))
    }
}

/// What a [`WaitRecord`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitPart<'a> {
    /// All of a wait that is over, with the stack of who waited.
    Whole(SampleRecord<'a>),
    /// A wait begins; its times follow with [`Self::More`].
    Opened(SampleRecord<'a>),
    /// The times of a wait that was told before.
    More,
    /// A wait is ended by the thread of this stack; it is told later.
    Woken(SampleRecord<'a>),
    /// A wait for Python's lock is ended by [`WaitRecord::waker`], which had it in the function of
    /// [`WaitRecord::holder`]; it is told later.
    HandedOver,
}

/// `struct wait_event` and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitRecord<'a> {
    /// `CLOCK_MONOTONIC`, when it was told.
    pub time_ns: u64,
    /// Process of the thread that waits.
    pub pid: u32,
    /// The thread that waits.
    pub tid: u32,
    /// Names the thread's wait.
    pub sequence: u32,
    /// When it was off the CPU first.
    pub began_ns: u64,
    /// How long it was blocked.
    pub blocked_ns: u64,
    /// How long it was runnable and did not run.
    pub queue_ns: u64,
    /// How long the thread had run, up to `time_ns`, since it is accounted for.
    pub run_sum_ns: u64,
    /// And how long it had been runnable without running.
    pub queue_sum_ns: u64,
    /// If [`Self::is_sampled`], how much time of the thread in waits like it.
    pub stands_for_ns: u64,
    /// Number of the system call that it was in.
    pub call: Option<u32>,
    /// First argument of that.
    pub argument: u64,
    /// What that stands for, if the call takes a descriptor; told only with [`WaitPart::Whole`].
    pub object: WaitObject,
    /// It stands for others like it, too; its times are in [`ThreadRecord::thin`].
    pub is_sampled: bool,
    /// It was for the lock of a Python interpreter.
    pub is_gil: bool,
    /// Who had that lock when this was told, or had it last.
    pub holder: Option<Holder>,
    /// Who ended it, as far as that was seen.
    pub waker: Option<Waker>,
    /// A record of its own has told that, with more.
    pub tells_waker: bool,
    /// The rest.
    pub part: WaitPart<'a>,
}

/// `struct wait_object`: what a descriptor stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitObject {
    /// Its inode's number.
    pub inode: u64,
    /// The other end's address, in network order.
    pub address: [u8; 16],
    /// Its port on this side, and on the other; 0: none.
    pub local_port: u16,
    /// On the other.
    pub remote_port: u16,
    /// What kind of file it is, the bits of `S_IFMT`; 0: none, or an anonymous inode.
    pub mode: u16,
    /// `AF_INET` and so on.
    pub family: u16,
}

impl WaitObject {
    fn take(rest: &mut &[u8]) -> Option<Self> {
        let inode = take_u64(rest)?;
        let address = take(rest, 16)?.try_into().ok()?;
        let mut short = || take_u16(rest);
        let [local_port, remote_port, mode, family] = [short()?, short()?, short()?, short()?];
        Some(Self { inode, address, local_port, remote_port, mode, family })
    }
}

/// Who has the lock of an interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its thread pointer.
    pub pointer: u64,
    /// Its innermost Python frame.
    pub frame: Option<PythonFrame>,
}

/// Who ended a wait: the thread that ran then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waker {
    /// Its process.
    pub pid: u32,
    /// Itself; 0 is a CPU that idled.
    pub tid: u32,
    /// Its name, zero padded. Empty in [`WaitPart::More`].
    pub comm: [u8; COMM_BYTES],
    /// The system call that it was in.
    pub call: Option<u32>,
    /// What ended the wait ran on top of it: an interrupt, or a softirq, which may be of what it sends.
    pub is_interrupted: bool,
}

const WAIT_OPEN: u8 = 1;
const WAIT_GIL: u8 = 2;
const WAIT_NO_WAKER: u8 = 4;
const WAIT_INTERRUPT: u8 = 8;
const WAIT_SAMPLED: u8 = 16;
const WAIT_TOLD: u8 = 32;

impl<'a> WaitRecord<'a> {
    /// What follows the head of a record of type `kind`, 7 to 9.
    pub(super) fn parse(time_ns: u64, pid: u32, kind: u32, mut rest: &'a [u8]) -> Option<Self> {
        let began_ns = take_u64(&mut rest)?;
        let blocked_ns = take_u64(&mut rest)?;
        let queue_ns = take_u64(&mut rest)?;
        let (run_sum_ns, queue_sum_ns) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        let stands_for_ns = take_u64(&mut rest)?;
        let argument = take_u64(&mut rest)?;
        let pointer = take_u64(&mut rest)?;
        let object = WaitObject::take(&mut rest)?;
        let frame = PythonFrame::from_words([take_u64(&mut rest)?, take_u64(&mut rest)?]);
        let frame = (frame.code != 0).then_some(frame);
        let holder = (pointer != 0).then_some(Holder { pointer, frame });
        let tid = take_u32(&mut rest)?;
        let sequence = take_u32(&mut rest)?;
        let call = number(take_u32(&mut rest)?);
        let (waker_pid, waker_tid) = (take_u32(&mut rest)?, take_u32(&mut rest)?);
        let waker_call = number(take_u32(&mut rest)?);
        let flags = *take(&mut rest, 8)?.first()?;
        let comm = take(&mut rest, COMM_BYTES)?.try_into().ok()?;
        let part = match kind {
            7 if flags & WAIT_OPEN != 0 => WaitPart::Opened(parse_stack(rest)?),
            7 => WaitPart::Whole(parse_stack(rest)?),
            8 => WaitPart::More,
            _ if rest.is_empty() => WaitPart::HandedOver,
            _ => WaitPart::Woken(parse_stack(rest)?),
        };
        let is_interrupted = flags & WAIT_INTERRUPT != 0;
        let waker = Waker { pid: waker_pid, tid: waker_tid, comm, call: waker_call, is_interrupted };
        Some(Self {
            time_ns,
            pid,
            tid,
            sequence,
            began_ns,
            blocked_ns,
            queue_ns,
            run_sum_ns,
            queue_sum_ns,
            stands_for_ns,
            call,
            argument,
            object,
            is_sampled: flags & WAIT_SAMPLED != 0,
            is_gil: flags & WAIT_GIL != 0,
            holder,
            waker: (flags & WAIT_NO_WAKER == 0).then_some(waker),
            tells_waker: flags & WAIT_TOLD != 0,
            part,
        })
    }
}

/// A whole sample record, head included.
fn parse_stack(mut rest: &[u8]) -> Option<SampleRecord<'_>> {
    let time_ns = take_u64(&mut rest)?;
    let pid = take_u32(&mut rest)?;
    let _kind = take_u32(&mut rest)?;
    SampleRecord::parse(time_ns, pid, rest)
}

/// -1 is none.
fn number(word: u32) -> Option<u32> {
    (word.cast_signed() >= 0).then_some(word)
}

/// What a thread is about, as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduled {
    /// On a CPU.
    Running,
    /// Runnable, waiting for a CPU.
    Queued,
    /// Waiting for something else.
    Blocked,
}

/// `struct thread_event`: the sums of a thread from when it was first seen to `time_ns`, in nanoseconds. Running,
/// queued and blocked time together are that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRecord {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// On a CPU.
    pub run_ns: u64,
    /// Runnable, waiting for a CPU.
    pub queue_ns: u64,
    /// Waiting for something else.
    pub blocked_ns: u64,
    /// Of the waits: in those that were too short for a stack.
    pub short: WaitSums,
    /// Of the waits: in those of which only some have a stack, see [`WaitRecord::is_sampled`].
    pub thin: WaitSums,
    /// Of the waits: in those whose stack could not be told.
    pub bare: WaitSums,
    /// Of the waits: in the one that has not ended, if any.
    pub open: WaitSums,
    /// The sequence of that wait if it was told when it began.
    pub open_sequence: Option<u32>,
    /// What it is about; `None` where that is not known.
    pub scheduled: Option<Scheduled>,
    /// Number of the system call that it waits in.
    pub call: Option<u32>,
    /// First argument of that.
    pub argument: u64,
    /// It waits for the lock of a Python interpreter.
    pub is_gil: bool,
    /// Its fs base.
    pub thread_pointer: u64,
    /// How often it has left a CPU in its life.
    pub switches: u64,
    /// How it came to be, if that was seen.
    pub birth: Option<Birth>,
    /// Its name, zero padded.
    pub thread_comm: [u8; COMM_BYTES],
    /// Its main thread's name, zero padded.
    pub process_comm: [u8; COMM_BYTES],
    kernel_count: u32,
}

/// How a thread came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    /// The thread that made it.
    pub parent_tid: u32,
    /// When, `CLOCK_MONOTONIC`.
    pub time_ns: u64,
}

/// Waits, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitSums {
    /// How many.
    pub count: u32,
    /// Runnable.
    pub queue_ns: u64,
    /// Blocked.
    pub blocked_ns: u64,
}

impl ThreadRecord {
    /// What follows the head.
    pub(super) fn take(time_ns: u64, pid: u32, rest: &mut &[u8]) -> Option<Self> {
        let [run_ns, queue_ns, blocked_ns] = [take_u64(rest)?, take_u64(rest)?, take_u64(rest)?];
        let mut sums = || Some(WaitSums { count: 0, queue_ns: take_u64(rest)?, blocked_ns: take_u64(rest)? });
        let (short, thin, bare, open) = (sums()?, sums()?, sums()?, sums()?);
        let short = WaitSums { count: take_u32(rest)?, ..short };
        let thin = WaitSums { count: take_u32(rest)?, ..thin };
        let bare = WaitSums { count: take_u32(rest)?, ..bare };
        let tid = take_u32(rest)?;
        let open_sequence = Some(take_u32(rest)?).filter(|sequence| *sequence != 0);
        let scheduled = match take_u32(rest)? {
            1 => Some(Scheduled::Running),
            2 => Some(Scheduled::Queued),
            3 => Some(Scheduled::Blocked),
            _ => None,
        };
        let parent_tid = take_u32(rest)?;
        let call = number(take_u32(rest)?);
        let argument = take_u64(rest)?;
        let thread_pointer = take_u64(rest)?;
        let (switches, born_ns) = (take_u64(rest)?, take_u64(rest)?);
        let kernel_count = take_u32(rest)?;
        let flags = *take(rest, 4)?.first()?;
        Some(Self {
            time_ns,
            pid,
            tid,
            run_ns,
            queue_ns,
            blocked_ns,
            short,
            thin,
            bare,
            open,
            open_sequence,
            scheduled,
            call,
            argument,
            is_gil: flags & WAIT_GIL != 0,
            thread_pointer,
            switches,
            birth: (parent_tid != 0).then_some(Birth { parent_tid, time_ns: born_ns }),
            thread_comm: take(rest, COMM_BYTES)?.try_into().ok()?,
            process_comm: take(rest, COMM_BYTES)?.try_into().ok()?,
            kernel_count,
        })
    }
}

/// A thread's sums, and where it stands if it is blocked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadAccount {
    /// The sums.
    pub record: ThreadRecord,
    /// What it had when it entered the kernel; meaningless while it runs.
    pub registers: UserRegisters,
    /// Its kernel stack, leaf first; empty while it runs.
    pub kernel: Vec<u64>,
}

impl ThreadAccount {
    /// All that the iteration over threads wrote. Fails when it ends amid one.
    pub fn parse_all(bytes: &[u8]) -> Result<Vec<Self>> {
        let mut rest = bytes;
        let mut accounts = Vec::new();
        while !rest.is_empty() {
            accounts.push(Self::take(&mut rest).ok_or_else(|| {
                let at = bytes.len() - rest.len();
                Error::new(
                    ErrorKind::Corrupt,
                    format!("times of threads have an unknown form at offset {at:#x}"),
                )
            })?);
        }
        Ok(accounts)
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let time_ns = take_u64(rest)?;
        let pid = take_u32(rest)?;
        let _kind = take_u32(rest)?;
        let record = ThreadRecord::take(time_ns, pid, rest)?;
        let mut registers = take_registers(rest)?;
        registers.fs_base = record.thread_pointer;
        let kernel: Option<Vec<u64>> = (0..record.kernel_count).map(|_| take_u64(rest)).collect();
        Some(Self { record, registers, kernel: kernel? })
    }
}

/// `struct saved_registers`, in the order in which the kernel pushes them.
fn take_registers(rest: &mut &[u8]) -> Option<UserRegisters> {
    let mut word = || take_u64(rest);
    let [r15, r14, r13, r12, rbp, rbx] = [word()?, word()?, word()?, word()?, word()?, word()?];
    let [r11, r10, r9, r8, rax, rcx] = [word()?, word()?, word()?, word()?, word()?, word()?];
    let [rdx, rsi, rdi, _orig_rax, pc] = [word()?, word()?, word()?, word()?, word()?];
    let [code_segment, _eflags, rsp, _ss] = [word()?, word()?, word()?, word()?];
    let general = [rax, rdx, rcx, rbx, rsi, rdi, rbp, rsp, r8, r9, r10, r11, r12, r13, r14, r15];
    Some(UserRegisters { general, pc, fs_base: 0, code_segment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::abi::Record;

    fn words(values: &[u64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_ne_bytes()).collect()
    }

    fn pair(low: u32, high: u32) -> u64 {
        u64::from(high) << 32 | u64::from(low)
    }

    /// The fields of a wait laid out by hand as in shared.h, and of the stack behind it; cut short it is refused.
    #[test]
    fn wait_record_decodes_as_laid_out() {
        let mut bytes = words(&[
            9,
            pair(41, 7),
            5,
            300,
            20,
            1000,
            2000,
            3000,
            0x77,
            0x99,
            31,
            0,
            0,
            2 << 48 | 0o140_000 << 32 | 5432 << 16 | 80,
            0x4000,
            8,
            pair(42, 3),
            pair(202, 50),
            pair(51, u32::MAX),
        ]);
        bytes.extend([WAIT_GIL | WAIT_INTERRUPT | WAIT_SAMPLED, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(*b"waker\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes.len(), 176);
        let stack = bytes.len();
        bytes.extend(words(&[9, pair(41, 1), 0, 0, 0, 0, pair(42, 3), pair(0, 1 << 16), 0]));
        bytes.extend([0; 32]);
        bytes.extend(words(&[0x1000]));
        let Ok(Record::Wait(wait)) = Record::parse(&bytes) else { panic!("not a wait") };
        assert_eq!((wait.time_ns, wait.pid, wait.tid, wait.sequence), (9, 41, 42, 3));
        assert_eq!((wait.began_ns, wait.blocked_ns, wait.queue_ns), (5, 300, 20));
        assert_eq!((wait.run_sum_ns, wait.queue_sum_ns, wait.stands_for_ns), (1000, 2000, 3000));
        assert_eq!((wait.call, wait.argument), (Some(202), 0x77));
        assert_eq!((wait.is_gil, wait.is_sampled), (true, true));
        let WaitObject { inode, local_port, remote_port, mode, family, .. } = wait.object;
        assert_eq!((inode, local_port, remote_port, mode, family), (31, 80, 5432, 0o140000, 2));
        let holder = wait.holder.expect("there is one");
        let frame = holder.frame.expect("it is in a function");
        assert_eq!((holder.pointer, frame.code, frame.offset), (0x99, 0x4000, Some(8)));
        let waker = wait.waker.expect("it was seen");
        assert_eq!((waker.pid, waker.tid, waker.call), (50, 51, None));
        assert_eq!((&waker.comm[..6], waker.is_interrupted), (&b"waker\0"[..], true));
        let WaitPart::Whole(sample) = wait.part else { panic!("{:?}", wait.part) };
        assert_eq!(sample.user_frames().collect::<Vec<_>>(), [0x1000]);
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_err(), "{cut}");
        }
        for (kind, part) in [(8, WaitPart::More), (9, WaitPart::HandedOver)] {
            bytes[12] = kind;
            let Ok(Record::Wait(wait)) = Record::parse(&bytes[..stack]) else { panic!("not a wait") };
            assert_eq!((wait.part, wait.tells_waker), (part, false));
        }
    }

    /// Threads follow one another, with as many kernel frames as each says; amid one the end is an error.
    #[test]
    fn accounts_decode_as_laid_out() {
        let thread = |tid: u32, kernel: &[u64]| {
            let mut bytes =
                words(&[90, pair(41, 10), 1, 2, 3, 4, 5, 14, 15, 6, 7, 8, 9, pair(10, 16), pair(11, tid)]);
            bytes.extend(words(&[
                pair(12, 3),
                pair(18, u32::MAX),
                13,
                0xf5,
                17,
                19,
                pair(kernel.len() as u32, 2),
            ]));
            bytes.extend(*b"thread\0\0\0\0\0\0\0\0\0\0process\0\0\0\0\0\0\0\0\0");
            assert_eq!(bytes.len(), 208);
            bytes.extend(words(&(100..121).collect::<Vec<u64>>()));
            bytes.extend(words(kernel));
            bytes
        };
        let bytes = [thread(42, &[7, 8]), thread(43, &[])].concat();
        let accounts = ThreadAccount::parse_all(&bytes).expect("whole");
        let ThreadAccount { record, registers, kernel } = &accounts[0];
        assert_eq!((record.run_ns, record.queue_ns, record.blocked_ns), (1, 2, 3));
        assert_eq!(record.short, WaitSums { count: 10, queue_ns: 4, blocked_ns: 5 });
        assert_eq!(record.thin, WaitSums { count: 16, queue_ns: 14, blocked_ns: 15 });
        assert_eq!(record.bare, WaitSums { count: 11, queue_ns: 6, blocked_ns: 7 });
        assert_eq!(record.open, WaitSums { count: 0, queue_ns: 8, blocked_ns: 9 });
        assert_eq!((record.open_sequence, record.scheduled), (Some(12), Some(Scheduled::Blocked)));
        assert_eq!((record.call, record.argument, record.is_gil, record.switches), (None, 13, true, 17));
        assert_eq!(record.birth, Some(Birth { parent_tid: 18, time_ns: 19 }));
        assert_eq!((registers.general[7], registers.pc, registers.fs_base), (119, 116, 0xf5));
        assert_eq!((registers.general[3], registers.general[15], registers.code_segment), (105, 100, 117));
        assert_eq!((&kernel[..], accounts[1].record.tid, accounts.len()), (&[7, 8][..], 43, 2));
        assert!(ThreadAccount::parse_all(&bytes[..bytes.len() - 1]).is_err());
    }
}
