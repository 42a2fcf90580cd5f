//! The functions that took most of the time.

use ahash::AHashSet;

use super::fold::{Fold, FoldKind};
use crate::model::FrameKind;

/// A function and its time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TopFunction {
    /// As a fold shows it; a wait is one too: `[blocked: recvfrom]`.
    pub function: String,
    /// Of paths that end in it, saturating.
    pub self_ns: u64,
    /// Of paths that it is in, however often, saturating.
    pub total_ns: u64,
}

/// The functions of `fold` by their own time, the largest first, at most `limit`; of equal ones by name.
pub fn top(fold: &Fold, limit: usize) -> Vec<TopFunction> {
    let mut times = vec![(0_u64, 0_u64); fold.frames.len()];
    let mut seen = AHashSet::new();
    for stack in &fold.stacks {
        seen.clear();
        // What stands above a wait is where the kernel was, or who kept it waiting: not what it did itself.
        let is_wait = |frame: &u32| fold.frames.get(*frame as usize).is_some_and(|frame| is_wait(frame.kind));
        let end = stack.frames.iter().position(is_wait).map_or(stack.frames.len(), |at| at + 1);
        for (position, frame) in stack.frames[..end].iter().rev().enumerate() {
            let Some((self_ns, total_ns)) = times.get_mut(*frame as usize) else { continue };
            if position == 0 {
                *self_ns = self_ns.saturating_add(stack.weight_ns);
            }
            if seen.insert(*frame) {
                *total_ns = total_ns.saturating_add(stack.weight_ns);
            }
        }
    }
    let functions = fold.frames.iter().zip(times).filter(|(frame, _)| frame.kind != FoldKind::Root);
    let mut top: Vec<TopFunction> = functions
        .map(|(frame, (self_ns, total_ns))| TopFunction { function: frame.name.clone(), self_ns, total_ns })
        .collect();
    top.sort_by(|one, other| {
        (other.self_ns, other.total_ns, &one.function).cmp(&(one.self_ns, one.total_ns, &other.function))
    });
    top.truncate(limit);
    top
}

fn is_wait(kind: FoldKind) -> bool {
    matches!(kind, FoldKind::Frame(FrameKind::Blocked | FrameKind::RunQueue | FrameKind::Gil))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::{FoldFrame, FoldedStack};

    /// Who held the lock meanwhile, and where the kernel was, have no time of who waited.
    #[test]
    fn waits_are_not_of_what_stands_above_them() {
        let frame =
            |name: &str, kind| FoldFrame { name: name.to_owned(), kind: FoldKind::Frame(kind), module: None };
        let frames = vec![
            frame("f", FrameKind::Python),
            frame("[waiting for the GIL]", FrameKind::Gil),
            frame("[held by g]", FrameKind::Gil),
            frame("g", FrameKind::Python),
        ];
        let fold = Fold { frames, stacks: vec![FoldedStack { frames: [0, 1, 2, 3].into(), weight_ns: 7 }] };
        let times: Vec<_> = top(&fold, 2).into_iter().map(|f| (f.function, f.self_ns, f.total_ns)).collect();
        assert_eq!(times, [("[waiting for the GIL]".to_owned(), 7, 7), ("f".to_owned(), 0, 7)]);
    }

    /// Recursion counts once in the total, roots are no functions.
    #[test]
    fn recursion_counts_once() {
        let frame = |name: &str, kind| FoldFrame { name: name.to_owned(), kind, module: None };
        let python = FoldKind::Frame(FrameKind::Python);
        let frames = vec![frame("f", python), frame("g", python), frame("server", FoldKind::Root)];
        let stack = |frames: &[u32], weight_ns| FoldedStack { frames: frames.into(), weight_ns };
        let fold = Fold { frames, stacks: vec![stack(&[2, 0, 1, 0], 10), stack(&[2, 1], 3)] };
        let times: Vec<_> = top(&fold, 9).into_iter().map(|f| (f.function, f.self_ns, f.total_ns)).collect();
        assert_eq!(times, [("f".to_owned(), 10, 10), ("g".to_owned(), 3, 13)]);
        assert_eq!(top(&fold, 1).len(), 1);
    }
}
