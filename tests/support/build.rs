//! The table of test programs and their compilation into the target directory,
//! keyed by a hash of sources and flags.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Compilations begun by this process; tests of one crate may want the same program at the same time.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// One way of building one of the sources in `tests/programs`.
#[derive(Debug)]
pub struct Program {
    /// File name, and so the process's name; at most 15 characters, which is what the kernel keeps.
    pub name: &'static str,
    /// The source below `tests/programs`.
    pub source: &'static str,
    /// Compiler and flags.
    pub compiler: &'static str,
    /// Whether `strip` removes all symbols afterwards.
    pub stripped: bool,
    /// The truth: a part of a frame's name, and the account's slot that says how long it burnt.
    pub leaves: &'static [(&'static str, usize)],
}

const SPLIT: &[(&str, usize)] = &[("leaf_60", 0), ("leaf_30", 1), ("leaf_10", 2)];
const O2: &str = "gcc -O2 -fomit-frame-pointer";

const fn split(name: &'static str, compiler: &'static str) -> Program {
    Program { name, source: "split.c", compiler, stripped: false, leaves: SPLIT }
}

const fn c(name: &'static str, source: &'static str, leaves: &'static [(&'static str, usize)]) -> Program {
    Program { name, source, compiler: O2, stripped: false, leaves }
}

/// All test programs.
pub const PROGRAMS: &[Program] = &[
    split("split-o2", O2),
    split("split-o0", "gcc -O0"),
    split("split-debug", "gcc -O2 -g -fomit-frame-pointer"),
    split("split-fp", "gcc -O2 -fno-omit-frame-pointer"),
    split("split-nopie", "gcc -O2 -fomit-frame-pointer -no-pie"),
    split("split-static", "gcc -O2 -fomit-frame-pointer -static"),
    split("split-statpie", "gcc -O2 -fomit-frame-pointer -static-pie"),
    split("split-lto", "gcc -O2 -fomit-frame-pointer -flto"),
    split("split-clang", "clang -O2 -fomit-frame-pointer"),
    split("split-lld", "clang -O2 -fomit-frame-pointer -fuse-ld=lld"),
    split("split-noehhdr", "gcc -O2 -fomit-frame-pointer -Wl,--no-eh-frame-hdr"),
    split("split-musl", "musl-gcc -O2 -fomit-frame-pointer -fasynchronous-unwind-tables"),
    split("split-muslstat", "musl-gcc -O2 -fomit-frame-pointer -fasynchronous-unwind-tables -static"),
    Program { name: "split-stripped", source: "split.c", compiler: O2, stripped: true, leaves: SPLIT },
    Program {
        name: "split-cxx",
        source: "split_cxx.cc",
        compiler: "g++ -O2 -fomit-frame-pointer",
        stripped: false,
        leaves: &[("Heavy::work", 0), ("compare", 1), ("handle", 2)],
    },
    Program {
        name: "split-rust",
        source: "split_rust.rs",
        compiler: "rustc -O --edition 2024",
        stripped: false,
        leaves: &[("leaf_60", 0), ("Leaf30", 1), ("leaf_10", 2)],
    },
    Program {
        name: "cxx-stripped",
        source: "split_cxx.cc",
        compiler: "g++ -O2 -fomit-frame-pointer",
        stripped: true,
        leaves: &[],
    },
    Program {
        name: "rust-stripped",
        source: "split_rust.rs",
        compiler: "rustc -O --edition 2024",
        stripped: true,
        leaves: &[],
    },
    c("deep", "deep.c", &[("bottom", 0)]),
    c("signals", "signals.c", &[("handler_leaf", 0)]),
    c("jit", "jit.c", &[("jit_inner", 0), ("jit_late", 1), ("compiled_leaf", 2)]),
    c("edges", "edges.c", &[]),
    c("red_zone", "red_zone.c", &[("popped", 0)]),
    c("dl_swap", "dl_swap.c", &[("leaf_a", 0), ("leaf_b", 1)]),
    c("children", "children.c", &[("forked_leaf", 0), ("execed_leaf", 1)]),
    c("births", "births.c", &[("born_leaf", 0)]),
    c("threads", "threads.c", &[("thread_leaf", 0)]),
    c("vdso", "vdso.c", &[("ask_the_time", 0)]),
    c("syscalls", "syscalls.c", &[("read_zeros", 0), ("user_leaf", 1)]),
    c("memfd_exec", "memfd_exec.c", &[]),
    c("waits", "waits.c", &[]),
    c("switches", "switches.c", &[]),
    c("mappings", "mappings.c", SPLIT),
    Program {
        name: "frames",
        source: "frames.c",
        compiler: "gcc -O2 -mavx2 -fomit-frame-pointer",
        stripped: false,
        leaves: &[("under_realigned", 0), ("under_alloca", 1), ("under_vla", 2), ("under_huge", 3)],
    },
    Program {
        name: "jit-static",
        source: "jit.c",
        compiler: "gcc -O2 -static",
        stripped: false,
        leaves: &[("jit_inner", 0), ("jit_late", 1), ("compiled_leaf", 2)],
    },
];

/// The program called `name` in [`PROGRAMS`].
pub fn program(name: &str) -> &'static Program {
    PROGRAMS.iter().find(|program| program.name == name).expect("tests name programs of the table")
}

/// The path of the program called `name`, compiled if need be.
pub fn built(name: &str) -> PathBuf {
    let program = program(name);
    compile(program.name, program.source, program.compiler, program.stripped)
}

/// `tests/programs/dl_leaf.c` as a shared library whose function is called `leaf`.
pub fn built_library(leaf: &str) -> PathBuf {
    compile(&format!("lib{leaf}.so"), "dl_leaf.c", &format!("{O2} -shared -fPIC -DLEAF={leaf}"), false)
}

/// `tests/programs/pretended_python.c` as a shared library, or what `flags` make of it instead.
pub fn built_pretended_python(name: &str, flags: &str) -> PathBuf {
    compile(name, "pretended_python.c", &format!("{O2} -shared -fPIC {flags}"), false)
}

fn compile(name: &str, source: &str, compiler: &str, stripped: bool) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let mut hasher = DefaultHasher::new();
    for file in [source, "oracle.h"] {
        std::fs::read(sources.join(file)).expect("sources of test programs are readable").hash(&mut hasher);
    }
    (compiler, stripped).hash(&mut hasher);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("programs/{:016x}", hasher.finish()));
    let path = directory.join(name);
    if path.exists() {
        return path;
    }

    std::fs::create_dir_all(&directory).expect("the target directory is writable");
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let unfinished = directory.join(format!("{name}.{}.{number}", std::process::id()));
    let mut words = compiler.split_whitespace();
    let mut command = Command::new(words.next().expect("a compiler is named"));
    command.args(words).arg("-o").arg(&unfinished).arg(sources.join(source));
    if !source.ends_with(".rs") {
        command.args(["-pthread", "-ldl"]);
    }
    run(&mut command);
    if stripped {
        run(Command::new("strip").arg("--strip-all").arg(&unfinished));
    }
    std::fs::rename(&unfinished, &path).expect("renaming within a directory works");
    path
}

fn run(command: &mut Command) {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error} (try scripts/setup --tests)"));
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}
