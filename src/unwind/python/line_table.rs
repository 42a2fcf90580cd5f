//! Which line an instruction of a code object belongs to.
//!
//! Three forms, each a sequence of entries that cover the instructions in order:
//!
//! * up to 3.9, `co_lnotab` (`Objects/lnotab_notes.txt`): pairs of an increment in bytes and a signed
//!   increment in lines; both are applied before the instructions that they describe;
//! * 3.10, `co_linetable` (same file): pairs of the length in bytes of a range and the signed difference
//!   of its line, −128 for a range without a line;
//! * from 3.11, `co_linetable` (`Objects/locations.md`; later `InternalDocs/code_objects.md`): an entry begins
//!   with a byte that has its top bit set, a code in the next four and in the last three the number of code units
//!   (two bytes each) less one. What follows depends on the code.

use super::Version;

/// The line of the instruction at `offset_bytes`, in a code object whose `def` is at `first_line`.
/// `None` where the table says that there is none, or ends before: it may be cut short.
pub fn line(version: Version, table: &[u8], first_line: u32, offset_bytes: u32) -> Option<u32> {
    let first_line = i64::from(first_line);
    let line = match version.minor {
        ..=9 => by_increments(table, first_line, offset_bytes),
        10 => by_ranges(table, first_line, offset_bytes),
        11.. => by_locations(table, first_line, offset_bytes),
    };
    line.and_then(|line| u32::try_from(line).ok())
}

fn by_increments(table: &[u8], first_line: i64, offset: u32) -> Option<i64> {
    let (mut address, mut line) = (0, first_line);
    for [bytes, lines] in table.as_chunks().0 {
        address += u64::from(*bytes);
        if address > u64::from(offset) {
            break;
        }
        line += i64::from(lines.cast_signed());
    }
    Some(line)
}

fn by_ranges(table: &[u8], first_line: i64, offset: u32) -> Option<i64> {
    /// The range has no line.
    const NO_LINE: i8 = -128;
    let (mut end, mut line) = (0, first_line);
    for [bytes, lines] in table.as_chunks().0 {
        end += u64::from(*bytes);
        let lines = lines.cast_signed();
        if lines != NO_LINE {
            line += i64::from(lines);
        }
        if u64::from(offset) < end {
            return (lines != NO_LINE).then_some(line);
        }
    }
    None
}

fn by_locations(table: &[u8], first_line: i64, offset: u32) -> Option<i64> {
    let (mut rest, mut end, mut line) = (table.iter(), 0, first_line);
    while let Some(first) = rest.next() {
        let (code, units) = (first >> 3 & 15, first & 7);
        end += 2 * (u64::from(units) + 1);
        let delta = match code {
            0..=9 => {
                rest.next()?;
                Some(0)
            }
            10..=12 => {
                rest.nth(1)?;
                Some(i64::from(code) - 10)
            }
            13 => Some(signed(&mut rest)?),
            14 => {
                let delta = signed(&mut rest)?;
                for _end_line_and_columns in 0..3 {
                    unsigned(&mut rest)?;
                }
                Some(delta)
            }
            _ => None,
        };
        line = line.checked_add(delta.unwrap_or(0))?;
        if u64::from(offset) < end {
            return delta.map(|_| line);
        }
    }
    None
}

/// Six bits a byte, lowest first; the seventh says that more follow.
fn unsigned(bytes: &mut std::slice::Iter<'_, u8>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..60).step_by(6) {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63) << shift;
        if byte & 64 == 0 {
            return Some(value);
        }
    }
    None
}

/// As [`unsigned`], with the sign in the lowest bit.
fn signed(bytes: &mut std::slice::Iter<'_, u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    let amount = (value >> 1).cast_signed();
    Some(if value & 1 == 1 { -amount } else { amount })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(minor: u8, table: &[u8], offsets: &[u32]) -> Vec<Option<u32>> {
        let version = Version { major: 3, minor, micro: 0 };
        offsets.iter().map(|offset| line(version, table, 100, *offset)).collect()
    }

    /// The example of `lnotab_notes.txt`, with a line that goes back.
    #[test]
    fn increments_apply_before_their_instructions() {
        let table = [6, 1, 44, 5, 10, 0xfe];
        let seen = lines(9, &table, &[0, 4, 6, 48, 50, 58, 60, 900]);
        assert_eq!(seen, [100, 100, 101, 101, 106, 106, 104, 104].map(Some));
    }

    /// Ranges follow one another; one without a line has none, an empty one only moves the line.
    #[test]
    fn ranges_of_3_10_have_their_lines() {
        let table = [4, 1, 6, 0x80, 0, 7, 2, 0];
        assert_eq!(
            lines(10, &table, &[0, 3, 4, 9, 10, 11, 12]),
            [Some(101), Some(101), None, None, Some(108), Some(108), None]
        );
    }

    /// Every kind of entry: short, one-line, without columns, long, none.
    #[test]
    fn locations_are_read_by_code() {
        let entry = |code: u8, units: u8| 0x80 | code << 3 | (units - 1);
        let table = [
            &[entry(0, 2), 0x11][..],
            &[entry(11, 1), 4, 9],
            &[entry(13, 8), 0x05],             // −2
            &[entry(14, 1), 0x48, 1, 0, 1, 2], // +36
            &[entry(15, 1)],
            &[entry(12, 1), 0, 0],
        ]
        .concat();
        let seen = lines(12, &table, &[0, 2, 4, 6, 20, 22, 24, 26, 28]);
        let none = None;
        let expected =
            [Some(100), Some(100), Some(101), Some(99), Some(99), Some(135), none, Some(137), none];
        assert_eq!(seen, expected);
    }

    proptest! {
        /// Any bytes, any version: a line or none.
        #[test]
        fn any_table_is_survived(
            table in proptest::collection::vec(any::<u8>(), 0..300), minor in 7_u8..16, first: u32, offset: u32,
        ) {
            let _line_or_none = line(Version { major: 3, minor, micro: 0 }, &table, first, offset);
        }
    }
}
