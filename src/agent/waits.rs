//! Waits, put together from what is told of them piece by piece: stack, times,
//! who ended them; and what each thread did with all of its time.
//!
//! Per thread, running + run queue + blocked is the time that passed. Each wait
//! that has a stack is taken off what the scheduler counted; the rest is shown
//! as what it is, so that the sum stays.

use std::collections::{BTreeMap, HashMap};

use super::capture::{Capture, CaughtStack, RawFrame, Tally, WaitFrame};
use super::gil::{GilWait, Handover, Handovers, Part, Unsettled};
use super::shares::shares;
use super::stack::Stack;
use super::thread_names::ThreadNames;
use super::wait_names::WaitNames;
use crate::model::profile::ThreadRoot;
use crate::model::{Root, ThreadState, ThreadTimes};
use crate::sys::abi::{COMM_BYTES, comm_text};
use crate::sys::wait_record::{ThreadAccount, ThreadRecord, WaitObject, WaitPart, WaitRecord, Waker};

/// Threads told apart, as many as the capture has roots for. Further ones are not in the sums.
const MAX_THREADS: usize = 65_536;

/// A thread by process and thread id.
type ThreadKey = (u32, u32);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// What is pending, by thread.
    pending: HashMap<ThreadKey, Pending>,
    /// Who gave up Python's lock, by process.
    handovers: HashMap<u32, Handovers>,
    unsettled: Vec<Unsettled>,
    /// What threads, files and sockets are called.
    pub names: WaitNames,
    sums: BTreeMap<ThreadKey, Sums>,
    /// Until when each thread is accounted for, once the recording ends.
    ends_ns: HashMap<ThreadKey, u64>,
    /// Threads that found no room.
    pub refused: u64,
    /// Who ends waits is shown.
    pub shows_wakers: bool,
}

/// What a thread's next records belong to.
#[derive(Debug, Default)]
struct Pending {
    /// A wait that was told when it began.
    open: Option<Told>,
    /// One for Python's lock that may go on.
    gil: Option<(u32, GilWait)>,
    /// Who ended the wait that is told next.
    woken_by: Option<Stack>,
}

/// A wait whose stack was told.
#[derive(Debug)]
struct Told {
    sequence: u32,
    root: Root,
    user: CaughtStack,
    kernel: Vec<RawFrame>,
    coroutine: Option<u64>,
}

impl Told {
    /// `weight_ns` of the wait that `record` tells.
    fn tally(&self, record: &WaitRecord<'_>, weight_ns: u64) -> Tally {
        Tally { count: 1, weight_ns, at_ns: record.began_ns, coroutine: self.coroutine }
    }
}

/// A thread's time, as counted and as told.
#[derive(Debug, Default)]
struct Sums {
    times: ThreadTimes,
    /// Times of waits that have a stack.
    told_queue_ns: u64,
    told_blocked_ns: u64,
    short_queue_ns: u64,
    short_blocked_ns: u64,
    /// Waits of which some have their stack in `sampled`.
    thin_queue_ns: u64,
    thin_blocked_ns: u64,
    sampled: Stacks,
    /// Waits outside of system calls: those that have a stack, and the time of those that were too many for one.
    preempted: Stacks,
    bare_queue_ns: u64,
}

/// The root of one thread.
pub(super) fn thread_root(
    pid: u32,
    tid: u32,
    thread_comm: &[u8; COMM_BYTES],
    process_comm: &[u8; COMM_BYTES],
) -> Root {
    let thread = ThreadRoot { name: comm_text(thread_comm), pid, tid };
    Root { process: comm_text(process_comm), thread: Some(thread) }
}

impl Waits {
    /// Adds a wait that comes with its root and stack. `holder` is the function of who had Python's lock.
    pub(super) fn add(
        &mut self,
        record: &WaitRecord<'_>,
        (root, stack): (Root, Stack),
        holder: Option<RawFrame>,
        capture: &mut Capture,
    ) {
        let key = (record.pid, record.tid);
        let user = CaughtStack::empty(stack.outcome, false);
        let user = capture.extend(user, stack.frames.iter().rev().copied());
        let coroutine = match &record.part {
            WaitPart::Whole(sample) | WaitPart::Opened(sample) => sample.coroutine,
            WaitPart::More | WaitPart::Woken(_) | WaitPart::HandedOver => None,
        };
        let told = Told { sequence: record.sequence, root, user, kernel: stack.kernel, coroutine };
        if matches!(record.part, WaitPart::Opened(_)) {
            self.pending.entry(key).or_default().open = Some(told);
            return;
        }
        if record.is_sampled {
            return self.add_sampled(record, &told, capture);
        }
        self.end_gil(key, capture);
        self.sums_of(record).times.told_count += 1;
        if record.is_gil {
            let wait = GilWait::new(told.root.clone(), record.tid, user, coroutine);
            self.pending.entry(key).or_default().gil = Some((record.sequence, wait));
            self.add_gil(record, &told, holder, capture);
        } else {
            self.add_told(record, &told, capture);
        }
    }

    /// Adds the times of a wait whose stack was told before.
    pub(super) fn add_more(
        &mut self,
        record: &WaitRecord<'_>,
        holder: Option<RawFrame>,
        capture: &mut Capture,
    ) {
        let key = (record.pid, record.tid);
        let Some(pending) = self.pending.get_mut(&key) else { return };
        if let Some(told) = pending.open.take_if(|told| told.sequence == record.sequence) {
            self.end_gil(key, capture);
            let queue = capture.extend(told.user, std::iter::once(RawFrame::Wait(WaitFrame::Queue)));
            let sums = self.sums_of(record);
            sums.times.told_count += 1;
            sums.preempted.entry((ThreadState::Queued, queue)).or_default().weight_ns += record.queue_ns;
            return self.add_told(record, &told, capture);
        }
        if let Some((_, wait)) = pending.gil.as_ref().filter(|(sequence, _)| *sequence == record.sequence) {
            let GilWait { user, coroutine, .. } = *wait;
            let root = wait.root.clone();
            let told = Told { sequence: record.sequence, root, user, kernel: Vec::new(), coroutine };
            self.add_gil(record, &told, holder, capture);
        }
    }

    /// A wait that stands for others. What it weighs is known at the end.
    fn add_sampled(&mut self, record: &WaitRecord<'_>, told: &Told, capture: &mut Capture) {
        let queue = capture.extend(told.user, std::iter::once(RawFrame::Wait(WaitFrame::Queue)));
        let mut pieces = vec![(ThreadState::Queued, queue, record.queue_ns)];
        if record.is_gil {
            let handovers = self.handovers.entry(record.pid).or_default();
            for (frames, ns) in handovers.holders(record) {
                pieces.push((ThreadState::Gil, capture.extend(told.user, frames), ns));
            }
        } else {
            let blocked = capture.extend(told.user, self.blocked_frames(record, told).into_iter());
            pieces.push((ThreadState::Blocked, blocked, record.blocked_ns));
        }
        // What it weighs is the time waited that it stands for, whatever its own length.
        let total = (record.queue_ns + record.blocked_ns).max(1);
        let stood_for = u128::from(record.stands_for_ns);
        let part = |ns: u64| u64::try_from(u128::from(ns) * stood_for / u128::from(total)).unwrap_or(0);
        let sampled = &mut self.sums_of(record).sampled;
        let longest = (0..pieces.len()).max_by_key(|index| pieces[*index].2);
        for (index, (state, stack, ns)) in pieces.into_iter().enumerate() {
            capture.add_share(&told.root, stack, state, told.tally(record, part(ns)));
            let share = sampled.entry((state, stack)).or_default();
            share.weight_ns += part(ns);
            // It is one wait.
            share.count += u64::from(longest == Some(index));
        }
    }

    /// What stands above the user's part of a stack that was blocked.
    fn blocked_frames(&mut self, record: &WaitRecord<'_>, told: &Told) -> Vec<RawFrame> {
        let mut frames = vec![RawFrame::Wait(WaitFrame::Blocked(record.call))];
        let object = self.names.object(record);
        frames.extend(object.map(|object| RawFrame::Wait(WaitFrame::Object(object))));
        frames.extend(told.kernel.iter().rev());
        frames.extend(self.waker_frames(record));
        frames
    }

    fn add_told(&mut self, record: &WaitRecord<'_>, told: &Told, capture: &mut Capture) {
        self.add_queue(record, told, capture);
        if record.blocked_ns == 0 {
            return;
        }
        let frames = self.blocked_frames(record, told);
        let stack = capture.extend(told.user, frames.into_iter());
        let tally = told.tally(record, record.blocked_ns);
        capture.add(&told.root, stack, ThreadState::Blocked, tally);
        self.sums_of(record).told_blocked_ns += record.blocked_ns;
    }

    fn add_queue(&mut self, record: &WaitRecord<'_>, told: &Told, capture: &mut Capture) {
        if record.queue_ns == 0 {
            return;
        }
        let stack = capture.extend(told.user, std::iter::once(RawFrame::Wait(WaitFrame::Queue)));
        // It is counted where it was blocked, if it was.
        let count = u64::from(record.blocked_ns == 0 && !record.is_gil);
        let tally = Tally { count, ..told.tally(record, record.queue_ns) };
        capture.add(&told.root, stack, ThreadState::Queued, tally);
        self.sums_of(record).told_queue_ns += record.queue_ns;
    }

    /// A part of a wait for Python's lock. Who held it is known when the wait ends.
    fn add_gil(
        &mut self,
        record: &WaitRecord<'_>,
        told: &Told,
        holder: Option<RawFrame>,
        capture: &mut Capture,
    ) {
        self.add_queue(record, told, capture);
        let sums = self.sums_of(record);
        sums.told_blocked_ns += record.blocked_ns;
        sums.times.gil_ns += record.blocked_ns;
        let key = (record.pid, record.tid);
        let pending = self.pending.entry(key).or_default();
        // Else it was a timer's doing, and it is waited for on.
        pending.woken_by = None;
        let was_handed_over = record.tells_waker || record.waker.is_none();
        if let Some((_, wait)) = &mut pending.gil {
            let WaitRecord { began_ns, blocked_ns, .. } = *record;
            let holder = record.holder.map(|known| (known.pointer, holder));
            wait.add(Part { began_ns, blocked_ns, holder });
            if was_handed_over || wait.is_full() {
                let handovers = self.handovers.entry(record.pid).or_default();
                wait.settle(record.pid, handovers, &mut self.unsettled, capture);
            }
        }
    }

    /// The wait for Python's lock that `key` was in is over: the thread did something else since.
    fn end_gil(&mut self, key: ThreadKey, capture: &mut Capture) {
        if let Some((_, mut wait)) = self.pending.get_mut(&key).and_then(|pending| pending.gil.take()) {
            let handovers = self.handovers.entry(key.0).or_default();
            wait.settle(key.0, handovers, &mut self.unsettled, capture);
        }
    }

    /// Takes note of who ends the wait of `record`, with its stack.
    pub(super) fn note_waker(&mut self, record: &WaitRecord<'_>, stack: Stack) {
        if record.is_gil {
            self.note_handover(record, stack.python_function());
        }
        if self.sums.len() < MAX_THREADS {
            self.pending.entry((record.pid, record.tid)).or_default().woken_by = Some(stack);
        }
    }

    /// Takes note of who hands Python's lock to the thread of `record`, and of the function in which it had it.
    pub(super) fn note_handover(&mut self, record: &WaitRecord<'_>, function: Option<RawFrame>) {
        let hands_over = |waker: &&Waker| !waker.is_interrupted && waker.pid == record.pid;
        let Some(waker) = record.waker.as_ref().filter(hands_over) else { return };
        let holder = self.names.thread(waker.pid, waker.tid, &comm_text(&waker.comm));
        let handover = Handover { time_ns: record.time_ns, tid: waker.tid, holder, function };
        self.handovers.entry(record.pid).or_default().push(handover);
    }

    fn waker_frames(&mut self, record: &WaitRecord<'_>) -> Vec<RawFrame> {
        let pending = self.pending.get_mut(&(record.pid, record.tid));
        let stack = pending.and_then(|pending| pending.woken_by.take());
        let Some(waker) = record.waker.filter(|_| self.shows_wakers) else { return Vec::new() };
        if !has_woken(&waker) {
            return vec![RawFrame::Wait(WaitFrame::WokenByInterrupt)];
        }
        let thread = self.names.thread(waker.pid, waker.tid, &comm_text(&waker.comm));
        let mut frames = vec![RawFrame::Wait(WaitFrame::WokenBy(thread))];
        frames.extend(stack.iter().flat_map(Stack::root_first));
        frames
    }

    fn sums_of(&mut self, record: &WaitRecord<'_>) -> &mut Sums {
        self.sums.entry((record.pid, record.tid)).or_default()
    }

    /// A thread ends, or the recording does: what it did with its time.
    pub(super) fn add_thread(&mut self, record: &ThreadRecord) {
        let key = (record.pid, record.tid);
        if self.sums.len() >= MAX_THREADS && !self.sums.contains_key(&key) {
            self.refused += 1;
            return;
        }
        let sums = self.sums.entry(key).or_default();
        let ThreadRecord { short, thin, bare, .. } = record;
        sums.short_queue_ns += short.queue_ns;
        sums.short_blocked_ns += short.blocked_ns;
        sums.thin_queue_ns += thin.queue_ns;
        sums.thin_blocked_ns += thin.blocked_ns;
        sums.bare_queue_ns += bare.queue_ns;
        let times = &mut sums.times;
        times.process = comm_text(&record.process_comm);
        times.name = comm_text(&record.thread_comm);
        (times.pid, times.tid) = key;
        times.run_ns += record.run_ns;
        times.queue_ns += record.queue_ns;
        times.blocked_ns += record.blocked_ns;
        times.short_count += u64::from(short.count);
        times.sampled_count += u64::from(thin.count);
        times.bare_count += u64::from(bare.count);
    }

    /// The recording ends: nothing counts that happens behind these sums.
    pub(super) fn end_at(&mut self, accounts: &[ThreadAccount]) {
        let ends = accounts.iter().map(|account| &account.record);
        self.ends_ns = ends.map(|record| ((record.pid, record.tid), record.time_ns)).collect();
    }

    /// From here on everything counts again: the waits that have not ended are told.
    pub(super) fn reopen(&mut self) {
        self.ends_ns.clear();
    }

    /// What ended a thread's wait for Python's lock is not told before its next wait; it is over all the same.
    pub(super) fn settle_gil(
        &mut self,
        pid: u32,
        tid: u32,
        thread_names: &ThreadNames,
        capture: &mut Capture,
    ) {
        let pending = self.pending.get_mut(&(pid, tid));
        // If it goes on all the same, its next parts are of the same wait.
        if let Some((_, wait)) = pending.and_then(|pending| pending.gil.as_mut()) {
            let handovers = self.handovers.entry(pid).or_default();
            wait.settle(pid, handovers, &mut self.unsettled, capture);
        }
        self.settle_rest(thread_names, capture);
    }

    fn settle_rest(&mut self, thread_names: &ThreadNames, capture: &mut Capture) {
        let names = &mut self.names;
        for unsettled in self.unsettled.drain(..) {
            unsettled.settle(
                |pid, pointer| thread_names.thread_of(pid, pointer),
                |pid, tid| names.thread(pid, tid, "thread"),
                capture,
            );
        }
    }

    /// Forgets sums of threads that nobody asks for.
    pub(super) fn forget_sums(&mut self) {
        self.sums.clear();
        self.refused = 0;
    }

    /// Whether what happened to a thread at `time_ns` is behind its sums.
    pub(super) fn is_over(&self, pid: u32, tid: u32, time_ns: u64) -> bool {
        self.ends_ns.get(&(pid, tid)).is_some_and(|end_ns| time_ns > *end_ns)
    }

    /// A wait that has not ended, and was told when it began.
    pub(super) fn add_open(&mut self, record: &ThreadRecord, capture: &mut Capture) {
        let Some(sequence) = record.open_sequence else { return };
        let (blocked_ns, queue_ns) = (record.open.blocked_ns, record.open.queue_ns);
        let began_ns = record.time_ns.saturating_sub(blocked_ns + queue_ns);
        let wait = WaitRecord {
            time_ns: record.time_ns,
            pid: record.pid,
            tid: record.tid,
            sequence,
            began_ns,
            blocked_ns,
            queue_ns,
            run_sum_ns: record.run_ns,
            queue_sum_ns: record.queue_ns,
            stands_for_ns: 0,
            call: record.call,
            argument: record.argument,
            object: WaitObject::default(),
            is_sampled: false,
            is_gil: false,
            holder: None,
            waker: None,
            tells_waker: false,
            part: WaitPart::More,
        };
        self.add_more(&wait, None, capture);
    }

    /// Adds what has no stack, so that each thread's sum is its time, and weighs what ran where that was sampled.
    /// Returns how each thread spent its time, the busiest first.
    pub(super) fn finish(
        &mut self,
        is_sampled: bool,
        thread_names: &ThreadNames,
        capture: &mut Capture,
    ) -> Vec<ThreadTimes> {
        let keys: Vec<ThreadKey> = self.pending.keys().copied().collect();
        keys.into_iter().for_each(|key| self.end_gil(key, capture));
        self.settle_rest(thread_names, capture);
        let sums = std::mem::take(&mut self.sums);
        let known = sums.into_iter().filter(|(_, sums)| sums.times.pid != 0);
        let mut threads = Vec::new();
        let mut run_ns = HashMap::new();
        for (key, mut sums) in known {
            run_ns.insert(key, sums.times.run_ns);
            spread_sampled(&mut sums, capture);
            add_rest(&mut sums, capture);
            threads.push(sums.times);
        }
        if is_sampled {
            let sampled = capture.weigh(&run_ns);
            let unseen = threads.iter().filter(|times| !sampled.contains(&(times.pid, times.tid)));
            for times in unseen {
                let frame = WaitFrame::NotSampled;
                add_bare(times, frame, ThreadState::Running, times.run_ns, 0, capture);
            }
        }
        capture.mark_idle(|key| run_ns.get(&key).is_none_or(|ran_ns| *ran_ns > 0));
        threads.sort_by_key(|times| std::cmp::Reverse((times.run_ns, times.total_ns())));
        threads
    }
}

/// Stacks by what the thread was about in them.
type Stacks = BTreeMap<(ThreadState, CaughtStack), Share>;

/// What a stack has of those that share a time.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// What it weighs among them.
    weight_ns: u64,
    /// Waits that had it and are not counted elsewhere.
    count: u64,
}

/// Gives the time of waits of which only some have a stack to these stacks, in proportion. Without any it is as that of
/// waits that were too short.
fn spread_sampled(sums: &mut Sums, capture: &mut Capture) {
    let is_queue = |(state, _): &(ThreadState, CaughtStack)| *state == ThreadState::Queued;
    let (queued, blocked): (Stacks, Stacks) =
        std::mem::take(&mut sums.sampled).into_iter().partition(|(stack, _)| is_queue(stack));
    if spread(&queued, sums.thin_queue_ns, sums, capture) {
        sums.told_queue_ns += sums.thin_queue_ns;
    } else {
        sums.short_queue_ns += sums.thin_queue_ns;
    }
    if spread(&blocked, sums.thin_blocked_ns, sums, capture) {
        sums.told_blocked_ns += sums.thin_blocked_ns;
    } else {
        sums.short_blocked_ns += sums.thin_blocked_ns;
    }
    // Of waits outside of system calls, those that were not told are like those that were.
    let preempted = std::mem::take(&mut sums.preempted);
    if spread(&preempted, sums.bare_queue_ns, sums, capture) {
        sums.told_queue_ns += sums.bare_queue_ns;
        sums.times.sampled_count += std::mem::take(&mut sums.times.bare_count);
    }
    sums.times.short_ns = sums.short_queue_ns + sums.short_blocked_ns;
}

/// Divides `wanted` among `stacks`. `false` where there are none.
fn spread(stacks: &Stacks, wanted: u64, sums: &mut Sums, capture: &mut Capture) -> bool {
    let weights: Vec<u64> = stacks.values().map(|share| share.weight_ns).collect();
    let Some(shares) = shares(&weights, wanted) else { return false };
    let root = root_of(&sums.times);
    for (((state, stack), Share { count, .. }), weight_ns) in stacks.iter().zip(shares) {
        capture.add(&root, *stack, *state, Tally { count: *count, weight_ns, ..Tally::default() });
        sums.times.shared_stacks += count;
        if *state == ThreadState::Gil {
            sums.times.gil_ns += weight_ns;
        }
    }
    sums.times.sampled_ns += wanted;
    true
}

fn root_of(times: &ThreadTimes) -> Root {
    let thread = ThreadRoot { name: times.name.clone(), pid: times.pid, tid: times.tid };
    Root { process: times.process.clone(), thread: Some(thread) }
}

/// What of a thread's waits was not told with a stack.
fn add_rest(sums: &mut Sums, capture: &mut Capture) {
    let times = &mut sums.times;
    let rest = |total: u64, told: u64, short: u64| total.saturating_sub(told).saturating_sub(short);
    let bare_queue_ns = rest(times.queue_ns, sums.told_queue_ns, sums.short_queue_ns);
    let bare_blocked_ns = rest(times.blocked_ns, sums.told_blocked_ns, sums.short_blocked_ns);
    times.bare_ns = bare_queue_ns + bare_blocked_ns;
    let (short, bare) = (times.short_count, times.bare_count);
    let parts = [
        (WaitFrame::Short, ThreadState::Blocked, sums.short_blocked_ns, short),
        (WaitFrame::Short, ThreadState::Queued, sums.short_queue_ns, 0),
        (WaitFrame::Bare, ThreadState::Blocked, bare_blocked_ns, bare),
        (WaitFrame::Bare, ThreadState::Queued, bare_queue_ns, 0),
    ];
    for (frame, state, weight_ns, count) in parts {
        add_bare(times, frame, state, weight_ns, count.max(1), capture);
    }
}

/// Time of a thread that has no stack.
fn add_bare(
    times: &ThreadTimes,
    frame: WaitFrame,
    state: ThreadState,
    weight_ns: u64,
    count: u64,
    capture: &mut Capture,
) {
    if weight_ns == 0 {
        return;
    }
    let root = root_of(times);
    let mut frames = vec![RawFrame::Wait(frame)];
    if state == ThreadState::Queued {
        frames.push(RawFrame::Wait(WaitFrame::Queue));
    }
    let stack = CaughtStack::empty(crate::model::Outcome::Complete, false);
    let stack = capture.extend(stack, frames.into_iter());
    capture.add(&root, stack, state, Tally { count, weight_ns, ..Tally::default() });
}

/// Whether the thread that ran ended the wait, not what interrupted it. What is sent to this very machine arrives in a
/// softirq on top of the sender.
pub(super) fn has_woken(waker: &Waker) -> bool {
    /// System calls that send: write, sendto, sendmsg, shutdown, connect, close, writev, sendfile, splice,
    /// pwritev2, sendmmsg, io_uring_enter.
    const SENDS: [i64; 12] = [
        libc::SYS_write,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
        libc::SYS_connect,
        libc::SYS_close,
        libc::SYS_writev,
        libc::SYS_sendfile,
        libc::SYS_splice,
        libc::SYS_pwritev2,
        libc::SYS_sendmmsg,
        libc::SYS_io_uring_enter,
    ];
    let sends = || waker.call.is_some_and(|call| SENDS.contains(&i64::from(call)));
    waker.tid != 0 && (!waker.is_interrupted || sends())
}
