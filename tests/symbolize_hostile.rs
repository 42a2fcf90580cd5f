//! Damaged and malicious files: no panic, and bounded time and memory,
//! whatever is inside.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSection as _};
use proptest::prelude::*;
use txprof::model::Svma;
use txprof::symbolize::{ModuleFile, Symbolizer};

/// A small program with debug information, or `None` without a compiler.
fn program(flags: &[&str]) -> Option<Vec<u8>> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/symbolize/inlined.cc");
    let path = directory.path().join("program");
    let status = Command::new("g++").args(["-O2", "-g", "-o"]).arg(&path).args(flags).arg(source).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: g++ {flags:?} failed");
        return None;
    }
    Some(std::fs::read(&path).expect("read"))
}

/// Resolves addresses all over `bytes` as a file; says how long it took.
fn survive(bytes: &[u8], addresses: &[u64]) -> Duration {
    let mut symbolizer = Symbolizer::default();
    survive_with(&mut symbolizer, "/hostile", bytes, addresses)
}

fn survive_with(symbolizer: &mut Symbolizer, name: &str, bytes: &[u8], addresses: &[u64]) -> Duration {
    let mut file: File = tempfile::tempfile().expect("temporary file");
    file.write_all(bytes).expect("write");
    let addresses: Vec<Svma> = addresses.iter().copied().map(Svma).collect();
    let began = Instant::now();
    let module = ModuleFile { display: name.into(), file, root: None };
    let answers = symbolizer.resolve_module(&module, &addresses);
    assert_eq!(answers.len(), addresses.len());
    assert!(answers.iter().all(|frames| !frames.is_empty()));
    began.elapsed()
}

const PLACES: &[u64] =
    &[0, 1, 0x1000, 0x1100, 0x1139, 0x1200, 0x1390, 0x1450, 0x2000, 0x4000, u64::MAX - 1, u64::MAX];

/// A section of `elf`: its offset and size in the file.
fn range_of(elf: &[u8], section: &str) -> (usize, usize) {
    let file = object::File::parse(elf).expect("ELF");
    let (offset, size) = file.section_by_name(section).expect(section).file_range().expect("content");
    (offset as usize, size as usize)
}

/// Bytes changed anywhere in a program, but mostly in what is parsed, are survived.
#[test]
fn changed_bytes_are_survived() {
    for flags in [&["-gdwarf-5"][..], &["-gdwarf-4"], &["-gz=zlib"]] {
        let Some(original) = program(flags) else { return };
        let sections =
            [".debug_info", ".debug_abbrev", ".debug_line", ".symtab", ".debug_str", ".note.gnu.build-id"];
        let mut ranges: Vec<_> = sections.iter().map(|section| range_of(&original, section)).collect();
        ranges.push((0, 64));
        ranges.push((original.len() - 2400, 2400));
        // A fixed sequence (Knuth's MMIX generator), so that a failure comes again.
        let mut state = 7_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below.max(1)
        };
        for round in 0..150 {
            let mut bytes = original.clone();
            let (offset, size) = ranges[round % ranges.len()];
            for _ in 0..=random(8) {
                bytes[offset + random(size)] = [0, 0xff, 0x7f, 0x80, random(256) as u8][random(5)];
            }
            assert!(survive(&bytes, PLACES) < Duration::from_secs(20));
        }
    }
}

/// A file cut anywhere is survived.
#[test]
fn cut_files_are_survived() {
    let Some(original) = program(&[]) else { return };
    for part in 0..60 {
        survive(&original[..original.len() * part / 60], PLACES);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes behind an ELF header are survived.
    #[test]
    fn any_bytes_are_survived(rest in proptest::collection::vec(any::<u8>(), 0..2000), place: u64) {
        let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
        bytes.extend(rest);
        survive(&bytes, &[place]);
    }
}

/// The smallest file that carries the given debug sections, compressed or not.
fn elf_with(sections: &[(&str, Vec<u8>, u64)]) -> Vec<u8> {
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut bodies: Vec<u8> = Vec::new();
    let mut headers = vec![[0_u64; 8]];
    for (name, body, flags) in sections {
        let offset = 64 + bodies.len() as u64;
        // Name, type, flags, offset, size; the rest is zero.
        headers.push([names.len() as u64, 1, *flags, offset, body.len() as u64, 0, 0, 0]);
        names.extend(name.bytes().chain([0]));
        bodies.extend(body);
    }
    headers.push([1, 3, 0, 64 + bodies.len() as u64, names.len() as u64, 0, 0, 0]);
    bodies.extend(&names);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([0; 16]);
    file.extend((64 + bodies.len() as u64).to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 0, 64, headers.len() as u16, headers.len() as u16 - 1] {
        file.extend(half.to_le_bytes());
    }
    file.extend(bodies);
    for [name, kind, flags, offset, size, ..] in headers {
        file.extend((name as u32).to_le_bytes());
        file.extend((kind as u32).to_le_bytes());
        for word in [flags, 0, offset, size, 0, 1, 0] {
            file.extend(word.to_le_bytes());
        }
    }
    file
}

/// A DWARF 4 unit with `body` behind its header.
fn unit(body: &[u8]) -> Vec<u8> {
    let mut unit = ((body.len() + 7) as u32).to_le_bytes().to_vec();
    unit.extend([4, 0, 0, 0, 0, 0, 8]);
    unit.extend(body);
    unit
}

/// Address and size forms of an entry that covers `0x1000..0x2000`.
fn covering() -> Vec<u8> {
    [0x1000_u64.to_le_bytes(), 0x1000_u64.to_le_bytes()].concat()
}

/// Abbreviations: 1 unit, 2 function, 3 inlined call, each with an address range and children; 4 and 5
/// the latter two with a range list; 6 an inlined call of one byte.
fn abbreviations() -> Vec<u8> {
    let range: &[u8] = &[0x11, 1, 0x12, 7, 0, 0];
    let list: &[u8] = &[0x55, 0x17, 0, 0];
    let entries: [(u8, u8, &[u8]); 6] = [
        (1, 0x11, range),
        (2, 0x2e, range),
        (3, 0x1d, range),
        (4, 0x2e, list),
        (5, 0x1d, list),
        (6, 0x1d, &[0, 0]),
    ];
    let mut bytes = Vec::new();
    for (code, tag, attributes) in entries {
        bytes.extend([code, tag, 1]);
        bytes.extend(attributes);
    }
    bytes.push(0);
    bytes
}

fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("peak");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
}

/// Calls inlined a million deep do not overflow the stack.
#[test]
fn deeply_inlined_calls_are_survived() {
    let mut body = [vec![1], covering(), vec![2], covering()].concat();
    body.extend(vec![6; 3_000_000]);
    let file = elf_with(&[(".debug_abbrev", abbreviations(), 0), (".debug_info", unit(&body), 0)]);
    assert!(survive(&file, &[0x1000, 0x1800]) < Duration::from_secs(20));
}

/// Thousands of functions that share one endless range list cost neither time nor memory without bound.
#[test]
fn shared_range_lists_are_survived() {
    let mut body = [vec![1], covering()].concat();
    for _ in 0..200_000 {
        body.extend([4, 0, 0, 0, 0, 0]);
    }
    body.push(0);
    let entry = [0x1000_u64.to_le_bytes(), 0x1001_u64.to_le_bytes()].concat();
    let ranges = entry.repeat(500_000);
    let abbreviations = abbreviations();
    let file = elf_with(&[
        (".debug_abbrev", abbreviations, 0),
        (".debug_info", unit(&body), 0),
        (".debug_ranges", ranges, 0),
    ]);
    assert!(survive(&file, &[0x1000, 0x1800, 0x1900]) < Duration::from_secs(60));
    assert!(peak_memory_mib() < 1500, "{} MiB", peak_memory_mib());
}

/// A section that says it is enormous when decompressed is refused.
#[test]
fn absurd_compressed_size_is_refused() {
    const SHF_COMPRESSED: u64 = 1 << 11;
    for kind in [1_u64, 2] {
        for size in [u64::MAX, 1 << 40, 600 << 20] {
            let mut body = kind.to_le_bytes().to_vec();
            body.extend(size.to_le_bytes());
            body.extend(1_u64.to_le_bytes());
            body.extend([0x78, 0x9c, 1, 2, 3]);
            let file = elf_with(&[(".debug_info", body, SHF_COMPRESSED)]);
            assert!(survive(&file, PLACES) < Duration::from_secs(2));
        }
    }
}

/// What was refused is told with the module's name and the reason, of eight modules; further ones are counted.
#[test]
fn refused_debug_information_is_told() {
    const SHF_COMPRESSED: u64 = 1 << 11;
    let packed = |size: u64, content: &[u8]| {
        let header = [1, size, 1].map(u64::to_le_bytes).concat();
        elf_with(&[(".debug_info", [&header, content].concat(), SHF_COMPRESSED)])
    };
    let mut symbolizer = Symbolizer::default();
    survive_with(&mut symbolizer, "/stripped", &elf_with(&[]), PLACES);
    assert!(symbolizer.refusals().is_empty(), "absence is ordinary");
    survive_with(&mut symbolizer, "/large", &packed(600 << 20, &[0x78, 0x9c]), PLACES);
    for number in 0..10 {
        survive_with(&mut symbolizer, &format!("/damaged{number}"), &packed(100, &[1, 2, 3]), PLACES);
    }
    let told = symbolizer.refusals();
    let too_large = "debug information of `large` was not read: it takes more than 512 MiB when decompressed";
    assert_eq!(told[0], too_large);
    assert_eq!(told[1], "debug information of `damaged0` was not read: it is damaged");
    assert_eq!(told[8..], ["debug information of 3 more modules was not read"]);
}

/// MiniDebugInfo that is damaged, or unpacks to more than is accepted, is given up.
#[test]
fn packed_bombs_are_survived() {
    survive(&elf_with(&[(".gnu_debugdata", vec![0xfd; 100], 0)]), PLACES);
    let packed = Command::new("sh").args(["-c", "head -c 300000000 /dev/zero | xz -1"]).output().expect("sh");
    if packed.stdout.len() < 1000 {
        eprintln!("SKIPPED: no xz");
        return;
    }
    assert!(survive(&elf_with(&[(".gnu_debugdata", packed.stdout, 0)]), PLACES) < Duration::from_secs(20));
}
