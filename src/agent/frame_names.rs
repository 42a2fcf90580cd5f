//! What frames are called, remembered: requests that are kept share most of theirs.

use std::collections::{BTreeSet, HashMap};

use super::capture::{Capture, RawFrame};
use super::naming::{Places, name_each, spell_out};
use super::replay::Replay;
use crate::model::{Frame, Profile};
use crate::symbolize::Config;

/// Frames whose names are remembered, some 200 bytes each; beyond it all are asked for anew.
const MAX_KNOWN: usize = 100_000;

/// Names by frame.
#[derive(Debug, Default)]
pub(super) struct FrameNames {
    known: HashMap<RawFrame, Vec<Frame>>,
}

impl FrameNames {
    /// Forgets all: what stacks refer to is numbered anew.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// The frames, stacks and samples of `capture`, named.
    pub(super) fn profile(&mut self, capture: &Capture, replay: &Replay) -> Profile {
        self.learn(capture, replay);
        let mut frames = Vec::new();
        let mut numbers: HashMap<&Frame, u32> = HashMap::new();
        let (stacks, samples) = spell_out(capture, |raw, spelled| {
            let known = self.known.get(&raw).into_iter().flatten();
            spelled.extend(known.map(|frame| {
                *numbers.entry(frame).or_insert_with(|| {
                    frames.push(frame.clone());
                    frames.len() as u32 - 1
                })
            }));
        });
        Profile { frames, stacks, samples, ..Profile::default() }
    }

    /// Asks for the names of frames that were not seen before, or may have another by now. Lines of source and inlined calls
    /// would need all of the debug information, each time.
    fn learn(&mut self, capture: &Capture, replay: &Replay) {
        if self.known.len() > MAX_KNOWN {
            self.known.clear();
        }
        let is_unknown = |frame: &RawFrame| !self.known.contains_key(frame) || names_a_thread(*frame);
        let unknown: BTreeSet<RawFrame> = capture.frames().filter(is_unknown).collect();
        if unknown.is_empty() {
            return;
        }
        let Replay { modules, jit, codes, waits, .. } = replay;
        let places = Places { modules, jit, codes, waits: &waits.names };
        let config = Config { source_lines: false, inlined_calls: false, ..Config::default() };
        self.known.extend(name_each(&unknown, places, config));
    }
}

/// Whether it is called after a thread, of which Python may be asked later than it is met.
fn names_a_thread(frame: RawFrame) -> bool {
    matches!(frame, RawFrame::Wait(wait) if wait.thread().is_some())
}
