//! A table's form on disk, for a cache keyed by build id.
//!
//! All numbers are little-endian. The file is a header of [`HEADER_BYTES`],
//! then the rules, the pages and the rows, without padding:
//!
//! ```text
//!  0  8  magic       "txunwind"
//!  8  4  version     of this form and of the rows' making; see below
//! 12  4  rule_count  at most 65,535
//! 16  8  first_page  stated address >> 16
//! 24  4  page_count  at most 65,536
//! 28  4  row_count
//! 32 56  stats       fdes, bad_fdes, rbp_lost_rows, rbx_lost_rows, recognised_stubs,
//!                    detected_functions, then the eight reasons of `Unsupported::ALL`
//! 88  8  checksum    over the key, the header before this field, and all behind it
//! 96     rules       8 bytes each: `struct rule`
//!        pages       4 bytes each: the page's number of rows, at least 1
//!        rows        4 bytes each: `row_t`
//! ```
//!
//! A page's first row is behind the last row of the page before it, so only
//! the counts are kept; they add up to `row_count`. The file ends with the
//! last row.
//!
//! The key is whatever names the entry, a build id. It is not stored: a file
//! that was put under another key fails its checksum. The checksum finds
//! accidents, not malice, and so the content is checked as if hostile: lengths
//! agree exactly, every page begins with a row at offset 0, offsets ascend
//! strictly in a page, every rule a row names exists and has a kind. What
//! decodes is a table that keeps the promises of [`Table`]; whether its rules
//! are true, nobody can tell.
//!
//! The version grows whenever the layout changes *or* the same binary would
//! give other rows, for instance because more forms of CFI are understood. A
//! file of another version is not an error but a miss.

use super::row::Row;
use super::rule::Rule;
use super::table::{Page, Stats, Table};

const MAGIC: u64 = u64::from_le_bytes(*b"txunwind");
/// See the essay above for when to raise it.
pub const VERSION: u32 = 5;
/// Size of the header.
pub const HEADER_BYTES: usize = 96;
const CHECKSUM_AT: usize = 88;
const MAX_RULES: usize = 65_535;
const MAX_PAGES: usize = 1 << 16;

/// Why bytes are not a table. Callers build the table anew in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// Another format, or another version of this one.
    OtherVersion,
    /// Truncated, damaged, or stored under another key.
    Damaged,
    /// The checksum is right but the content breaks a table's promises.
    Inconsistent,
}

/// The bytes to store under `key`.
pub fn encode(table: &Table, key: &[u8]) -> Vec<u8> {
    let body_bytes = table.rules.len() * 8 + table.pages.len() * 4 + table.rows.len() * 4;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body_bytes);
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((table.rules.len() as u32).to_le_bytes());
    bytes.extend(table.first_page.to_le_bytes());
    bytes.extend((table.pages.len() as u32).to_le_bytes());
    bytes.extend((table.rows.len() as u32).to_le_bytes());
    let stats = &table.stats;
    let counts = [
        stats.fdes,
        stats.bad_fdes,
        stats.rbp_lost_rows,
        stats.rbx_lost_rows,
        stats.recognised_stubs,
        stats.detected_functions,
    ];
    bytes.extend(counts.iter().chain(&stats.unsupported_rows).flat_map(|count| count.to_le_bytes()));
    bytes.extend([0; HEADER_BYTES - CHECKSUM_AT]);
    bytes.extend(table.rules.iter().flat_map(|rule| rule.to_bits().to_le_bytes()));
    bytes.extend(table.pages.iter().flat_map(|page| page.row_count.to_le_bytes()));
    bytes.extend(table.rows.iter().flat_map(|row| row.0.to_le_bytes()));
    let sum = checksum(key, &bytes);
    if let Some(place) = bytes.get_mut(CHECKSUM_AT..HEADER_BYTES) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// The table that was encoded under `key`. Takes memory and time in proportion to `bytes`, whatever they say.
pub fn decode(bytes: &[u8], key: &[u8]) -> Result<Table, DecodeError> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Damaged)?;
    let mut fields = super::reader::Reader::new(header);
    let mut u64_field = || fields.u64().unwrap_or(0);
    let (magic, version_and_rules, first_page, counts) = (u64_field(), u64_field(), u64_field(), u64_field());
    if magic != MAGIC || version_and_rules as u32 != VERSION {
        return Err(DecodeError::OtherVersion);
    }
    let rule_count = (version_and_rules >> 32) as usize;
    let (page_count, row_count) = (counts as u32 as usize, (counts >> 32) as usize);
    let body_bytes = rule_count * 8 + page_count * 4 + row_count * 4;
    if bytes.len() - HEADER_BYTES != body_bytes {
        return Err(DecodeError::Damaged);
    }
    let stats = read_stats(&mut fields);
    if fields.u64() != Some(checksum(key, bytes)) {
        return Err(DecodeError::Damaged);
    }
    let (_, body) = bytes.split_at(HEADER_BYTES);
    let (rules, body) = body.split_at(rule_count * 8);
    let (pages, rows) = body.split_at(page_count * 4);
    let table = Table {
        first_page,
        pages: read_pages(pages, row_count).ok_or(DecodeError::Inconsistent)?,
        rows: rows.as_chunks().0.iter().map(|row| Row(u32::from_le_bytes(*row))).collect(),
        rules: rules.as_chunks().0.iter().map(|rule| Rule::from_bits(u64::from_le_bytes(*rule))).collect(),
        stats,
    };
    if is_sound(&table) { Ok(table) } else { Err(DecodeError::Inconsistent) }
}

fn read_stats(fields: &mut super::reader::Reader<'_>) -> Stats {
    let mut next = || fields.u32().unwrap_or(0);
    let mut stats = Stats {
        fdes: next(),
        bad_fdes: next(),
        rbp_lost_rows: next(),
        rbx_lost_rows: next(),
        recognised_stubs: next(),
        detected_functions: next(),
        ..Stats::default()
    };
    stats.unsupported_rows.iter_mut().for_each(|count| *count = next());
    stats
}

/// The pages, if their counts are positive and add up to `row_count`.
fn read_pages(counts: &[u8], row_count: usize) -> Option<Vec<Page>> {
    let mut first_row = 0_u32;
    let mut pages = Vec::with_capacity(counts.len() / 4);
    for count in counts.as_chunks().0 {
        let count = u32::from_le_bytes(*count);
        (count > 0).then_some(())?;
        pages.push(Page { first_row, row_count: count });
        first_row = first_row.checked_add(count)?;
    }
    (first_row as usize == row_count).then_some(pages)
}

fn is_sound(table: &Table) -> bool {
    let rule_count = table.rules.len();
    let numbered = table.first_page.checked_add(table.pages.len() as u64).is_some();
    let bounded = numbered && rule_count <= MAX_RULES && table.pages.len() <= MAX_PAGES;
    let largest_rule = table.rows.iter().map(|row| row.rule()).max();
    let named = largest_rule.is_none_or(|largest| usize::from(largest) < rule_count);
    let kinds = table.rules.iter().all(|rule| rule.kind().is_some());
    bounded && named && kinds && table.pages.iter().all(|page| rows_ascend(table, page))
}

fn rows_ascend(table: &Table, page: &Page) -> bool {
    let first = page.first_row as usize;
    let rows = table.rows.get(first..first.saturating_add(page.row_count as usize)).unwrap_or(&[]);
    let ascending = rows.iter().zip(rows.iter().skip(1)).all(|(row, next)| row.offset() < next.offset());
    ascending && rows.first().is_some_and(|row| row.offset() == 0)
}

/// Four independent multiply-and-rotate lanes over 32 bytes at a time, so that the sum is limited by
/// memory and not by the multiplier's latency. The checksum's own field counts as zeros.
fn checksum(key: &[u8], bytes: &[u8]) -> u64 {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES).unwrap_or((bytes, &[]));
    let header = header.get(..CHECKSUM_AT).unwrap_or(header);
    let sum = mix_all(mix(0, key.len() as u64), key);
    mix_all(mix_all(sum, header), body)
}

fn mix_all(seed: u64, bytes: &[u8]) -> u64 {
    let mut lanes = [seed, seed ^ 1, seed ^ 2, seed ^ 3];
    let (blocks, tail) = bytes.as_chunks::<32>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks().0) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let sum = lanes.into_iter().fold(seed, mix);
    tail.iter().fold(mix(sum, bytes.len() as u64), |sum, byte| mix(sum, u64::from(*byte)))
}

#[inline]
fn mix(sum: u64, word: u64) -> u64 {
    /// 2^64 divided by the golden ratio, odd: a bijection that carries every bit upwards.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    (sum ^ word).wrapping_mul(SPREAD).rotate_left(29)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Table {
        Table {
            first_page: 0x40,
            pages: vec![Page { first_row: 0, row_count: 2 }, Page { first_row: 2, row_count: 1 }],
            rows: vec![Row::new(0, 0), Row::new(16, 2), Row::new(0, 2)],
            rules: vec![Rule::NONE, Rule::UNSUPPORTED, Rule::cfa_register(7, 8)],
            stats: Stats { fdes: 1, unsupported_rows: [1, 2, 3, 4, 5, 6, 7, 8], ..Stats::default() },
        }
    }

    /// What was encoded is what decodes, under its own key only.
    #[test]
    fn table_survives_the_round_trip_under_its_key() {
        let bytes = encode(&sample(), b"key");
        assert_eq!(decode(&bytes, b"key"), Ok(sample()));
        assert_eq!(decode(&bytes, b"yek"), Err(DecodeError::Damaged));
        assert_eq!(decode(&encode(&Table::default(), b""), b""), Ok(Table::default()));
    }

    /// Each single flipped bit and each truncation is noticed.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(&sample(), b"key");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, b"key").is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], b"key").is_err(), "length {len}");
        }
    }

    /// Tables that break a promise are refused although their checksum is right.
    #[test]
    fn broken_promises_are_refused() {
        let breakages: [fn(&mut Table); 6] = [
            |table| table.rows[1] = Row::new(0, 2),
            |table| table.rows[2] = Row::new(1, 2),
            |table| table.rows[2] = Row::new(0, 3),
            |table| table.pages[0].row_count = 0,
            |table| table.rules[2].kind = 9,
            |table| table.first_page = u64::MAX,
        ];
        for (number, breakage) in breakages.iter().enumerate() {
            let mut table = sample();
            breakage(&mut table);
            assert_eq!(
                decode(&encode(&table, b""), b""),
                Err(DecodeError::Inconsistent),
                "breakage {number}"
            );
        }
    }

    proptest! {
        /// Any bytes behind a good start decode or are refused, and never panic.
        #[test]
        fn any_bytes_are_decoded_or_refused(tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = encode(&sample(), b"")[..12].to_vec();
            bytes.extend(tail);
            prop_assert!(decode(&bytes, b"").is_err());
        }
    }
}
