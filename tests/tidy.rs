//! Holds the layout of the tree: order of stages, purity, where `unsafe` may
//! be, sizes of files and functions, words of the README that must be true.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The modules of `src/lib.rs` that do no I/O.
const PURE: &[&str] = &["model", "unwind", "lane", "transaction", "aggregate", "output"];
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// A file's path relative to the root of the tree, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text before the unit tests, comments stripped: what the shipped program is made of.
    fn shipped_code(&self) -> String {
        let code = self.text.split("\n#[cfg(test)]").next().expect("a split has a first part");
        code.lines()
            .map(|line| line.split("//").next().expect("a split has a first part").to_owned() + "\n")
            .collect()
    }

    /// The stage that the file belongs to: `target` for `src/target/procfs.rs`.
    fn stage(&self) -> Option<&str> {
        let below = self.path.strip_prefix("src/")?;
        Some(below.split('/').next().expect("a split has a first part").trim_end_matches(".rs"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All text files below `directory`, sorted, whose name ends in one of `endings`.
fn sources(directory: &str, endings: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let path = entry.expect("the tree is readable").path();
            if path.is_dir() {
                open.push(path);
            } else if endings.iter().any(|ending| path.to_string_lossy().ends_with(ending)) {
                let Ok(text) = fs::read_to_string(&path) else { continue };
                let path = path.strip_prefix(root()).expect("found below the root").display().to_string();
                found.push(Source { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn rust() -> Vec<Source> {
    ["src", "tests", "benches"].iter().flat_map(|directory| sources(directory, &[".rs"])).collect()
}

fn assert_none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The names of `crate::X` that `code` uses, also in braces as `crate::{model::…, sys}`.
fn used_stages(code: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(list) = rest.strip_prefix('{') else {
            used.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (index, byte) in list.bytes().enumerate() {
            match byte {
                b'{' => depth += 1,
                b',' | b'}' if depth == 0 => {
                    used.push(name(&list[start..index]));
                    start = index + 1;
                    if byte == b'}' {
                        break;
                    }
                }
                b'}' => depth -= 1,
                _ => {}
            }
        }
    }
    used
}

/// A stage uses only what `src/lib.rs` lists before it; the order is read from that file.
#[test]
fn stages_use_only_earlier_stages() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs exists");
    let order: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.starts_with(&["error", "model", "sys"]), "{order:?}");
    let place = |stage: &str| order.iter().position(|known| *known == stage);
    let mut wrong = Vec::new();
    for source in sources("src", &[".rs"]) {
        let Some(own) = source.stage().and_then(place) else { continue };
        for used in used_stages(&source.shipped_code()) {
            if place(&used).is_some_and(|used| used > own) {
                wrong.push(format!("{}: uses `crate::{used}`, a later stage", source.path));
            }
        }
    }
    assert_none(wrong);
}

/// The reader of `crate::` paths sees single names and nested lists.
#[test]
fn used_stages_are_read_from_lists_too() {
    let used = used_stages("use crate::sys; use crate::{model::{Frame, Stack}, target, error::Error};");
    assert_eq!(used, ["sys", "model", "target", "error"]);
}

/// Pure stages touch no file, socket, clock, thread, process or system call.
#[test]
fn pure_stages_are_pure() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "std::os",
        "Instant",
        "SystemTime",
        "libc::",
        "nix::",
        "crate::sys",
        "memmap2",
        "tracing::",
        "println!",
        "eprintln!",
    ];
    let mut wrong = Vec::new();
    for source in sources("src", &[".rs"]) {
        if !source.stage().is_some_and(|stage| PURE.contains(&stage)) {
            continue;
        }
        let code = source.shipped_code();
        for word in forbidden.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{}: `{word}` in a pure stage", source.path));
        }
    }
    assert_none(wrong);
}

/// `unsafe` is in `src/sys` alone (and in a target that needs C's functions, `tests/programs`).
#[test]
fn unsafe_is_in_sys_alone() {
    let mut wrong = Vec::new();
    for source in rust() {
        if source.path.starts_with("src/sys") || source.path.starts_with("tests/programs") {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().expect("a split has a first part");
            if ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| code.contains(word))
                && !code.contains('"')
            {
                wrong.push(format!("{}:{}: unsafe outside src/sys", source.path, number + 1));
            }
        }
    }
    assert_none(wrong);
}

/// Files say what they are for, stay within the limit, and none is called utils.
#[test]
fn files_open_with_an_essay_and_stay_short() {
    let mut wrong = Vec::new();
    for source in rust() {
        if !source.text.starts_with("//!") {
            wrong.push(format!("{}: does not open with `//!`", source.path));
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES {
            wrong.push(format!("{}: {lines} lines, the limit is {FILE_LINES}", source.path));
        }
        if ["util", "utils", "helpers", "misc"]
            .iter()
            .any(|name| source.path.ends_with(&format!("{name}.rs")))
        {
            wrong.push(format!("{}: a noun is missing", source.path));
        }
    }
    for source in sources("ebpf", &[".h", ".c"]) {
        if !source.text.starts_with("/*") && !source.text.starts_with("//") {
            wrong.push(format!("{}: does not open with a comment", source.path));
        }
    }
    assert_none(wrong);
}

/// Functions fit a screen. Read by indentation, which `cargo fmt` guarantees.
#[test]
fn functions_fit_a_screen() {
    let mut wrong = Vec::new();
    for source in rust() {
        let lines: Vec<&str> = source.text.lines().collect();
        for (first, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words: Vec<&str> = line.split_whitespace().take(5).collect();
            let is_function = words.contains(&"fn")
                && words[0] != "//"
                && !line.trim_start().starts_with("//")
                && !line.ends_with(';');
            if !is_function {
                continue;
            }
            let closing = " ".repeat(indent) + "}";
            let length = lines[first..].iter().position(|line| **line == closing).unwrap_or(0) + 1;
            if length > FUNCTION_LINES {
                wrong.push(format!(
                    "{}:{}: {length} lines, the limit is {FUNCTION_LINES}",
                    source.path,
                    first + 1
                ));
            }
        }
    }
    assert_none(wrong);
}

/// No path of one developer's machine is in the tree.
#[test]
fn no_path_of_one_machine() {
    // This file names them and is not looked at.
    let forbidden = ["/root/", "/home/"];
    let mut wrong = Vec::new();
    let mut all = Vec::new();
    for file in ["README.md", "Cargo.toml", "THIRD_PARTY.md"] {
        let text = fs::read_to_string(root().join(file)).expect("the file exists");
        all.push(Source { path: file.to_owned(), text });
    }
    for directory in ["src", "ebpf", "scripts", "tests", "benches", ".ci"] {
        all.extend(sources(directory, &[""]));
    }
    for source in all.iter().filter(|source| source.path != "tests/tidy.rs") {
        for (number, line) in source.text.lines().enumerate() {
            if let Some(word) = forbidden.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: `{word}`", source.path, number + 1));
            }
        }
    }
    assert_none(wrong);
}

/// Scripts can be run, name their interpreter, and tell their use.
#[test]
fn scripts_are_executable_and_tell_their_use() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("scripts")).expect("scripts/ exists") {
        let path = entry.expect("scripts/ is readable").path();
        // A unit is installed, not run.
        if path.is_dir() || path.extension().is_some_and(|ending| ending == "service") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("scripts are text");
        let mode = fs::metadata(&path).expect("scripts exist").permissions().mode();
        if mode & 0o111 != 0o111 {
            wrong.push(format!("{}: not executable", path.display()));
        }
        if !text.starts_with("#!/") || !text.to_lowercase().contains("usage: scripts/") {
            wrong.push(format!("{}: no interpreter or no `usage: scripts/…`", path.display()));
        }
    }
    assert_none(wrong);
}

/// Each script that the README names exists, and each exit code that it documents is in its table once.
#[test]
fn readme_names_what_exists() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md exists");
    let mut wrong = Vec::new();
    let words = readme.split(|c: char| c.is_whitespace() || "`()|,;".contains(c));
    for word in
        words.filter(|word| ["scripts/", ".ci/", "tests/", "ebpf/"].iter().any(|path| word.starts_with(path)))
    {
        let path = word.trim_end_matches(['.', ':']);
        if !root().join(path).exists() {
            wrong.push(format!("README.md names `{path}`, which does not exist"));
        }
    }
    for code in 0..=5 {
        let rows = readme.lines().filter(|line| line.starts_with(&format!("| {code} |"))).count();
        if rows != 1 {
            wrong.push(format!("README.md documents exit code {code} {rows} times"));
        }
    }
    assert_none(wrong);
}

/// Each subcommand in the README's commands answers to `--help`.
#[test]
fn readme_commands_answer() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md exists");
    let mut commands: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.trim_start_matches("sudo ").strip_prefix("txprof "))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    commands.sort_unstable();
    commands.dedup();
    assert!(commands.contains(&"record"), "{commands:?}");
    for command in commands {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_txprof"))
            .args([command, "--help"])
            .stdout(std::process::Stdio::null())
            .status()
            .expect("txprof runs");
        assert!(status.success(), "`txprof {command} --help`: {status}");
    }
}
