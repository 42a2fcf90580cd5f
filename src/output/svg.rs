//! The interactive flamegraph: click to zoom, Ctrl-F to search, one file that
//! any browser shows without a network.
//!
//! inferno lays out the picture. It knows frames by one text, which is label,
//! tooltip and key of the colour at once; each frame is handed over as a number
//! of three digits, which are private-use characters, since names of C++ fill pages
//! and come again in each of thousands of stacks. Its output is rewritten:
//! where the digits are, labels get the name, as much as fits, and tooltips
//! `name (module, 12 samples, 3.10%)`. Private-use characters cannot occur in
//! [`harmless`] names. Numbers ascend with names, so sorted lines keep siblings together.
//!
//! Equal profiles give equal bytes: a colour follows from kind and name.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap};
use inferno::flamegraph::{self, Options, TextTruncateDirection};
use memchr::memchr;

use super::quantity;
use crate::aggregate::name::harmless;
use crate::aggregate::{Fold, FoldFrame, FoldKind, FoldOptions};
use crate::model::{FrameKind, Mode, Profile, WeightUnit, date};

/// Behind all pictures.
pub(super) const BACKGROUND: BackgroundColor = BackgroundColor::Flat(Color { r: 252, g: 252, b: 253 });

/// In the subtitle: begins, changes and ends its lines; before a kind's letter, its legend.
const FIRST_LINE: char = '\u{e002}';
const SECOND_LINE: char = '\u{e003}';
const LAST_LINE_END: char = '\u{e004}';
const LEGEND: char = '\u{e005}';

/// The digit 0 of a frame's number.
const DIGIT_0: char = '\u{e800}';
/// How many digits there are; three of them are more than there are numbers.
const DIGITS: u32 = 1 << 11;

/// The first byte, in UTF-8, of all these private-use characters and of nothing else in inferno's picture.
const LEAD_BYTE: u8 = 0xee;

/// Frames narrower than this share, in percent of the picture, are left out: an
/// eighth of a pixel on a wide screen, visible only after zooming eightfold.
/// It bounds the picture to 10,000 frames per level; the subtitle counts what is missing.
const MIN_WIDTH_PERCENT: f64 = 0.01;

/// Longest title shown, in characters: what fits on a screen of 1,200 pixels.
const MAX_TITLE_CHARS: usize = 100;

/// Largest sum that the picture's script, calculating in doubles, keeps exact.
const MAX_TOTAL: u128 = 1 << 53;

/// Changes to inferno's style, each where its first text first stands: the search button is hardly
/// visible, and neighbours of one shade look like one frame. Frames too narrow for a label get
/// no edge, which would cover them.
const STYLE: [(&str, &str); 2] = [
    ("opacity:0.1", "opacity:0.7"),
    (
        ".hide {",
        "#frames > g:not(:hover):has(> text:not(:empty)) > rect { stroke:white; stroke-width:0.5; }\n.hide {",
    ),
];

/// Width of the picture in pixels, inferno's default.
const WIDTH: u32 = 1200;

/// How a kind looks and what it is called.
struct Look {
    kind: FoldKind,
    letter: char,
    /// In the legend.
    label: &'static str,
    /// In tooltips, before the module; empty where the module says it.
    tooltip: &'static str,
    /// The ends of the range from which a function's name picks its shade.
    shades: [(u8, u8, u8); 2],
}

/// In the order of the legend. Kinds differ in hue and lightness, so that those who see two of
/// the three primaries tell them apart too: the least distance in CIELAB between shades of two kinds,
/// simulated after Machado 2009, is 15 for the red- and the green-blind and 12 for the blue-blind,
/// but 10 between processes and the interpreter, a light and a dark grey that never take turns.
/// Calls inlined into native code are a lighter tint of it.
const LOOKS: [Look; 13] = {
    const fn look(
        kind: FoldKind,
        letter: char,
        label: &'static str,
        tooltip: &'static str,
        shades: [(u8, u8, u8); 2],
    ) -> Look {
        Look { kind, letter, label, tooltip, shades }
    }
    use FoldKind::{Frame, NotShown, Root};
    use FrameKind::{
        Blocked, Gil, Inlined, Interpreter, Jit, Kernel, Marker, Native, Python, RunQueue, Waker,
    };
    [
        look(Frame(Python), 'y', "Python", "", [(96, 160, 240), (132, 188, 250)]),
        look(Frame(Native), 'n', "native", "", [(244, 158, 58), (250, 184, 88)]),
        look(Frame(Inlined), 'i', "inlined", "inlined", [(248, 234, 138), (252, 242, 170)]),
        look(Frame(Interpreter), 'p', "interpreter", "interpreter", [(170, 175, 177), (189, 193, 194)]),
        look(Frame(Kernel), 'k', "kernel", "kernel", [(164, 106, 180), (188, 136, 200)]),
        look(Frame(Jit), 'j', "JIT", "JIT", [(92, 186, 122), (128, 206, 150)]),
        look(Frame(Marker), 'm', "frames missing", "not a call", [(232, 80, 72); 2]),
        look(Frame(Blocked), 'b', "blocked", "not running", [(115, 128, 142); 2]),
        look(Frame(RunQueue), 'q', "waiting for a CPU", "not running", [(170, 86, 92); 2]),
        look(Frame(Gil), 'g', "waiting for the GIL", "not running", [(129, 88, 211); 2]),
        look(Frame(Waker), 'w', "another thread", "ended the wait, or worked meanwhile", [(78, 87, 255); 2]),
        look(NotShown, 'x', "not shown", "calls that this view leaves out", [(186, 186, 186); 2]),
        look(Root, 'r', "process, thread", "", [(214, 219, 233), (228, 231, 242)]),
    ]
};

/// The base of the picture, which stands for everything.
const ALL_SHADE: (u8, u8, u8) = (232, 234, 240);

/// Writes `profile` as a flamegraph. A profile without samples gives a small
/// picture that says so.
pub fn write(profile: &Profile, options: &FoldOptions, writer: &mut dyn Write) -> io::Result<()> {
    let fold = Fold::new(profile, options, true);
    if fold.stacks.is_empty() {
        return write_empty(profile, writer);
    }
    let total: u128 = fold.stacks.iter().map(|stack| u128::from(stack.weight_ns)).sum();
    let scale = total / MAX_TOTAL + 1;
    let mut palette = palette(&fold);

    let mut picture = Options::default();
    picture.title = title(profile);
    picture.subtitle = Some(subtitle(profile, &fold, options, total));
    picture.bgcolors = Some(BACKGROUND);
    picture.uicolor = color((40, 44, 52));
    picture.min_width = MIN_WIDTH_PERCENT;
    picture.text_truncate_direction = TextTruncateDirection::Right;
    picture.palette_map = Some(&mut palette);
    let unit_ns = match options.unit {
        WeightUnit::Samples => profile.recording.period_ns.max(1),
        WeightUnit::Nanoseconds => 1_000_000,
    };
    picture.count_name = match options.unit {
        WeightUnit::Samples => "samples".to_owned(),
        WeightUnit::Nanoseconds => "ms".to_owned(),
    };
    picture.factor = scale as f64 / unit_ns as f64;

    let chars_per_percent = f64::from(WIDTH) / 100.0 / (picture.font_size as f64 * picture.font_width);
    let mut picture_bytes = Vec::new();
    let lines = lines(&fold, scale);
    flamegraph::from_lines(&mut picture, lines.lines(), &mut picture_bytes)?;
    drop(lines);
    let mut text = String::from_utf8(picture_bytes).map_err(io::Error::other)?;
    for (old, new) in STYLE {
        if let Some(at) = text.find(old) {
            text.replace_range(at..at + old.len(), new);
        }
    }
    let pieces: Vec<Piece> = fold.frames.iter().map(Piece::of).collect();
    rewrite(&text, &pieces, chars_per_percent, writer)
}

/// The text by which inferno knows the frame `index`.
fn key(index: u32) -> [char; 3] {
    let digit = |value: u32| char::from_u32(u32::from(DIGIT_0) + value % DIGITS).unwrap_or(DIGIT_0);
    [digit(index / DIGITS / DIGITS), digit(index / DIGITS), digit(index)]
}

/// Folded lines of keys, with weights divided by `scale` but never 0.
fn lines(fold: &Fold, scale: u128) -> String {
    let mut lines = String::new();
    for stack in &fold.stacks {
        for (position, index) in stack.frames.iter().enumerate() {
            if position > 0 {
                lines.push(';');
            }
            lines.extend(key(*index));
        }
        let _ = writeln!(lines, " {}", (u128::from(stack.weight_ns) / scale).max(1));
    }
    lines
}

fn palette(fold: &Fold) -> PaletteMap {
    let mut palette = PaletteMap::default();
    palette.insert("", color(ALL_SHADE));
    for (index, frame) in (0..).zip(&fold.frames) {
        let [from, to] = look_of(frame.kind).shades;
        let position = shade(&frame.name);
        let mix = |from: u8, to: u8| {
            let distance = (i32::from(to) - i32::from(from)) * i32::from(position) / 255;
            // Between two bytes, so a byte.
            (i32::from(from) + distance) as u8
        };
        palette.insert(
            String::from_iter(key(index)),
            color((mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))),
        );
    }
    palette
}

/// FNV-1a of the name, folded to a byte: equal functions look equal in every picture.
fn shade(name: &str) -> u8 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 8) ^ (hash >> 16) ^ (hash >> 24)) as u8
}

fn look_of(kind: FoldKind) -> &'static Look {
    LOOKS.iter().find(|look| look.kind == kind).expect("LOOKS has a row for each kind")
}

fn color((r, g, b): (u8, u8, u8)) -> Color {
    Color { r, g, b }
}

/// `postgres (pid 4121), on-CPU at 99 Hz (cpu-clock)`, or `on-CPU with the GIL`.
fn title(profile: &Profile) -> String {
    let recording = &profile.recording;
    let mut target = harmless(&recording.target);
    if target.chars().count() > MAX_TITLE_CHARS {
        target = target.chars().take(MAX_TITLE_CHARS).chain(['…']).collect();
    }
    let mode = match recording.mode {
        Mode::Cpu => "on-CPU",
        Mode::Gil => "on-CPU with the GIL",
        Mode::OffCpu => return format!("{target}, waits"),
        Mode::Wall => "running and waiting",
    };
    format!("{target}, {mode} at {} Hz ({})", recording.frequency_hz, harmless(&recording.event))
}

/// `30.0 s · 2,970 samples, 99.6 % complete, 0.1 % lost · 2026-11-23 12:59:08 UTC`.
fn summary(profile: &Profile) -> String {
    let recording = &profile.recording;
    let samples = profile.sample_count();
    let lost = recording.lost.values().fold(0_u64, |sum, number| sum.saturating_add(*number));
    let mut text = format!(
        "{} · {}, {} complete, {} lost · {}",
        quantity::duration(Duration::from_nanos(recording.elapsed_ns)),
        quantity::seen(profile),
        quantity::percent(profile.complete_count(), profile.stack_count()),
        quantity::percent(lost, samples.saturating_add(lost)),
        date::utc(recording.started_unix_ns / 1_000_000_000),
    );
    if recording.left_out > 0 {
        let _ = write!(text, " · {} more without the GIL", quantity::count(recording.left_out));
    }
    if !recording.rate_changes.is_empty() {
        let _ = write!(text, " · rate changed {} ×", recording.rate_changes.len());
    }
    text
}

/// How many frames are too narrow to be drawn.
fn undrawn(fold: &Fold, total: u128) -> u64 {
    let least = total as f64 * MIN_WIDTH_PERCENT / 100.0;
    let narrow = |weights: &[u128]| weights.iter().filter(|weight| (**weight as f64) < least).count() as u64;
    // The path before and the weights of its frames so far. Paths that share frames are neighbours.
    let (mut path, mut weights): (&[u32], Vec<u128>) = (&[], Vec::new());
    let mut count = 0;
    for stack in &fold.stacks {
        let shared = path.iter().zip(&stack.frames).take_while(|(one, other)| one == other).count();
        count += narrow(&weights[shared..]);
        weights.truncate(shared);
        weights.resize(stack.frames.len(), 0);
        weights.iter_mut().for_each(|weight| *weight += u128::from(stack.weight_ns));
        path = &stack.frames;
    }
    count + narrow(&weights)
}

/// The summary and below it the legend of the kinds that occur.
fn subtitle(profile: &Profile, fold: &Fold, options: &FoldOptions, total: u128) -> String {
    let mut text = format!("{FIRST_LINE}{}", summary(profile));
    if options.hide_idle {
        let idle = Duration::from_nanos(profile.idle_ns());
        let _ = write!(text, " · {} idle, hidden", quantity::duration(idle));
    }
    let undrawn = undrawn(fold, total);
    if undrawn > 0 {
        let _ = write!(text, " · {} too narrow to draw", quantity::counted(undrawn, "frame"));
    }
    text.push(SECOND_LINE);
    for look in LOOKS.iter().filter(|look| fold.frames.iter().any(|frame| frame.kind == look.kind)) {
        text.extend([LEGEND, look.letter]);
    }
    text.push(LAST_LINE_END);
    text
}

/// What replaces a frame's key.
struct Piece<'a> {
    /// `name (kind, module, `, as XML: what a tooltip begins with.
    tooltip: String,
    name: &'a str,
}

impl<'a> Piece<'a> {
    fn of(frame: &'a FoldFrame) -> Self {
        let mut tooltip = escape(&frame.name);
        tooltip.push_str(" (");
        // The script takes what follows the last `(` for the numbers.
        let module = frame.module.as_deref().unwrap_or("").replace('(', "[").replace(')', "]");
        let module = if module == "[kernel]" { "" } else { &module };
        for part in [look_of(frame.kind).tooltip, module].iter().filter(|part| !part.is_empty()) {
            tooltip.push_str(&escape(part));
            tooltip.push_str(", ");
        }
        Self { tooltip, name: &frame.name }
    }
}

/// Copies inferno's `picture`, putting words and marks where the private-use
/// characters are.
fn rewrite(
    picture: &str,
    pieces: &[Piece<'_>],
    chars_per_percent: f64,
    writer: &mut dyn Write,
) -> io::Result<()> {
    let mut rest = picture;
    while let Some(at) = memchr(LEAD_BYTE, rest.as_bytes()) {
        writer.write_all(&rest.as_bytes()[..at])?;
        rest = &rest[at..];
        let mut chars = rest.chars();
        let mark = chars.next();
        match mark {
            Some(FIRST_LINE) => writer.write_all(b"<tspan x=\"50%\" dy=\"-9\">")?,
            Some(SECOND_LINE) => writer.write_all(b"</tspan><tspan x=\"50%\" dy=\"15\">")?,
            Some(LAST_LINE_END) => writer.write_all(b"</tspan>")?,
            Some(LEGEND) => {
                let letter = chars.next();
                if let Some(look) = LOOKS.iter().find(|look| Some(look.letter) == letter) {
                    let (r, g, b) = look.shades[0];
                    // The edge shows light colours on a light ground.
                    let paint =
                        format!("fill=\"rgb({r},{g},{b})\" stroke=\"rgb(120,124,132)\" stroke-width=\"0.5\"");
                    write!(writer, " <tspan {paint}>■</tspan> {} ", look.label)?;
                }
            }
            _ => {
                rest = rewrite_frame(rest, pieces, chars_per_percent, writer)?;
                continue;
            }
        }
        rest = chars.as_str();
    }
    writer.write_all(rest.as_bytes())
}

/// `rest` begins with the key in a tooltip, goes on with `(12 samples, 3.10%)</title>`, the box and
/// its label, and `</text>` is what is left of it.
fn rewrite_frame<'a>(
    rest: &'a str,
    pieces: &[Piece<'_>],
    chars_per_percent: f64,
    writer: &mut dyn Write,
) -> io::Result<&'a str> {
    let broken = || io::Error::other("the picture is not laid out as expected");
    let (key, numbers) = rest.split_once(" (").ok_or_else(broken)?;
    let index = key.chars().try_fold(0, |number, c| Some(number * DIGITS as usize + digit(c)?));
    let piece = index.and_then(|index| pieces.get(index)).ok_or_else(broken)?;
    writer.write_all(piece.tooltip.as_bytes())?;
    let tag = numbers.find("<text ").ok_or_else(broken)?;
    let label = tag + numbers[tag..].find('>').ok_or_else(broken)? + 1;
    let (outline, rest) = numbers.split_at(label);
    writer.write_all(outline.as_bytes())?;
    let width = outline.split_once("width=\"").and_then(|(_, width)| width.split_once('%'));
    let width: f64 = width.and_then(|(width, _)| width.parse().ok()).ok_or_else(broken)?;
    write_label(piece.name, (width * chars_per_percent) as usize, writer)?;
    rest.find("</text>").map(|end| &rest[end..]).ok_or_else(broken)
}

/// As much of `name` as fits, as the picture's script does it again when the window changes.
fn write_label(name: &str, fitting_chars: usize, writer: &mut dyn Write) -> io::Result<()> {
    match fitting_chars {
        0..3 => Ok(()),
        _ if name.chars().nth(fitting_chars).is_none() => write_escaped(name, writer),
        _ => {
            let cut = name.char_indices().nth(fitting_chars - 2).map_or(name.len(), |(at, _)| at);
            write_escaped(&name[..cut], writer)?;
            writer.write_all(b"..")
        }
    }
}

fn digit(c: char) -> Option<usize> {
    let value = u32::from(c).checked_sub(u32::from(DIGIT_0))?;
    (value < DIGITS).then_some(value as usize)
}

/// A picture without frames: title, summary, and why it is empty.
fn write_empty(profile: &Profile, writer: &mut dyn Write) -> io::Result<()> {
    let lost: u64 = profile.recording.lost.values().fold(0, |sum, number| sum.saturating_add(*number));
    let reason = if lost > 0 {
        format!("no samples: all {} were lost", quantity::count(lost))
    } else if profile.recording.left_out > 0 {
        "no samples: no thread that was seen held the lock of a Python interpreter".to_owned()
    } else {
        "no samples: the target did not run on a CPU while it was recorded".to_owned()
    };
    writeln!(
        writer,
        r##"<?xml version="1.0" standalone="no"?>
<svg version="1.1" width="1200" height="130" viewBox="0 0 1200 130" xmlns="http://www.w3.org/2000/svg" font-family="monospace" font-size="12" text-anchor="middle" fill="#282c34">
<rect width="100%" height="100%" fill="#fcfcfd"/>
<text x="50%" y="24" font-size="17">{}</text>
<text x="50%" y="44">{}</text>
<text x="50%" y="90" font-size="15">{reason}</text>
</svg>"##,
        escape(&title(profile)),
        escape(&summary(profile)),
    )
}

/// `text` as XML character data.
fn escape(text: &str) -> String {
    let mut bytes = Vec::new();
    write_escaped(text, &mut bytes).expect("a vector grows");
    String::from_utf8(bytes).expect("only whole characters are replaced")
}

/// The same, written.
fn write_escaped(text: &str, writer: &mut dyn Write) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'&' | b'<' | b'>')) {
        let (plain, special) = rest.split_at(at);
        writer.write_all(plain)?;
        let word: &[u8] = match special[0] {
            b'&' => b"&amp;",
            b'<' => b"&lt;",
            _ => b"&gt;",
        };
        writer.write_all(word)?;
        rest = &special[1..];
    }
    writer.write_all(rest)
}
