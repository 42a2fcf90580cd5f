//! Names, inlined calls and lines from every kind of symbol source, held
//! against `addr2line` and `nm` of binutils on programs compiled here.
//!
//! `addr2line` prints linker names; they are compared after this crate's own
//! demangling, so that its dialect of C++ is not what is tested.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object as _, ObjectSymbol as _};
use tempfile::TempDir;
use txprof::model::{Frame, FrameKind, Svma};
use txprof::symbolize::{Config, ModuleFile, Symbolizer, demangle};

/// Function, base name of the file, line.
type Call = (String, Option<String>, Option<u32>);

/// Runs a tool in `directory`; `false` and a word about it when it is missing or refuses.
fn run(directory: &Path, command: &str) -> bool {
    let output = Command::new("sh").current_dir(directory).args(["-ec", command]).output().expect("sh");
    if !output.status.success() {
        eprintln!("SKIPPED: `{command}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/symbolize/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compiles the inlining program with `flags` and then runs `behind`, all in a directory of its own.
fn build(flags: &str, behind: &str) -> Option<TempDir> {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = fixture("inlined.cc");
    let command = format!("g++ -O2 -g {flags} -Wl,--build-id -o program {source}\n{behind}");
    run(directory.path(), &command).then_some(directory)
}

fn resolve(path: &Path, debug: &Path, addresses: &[Svma]) -> Vec<Vec<Frame>> {
    let module =
        ModuleFile { display: path.display().to_string(), file: File::open(path).expect("open"), root: None };
    resolve_module(&module, debug, addresses)
}

fn resolve_module(module: &ModuleFile, debug: &Path, addresses: &[Svma]) -> Vec<Vec<Frame>> {
    let config = Config { debug_directories: vec![debug.to_owned()], ..Config::default() };
    let found = Symbolizer::new(config).resolve_module(module, addresses);
    assert_eq!(found.len(), addresses.len());
    for frames in &found {
        let (outermost, inlined) = frames.split_last().expect("never empty");
        assert_eq!(outermost.kind, FrameKind::Native);
        assert!(inlined.iter().all(|frame| frame.kind == FrameKind::Inlined));
    }
    found
}

/// Addresses of all instructions, roughly: each third byte of the functions whose name matches.
fn code_of(path: &Path, wanted: &[&str]) -> Vec<Svma> {
    let data = std::fs::read(path).expect("read");
    let file = object::File::parse(&*data).expect("ELF");
    let functions = file.symbols().filter(|symbol| {
        let name = symbol.name().unwrap_or_default();
        symbol.size() > 0 && wanted.iter().any(|wanted| name.contains(wanted))
    });
    let bytes =
        functions.flat_map(|symbol| (0..symbol.size()).step_by(3).map(move |at| symbol.address() + at));
    let addresses: std::collections::BTreeSet<u64> = bytes.collect();
    addresses.into_iter().map(Svma).collect()
}

const FUNCTIONS: &[&str] = &["main", "checked", "total"];

fn calls(frames: &[Frame]) -> Vec<Call> {
    let base = |file: &str| file.rsplit('/').next().unwrap_or_default().to_owned();
    let call = |frame: &Frame| (frame.function.to_string(), frame.file.as_deref().map(base), frame.line);
    frames.iter().map(call).collect()
}

/// What binutils says, leaf first.
fn oracle(path: &Path, addresses: &[Svma]) -> Vec<Vec<Call>> {
    oracle_of("addr2line", path, addresses)
}

/// The same from another program with the interface of `addr2line`.
fn oracle_of(tool: &str, path: &Path, addresses: &[Svma]) -> Vec<Vec<Call>> {
    let arguments: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let output =
        Command::new(tool).args(["-a", "-f", "-i", "-e"]).arg(path).args(arguments).output().expect(tool);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let mut answers: Vec<Vec<Call>> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("0x") {
            answers.push(Vec::new());
            continue;
        }
        let place = lines.next().expect("a place behind each name");
        let (file, number) =
            place.split_once(" (disc").map_or(place, |(place, _)| place).rsplit_once(':').unwrap();
        let file = file.rsplit('/').next().filter(|file| *file != "??").map(str::to_owned);
        // LLVM takes the name of a split-off part from the symbol table.
        let name = demangle(line).split(" [clone").next().unwrap_or_default().to_owned();
        let call = (name, file, number.parse().ok().filter(|line| *line > 0));
        answers.last_mut().expect("an address first").push(call);
    }
    answers
}

/// Compares all addresses; binutils is known to be wrong about a few (it forgets ranges of a function
/// that was split), so one in fifty may differ.
fn assert_agrees(path: &Path, answers: &[Vec<Frame>], expected: &[Vec<Call>]) {
    assert!(answers.len() > 50, "{} addresses are too few to tell", answers.len());
    let pairs = answers.iter().map(|frames| calls(frames)).zip(expected);
    let different: Vec<_> = pairs.filter(|(ours, theirs)| ours != *theirs).collect();
    let share = different.len() * 50 <= answers.len();
    assert!(
        share,
        "{}: {} of {} differ: {:#?}",
        path.display(),
        different.len(),
        answers.len(),
        different.first()
    );
    assert!(answers.iter().any(|frames| frames.len() > 2), "no inlined calls were compared");
}

/// Builds, then compares what is found for the program with binutils' answer for a copy that has everything inside.
fn assert_source_agrees(flags: &str, behind: &str) {
    let Some(directory) = build(flags, &format!("cp program whole\n{behind}")) else { return };
    let (program, whole) = (directory.path().join("program"), directory.path().join("whole"));
    let addresses = code_of(&whole, FUNCTIONS);
    let answers = resolve(&program, &directory.path().join("debug"), &addresses);
    assert_agrees(&program, &answers, &oracle(&whole, &addresses));
}

/// DWARF 5 and 4 inside the binary, without ranges in `.debug_aranges`, and relocated as an old-style executable.
#[test]
fn dwarf_inside_the_binary_agrees_with_binutils() {
    for flags in ["", "-gdwarf-4", "-no-pie", "-gdwarf-5 -fno-inline-small-functions"] {
        assert_source_agrees(flags, "");
    }
    assert_source_agrees("", "objcopy --remove-section=.debug_aranges program");
}

/// The same from a compiler, and an optimizer, that write ranges, names and lines in forms that
/// binutils reads wrongly: held against LLVM's own reader.
#[test]
fn dwarf_of_clang_and_lto_agrees_with_llvm() {
    for compile in [
        "clang++ -O2 -g",
        "clang++ -O2 -gdwarf-4",
        "clang++ -O2 -g -flto=full -fuse-ld=lld",
        "g++ -O2 -g -flto",
    ] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let source = fixture("inlined.cc");
        if !run(directory.path(), &format!("llvm-addr2line --version && {compile} -o program {source}")) {
            continue;
        }
        let program = directory.path().join("program");
        let addresses = code_of(&program, FUNCTIONS);
        let expected = oracle_of("llvm-addr2line", &program, &addresses);
        assert_agrees(&program, &resolve(&program, Path::new("/none"), &addresses), &expected);
    }
}

/// Compressed sections are read, and refused when they would exceed the limit.
#[test]
fn compressed_sections_are_read_within_the_limit() {
    assert_source_agrees("", "objcopy --compress-debug-sections=zlib program");
    assert_source_agrees("", "objcopy --compress-debug-sections=zstd program");
    assert_source_agrees("-gz=zlib", "");
    let Some(directory) = build("", "objcopy --compress-debug-sections=zlib program") else { return };
    let program = directory.path().join("program");
    let addresses = code_of(&program, FUNCTIONS);
    let config = Config { max_decompressed_bytes: 1000, ..Config::default() };
    let file = File::open(&program).expect("open");
    let module = ModuleFile { display: program.display().to_string(), file, root: None };
    let mut symbolizer = Symbolizer::new(config);
    let answers = symbolizer.resolve_module(&module, &addresses);
    let told = "debug information of `program` was not read: it takes more than 0 MiB when decompressed";
    assert_eq!(symbolizer.refusals(), [told]);
    assert!(answers.iter().all(|frames| frames.len() == 1 && frames[0].line.is_none()));
    assert!(answers.iter().any(|frames| frames[0].function.contains("total")));
}

/// A stripped program is answered by the file its link names: beside it, in `.debug`, or below the
/// debug directory; found by build id without any link.
#[test]
fn separate_debug_files_are_found() {
    let split = "objcopy --only-keep-debug program program.debug\nstrip program\n";
    let linked = format!("{split}objcopy --add-gnu-debuglink=program.debug program\n");
    assert_source_agrees("", &linked);
    assert_source_agrees("", &format!("{linked}mkdir .debug\nmv program.debug .debug/"));
    assert_source_agrees("", &format!("{linked}mkdir -p debug$PWD\nmv program.debug debug$PWD/"));
    let by_id = "id=$(readelf -n whole | sed -n 's/.*Build ID: //p')\n\
        at=debug/.build-id/$(echo $id | cut -c1-2)\nmkdir -p $at\n\
        mv program.debug $at/$(echo $id | cut -c3-).debug\n";
    assert_source_agrees("", &format!("{split}{by_id}"));
    let no_id = "objcopy --remove-section=.note.gnu.build-id program\n";
    assert_source_agrees("", &format!("{no_id}{linked}"));
}

/// A debug file of another build never answers, whatever its name says.
#[test]
fn debug_file_of_another_build_is_refused() {
    let foreign = "objcopy --only-keep-debug program program.debug\nstrip program\n\
        objcopy --add-gnu-debuglink=program.debug program\n\
        echo 'int main() { return 0; }' > other.c\n";
    let with_id = format!("{foreign}gcc -g -Wl,--build-id -o program.debug other.c");
    let without_id = format!("{foreign}gcc -g -Wl,--build-id=none -o program.debug other.c");
    for behind in [with_id, without_id] {
        let Some(directory) = build("", &format!("cp program whole\n{behind}")) else { return };
        let path = directory.path();
        let answers = resolve(&path.join("program"), path, &code_of(&path.join("whole"), FUNCTIONS));
        assert!(answers.iter().all(|frames| frames[0].function.starts_with("program+0x")));
    }
}

/// What `dwz` moved to a shared file is followed there.
#[test]
fn supplementary_file_of_dwz_is_followed() {
    let dwz = "cp program second\ndwz -m shared.dwz -M ../shared program second\nmkdir -p x\n\
        dwz --version >/dev/null\nreadelf -S program | grep -q gnu_debugaltlink";
    assert_source_agrees("-gdwarf-4", &dwz.replace("-M ../shared ", ""));
    assert_source_agrees("-gdwarf-5", &dwz.replace("-M ../shared ", ""));
}

/// Split units are found in their `.dwo` files and in a `.dwp` package, for both versions of the format.
#[test]
fn split_dwarf_is_found() {
    // The packager of binutils 2.40 crashes on version 5.
    for (version, package) in [("-gdwarf-4", "dwp"), ("-gdwarf-5", "llvm-dwp")] {
        let compile = format!(
            "g++ -O2 -g {version} -gsplit-dwarf -c -o program.o {}\n\
            g++ -o program program.o\n",
            fixture("inlined.cc")
        );
        assert_source_agrees(version, &format!("cp program whole\n{compile}"));
        assert_source_agrees(version, &format!("cp program whole\n{compile}rm program.o"));
        assert_source_agrees(
            version,
            &format!("cp program whole\n{compile}{package} -e program -o program.dwp\nrm *.dwo"),
        );
    }
}

/// The compressed symbol table of a stripped binary names its local functions.
#[test]
fn mini_debug_info_names_local_functions() {
    let pack = "nm program --format=posix --defined-only | awk '$2 ~ /[tTwW]/ { print $1 }' | sort > keep\n\
        objcopy --only-keep-debug program full\n\
        objcopy -S --remove-section=.comment --keep-symbols=keep full mini\n\
        xz mini\nstrip --strip-all program\nobjcopy --add-section .gnu_debugdata=mini.xz program";
    let Some(directory) = build("", &format!("cp program whole\n{pack}")) else { return };
    let path = directory.path();
    let addresses = code_of(&path.join("whole"), FUNCTIONS);
    let answers = resolve(&path.join("program"), Path::new("/none"), &addresses);
    let symbols: Vec<&str> = answers.iter().map(|frames| &*frames[0].function).collect();
    assert!(symbols.iter().any(|name| name.starts_with("shop::Cart::total")), "{symbols:?}");
    assert!(symbols.iter().all(|name| !name.contains("+0x")), "{symbols:?}");
}

/// Every function symbol of our own test program, a large Rust binary, resolves to what `nm` lists there.
#[test]
fn symbols_agree_with_nm() {
    let own = std::env::current_exe().expect("own path");
    let output = Command::new("nm").args(["-S", "--defined-only"]).arg(&own).output().expect("nm");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut functions: Vec<(u64, &str)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [start, size, "t" | "T" | "w" | "W", name] = words[..] {
            let (start, size) =
                (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(size, 16).unwrap());
            functions.push((start + size.saturating_sub(1), name));
        }
    }
    functions.sort_unstable();
    let mut addresses: Vec<Svma> = functions.iter().map(|(address, _)| Svma(*address)).collect();
    addresses.dedup();
    let config = Config { source_lines: false, ..Config::default() };
    let module = ModuleFile { display: "own".into(), file: File::open(&own).unwrap(), root: None };
    let answers = Symbolizer::new(config).resolve_module(&module, &addresses);
    assert!(addresses.len() > 1000);
    for (address, frames) in addresses.iter().zip(&answers) {
        let candidates = functions.iter().filter(|(last, _)| *last == address.0);
        let mut names = candidates.map(|(_, name)| demangle(name));
        assert!(names.any(|name| name == *frames[0].function), "{address}: {}", frames[0].function);
    }
}

/// A size is believed: behind it there is no symbol; without size a symbol ends at the next one or
/// with its section; of two names for one address the plain one is taken.
#[test]
fn symbol_sizes_are_honoured() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let source = fixture("sizes.s");
    let command = format!(
        "gcc -nostdlib -static -Wl,-e,sized -Wl,--section-start=.text=0x401000 \
        -Wl,--section-start=.other=0x500000 -o program {source}"
    );
    assert!(run(directory.path(), &command));
    let path = directory.path().join("program");
    let named =
        |address: u64| resolve(&path, Path::new("/none"), &[Svma(address)])[0][0].function.to_string();
    let expected = [
        (0x401000, "sized"),
        (0x401002, "sized"),
        (0x401003, "program+0x401003"),
        (0x401012, "program+0x401012"),
        (0x401013, "unsized"),
        (0x401015, "unsized"),
        (0x401016, "next"),
        (0x401018, "public_name"),
        (0x40101a, "last"),
        (0x40101b, "last"),
        (0x40101c, "program+0x40101c"),
        (0x500000, "program+0x500000"),
        (0, "program+0x0"),
        (u64::MAX, "program+0xffffffffffffffff"),
    ];
    for (address, name) in expected {
        assert_eq!(named(address), name, "{address:#x}");
    }
    let all: Vec<Svma> = {
        let mut all: Vec<u64> = expected.iter().map(|(address, _)| *address).collect();
        all.sort_unstable();
        all.into_iter().map(Svma).collect()
    };
    for (address, frames) in all.iter().zip(resolve(&path, Path::new("/none"), &all)) {
        assert_eq!(*frames[0].function, named(address.0), "a batch answers as single questions do");
    }
}

/// A program that was deleted, or replaced at its path, is read through the descriptor.
#[test]
fn deleted_file_is_read_through_its_descriptor() {
    let Some(directory) = build("", "cp program whole") else { return };
    let (program, whole) = (directory.path().join("program"), directory.path().join("whole"));
    let module = ModuleFile {
        display: program.display().to_string(),
        file: File::open(&program).expect("open"),
        root: Some(PathBuf::from("/proc/self/root")),
    };
    std::fs::write(directory.path().join("new"), "another file").expect("write");
    std::fs::rename(directory.path().join("new"), &program).expect("replace");
    let addresses = code_of(&whole, FUNCTIONS);
    assert_agrees(
        &program,
        &resolve_module(&module, Path::new("/none"), &addresses),
        &oracle(&whole, &addresses),
    );
}

/// The vDSO's image, read from our own memory map, names the clock functions.
#[test]
fn vdso_functions_are_named() {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let Some(line) = maps.lines().find(|line| line.ends_with("[vdso]")) else {
        eprintln!("SKIPPED: no vDSO here");
        return;
    };
    let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
    let parse = |text| u64::from_str_radix(text, 16).unwrap();
    let mut image = vec![0; (parse(end) - parse(start)) as usize];
    let memory = File::open("/proc/self/mem").expect("own memory");
    std::os::unix::fs::FileExt::read_exact_at(&memory, &mut image, parse(start)).expect("read");
    let file = object::File::parse(&*image).expect("ELF");
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("__vdso_clock_gettime")).unwrap();
    let frames =
        Symbolizer::new(Config::default()).resolve_bytes("[vdso]", &image, &[Svma(symbol.address())]);
    assert!(frames[0][0].function.contains("clock_gettime"), "{frames:?}");
    assert_eq!(frames[0][0].module.as_deref(), Some("[vdso]"));
}

/// Without inlined calls each address has one frame, the function that holds it.
#[test]
fn inlined_calls_are_left_out_on_request() {
    let Some(directory) = build("", "") else { return };
    let path = directory.path().join("program");
    let addresses = code_of(&path, FUNCTIONS);
    let module =
        || ModuleFile { display: "program".into(), file: File::open(&path).expect("open"), root: None };
    let all = resolve_module(&module(), Path::new("/none"), &addresses);
    assert!(all.iter().any(|frames| frames.len() > 1), "the program has inlined calls");
    let config = Config { inlined_calls: false, ..Config::default() };
    let held = Symbolizer::new(config).resolve_module(&module(), &addresses);
    let holders = all.iter().map(|frames| &frames[frames.len() - 1..]);
    assert!(held.iter().map(Vec::as_slice).eq(holders));
}

/// In a stripped program all addresses of a function have one name, the function's start as the
/// unstripped program's symbol table states it.
#[test]
fn nameless_functions_are_named_by_their_start() {
    let Some(directory) = build("", "cp program whole\nstrip --strip-all program") else { return };
    let path = directory.path();
    let data = std::fs::read(path.join("whole")).expect("read");
    let file = object::File::parse(&*data).expect("ELF");
    let main = file.symbols().find(|symbol| symbol.name() == Ok("main")).expect("it has a main");
    let addresses: Vec<Svma> = (0..main.size()).map(|at| Svma(main.address() + at)).collect();
    let expected = format!("program+{:#x}", main.address());
    for frames in resolve(&path.join("program"), path, &addresses) {
        assert_eq!(*frames[0].function, *expected);
    }
}

/// What is no ELF file, or no file at all, still gives one frame per address.
#[test]
fn anything_else_is_module_and_offset() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("data.bin");
    std::fs::write(&path, "no ELF").expect("write");
    let answers = resolve(&path, Path::new("/none"), &[Svma(0x10), Svma(0x20)]);
    assert_eq!(*answers[1][0].function, *"data.bin+0x20");
    let module = ModuleFile { display: "/tmp/".into(), file: File::open("/tmp").unwrap(), root: None };
    assert_eq!(*resolve_module(&module, Path::new("/none"), &[Svma(1)])[0][0].function, *"tmp+0x1");
    assert!(resolve(&path, Path::new("/none"), &[]).is_empty());
}
