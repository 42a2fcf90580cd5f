//! Claim: what threads did that were made for a request stands below the wait of its own thread for them, and in no other
//! request.

#![cfg(feature = "bpf")]

mod support;

use support::{Agent, ask_many, gunicorn_threads, turn};
use txprof::model::{Binding, Frame, FrameKind};
use txprof::store::StoredRequest;

const MS: u64 = 1_000_000;
const COUNT: usize = 60;
/// Others are under way meanwhile, which sleep and burn as the helpers do.
const PATHS: [&str; 4] = ["/threads", "/sleep", "/burn", "/quick"];

/// Time of a request in the function `help`, all of it and below a wait of the function that made the helpers.
fn helped_ns(stored: &StoredRequest, help: &str) -> (u64, u64) {
    let (mut all_ns, mut below_ns) = (0, 0);
    for sample in &stored.profile.samples {
        let frames: Vec<&Frame> = stored.profile.frames_of(sample.stack).collect();
        // What has the interpreter's lock while another waits is in that one's stack, too.
        let others = frames.iter().rposition(|frame| frame.kind == FrameKind::Gil).map_or(0, |at| at + 1);
        let frames = &frames[others..];
        let at = |function: &str| frames.iter().position(|frame| frame.function.starts_with(function));
        let Some(helps) = at(help) else { continue };
        all_ns += sample.weight_ns;
        let worked = frames.iter().position(|frame| frame.function.ends_with(" worked]"));
        if at("work_threads").zip(worked).is_some_and(|(waits, worked)| helps < worked && worked < waits) {
            below_ns += sample.weight_ns;
        }
    }
    (all_ns, below_ns)
}

/// gunicorn's threads, four requests at once: a request that makes a thread that burns 30 ms and one that sleeps for 90
/// has both below its wait, and all is its latency; the others have neither.
#[test]
fn helpers_stand_below_the_wait_for_them() {
    let Some(_turn) = turn() else { return };
    let server = gunicorn_threads();
    let agent = Agent::watch(&server.target.pid());
    ask_many(server.port, "one", &PATHS, COUNT, 4, 1);
    let kept = agent.finish();
    assert_eq!(kept.losses(), [""; 0], "{}", kept.stderr);
    let (mut helped, mut whole) = (0, 0);
    for stored in kept.stored().iter().filter(|stored| stored.request.id.starts_with("one")) {
        let request = &stored.request;
        let sum_ns: u64 = stored.profile.samples.iter().map(|sample| sample.weight_ns).sum();
        assert_eq!(sum_ns, request.duration_ns, "{request:?}");
        let (slept_ns, below_ns) = helped_ns(stored, "help_sleep");
        let burnt_ns = helped_ns(stored, "help_burn").0;
        if request.attribute("url.path") != Some("/threads") {
            assert_eq!((slept_ns, burnt_ns), (0, 0), "{request:?}\n{:#?}", folded(stored));
            continue;
        }
        assert_eq!(slept_ns, below_ns, "{request:?}\n{:#?}", folded(stored));
        helped += usize::from(request.binding == Binding::Thread);
        // While both are at it each has a part; then only one sleeps.
        let is_whole = (40 * MS..=request.duration_ns).contains(&slept_ns) && burnt_ns > 5 * MS;
        whole += usize::from(is_whole);
        println!(
            "{} ms: {} asleep, {} burnt by helpers",
            request.duration_ns / MS,
            slept_ns / MS,
            burnt_ns / MS
        );
    }
    assert_eq!(helped, COUNT / PATHS.len());
    // A virtual machine's interrupts may come too late to ask a thread for its stack; its time is there all the same.
    assert!(whole * 10 >= helped * 8, "{whole} of {helped}");
}

/// The stacks of a request, for messages.
fn folded(stored: &StoredRequest) -> Vec<String> {
    let line = |sample: &txprof::model::Sample| {
        let frames: Vec<&str> =
            stored.profile.frames_of(sample.stack).map(|frame| frame.function.as_ref()).collect();
        format!("{} {}", frames.join("<"), sample.weight_ns)
    };
    stored.profile.samples.iter().map(line).collect()
}
