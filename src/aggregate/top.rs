//! The functions that took most of the time.

use ahash::AHashSet;

use super::fold::{Fold, FoldFrame, FoldKind};
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

/// What is known of a function.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    self_ns: u64,
    total_ns: u64,
    /// The time of paths that it is in, halved with each function that it calls in them: Σ weight / 2^calls.
    near_ns: u64,
}

/// Functions of `fold`, at most `limit`: the first half are those with the most time of their own. That of a wait is no
/// function's; so behind them come the callers that are nearest to what took the time, of Python where there is any, and then
/// the rest by their own time. Of equal ones by name.
pub fn top(fold: &Fold, limit: usize) -> Vec<TopFunction> {
    let mut times = vec![Times::default(); fold.frames.len()];
    let mut seen = AHashSet::new();
    let has_python = fold.frames.iter().any(|frame| is_python(frame.kind));
    for stack in &fold.stacks {
        seen.clear();
        let mut calls = 0;
        for (position, frame) in own_frames(fold, &stack.frames).iter().rev().enumerate() {
            let index = *frame as usize;
            let (Some(times), Some(FoldFrame { kind, .. })) = (times.get_mut(index), fold.frames.get(index))
            else {
                continue;
            };
            if position == 0 {
                times.self_ns = times.self_ns.saturating_add(stack.weight_ns);
            }
            let is_first = seen.insert(*frame);
            if is_first {
                times.total_ns = times.total_ns.saturating_add(stack.weight_ns);
            }
            if is_caller(*kind, has_python) {
                let near_ns = stack.weight_ns.checked_shr(calls).unwrap_or(0);
                times.near_ns = times.near_ns.saturating_add(if is_first { near_ns } else { 0 });
                calls += 1;
            }
        }
    }
    let functions = fold.frames.iter().zip(times);
    let functions = functions.filter(|(frame, times)| frame.kind != FoldKind::Root && times.total_ns > 0);
    let mut functions: Vec<(&FoldFrame, Times)> = functions.collect();
    let by_self = |(one, its): &(&FoldFrame, Times), (other, others): &(&FoldFrame, Times)| {
        (others.self_ns, others.near_ns, &one.name).cmp(&(its.self_ns, its.near_ns, &other.name))
    };
    functions.sort_by(by_self);
    let half = limit.div_ceil(2).min(functions.len());
    functions[half..]
        .sort_by(|one, other| other.1.near_ns.cmp(&one.1.near_ns).then_with(|| by_self(one, other)));
    functions.truncate(limit);
    let told = |(frame, Times { self_ns, total_ns, .. }): (&FoldFrame, Times)| TopFunction {
        function: frame.name.clone(),
        self_ns,
        total_ns,
    };
    functions.into_iter().map(told).collect()
}

/// Those of `frames`, root first, that had the time: what stands above a wait is where the kernel was, or who kept it waiting,
/// not what it did itself, but for the work of another thread.
fn own_frames(fold: &Fold, frames: &[u32]) -> Vec<u32> {
    let mut waits = false;
    let is_own = |frame: &u32| {
        let Some(FoldFrame { kind, .. }) = fold.frames.get(*frame as usize) else { return false };
        waits &= *kind != FoldKind::Frame(FrameKind::Waker);
        let is_shown = !waits;
        waits |= is_wait(*kind);
        is_shown
    };
    frames.iter().copied().filter(is_own).collect()
}

/// Whether it is a function that others are called by.
fn is_caller(kind: FoldKind, has_python: bool) -> bool {
    match kind {
        FoldKind::Frame(kind) => !kind.is_wait() && (!has_python || kind == FrameKind::Python),
        FoldKind::Root | FoldKind::NotShown => false,
    }
}

fn is_python(kind: FoldKind) -> bool {
    kind == FoldKind::Frame(FrameKind::Python)
}

fn is_wait(kind: FoldKind) -> bool {
    matches!(kind, FoldKind::Frame(FrameKind::Blocked | FrameKind::RunQueue | FrameKind::Gil))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::FoldedStack;

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

    /// What another thread did while this one waited has its time, and what that thread waited in.
    #[test]
    fn work_of_other_threads_is_told() {
        let frame =
            |name: &str, kind| FoldFrame { name: name.to_owned(), kind: FoldKind::Frame(kind), module: None };
        let frames = vec![
            frame("[awaiting]", FrameKind::Blocked),
            frame("futex_wait", FrameKind::Kernel),
            frame("[pool worked]", FrameKind::Waker),
            frame("query", FrameKind::Python),
            frame("[blocked: poll]", FrameKind::Blocked),
            frame("do_poll", FrameKind::Kernel),
            frame("sum", FrameKind::Python),
        ];
        let stack = |frames: &[u32], weight_ns| FoldedStack { frames: frames.into(), weight_ns };
        let stacks = vec![stack(&[0, 1, 2, 3, 4, 5], 40), stack(&[0, 1, 2, 6], 30), stack(&[0, 1], 2)];
        let top = top(&Fold { frames, stacks }, 9);
        let times: Vec<_> = top.iter().map(|f| (f.function.as_str(), f.self_ns, f.total_ns)).collect();
        let expected = [
            ("[blocked: poll]", 40, 40),
            ("sum", 30, 30),
            ("[awaiting]", 2, 72),
            ("[pool worked]", 0, 70),
            ("query", 0, 40),
        ];
        let mut sorted = times.clone();
        sorted.sort_by_key(|(_, self_ns, total_ns)| std::cmp::Reverse((*self_ns, *total_ns)));
        assert_eq!(sorted, expected, "{times:?}");
    }

    /// Behind the half that had the time stand those that waited, not what called them all.
    #[test]
    fn who_waited_is_told_before_what_called_all() {
        let frame = |name: &str, kind| FoldFrame { name: name.to_owned(), kind, module: None };
        let of = FoldKind::Frame;
        let (python, native) = (of(FrameKind::Python), of(FrameKind::Native));
        let mut frames = vec![
            frame("server", FoldKind::Root),
            frame("a_main", python),
            frame("b_serve", python),
            frame("c_route", python),
            frame("order", python),
            frame("pay", python),
            frame("poll", native),
            frame("[blocked: poll]", of(FrameKind::Blocked)),
        ];
        let mut stacks = vec![
            FoldedStack { frames: [0, 1, 2, 3, 4, 6, 7].into(), weight_ns: 500 },
            FoldedStack { frames: [0, 1, 2, 3, 4, 5, 6, 7].into(), weight_ns: 300 },
        ];
        for leaf in 0..9 {
            stacks.push(FoldedStack { frames: [0, 1, frames.len() as u32].into(), weight_ns: 2 });
            frames.push(frame(&format!("leaf{leaf}"), python));
        }
        let names: Vec<_> = top(&Fold { frames, stacks }, 6).into_iter().map(|f| f.function).collect();
        assert_eq!(names, ["[blocked: poll]", "leaf0", "leaf1", "order", "c_route", "pay"]);
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
