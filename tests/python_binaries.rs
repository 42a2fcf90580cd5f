//! Recognising CPython in ELF files: the interpreters of this machine, against
//! what they say themselves and against their symbols where they have any;
//! files made to look like one; and mutilated ones, which must do no harm.

mod support;

use std::ops::Range;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSymbol as _};
use proptest::prelude::*;
use support::{built_pretended_python, readable_pythons};
use txprof::unwind::python::{PythonBinary, Version, recognise};

/// What is left of `Py_UNREACHABLE()`: only the jump tables name it, and nothing goes there.
const UNREACHABLE_BYTES: u64 = 16;

fn python(elf: &[u8]) -> Option<PythonBinary> {
    recognise(elf).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The ranges of the evaluation loop's symbols, sorted.
fn symbols(elf: &[u8]) -> Vec<Range<u64>> {
    let file = ElfFile64::<object::LittleEndian>::parse(elf).expect("a sound ELF file");
    let named = file.symbols().chain(file.dynamic_symbols());
    let is_loop = |name: &str| {
        name.strip_prefix("_PyEval_EvalFrameDefault").is_some_and(|rest| ["", ".cold"].contains(&rest))
    };
    let found = named.filter(|symbol| symbol.name().is_ok_and(is_loop));
    let mut ranges: Vec<_> = found.map(|symbol| symbol.address()..symbol.address() + symbol.size()).collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup();
    ranges
}

fn address(elf: &[u8], name: &str) -> Option<u64> {
    let file = ElfFile64::<object::LittleEndian>::parse(elf).expect("a sound ELF file");
    file.dynamic_symbols().find(|symbol| symbol.name() == Ok(name)).map(|symbol| symbol.address())
}

/// Version, addresses and parts of the loop of each interpreter here. The parts are those that the symbols
/// tell; Debian's tell the first only, and there are others.
#[test]
fn interpreters_here_are_recognised() {
    for interpreter in readable_pythons() {
        let (name, elf) = (&interpreter.name, interpreter.binary());
        let found = python(&elf).unwrap_or_else(|| panic!("{name}"));
        println!("{name}: {found:x?}");
        let version = interpreter.print("import sys; print(*sys.version_info[:3])", &[]);
        let Version { major, minor, micro } = found.version;
        let tells_micro = minor >= 11 || micro != 0;
        let version =
            if tells_micro { version } else { version.rsplit_once(' ').expect("three").0.to_owned() + " 0" };
        assert_eq!(format!("{major} {minor} {micro}"), version.trim(), "{name}");
        assert_eq!(Some(found.runtime.0), address(&elf, "_PyRuntime"), "{name}");
        assert_eq!(Some(found.code_type.0), address(&elf, "PyCode_Type"), "{name}");
        assert_eq!(Some(found.text_type.0), address(&elf, "PyUnicode_Type"), "{name}");
        assert_eq!(Some(found.eval_entry.0), address(&elf, "_PyEval_EvalFrameDefault"), "{name}");
        assert!(found.has_single_loop && !found.is_debug_build && !found.is_free_threaded, "{name}");
        let mut told = symbols(&elf);
        told.retain(|range| range.end - range.start > UNREACHABLE_BYTES);
        assert!(told.iter().all(|range| found.eval.contains(range)), "{name}: {told:x?}");
        if !name.starts_with("pyenv") {
            assert_eq!(found.eval.len(), 2, "{name}: Debian's loops are split: {:x?}", found.eval);
        }
        assert!(found.eval.is_sorted_by(|one, next| one.end <= next.start), "{name}: {:x?}", found.eval);
    }
}

/// Programs and libraries without an interpreter.
#[test]
fn other_files_hold_no_python() {
    for path in ["/bin/sh", "/usr/lib/x86_64-linux-gnu/libc.so.6", "/proc/self/exe", "/etc/passwd"] {
        let bytes = std::fs::read(path).expect("files of every machine");
        assert_eq!(python(&bytes), None, "{path}");
    }
    assert_eq!(python(b""), None);
}

/// A stripped library: symbols through the hash table, the loop's second part through a jump, and not the
/// function that it ends with a tail call to.
#[test]
fn split_loop_is_found_without_symbols() {
    let library = built_pretended_python("libsplit.so", "");
    let told = symbols(&std::fs::read(&library).expect("just built"));
    assert_eq!(told.len(), 2, "gcc splits the loop: {told:x?}");
    let found = python(&stripped(&library)).expect("it looks like one");
    assert_eq!(found.eval, told);
    assert_eq!(found.version, Version { major: 3, minor: 11, micro: 5 });
    assert!(found.has_single_loop && found.is_free_threaded && !found.is_debug_build, "{found:?}");
    assert_eq!(found.runtime_len, 24);
}

/// Without section headers, with any kind of hash table, linked by others, and without CFI.
#[test]
fn forms_of_files_are_read() {
    for (name, flags) in [
        ("liblld.so", "-fuse-ld=lld"),
        ("libsysv.so", "-Wl,--hash-style=sysv"),
        ("libstatic.so", "-fno-pic -no-pie -static -DMAIN -Wl,--no-export-dynamic"),
    ] {
        let elf = std::fs::read(built_pretended_python(name, flags)).expect("just built");
        let found = python(&elf).unwrap_or_else(|| panic!("{name} looks like one"));
        assert_eq!(found.eval, symbols(&elf), "{name}");
        assert_eq!(found.runtime_len, 24);
    }
    let mut elf = stripped(&built_pretended_python("libsplit.so", ""));
    let found = python(&elf);
    elf[40..48].fill(0);
    elf[60..64].fill(0);
    assert_eq!(python(&elf), found, "section headers are not needed");
    let bare = built_pretended_python("libbare.so", "-fno-asynchronous-unwind-tables -fno-exceptions");
    let elf = std::fs::read(bare).expect("just built");
    let hot = symbols(&elf).pop().expect("the symbol of the loop");
    assert_eq!(python(&elf).expect("it looks like one").eval, [hot], "its symbol is what is left");
}

/// A loop that calls functions which execute instructions is told from one that does so itself.
#[test]
fn loop_that_only_calls_is_noticed() {
    let elf = std::fs::read(built_pretended_python("libcalls.so", "-DCALLS")).expect("just built");
    assert!(!python(&elf).expect("it looks like one").has_single_loop);
}

/// What every version has must be there; the error says what is not.
#[test]
fn incomplete_python_is_an_error_that_says_so() {
    let elf = std::fs::read(built_pretended_python("libpy2.so", "-DVERSION=0x020712f0")).expect("just built");
    let error = recognise(&elf).expect_err("no such version");
    assert!(error.to_string().contains("0x20712f0"), "{error}");
}

/// Other Pythons are no error of the file's: they are named, with what becomes of them.
#[test]
fn other_pythons_are_named() {
    let built = |name: &str, export: &str| {
        std::fs::read(built_pretended_python(name, &format!("-DOTHER={export}"))).expect("just built")
    };
    for (name, export, told) in
        [("libpypy.so", "pypy_execute_source", "PyPy"), ("libold.so", "PyEval_EvalFrameEx", "before 3.7")]
    {
        let elf = built(name, export);
        let error = recognise(&elf).expect_err("no supported Python").to_string();
        assert!(error.contains(told) && error.contains("is seen as a C program"), "{error}");
    }
    assert!(python(&built("libother.so", "PyRun_SimpleString")).is_none());
}

fn stripped(library: &Path) -> Vec<u8> {
    let directory = support::scratch();
    let copy = directory.path().join("stripped.so");
    let strip = std::process::Command::new("strip").arg("-o").arg(&copy).arg(library).status();
    assert!(strip.expect("binutils are there").success());
    std::fs::read(copy).expect("just written")
}

proptest! {
    /// Bytes changed and the end cut off: an answer of any kind, at once.
    #[test]
    fn mutilated_files_do_no_harm(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        words in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>()), 0..4),
        len in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut elf = std::fs::read(built_pretended_python("libsplit.so", "")).expect("just built");
        for (at, byte) in changes {
            // The tables are at the beginning, the code behind them.
            let at = at.index(0x1400);
            elf[at] = byte;
        }
        for (at, word) in words {
            let at = at.index(elf.len() / 8 - 1) * 8;
            elf[at..at + 8].copy_from_slice(&word.to_le_bytes());
        }
        if cut {
            elf.truncate(len.index(elf.len()));
        }
        let _ = recognise(&elf);
    }
}
