//! Any request and profile that is stored is read again as it was.

#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use txprof::model::profile::ThreadRoot;
use txprof::model::{
    Binding, Frame, FrameKind, Mode, Outcome, Profile, Recording, Request, RequestStatus, Root, Sample,
    StackId, ThreadState,
};
use txprof::store::{Filter, StoreReader, StoreWriter, StoredRequest};

fn kinds() -> impl Strategy<Value = FrameKind> {
    use FrameKind::*;
    prop::sample::select(vec![
        Native,
        Inlined,
        Interpreter,
        Python,
        Kernel,
        Jit,
        Marker,
        Blocked,
        RunQueue,
        Gil,
        Waker,
    ])
}

fn text() -> impl Strategy<Value = Box<str>> {
    ".{1,12}".prop_map(String::into_boxed_str)
}

fn frame() -> impl Strategy<Value = Frame> {
    let (module, file) = (prop::option::of(text()), prop::option::of(text()));
    (kinds(), text(), module, file, prop::option::of(any::<u32>()))
        .prop_map(|(kind, function, module, file, line)| Frame { kind, function, module, file, line })
}

fn root() -> impl Strategy<Value = Root> {
    let thread =
        (".{0,9}", any::<u32>(), any::<u32>()).prop_map(|(name, pid, tid)| ThreadRoot { name, pid, tid });
    (".{0,9}", prop::option::of(thread)).prop_map(|(process, thread)| Root { process, thread })
}

fn sample(stacks: u32) -> impl Strategy<Value = Sample> {
    let states = [ThreadState::Running, ThreadState::Queued, ThreadState::Blocked, ThreadState::Gil];
    let outcome = prop::sample::select(Outcome::ALL.to_vec());
    let numbers = (0..stacks, 0..1_u64 << 40, 0..1_u64 << 50);
    (root(), outcome, prop::sample::select(states.to_vec()), any::<(bool, bool)>(), numbers).prop_map(
        |(root, outcome, state, (holds_gil, is_idle), (stack, count, weight_ns))| Sample {
            root,
            stack: StackId(stack),
            outcome,
            state,
            holds_gil,
            is_idle,
            count,
            weight_ns,
        },
    )
}

fn recording() -> impl Strategy<Value = Recording> {
    let lost = prop::collection::btree_map(prop::sample::select(Outcome::ALL.to_vec()), any::<u64>(), 0..3);
    (".{0,20}", any::<u32>(), any::<(u64, u64, u64)>(), lost, vec(".{0,20}", 0..2)).prop_map(
        |(target, frequency_hz, (period_ns, started_unix_ns, elapsed_ns), lost, warnings)| Recording {
            target,
            backend: "ebpf".to_owned(),
            event: "cpu-clock".to_owned(),
            mode: Mode::Wall,
            frequency_hz,
            period_ns,
            started_unix_ns,
            elapsed_ns,
            lost,
            warnings,
            ..Recording::default()
        },
    )
}

fn profile() -> impl Strategy<Value = Profile> {
    let parts = (recording(), vec(frame(), 1..9), vec(vec(0..9_u32, 0..6), 1..6), vec(sample(5), 0..20));
    parts.prop_map(|(recording, frames, mut stacks, mut samples)| {
        let (frame_count, stack_count) = (frames.len() as u32, stacks.len() as u32);
        stacks.iter_mut().flatten().for_each(|frame| *frame %= frame_count);
        samples.iter_mut().for_each(|sample| sample.stack.0 %= stack_count);
        Profile { recording, frames, stacks, samples, ..Profile::default() }
    })
}

fn request() -> impl Strategy<Value = Request> {
    let status = prop::sample::select(vec![RequestStatus::Ok, RequestStatus::Error, RequestStatus::Unset]);
    let binding = prop::sample::select(vec![
        Binding::Thread,
        Binding::Coroutine,
        Binding::SharedThread,
        Binding::Unknown,
    ]);
    let attributes = prop::collection::btree_map("user.name|url.path|.{0,8}", ".{0,12}", 0..4);
    let times = any::<[u32; 6]>();
    (".{0,20}", ".{0,20}", any::<(u32, u32, bool)>(), times, status, binding, attributes).prop_map(
        |(id, name, (pid, tid, is_partial), times, status, binding, attributes)| {
            let [began_unix_ns, duration_ns, run_ns, queue_ns, blocked_ns, gil_ns] =
                times.map(|time| u64::from(time) << 30);
            let process = "server".to_owned();
            Request {
                id,
                name,
                process,
                pid,
                tid,
                began_unix_ns,
                duration_ns,
                run_ns,
                queue_ns,
                blocked_ns,
                gil_ns,
                status,
                binding,
                is_partial,
                attributes: attributes.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            }
        },
    )
}

/// Samples with their frames in place of numbers, in one order.
fn resolved(profile: &Profile) -> Vec<String> {
    let mut samples: Vec<String> = Vec::new();
    for sample in &profile.samples {
        let frames: Vec<&Frame> = profile.frames_of(sample.stack).collect();
        samples.push(format!("{frames:?} {:?}", Sample { stack: StackId(0), ..sample.clone() }));
    }
    samples.sort_unstable();
    samples
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Requests are equal in every field; profiles in the recording and in all samples with their frames.
    #[test]
    fn what_is_stored_is_read_again(parts in vec((request(), profile(), ".{0,9}"), 1..5)) {
        let folder = tempfile::tempdir().unwrap();
        let mut batch: Vec<StoredRequest> =
            parts.into_iter().map(|(request, profile, policy)| StoredRequest { request, policy, profile }).collect();
        let mut writer = StoreWriter::open(folder.path()).unwrap();
        for stored in &mut batch {
            let names = writer.write(std::slice::from_ref(stored)).unwrap().names;
            stored.request.name = names[0].clone().unwrap();
        }
        let reader = StoreReader::open(folder.path()).unwrap();
        let list = reader.list(&Filter { limit: 100, ..Filter::default() }).unwrap();
        prop_assert_eq!(list.len(), batch.len());
        for summary in list {
            let loaded = reader.load(&summary).unwrap();
            let original = batch.iter().find(|stored| stored.request.name == summary.request.name).unwrap();
            prop_assert_eq!(&loaded.request, &original.request);
            prop_assert_eq!(&loaded.policy, &original.policy);
            prop_assert_eq!(&loaded.profile.recording, &original.profile.recording);
            prop_assert_eq!(resolved(&loaded.profile), resolved(&original.profile));
        }
    }
}
