//! `str` objects out of the memory of real interpreters, against what they say there.

mod support;

use object::{Object as _, ObjectSegment as _};
use support::{Python, readable_pythons};
use txprof::unwind::python::{Layout, Version, recognise, text};

/// The layout of an interpreter, told by its version or by its file.
fn layout(python: &Python) -> Option<Layout> {
    let mut numbers = python.name.rsplit('-').next()?.split('.').map(|number| number.parse().ok());
    let version = Version { major: numbers.next()??, minor: numbers.next()??, micro: numbers.next()?? };
    if let Some(layout) = Layout::of(version) {
        return Some(*layout);
    }
    let elf = python.binary();
    let runtime = recognise(&elf).ok()??.runtime.0;
    let file = object::File::parse(&*elf).ok()?;
    let bytes = file.segments().find_map(|segment| {
        let skipped = usize::try_from(runtime.checked_sub(segment.address())?).ok()?;
        segment.data().ok()?.get(skipped..)
    })?;
    Some(Layout::from_debug_offsets(bytes, version).ok()?.layout)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The characters told; those that are halves of a surrogate pair are replaced.
fn characters(told: &str) -> String {
    let numbers = told.split(',').filter(|number| !number.is_empty());
    let numbers = numbers.map(|number| number.parse().expect("a number"));
    numbers.map(|number: u32| char::from_u32(number).unwrap_or('\u{fffd}')).collect()
}

/// All forms that a `str` may have, whole and cut short after every one of its first bytes: whatever is
/// read is a beginning of the text, and an ellipsis stands where it was cut.
#[test]
fn texts_say_what_they_say_to_the_interpreter() {
    let script = include_str!("programs/python/texts.py");
    for python in readable_pythons() {
        let Some(layout) = layout(&python) else {
            println!("{}: has no layout", python.name);
            continue;
        };
        let told = python.print(script, &[]);
        for line in told.lines() {
            let (object, expected) = line.split_once(" =").expect("two fields");
            let object = bytes(object);
            let seen = text::decode(&object, &layout);
            if expected == "-" {
                assert_eq!(seen, None, "{}: {line}", python.name);
                continue;
            }
            let expected = characters(expected);
            assert_eq!(seen.as_deref(), Some(&*expected), "{}: {line}", python.name);
            for len in (0..object.len()).take(300) {
                let Some(seen) = text::decode(&object[..len], &layout) else { continue };
                let begins = seen.strip_suffix('…').is_some_and(|cut| expected.starts_with(cut));
                assert!(begins || seen == expected, "{}: {len} bytes: {seen}", python.name);
            }
        }
        println!("{}: {} texts", python.name, told.lines().count());
    }
}
