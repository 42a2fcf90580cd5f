//! The walk from an interrupted pc to the thread's start, over memory and rules
//! that are handed in: what the BPF walker does inside the kernel.

use super::{Registers, Rule, Step, step};
use crate::model::Outcome;

/// A frame's pc: interrupted in the first frame and under signal handlers, returned to elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedFrame {
    /// The pc.
    pub pc: u64,
    /// Whether it was interrupted.
    pub interrupted: bool,
}

/// Walks at most `limit` frames, leaf first. `find_rule` is asked by a pc, or the byte before a
/// return address, and fails with why there is none to be known; `read` returns the 8 bytes at an address.
pub fn walk(
    registers: Registers,
    limit: usize,
    mut find_rule: impl FnMut(u64) -> Result<Rule, Outcome>,
    mut read: impl FnMut(u64) -> Option<u64>,
) -> (Vec<WalkedFrame>, Outcome) {
    let mut frames = Vec::with_capacity(32);
    let (mut registers, mut interrupted) = (registers, true);
    while frames.len() < limit {
        if registers.pc >> 63 != 0 {
            return (frames, Outcome::UnknownMapping);
        }
        frames.push(WalkedFrame { pc: registers.pc, interrupted });
        let at = if interrupted { registers.pc } else { registers.pc.wrapping_sub(1) };
        let rule = match find_rule(at) {
            Ok(rule) => rule,
            Err(outcome) => return (frames, outcome),
        };
        (registers, interrupted) = match step(&registers, rule, interrupted, &mut read) {
            Step::Caller(caller) => (caller, false),
            Step::Interrupted(caller) => (caller, true),
            Step::End => return (frames, Outcome::Complete),
            Step::Failed(outcome) => return (frames, outcome),
        };
    }
    (frames, Outcome::TruncatedDepth)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of frame pointers: each frame's word at 0x1000 + 16n is the next frame's address.
    fn memory(frames: u64) -> impl FnMut(u64) -> Option<u64> {
        move |address| {
            let index = address.checked_sub(0x1000)? / 16;
            match (address % 16, index < frames) {
                (_, false) => Some(0),
                (0, true) => Some(if index + 1 < frames { 0x1000 + 16 * (index + 1) } else { 0 }),
                _ => Some(0x40_0000 + index),
            }
        }
    }

    fn leaf() -> Registers {
        let mut values = [0; 16];
        values[6] = 0x1000; // rbp
        values[7] = 0x0ff8; // rsp
        Registers::new(0x40_1234, values)
    }

    /// The walk ends where the chain does, at the limit, or where nothing is known, and says which.
    #[test]
    fn walk_ends_with_its_reason() {
        let rules = |_| Ok(Rule::NONE);
        let (frames, outcome) = walk(leaf(), 100, rules, memory(3));
        let pcs: Vec<u64> = frames.iter().map(|frame| frame.pc).collect();
        assert_eq!((pcs, outcome), (vec![0x40_1234, 0x40_0000, 0x40_0001, 0x40_0002], Outcome::Complete));
        assert_eq!(frames.iter().filter(|frame| frame.interrupted).count(), 1);
        let (frames, outcome) = walk(leaf(), 2, rules, memory(3));
        assert_eq!((frames.len(), outcome), (2, Outcome::TruncatedDepth));
        let unknown = |at| if at < 0x40_1000 { Err(Outcome::UnknownMapping) } else { Ok(Rule::NONE) };
        let (frames, outcome) = walk(leaf(), 100, unknown, memory(3));
        assert_eq!((frames.len(), outcome), (2, Outcome::UnknownMapping));
    }
}
