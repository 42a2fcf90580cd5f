//! One stack out of two: the native frames of a thread and its interpreter's
//! frames, taken in the same instant.
//!
//! Each call of the evaluation loop is one native frame and runs one *segment*
//! of Python frames, the last of which (root-side) entered the loop from C:
//!
//! ```text
//! leaf                                                     root
//! native   memcpy  EVAL   list_sort  EVAL   Py_RunMain  main
//! Python           key ▲             f, g, <module> ▲
//! merged   memcpy  key  EVAL list_sort  f  g  <module>  EVAL  Py_RunMain  main
//! ```
//!
//! The two counts agree except for moments: a loop that was just entered or is
//! about to be left has no Python frame. It is then the leafmost loop that
//! stands without one. Where a stack was cut, the two are matched from the leaf
//! on. More segments than loops in a whole native stack cannot be: then the two
//! do not belong together and [`merge`] says so, which is what checks the offsets
//! on every single sample.
//!
//! A greenlet's native stack lies on top of another one, that of where it was
//! first switched to, which has gone on since. What is below is not its caller:
//! [`own_frames`] tells where it begins.

/// What matters of a Python frame here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// It entered the evaluation loop from C: the last one of its segment.
    pub is_entry: bool,
    /// Not a frame: stands for a segment without any.
    pub is_empty: bool,
}

/// An element of a merged stack, by its index in what it was merged from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A native frame.
    Native(usize),
    /// A Python frame.
    Python(usize),
}

/// How far the two parts can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wholeness {
    /// The native stack reaches the thread's start.
    pub native: bool,
    /// The interpreter's frames were followed to the last.
    pub python: bool,
}

/// A merged stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Leaf first.
    pub pieces: Vec<Piece>,
    /// Loops on the root's side have no Python frames, though both parts are whole: those are
    /// kept where the walk did not look.
    pub lacks_callers: bool,
}

/// The two parts contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch;

/// How many native frames, from the leaf on, are of the running greenlet, whose Python frames are `python`; `None`
/// if it is the thread's own stack. `is_switch` says of each native frame whether it is of greenlet's module:
/// the leafmost such frame with all calls of the loop before it is the one that the greenlet began with.
pub fn own_frames(is_loop: &[bool], is_switch: impl Fn(usize) -> bool, python: &[Link]) -> Option<usize> {
    let wanted = segments(python).len();
    let mut loops = 0;
    for (index, is_loop) in is_loop.iter().enumerate() {
        loops += usize::from(*is_loop);
        if loops >= wanted && is_switch(index) {
            return Some(index);
        }
    }
    None
}

/// Joins both parts, leaf first. `is_loop` says of each native frame, leaf first, whether it
/// is a call of the evaluation loop. Every native frame, and every Python frame that is
/// one, is in the result once and in its order.
pub fn merge(is_loop: &[bool], python: &[Link], whole: Wholeness) -> Result<Merged, Mismatch> {
    let loops = is_loop.iter().filter(|is_loop| **is_loop).count();
    let segments = segments(python);
    if whole.native && segments.len() > loops {
        return Err(Mismatch);
    }
    let surplus = loops.saturating_sub(segments.len());
    let are_whole = whole.native && whole.python;
    let mut merged = Vec::with_capacity(is_loop.len() + python.len());
    let frames = |range: std::ops::Range<usize>| {
        range.filter(|index| !python.get(*index).is_some_and(|link| link.is_empty)).map(Piece::Python)
    };
    let mut bare_loops = usize::from(are_whole && surplus == 1);
    let mut next = segments.into_iter();
    for (index, is_loop) in is_loop.iter().enumerate() {
        if *is_loop {
            match bare_loops.checked_sub(1) {
                Some(left) => bare_loops = left,
                None => merged.extend(next.next().into_iter().flat_map(frames)),
            }
        }
        merged.push(Piece::Native(index));
    }
    // Behind the cut of a native stack.
    merged.extend(next.flat_map(frames));
    Ok(Merged { pieces: merged, lacks_callers: are_whole && surplus > 1 })
}

/// The ranges of `python` that each call of the loop runs, leaf first.
fn segments(python: &[Link]) -> Vec<std::ops::Range<usize>> {
    let mut segments = Vec::new();
    let mut first = 0;
    for (index, link) in python.iter().enumerate() {
        if link.is_entry {
            segments.push(first..index + 1);
            first = index + 1;
        }
    }
    if first < python.len() {
        segments.push(first..python.len());
    }
    segments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: Wholeness = Wholeness { native: true, python: true };

    fn links(text: &str) -> Vec<Link> {
        // E: entry, f: inlined call, 0: empty segment
        text.chars().map(|c| Link { is_entry: c != 'f', is_empty: c == '0' }).collect()
    }

    fn merged(native: &str, python: &str, whole: Wholeness) -> Result<String, Mismatch> {
        let is_loop: Vec<bool> = native.chars().map(|c| c == 'V').collect();
        let text = |piece| match piece {
            Piece::Native(index) => native.chars().nth(index),
            Piece::Python(index) => char::from_digit(index as u32, 10),
        };
        let merged = merge(&is_loop, &links(python), whole)?;
        let end = if merged.lacks_callers { "?" } else { "" };
        Ok(merged.pieces.into_iter().filter_map(text).collect::<String>() + end)
    }

    /// Each loop runs the frames up to the one that entered it.
    #[test]
    fn segments_belong_to_their_loops() {
        assert_eq!(merged("mVsVrm", "EffE", WHOLE), Ok("m0Vs123Vrm".to_owned()));
        assert_eq!(merged("VcVcV", "EEE", WHOLE), Ok("0Vc1Vc2V".to_owned()));
        assert_eq!(merged("ccm", "", WHOLE), Ok("ccm".to_owned()));
    }

    /// A loop that was just entered, or is about to be left, has no frames: its caller keeps its own.
    #[test]
    fn leafmost_loop_may_stand_bare() {
        assert_eq!(merged("pVcVm", "fE", WHOLE), Ok("pVc01Vm".to_owned()));
        assert_eq!(merged("pVcVm", "0fE", WHOLE), Ok("pVc12Vm".to_owned()));
        assert_eq!(merged("Vm", "", WHOLE), Ok("Vm".to_owned()));
    }

    /// Cut stacks match from the leaf on; so do whole ones with too few Python frames, which is told.
    #[test]
    fn partial_stacks_match_from_the_leaf() {
        let cut = Wholeness { native: false, ..WHOLE };
        assert_eq!(merged("mVs", "EfE", cut), Ok("m0Vs12".to_owned()));
        assert_eq!(merged("VcVcVcV", "E", WHOLE), Ok("0VcVcVcV?".to_owned()));
        let unread = Wholeness { python: false, ..WHOLE };
        assert_eq!(merged("VcV", "E", unread), Ok("0VcV".to_owned()));
        assert_eq!(merged("VcV", "ff", unread), Ok("01VcV".to_owned()));
    }

    /// A greenlet begins below its calls of the loop; its module's frames above them are calls of its own.
    #[test]
    fn greenlets_begin_at_their_switch() {
        // g: a frame of greenlet's module
        let own = |native: &str, python: &str| {
            let is_loop: Vec<bool> = native.chars().map(|c| c == 'V').collect();
            let begins = own_frames(&is_loop, |index| native.as_bytes()[index] == b'g', &links(python));
            begins.map(|count| native[..count].to_owned())
        };
        assert_eq!(own("VcgggVm", "ffE"), Some("Vc".to_owned()));
        assert_eq!(own("gVcVggcVm", "EE"), Some("gVcV".to_owned()));
        assert_eq!(own("VVcgVm", "E"), Some("VVc".to_owned()));
        assert_eq!(own("ccgVgVm", ""), Some("cc".to_owned()));
        assert_eq!(own("ggVm", "ffE"), None);
        assert_eq!(own("VcVm", "EE"), None);
    }

    /// More Python than native calls of the loop in a whole stack cannot be.
    #[test]
    fn contradiction_is_told() {
        assert_eq!(merged("VcV", "EEE", WHOLE), Err(Mismatch));
        assert_eq!(merged("cc", "E", WHOLE), Err(Mismatch));
    }

    proptest! {
        /// Whatever is merged, no frame is lost, doubled or out of its order.
        #[test]
        fn nothing_is_lost_or_reordered(
            native in "[Vc]{0,12}", python in "[Ef0]{0,12}", whole: bool, python_whole: bool,
        ) {
            let is_loop: Vec<bool> = native.chars().map(|c| c == 'V').collect();
            let links = links(&python);
            let whole = Wholeness { native: whole, python: python_whole };
            if let Ok(Merged { pieces, .. }) = merge(&is_loop, &links, whole) {
                let natives = pieces.iter().filter_map(|piece| match piece { Piece::Native(i) => Some(*i), _ => None });
                prop_assert!(natives.eq(0..is_loop.len()));
                let pythons = pieces.iter().filter_map(|piece| match piece { Piece::Python(i) => Some(*i), _ => None });
                prop_assert!(pythons.eq((0..links.len()).filter(|index| !links[*index].is_empty)));
            }
        }
    }
}
