//! Threads that are sampled and stopped at the same instants.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use txprof::model::Outcome;
use txprof::sampler::Pythons;
use txprof::sys::abi::{FRAME_INTERRUPTED, PythonFrame, Record, SampleRecord, TableProcess};
use txprof::sys::bpf::{Bpf, BpfSettings};
use txprof::sys::clock::monotonic_ns;
use txprof::sys::perf_event::{PerfEvent, online_cpus};
use txprof::sys::table_memory::TableCapacity;

use super::{Account, Frames, Interpreted, Reading};

/// Not a divisor of anything that programs do regularly.
const PERIOD_NS: u64 = 501_001;

/// The walker in the kernel, with no table of rows: of native frames there is the leaf.
pub struct Instants {
    bpf: Bpf,
    pythons: Pythons,
}

impl Instants {
    pub fn open() -> Self {
        let (bpf, _tables, pythons) = Bpf::load(&BpfSettings {
            capacity: TableCapacity { rows: 1024, pages: 64, mappings: 64, pythons: 256 },
            ring_bytes: 4 << 20,
            cpu_capacity: online_cpus().expect("/sys is there").last().expect("one runs this") + 1,
            follow_children: false,
            watch_all: false,
            kernel_frames: true,
            on_cpu: true,
            off_cpu: None,
            lane: None,
            keep_samples: true,
        })
        .expect("BPF is allowed here");
        Self { bpf, pythons: Pythons::new(pythons) }
    }
}

/// A sample that waits to be compared.
struct Ours {
    time_ns: u64,
    reading: Reading,
}

impl Ours {
    fn of(sample: &SampleRecord<'_>) -> Self {
        let python = Frames {
            frames: sample.python_frames().map(without_offset).collect(),
            outcome: Outcome::from_number(sample.python_outcome).expect("our own object's"),
            holds_gil: sample.holds_gil,
        };
        let reading = Reading {
            pc: sample.user_frames().next().map(|leaf| leaf & !FRAME_INTERRUPTED),
            python: Some(python).filter(|_| sample.python_instance != 0),
        };
        Self { time_ns: sample.time_ns, reading }
    }
}

/// What is no frame has no offset, whatever its word says.
fn without_offset(frame: PythonFrame) -> PythonFrame {
    PythonFrame { offset: frame.offset.filter(|_| !frame.is_empty), ..frame }
}

/// A thread that is traced.
struct Thread {
    tid: Pid,
    _timer: PerfEvent,
    samples: Vec<Ours>,
    /// What was read at its last stop, and when it was let go.
    last: Option<(Reading, u64)>,
}

/// A process that dies with this guard.
pub struct Trapped<'a> {
    instants: &'a mut Instants,
    interpreted: Interpreted,
    pid: Pid,
    threads: Vec<Thread>,
}

impl<'a> Trapped<'a> {
    /// Traces every thread that `pid` has now.
    pub fn seize(pid: u32, instants: &'a mut Instants) -> Self {
        let interpreted = Interpreted::find(pid);
        let python = instants.pythons.add(interpreted.found).expect("there is room");
        let process = TableProcess { pid, python: python.index, ..TableProcess::default() };
        instants.bpf.set_process(process).expect("there is room");
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the target lives");
        let tids = tasks.map(|task| task.expect("it lives").file_name().to_string_lossy().into_owned());
        let threads = tids.map(|tid| {
            let tid: u32 = tid.parse().expect("tids are numbers");
            let traced = Pid::from_raw(tid.cast_signed());
            ptrace::seize(traced, ptrace::Options::PTRACE_O_EXITKILL).expect("root may trace");
            let timer = PerfEvent::open_trap(tid, PERIOD_NS).expect("the kernel knows sigtrap");
            instants.bpf.attach_sampler(&timer).expect("the program is loaded");
            Thread { tid: traced, _timer: timer, samples: Vec::new(), last: None }
        });
        let threads = threads.collect();
        Self { instants, interpreted, pid: Pid::from_raw(pid.cast_signed()), threads }
    }

    /// Judges samples until there are `stacks` more in `account`, at most for `limit`.
    pub fn judge(&mut self, stacks: u64, limit: Duration, account: &mut Account) {
        let (wanted, began) = (account.stacks() + stacks, Instant::now());
        while account.stacks() < wanted && began.elapsed() < limit {
            let mut is_idle = true;
            for index in 0..self.threads.len() {
                is_idle &= !self.settle(index, account);
            }
            if is_idle {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Judges a thread and lets it go, if it has stopped.
    fn settle(&mut self, index: usize, account: &mut Account) -> bool {
        let tid = self.threads[index].tid;
        let signal = match waitpid(tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) if is_perf(tid) => {
                self.judge_stopped(index, account);
                None
            }
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => None,
            Ok(WaitStatus::StillAlive) => return false,
            ended => panic!("the target ended: {ended:?}"),
        };
        ptrace::cont(tid, signal).expect("it is stopped");
        true
    }

    fn judge_stopped(&mut self, index: usize, account: &mut Account) {
        let registers = ptrace::getregs(self.threads[index].tid).expect("it is stopped");
        let python = self.interpreted.read(registers.fs_base);
        let reading = Reading { pc: Some(registers.rip), python };
        self.drain();
        let thread = &mut self.threads[index];
        let last = thread.last.take();
        // A tick may find the thread still in the kernel, on its way to the stop before or from there.
        let resumed_ns = last.as_ref().map_or(0, |(_, resumed_ns)| *resumed_ns);
        let (earlier, own): (Vec<Ours>, Vec<Ours>) =
            thread.samples.drain(..).partition(|ours| ours.time_ns < resumed_ns);
        if let Some((before, _)) = &last {
            earlier.iter().for_each(|ours| account.add(&ours.reading, before));
            own.first().into_iter().for_each(|ours| account.add_apart(&ours.reading, before));
        }
        own.iter().for_each(|ours| account.add(&ours.reading, &reading));
        account.lonely += u64::from(own.is_empty());
        thread.last = Some((reading, monotonic_ns()));
    }

    fn drain(&mut self) {
        self.instants.bpf.poll(Duration::ZERO);
        let threads = &mut self.threads;
        self.instants.bpf.take_records(|bytes| {
            if let Ok(Record::Sample(sample)) = Record::parse(bytes)
                && let Some(thread) =
                    threads.iter_mut().find(|thread| thread.tid.as_raw() as u32 == sample.tid)
            {
                thread.samples.push(Ours::of(&sample));
            }
        });
    }
}

/// Whether the signal is our timer's, `TRAP_PERF` of `include/uapi/asm-generic/siginfo.h`.
fn is_perf(tid: Pid) -> bool {
    const TRAP_PERF: i32 = 6;
    ptrace::getsiginfo(tid).is_ok_and(|information| information.si_code == TRAP_PERF)
}

impl Drop for Trapped<'_> {
    /// Nobody else may wait for traced threads; the first one is left to who started the process.
    fn drop(&mut self) {
        self.instants.bpf.remove_process(self.pid.as_raw().cast_unsigned());
        let _gone = kill(self.pid, Signal::SIGKILL);
        for thread in self.threads.iter().filter(|thread| thread.tid != self.pid) {
            while !matches!(
                waitpid(thread.tid, Some(WaitPidFlag::__WALL)),
                Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)) | Err(Errno::ECHILD | Errno::ESRCH)
            ) {}
        }
    }
}
