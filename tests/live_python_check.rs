//! Claim: an interpreter that is not as it seems is found out at attach: a warning says what is wrong with it, no
//! function of Python's is named, and its native stacks are there. None of this happens to sound ones.
//!
//! The false ones are sound interpreters of this machine, with a few bytes changed that tell txprof of their layout and
//! that they do not read themselves.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use object::{Object, ObjectSegment, ObjectSymbol};
use support::{Python, Shot, Target, pythons, record_burning, scratch_in, turn};

/// The interpreter whose file is that of `python` with `change` made to it, and the folder that holds it.
fn changed(python: &Python, change: impl Fn(&mut [u8])) -> (Python, tempfile::TempDir) {
    let root = python.root.as_deref().unwrap_or(Path::new("/"));
    let folder = scratch_in(&root.join("tmp"));
    let path = folder.path().join(format!("python3.{}", python.minor));
    let mut elf = python.binary();
    change(&mut elf);
    std::fs::write(&path, elf).expect("scratch is writable");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("own files can be opened");
    let inside = Path::new("/").join(path.strip_prefix(root).expect("it is inside"));
    (Python { path: inside, ..python.clone() }, folder)
}

/// Word `index` of the debug offsets becomes `value`.
fn set_word(elf: &mut [u8], index: usize, value: u64) {
    let is_start = |at: &usize| elf[*at..].starts_with(b"xdebugpy") && elf[at + 10..].starts_with(&[13, 3]);
    let start = (0..elf.len() - 16).step_by(8).find(is_start).expect("3.13 tells its offsets");
    elf[start + index * 8..][..8].copy_from_slice(&value.to_le_bytes());
}

/// `Py_Version` becomes that of 3.12.1.
fn set_version(elf: &mut [u8]) {
    let file = object::File::parse(&*elf).expect("an ELF file");
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("Py_Version"));
    let at = symbol.expect("3.11 exports its version").address();
    let holds = |segment: &object::Segment<'_, '_>| {
        (segment.address()..segment.address() + segment.size()).contains(&at)
    };
    let segment = file.segments().find(holds).expect("symbols lie in segments");
    let offset = (at - segment.address() + segment.file_range().0) as usize;
    elf[offset..][..4].copy_from_slice(&0x030c_01f0_u32.to_le_bytes());
}

fn recorded(python: &Python) -> Shot {
    let target: Target = python.start("split.py", &[]);
    record_burning(&[&target], Duration::from_secs(1), &["-p", &target.pid()])
}

fn is_seen_as_c(shot: &Shot, why: &str) {
    let warnings: Vec<&str> =
        shot.stderr.lines().filter(|line| line.contains("seen as a C program")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains(why), "{why}:\n{}", shot.stderr);
    let named = shot.folded.filtered(|line| line.frames.iter().any(|frame| frame.contains(".py)")));
    assert_eq!(named.total(), 0, "{why}:\n{}", named.heaviest(4));
    let native = shot.folded.share(|line| line.has("PyEval_EvalCode"));
    assert!(native > 0.9, "{why}: {native}\n{}", shot.folded.heaviest(4));
}

/// 3.13 whose debug offsets have one field elsewhere: a name is contradicted by the type of code objects on the first
/// stack; links that skip callers, or lead astray, by where the thread's frames begin. One that says to be free-threaded
/// is refused by that name.
#[test]
fn false_debug_offsets_are_found_out() {
    let Some(_turn) = turn() else { return };
    let of_debian = pythons().into_iter().find(|python| python.minor == 13 && python.root.is_some());
    let Some(python) = of_debian else {
        support::skip::<()>("needs Debian's 3.13: run scripts/pythons");
        return;
    };
    // `code_object.name`, `qualname`, `interpreter_frame.previous` at `f_locals`, which is empty, and at `f_funcobj`.
    for (index, value, why) in [
        (36, 128, "which has 120 for `code_name`, not 128"),
        (37, 136, "which has 128 for `code_qualified_name`, not 136"),
        (29, 40, "which has more frames than were found"),
        (29, 16, "which has frames"),
        (2, 1, "it is free-threaded (built with --disable-gil)"),
    ] {
        let (false_one, _folder) = changed(&python, |elf| set_word(elf, index, value));
        is_seen_as_c(&recorded(&false_one), why);
    }
}

/// 3.11 that says to be 3.12, whose row then does not fit.
#[test]
fn false_version_is_found_out() {
    let Some(_turn) = turn() else { return };
    let system = pythons().into_iter().find(|python| python.minor == 11 && python.name.starts_with("system"));
    let Some(python) = system else {
        support::skip::<()>("needs Debian's 3.11 in /usr/bin");
        return;
    };
    let (false_one, _folder) = changed(&python, set_version);
    is_seen_as_c(&recorded(&false_one), "which has 72 for `code_first_line`, not 68");
}

/// No interpreter of this machine is doubted.
#[test]
fn sound_interpreters_are_not_doubted() {
    let Some(_turn) = turn() else { return };
    let running = Python::start_each(pythons(), "split.py", &["3"]);
    let targets: Vec<&Target> = running.iter().map(|(_, target)| target).collect();
    let pids: Vec<String> = targets.iter().map(|target| target.pid()).collect();
    let shot = record_burning(&targets, Duration::from_millis(300), &["-p", &pids.join(",")]);
    assert!(!shot.stderr.contains("seen as a C program"), "{}", shot.stderr);
    assert!(shot.folded.share(|line| line.has("<module> (split.py)")) > 0.99, "{}", shot.folded.heaviest(4));
}
