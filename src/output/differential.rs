//! What takes more or less time than before: a flamegraph whose widths are the
//! time of the second profile, red where that is more than the first one's and
//! blue where it is less; or folded lines with both numbers, in nanoseconds, as
//! the field's `difffolded` writes them: `server;main;f 120 340`.

use std::io::{self, Write};

use inferno::differential;
use inferno::flamegraph::color::{Color, StrokeColor};
use inferno::flamegraph::{self, Options, TextTruncateDirection};

use super::folded;
use super::svg::BACKGROUND;
use crate::aggregate::name::harmless;
use crate::aggregate::{FoldOptions, merge};
use crate::model::{Profile, WeightUnit};

/// Between frames: what takes as long as before is as light as the background.
const BORDER: Color = Color { r: 190, g: 190, b: 190 };

/// Writes folded lines with the nanoseconds of `before` and `after`. Threads are not told apart.
pub fn write_folded(
    before: &Profile,
    after: &Profile,
    options: &FoldOptions,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let options = FoldOptions { unit: WeightUnit::Nanoseconds, ..options.clone() };
    let folded = |profile: &Profile| -> io::Result<Vec<u8>> {
        let mut lines = Vec::new();
        folded::write(&merge(std::slice::from_ref(profile), 1), &options, &mut lines)?;
        Ok(lines)
    };
    differential::from_readers(
        differential::Options::default(),
        folded(before)?.as_slice(),
        folded(after)?.as_slice(),
        writer,
    )
}

/// Writes the flamegraph, called `title`. Two profiles without samples give a small picture that says so.
pub fn write_svg(
    before: &Profile,
    after: &Profile,
    options: &FoldOptions,
    title: &str,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let mut lines = Vec::new();
    write_folded(before, after, options, &mut lines)?;
    let mut picture = Options::default();
    picture.title = harmless(title);
    picture.subtitle = Some("red: takes longer, blue: takes less; widths are the time after".to_owned());
    picture.count_name = "ms".to_owned();
    picture.factor = 1e-6;
    picture.bgcolors = Some(BACKGROUND);
    picture.stroke_color = StrokeColor::Color(BORDER);
    picture.text_truncate_direction = TextTruncateDirection::Right;
    let drawn = flamegraph::from_reader(&mut picture, lines.as_slice(), &mut *writer);
    // inferno has written its picture of nothing by then.
    if lines.is_empty() { Ok(()) } else { drawn }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Frame, FrameKind, Outcome, Root, Sample, StackId, ThreadState};

    fn profile(function: &str, weight_ns: u64) -> Profile {
        let sample = Sample {
            root: Root::default(),
            stack: StackId(0),
            outcome: Outcome::Complete,
            state: ThreadState::Running,
            holds_gil: false,
            is_idle: false,
            count: 1,
            weight_ns,
        };
        let frames = vec![Frame::named(FrameKind::Native, function), Frame::named(FrameKind::Native, "main")];
        Profile { frames, stacks: vec![vec![0, 1]], samples: vec![sample], ..Profile::default() }
    }

    /// Each path has both numbers, also where one side does not have it.
    #[test]
    fn paths_have_both_numbers() {
        let mut lines = Vec::new();
        let (before, after) = (profile("f", 3_000_000), profile("g", 5_000_000));
        write_folded(&before, &after, &FoldOptions::default(), &mut lines).expect("memory");
        let text = String::from_utf8(lines).expect("text");
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["?;main;f 3000000 0", "?;main;g 0 5000000"]);
    }

    /// The picture tells the time after and the difference; nothing gives a picture too.
    #[test]
    fn picture_tells_the_difference() {
        let draw = |before: &Profile, after: &Profile| {
            let mut picture = Vec::new();
            let options = FoldOptions::default();
            write_svg(before, after, &options, "a <b>", &mut picture).expect("memory");
            String::from_utf8(picture).expect("text")
        };
        let text = draw(&profile("f", 4_000_000), &profile("f", 6_000_000));
        assert!(text.contains("stroke") && text.contains("rgb(190,190,190)"), "{text}");
        assert!(text.contains("a &lt;b&gt;") && text.contains("f (6 ms, 100.00%; +"), "{text}");
        assert!(draw(&Profile::default(), &Profile::default()).contains("<svg"));
    }
}
