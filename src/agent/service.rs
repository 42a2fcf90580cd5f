//! The agent's loop: requests are followed for as long as it runs, judged when they end, and handed on with their
//! profiles when a policy keeps them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use tracing::info;

use super::capture::{Capture, CaughtStack, RawFrame, Tally, WaitFrame};
use super::config::TransactionConfig;
use super::control::{Question, answer};
use super::frame_names::FrameNames;
use super::growth::Growth;
use super::keeper::Kept;
use super::losses::{Loss, LossLog};
use super::minute::Stacks;
use super::recorder::Recorder;
use super::replay::Replay;
use super::request_profile::{RequestProfile, Whose};
use super::troubles::{Failures, with_files_hint};
use crate::model::profile::ThreadRoot;
use crate::model::{Attributes, Mode, Outcome, Profile, Recording, Request, Root, ThreadState, ThreadTimes};
use crate::store::StoredRequest;
use crate::sys::abi::Counters;
use crate::sys::clock::{monotonic_ns, unix_less_monotonic_ns};
use crate::target::procfs;
use crate::transaction::errands::Errand;
use crate::transaction::name::name_of;
use crate::transaction::policy::{PolicySet, Verdict};
use crate::transaction::tracker::Finished;
use crate::{ErrorKind, Result};

/// While requests are in flight or wait to be judged: their profiles are there within a tenth of a second.
const BUSY_TICK: Duration = Duration::from_millis(25);
/// Else. Questions wait no longer than that.
const IDLE_TICK: Duration = Duration::from_millis(50);
/// How long the full rate of a process that serves requests is prolonged, and how often that is done.
const FULL_RATE_NS: u64 = 600_000_000;
const FULL_RATE_STEP_NS: u64 = 200_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Profiles are made for no longer than this before what has happened meanwhile is looked at.
const JUDGING_NS: u64 = 20_000_000;
/// At the end.
const ENDING_NS: u64 = 3 * SECOND_NS;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// What became of requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ServiceCounts {
    /// Requests that ended.
    pub requests: u64,
    /// Of these, those that a policy keeps.
    pub kept: u64,
    /// Of these, those that were not handed on because whoever writes them was too slow.
    pub not_written: u64,
}

/// How an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ServiceStatus {
    /// What became of requests.
    pub counts: ServiceCounts,
    /// What was lost on the way to them.
    pub losses: super::requests::RequestLosses,
    /// Requests that were not followed because too many were in flight.
    pub untracked: u64,
    /// Transfers that found no room in the ring: their requests are lost or wrong.
    pub transfers_lost: u64,
    /// Samples and waits that found no room in the ring.
    pub samples_lost: u64,
    /// Times that a thread came to a CPU or left it without the kernel's telling.
    pub switches_mended: u64,
    /// Waits whose stack was taken.
    pub waits: u64,
    /// Requests in flight.
    pub in_flight: usize,
    /// Processes that are watched, ascending.
    pub processes: Vec<u32>,
    /// CPU time of txprof's own threads.
    pub own_cpu_ns: u64,
    /// Run time of its BPF programs, without those that tell transfers.
    pub bpf_run_ns: u64,
    /// Largest resident set so far.
    pub peak_rss_bytes: u64,
    /// Memory held by BPF maps and programs.
    pub bpf_memory_bytes: u64,
}

/// The agent at work.
pub struct Service {
    recorder: Recorder,
    /// What is kept.
    pub policies: PolicySet,
    kept: Sender<Kept>,
    decision_wait_ns: u64,
    max_duration_ns: u64,
    names: FrameNames,
    counts: ServiceCounts,
    full_rates: HashSet<u32>,
    full_rates_ns: u64,
    /// Its own, which would be asked of the kernel for each ID.
    pid: u64,
    last_id: u64,
    /// The present one, since the epoch.
    minute: u64,
    /// As far as it was acted upon.
    transfers_lost: u64,
    /// As far as they were told.
    losses: LossLog,
    /// Rounds in which not all could be done.
    failures: Failures,
    changes: Growth,
    met: u64,
    gone: u64,
}

impl Service {
    /// One that records by `recorder`, judges requests some time after their end and hands those that
    /// `policies` keep to `kept`. What finds no room there is dropped and counted.
    pub fn new(
        recorder: Recorder,
        policies: PolicySet,
        transactions: TransactionConfig,
        kept: Sender<Kept>,
    ) -> Self {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // Those that are watched from the beginning are told by who begins.
        let Replay { met, gone, .. } = recorder.replay;
        let mut changes = Growth::default();
        changes.settle(met + gone);
        Self {
            recorder,
            policies,
            kept,
            decision_wait_ns: ns(transactions.decision_wait),
            max_duration_ns: ns(transactions.max_duration),
            names: FrameNames::default(),
            counts: ServiceCounts::default(),
            full_rates: HashSet::new(),
            full_rates_ns: 0,
            pid: u64::from(std::process::id()),
            last_id: 0,
            minute: unix_ns() / MINUTE_NS,
            transfers_lost: 0,
            losses: LossLog::default(),
            failures: Failures::default(),
            changes,
            met,
            gone,
        }
    }

    /// Serves until `stop` is set or all targets are gone and none can come. `questions` are answered meanwhile;
    /// `each_second` is called about once a second.
    pub fn run(
        &mut self,
        stop: &AtomicBool,
        questions: &Receiver<Question>,
        each_second: &mut dyn FnMut(&mut Self) -> Result<()>,
    ) -> Result<()> {
        let mut next_second_ns = 0;
        while !stop.load(Ordering::Relaxed) && !self.recorder.is_deserted() {
            let is_busy = self.recorder.replay.requests.as_ref().is_some_and(|requests| requests.is_busy());
            self.drain(if is_busy { BUSY_TICK } else { IDLE_TICK })?;
            let now_ns = monotonic_ns();
            self.judge_all(now_ns.saturating_sub(self.decision_wait_ns));
            self.raise_rates(now_ns);
            while let Ok(question) = questions.try_recv() {
                answer(self, question);
            }
            if now_ns >= next_second_ns {
                next_second_ns = now_ns + SECOND_NS;
                let counters = self.check_losses();
                if let Some(counters) = self.outlive(counters)? {
                    self.losses.tell(&self.losses_of(counters), now_ns);
                }
                self.tell_changes(now_ns);
                self.end_minute(unix_ns() / MINUTE_NS);
                if self.recorder.replay.retire_stacks() {
                    self.names.clear();
                }
                each_second(self)?;
            }
        }
        // What has ended is judged, what has not is not told.
        self.drain(Duration::ZERO)?;
        let deadline_ns = monotonic_ns() + ENDING_NS;
        while self.judge_all(u64::MAX) && monotonic_ns() < deadline_ns {}
        let left = self.recorder.replay.requests.as_ref().map_or(0, |requests| requests.waiting());
        self.counts.not_written += left as u64;
        self.end_minute(u64::MAX);
        Ok(())
    }

    fn drain(&mut self, timeout: Duration) -> Result<()> {
        let drained = self.recorder.drain(timeout);
        self.outlive(drained).map(drop)
    }

    /// What a part of a round has brought; `None`: the machine refused something, which is told. It is tried again in the next
    /// round.
    fn outlive<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error) if error.kind() == ErrorKind::System => {
                let error = if procfs::is_blind() { with_files_hint(error) } else { error };
                self.failures.tell("not all is followed", &error, monotonic_ns());
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    fn check_losses(&mut self) -> Result<Counters> {
        let counters = self.recorder.check_losses()?;
        if std::mem::replace(&mut self.transfers_lost, counters.lane_lost) != counters.lane_lost
            && let Some(requests) = &mut self.recorder.replay.requests
        {
            requests.begin_anew();
        }
        Ok(counters)
    }

    /// Which processes came and went, at most once a minute.
    fn tell_changes(&mut self, now_ns: u64) {
        let Replay { met: all_met, gone: all_gone, processes, .. } = &self.recorder.replay;
        if self.changes.due(all_met + all_gone, now_ns).is_some() {
            let met = all_met - std::mem::replace(&mut self.met, *all_met);
            let gone = all_gone - std::mem::replace(&mut self.gone, *all_gone);
            let watched = processes.len();
            info!(met, gone, watched, "processes: {met} met, {gone} gone, {watched} watched");
        }
    }

    /// What was lost so far, by kind, always in this order.
    pub fn losses(&self) -> Vec<Loss> {
        self.losses_of(self.recorder.sampler.backend().counters().unwrap_or_default())
    }

    fn losses_of(&self, counters: Counters) -> Vec<Loss> {
        let requests = self.recorder.replay.requests.as_ref();
        let lost = requests.map(|requests| requests.losses).unwrap_or_default();
        let untracked = requests.map_or(0, |requests| requests.tracker.refused);
        let errands = requests.map(|requests| requests.errands.losses).unwrap_or_default();
        let offspring = requests.map(|requests| requests.offspring_losses).unwrap_or_default();
        let own = [
            (
                "requests_not_written",
                self.counts.not_written,
                "requests not kept because the store was too slow",
            ),
            ("connections", lost.connections, "connections given up for others"),
            ("requests", lost.requests + untracked, "requests not followed: too many at once"),
            (
                "errands",
                errands.errands,
                "pieces of work of pools' threads are in no request: too many at once, or of one",
            ),
            (
                "requests_errands",
                errands.requests,
                "requests may lack work of pools' threads: too much was done since they began",
            ),
            (
                "errands_unseen",
                counters.errands_unseen,
                "times that it was not seen whether a thread of a pool had done its work",
            ),
            (
                "offspring",
                offspring.pieces,
                "stacks of other threads that worked for a request are not in it: too many of one",
            ),
            (
                "requests_waits",
                offspring.waits,
                "waits of requests are told without what other threads did meanwhile: too many of one",
            ),
            ("sync", lost.lost_sync, "times that a connection made no sense"),
            ("transfers", counters.lane_lost, "transfers lost: the ring was full"),
            ("samples", counters.ring_full, "samples lost: the ring was full"),
            ("tls", counters.tls, "connections with TLS inside of the process: what they ask is not seen"),
            ("http2", counters.http2, "connections with HTTP/2: what they ask is not seen"),
        ];
        let own = own.into_iter().map(|(kind, count, what)| Loss::new(kind, count, what));
        own.chain(self.recorder.losses(counters)).collect()
    }

    /// What became of requests so far.
    pub fn counts(&self) -> ServiceCounts {
        let requests = self.recorder.replay.requests.as_ref().map_or(0, |requests| requests.count);
        ServiceCounts { requests, ..self.counts }
    }

    /// How the agent is: what became of requests, what was lost, what that costs.
    pub fn status(&self) -> ServiceStatus {
        let requests = self.recorder.replay.requests.as_ref();
        let counters = self.recorder.sampler.backend().counters().unwrap_or_default();
        ServiceStatus {
            counts: self.counts(),
            losses: requests.map(|requests| requests.losses).unwrap_or_default(),
            untracked: requests.map_or(0, |requests| requests.tracker.refused),
            transfers_lost: counters.lane_lost,
            samples_lost: counters.ring_full,
            switches_mended: counters.switches_mended,
            waits: counters.waits,
            in_flight: requests.map_or(0, |requests| requests.tracker.in_flight().count()),
            processes: self.recorder.replay.processes.keys().copied().collect(),
            own_cpu_ns: super::self_stats::own_cpu_ns(),
            bpf_run_ns: counters.run_ns + counters.off_cpu_ns,
            peak_rss_bytes: super::self_stats::peak_rss_bytes(),
            bpf_memory_bytes: self.recorder.sampler.backend().memory_bytes(),
        }
    }

    /// What it records by.
    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Judges requests that ended before `until_ns`. Whether some are left because it took too long.
    fn judge_all(&mut self, until_ns: u64) -> bool {
        let began_ns = monotonic_ns();
        while monotonic_ns() < began_ns + JUDGING_NS {
            let requests = self.recorder.replay.requests.as_mut();
            let next = requests.and_then(|requests| requests.next_finished(until_ns));
            let Some((finished, process)) = next else {
                return false;
            };
            self.judge(finished, process);
            self.recorder.courtesy.give_way();
        }
        true
    }

    /// What each service ran in a minute that is over by `now` is handed on.
    fn end_minute(&mut self, now: u64) {
        if now == self.minute {
            return;
        }
        let began_unix_ns = std::mem::replace(&mut self.minute, now) * MINUTE_NS;
        let Some(requests) = &mut self.recorder.replay.requests else { return };
        for (service, stacks, rest_ns) in requests.minute.take() {
            let stored = self.minute_of(&service, began_unix_ns, stacks, rest_ns);
            self.hand_on(Kept::Minute(stored));
        }
    }

    fn minute_of(
        &mut self,
        service: &str,
        began_unix_ns: u64,
        stacks: Stacks,
        rest_ns: u64,
    ) -> StoredRequest {
        let replay = &self.recorder.replay;
        let capture = replay.capture_of_minute(service, stacks, rest_ns);
        let mut profile = self.names.profile(&capture, replay);
        let id = format!("{service}-{}", began_unix_ns / SECOND_NS);
        let request = Request {
            name: name_of(&id),
            id,
            process: service.to_owned(),
            began_unix_ns,
            duration_ns: MINUTE_NS,
            attributes: Attributes::from([("service.name".into(), service.to_owned().into())]),
            run_ns: profile.samples.iter().fold(0, |sum, sample| sum.saturating_add(sample.weight_ns)),
            ..Request::default()
        };
        let target = format!("a minute of {service}");
        profile.recording = Recording { mode: Mode::Cpu, ..self.recording(&request, target) };
        StoredRequest { request, policy: String::new(), profile }
    }

    fn hand_on(&mut self, kept: Kept) {
        match self.kept.try_send(kept) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.counts.not_written += 1,
        }
    }

    /// How and when a profile was taken.
    fn recording(&self, request: &Request, target: String) -> Recording {
        let backend = self.recorder.sampler.backend();
        Recording {
            target,
            backend: backend.name().to_owned(),
            event: backend.event().to_owned(),
            mode: Mode::Wall,
            frequency_hz: u32::try_from(SECOND_NS / backend.period_ns().max(1)).unwrap_or(u32::MAX),
            period_ns: backend.period_ns(),
            started_unix_ns: request.began_unix_ns,
            elapsed_ns: request.duration_ns,
            ..Recording::default()
        }
    }

    /// Processes that serve requests are sampled at the full rate.
    fn raise_rates(&mut self, now_ns: u64) {
        if now_ns < self.full_rates_ns {
            return;
        }
        self.full_rates_ns = now_ns + FULL_RATE_STEP_NS;
        let Some(requests) = &self.recorder.replay.requests else { return };
        let busy: HashSet<u32> = requests.tracker.busy().collect();
        let backend = self.recorder.sampler.backend_mut();
        busy.iter().for_each(|pid| backend.set_full_rate(*pid, now_ns + FULL_RATE_NS));
        self.full_rates.difference(&busy).for_each(|pid| backend.set_full_rate(*pid, 0));
        self.full_rates = busy;
    }

    fn judge(&mut self, mut finished: Finished, process: String) {
        let mut request = self.describe(&mut finished, process);
        let now_ns = monotonic_ns();
        let verdict = self.policies.decide(&request, now_ns);
        let Verdict::Keep { policy } = &verdict else { return };
        self.counts.kept += 1;
        request.name = name_of(&request.id);
        let profile = self.profile(&finished, &mut request);
        let stored = StoredRequest { request, policy: policy.clone(), profile };
        let bytes = stored.profile.samples.len() as u64 * 8;
        self.policies.charge(&verdict, bytes, now_ns);
        self.hand_on(Kept::Request(stored));
    }

    /// What is known of a request before its profile is looked at, but for its name. Takes the attributes of `finished`: most
    /// requests are looked at no further.
    fn describe(&mut self, finished: &mut Finished, process: String) -> Request {
        let began_unix_ns = finished.began_ns.saturating_add(unix_less_monotonic_ns());
        let attributes = std::mem::take(&mut finished.attributes);
        let own_id = ["http.request.header.x-request-id", "trace_id"];
        let own_id = own_id.iter().find_map(|name| attributes.get(*name)).map(|id| id.to_string());
        let id = own_id.unwrap_or_else(|| self.next_id(began_unix_ns));
        let replay = &self.recorder.replay;
        let requests = replay.requests.as_ref();
        Request {
            id,
            process,
            pid: finished.pid,
            tid: finished.tid,
            began_unix_ns,
            duration_ns: finished.ended_ns.saturating_sub(finished.began_ns),
            status: finished.status,
            binding: finished.binding,
            is_partial: finished.is_partial
                || finished.ended_ns.saturating_sub(finished.began_ns) > self.max_duration_ns
                || requests.is_some_and(|requests| !requests.timeline.reaches(finished.began_ns)),
            attributes,
            ..Request::default()
        }
    }

    /// An ID for a request that has none: the time, and a number of this agent's, mixed.
    fn next_id(&mut self, unix_ns: u64) -> String {
        self.last_id += 1;
        let mix = |word: u64| {
            let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        let own = self.pid << 40 ^ self.last_id;
        format!("{:016x}{:016x}", mix(unix_ns ^ mix(own)), mix(own ^ unix_ns.rotate_left(32)))
    }

    /// Where a request's time went; tells `request` the sums.
    fn profile(&mut self, finished: &Finished, request: &mut Request) -> Profile {
        let replay = &mut self.recorder.replay;
        let capture = replay.capture_of(finished, request);
        let mut profile = self.names.profile(&capture, replay);
        let target = format!("{} by {} (pid {})", request.subject(), request.process, request.pid);
        profile.threads = vec![ThreadTimes {
            process: request.process.clone(),
            name: replay.thread_name(request.pid, request.tid),
            pid: request.pid,
            tid: request.tid,
            run_ns: request.run_ns,
            queue_ns: request.queue_ns,
            blocked_ns: request.blocked_ns + request.gil_ns,
            gil_ns: request.gil_ns,
            ..ThreadTimes::default()
        }];
        profile.recording = self.recording(request, target);
        profile
    }
}

/// Unix time.
fn unix_ns() -> u64 {
    monotonic_ns().saturating_add(unix_less_monotonic_ns())
}

impl Replay {
    /// What a service ran in a minute.
    fn capture_of_minute(&self, service: &str, stacks: Stacks, mut rest_ns: u64) -> Capture {
        let root = Root { process: service.to_owned(), thread: None };
        let mut capture = Capture::default();
        let Some(requests) = &self.requests else { return capture };
        for (at, tally) in stacks {
            let Some(frames) = requests.frames_of(&self.capture, at) else {
                rest_ns = rest_ns.saturating_add(tally.weight_ns);
                continue;
            };
            let mut frames: Vec<RawFrame> = frames.collect();
            frames.reverse();
            let stack = CaughtStack::empty(at.stack.outcome, at.stack.holds_gil);
            let stack = capture.extend(stack, frames.into_iter());
            capture.add(&root, stack, ThreadState::Running, tally);
        }
        if rest_ns > 0 {
            let stack = CaughtStack::empty(Outcome::TruncatedDepth, false);
            let stack = capture.extend(stack, std::iter::once(RawFrame::Wait(WaitFrame::Forgotten)));
            let tally = Tally { count: 1, weight_ns: rest_ns, ..Tally::default() };
            capture.add(&root, stack, ThreadState::Running, tally);
        }
        capture
    }

    /// The stacks of a request that ended.
    fn capture_of(&mut self, finished: &Finished, request: &mut Request) -> Capture {
        let name = self.thread_name(finished.pid, finished.tid);
        let errands = self.requests.as_mut().map(|requests| requests.errands(finished)).unwrap_or_default();
        let named = |errand: Errand| (errand, self.thread_name(errand.pid, errand.tid));
        let errands: Vec<(Errand, String)> = errands.into_iter().map(named).collect();
        let thread = ThreadRoot { name, pid: finished.pid, tid: finished.tid };
        let root = Root { process: request.process.clone(), thread: Some(thread) };
        let Self { requests, waits, capture, thread_names, .. } = self;
        let Some(requests) = requests else { return Capture::default() };
        for tid in errands.iter().map(|(errand, _)| errand.tid).chain([finished.tid]) {
            waits.settle_gil(finished.pid, tid, thread_names, capture);
        }
        requests.take(capture);
        let span = finished.span.unwrap_or_default();
        let offspring = requests.offspring(finished, &errands, &mut waits.names);
        let moments = requests.timeline.between(span.tid, span.from_ns, span.to_ns);
        let moments = moments.filter(|moment| moment.is_over_by(span.to_ns));
        let whose = Whose { root: &root, coroutine: span.coroutine, offspring };
        let mut profile = RequestProfile::new(whose, moments, |at| requests.frames_of(capture, *at));
        profile.complete(finished, request);
        requests.offspring_losses.add(profile.offspring_losses());
        waits.names.rename_those_in(profile.capture.frames(), thread_names);
        profile.capture
    }

    /// What Python calls a thread, else the kernel.
    pub(super) fn thread_name(&self, pid: u32, tid: u32) -> String {
        let known = self.thread_names.find(pid, tid).map(str::to_owned);
        known.or_else(|| crate::target::procfs::comm(tid).ok()).unwrap_or_else(|| "?".to_owned())
    }
}
