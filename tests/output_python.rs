//! Outputs of a Python program's profile in each view: a web shop under CPython 3.11 whose
//! executable contains the interpreter, with extensions in C, two files of one name, a
//! stack that was cut, and a native thread.

#![allow(clippy::unwrap_used)]

mod support;

use support::{golden, golden_picture};
use txprof::aggregate::{Fold, FoldOptions, HiddenFiles, View};
use txprof::model::{Frame, FrameKind, Outcome, Profile, Recording, Root, Sample, StackId, ThreadState};
use txprof::output::{self, Format};

const PERIOD_NS: u64 = 10_101_010;

/// Each stack root first with its samples: `kind:function@module`, or of Python
/// `y:function@path:line`. A stack that begins with `…` was cut.
const STACKS: &[(u64, &str)] = &[
    (
        4,
        "START y:<module>@/srv/shop/app.py:61 EVAL y:_find_and_load@<frozen_importlib._bootstrap>:1176 \
        EVAL y:<module>@/srv/shop/models.py:3 EVAL",
    ),
    (
        90,
        "SERVE y:Cart.total@/srv/shop/models.py:88 EVAL \
        y:Cart.total.<locals>.<genexpr>@/srv/shop/models.py:90 EVAL p:PyNumber_Multiply@python3.11 i:long_mul@python3.11",
    ),
    (22, "SERVE y:Cart.total@/srv/shop/models.py:91 EVAL y:<lambda>@/srv/shop/models.py:91 EVAL"),
    (
        61,
        "SERVE y:render@/srv/shop/app.py:40 EVAL y:render@/srv/shop/admin/app.py:12 EVAL \
        y:<listcomp>@/srv/shop/admin/app.py:15 EVAL n:encoder_listencode_obj@_json.cpython-311-x86_64-linux-gnu.so \
        p:PyUnicode_Join@python3.11 n:__memcpy_avx_unaligned_erms@libc.so.6",
    ),
    (35, "SERVE y:render@/srv/shop/app.py:44 EVAL y:render@/srv/shop/admin/app.py:12 EVAL"),
    (
        48,
        "SERVE y:Prices.fit@/srv/shop/prices.py:120 EVAL n:PyUFunc_Reduce@_multiarray_umath.so \
        n:DOUBLE_add@_multiarray_umath.so i:npyv_add_f64@_multiarray_umath.so",
    ),
    (
        30,
        "SERVE y:Prices.fit@/srv/shop/prices.py:131 EVAL j:trampoline@perf-88.map n:cblas_dgemm@libopenblas.so.0",
    ),
    (
        40,
        "SERVE y:reply@/usr/lib/python3.11/socketserver.py:799 EVAL p:sock_sendall@python3.11 n:__send@libc.so.6 \
        k:do_syscall_64@[kernel] k:tcp_sendmsg@[kernel]",
    ),
    (
        12,
        "…n:qsort_r@libc.so.6 p:PyObject_RichCompare@python3.11 EVAL y:Cart.__lt__@/srv/shop/models.py:30 EVAL",
    ),
    (
        25,
        "n:clone3@libc.so.6 n:start_thread@libc.so.6 n:blas_thread_server@libopenblas.so.0 \
        n:dgemm_kernel@libopenblas.so.0",
    ),
];

const START: &str = "p:_start@python3.11 n:__libc_start_main@libc.so.6 p:main@python3.11 p:Py_RunMain@python3.11 \
    p:PyEval_EvalCode@python3.11";
const EVAL: &str = "p:_PyEval_EvalFrameDefault@python3.11";
const SERVE: &str = "START y:<module>@/srv/shop/app.py:70 EVAL \
    y:BaseServer.serve_forever@/usr/lib/python3.11/socketserver.py:233 EVAL y:App.__call__@/srv/shop/app.py:22 EVAL";

fn frame(text: &str) -> Frame {
    let (kind, rest) = text.split_once(':').unwrap();
    let (function, place) = rest.split_once('@').unwrap();
    let kind = match kind {
        "n" => FrameKind::Native,
        "i" => FrameKind::Inlined,
        "p" => FrameKind::Interpreter,
        "y" => FrameKind::Python,
        "k" => FrameKind::Kernel,
        _ => FrameKind::Jit,
    };
    if kind != FrameKind::Python {
        return Frame { module: Some(place.into()), ..Frame::named(kind, function) };
    }
    let (file, line) = place.rsplit_once(':').unwrap();
    let file = file.replace("<frozen_", "<frozen ").into_boxed_str();
    Frame { file: Some(file), line: Some(line.parse().unwrap()), ..Frame::named(kind, function) }
}

fn profile() -> Profile {
    let recording = Recording {
        target: "python3 (pid 88)".to_owned(),
        event: "cpu-clock".to_owned(),
        frequency_hz: 99,
        period_ns: PERIOD_NS,
        started_unix_ns: 1_795_438_748_000_000_000,
        elapsed_ns: 4_000_000_000,
        ..Recording::default()
    };
    let mut profile = Profile { recording, ..Profile::default() };
    for (number, (count, stack)) in STACKS.iter().enumerate() {
        let text = stack.replace("SERVE", SERVE).replace("START", START).replace("EVAL", EVAL);
        let cut = text.starts_with('…');
        let frames: Vec<Frame> = text.trim_start_matches('…').split_whitespace().map(frame).collect();
        let numbers = frames.into_iter().map(|frame| {
            let known = profile.frames.iter().position(|other| *other == frame);
            known.unwrap_or_else(|| {
                profile.frames.push(frame);
                profile.frames.len() - 1
            }) as u32
        });
        let mut stack: Vec<u32> = numbers.collect();
        stack.reverse();
        profile.stacks.push(stack);
        profile.samples.push(Sample {
            root: Root { process: "python3".to_owned(), thread: None },
            stack: StackId(number as u32),
            outcome: if cut { Outcome::TruncatedDepth } else { Outcome::Complete },
            state: ThreadState::Running,
            holds_gil: !text.contains("dgemm"),
            is_idle: false,
            count: *count,
            weight_ns: count * PERIOD_NS,
        });
    }
    profile
}

fn written(format: Format, options: &FoldOptions) -> String {
    let mut bytes = Vec::new();
    output::write(&profile(), format, options, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

fn folded(options: &FoldOptions) -> String {
    let lines = written(Format::Folded, options);
    let sum: u64 = lines.lines().map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum, profile().sample_count(), "views drop frames, never samples");
    lines
}

/// Python's functions with their files, C extensions and the kernel; neither interpreter nor start.
#[test]
fn merged_view_is_the_golden_one() {
    golden("python.folded", &folded(&FoldOptions::default()));
    golden_picture("python", &written(Format::Svg, &FoldOptions::default()));
}

/// With lines, calls from two lines of one function are two frames.
#[test]
fn merged_view_with_lines_is_the_golden_one() {
    golden("python-lines.folded", &folded(&FoldOptions { lines: true, ..FoldOptions::default() }));
}

/// Everything, the interpreter told apart by its colour.
#[test]
fn native_view_is_the_golden_one() {
    let options = FoldOptions { view: View::Native, ..FoldOptions::default() };
    golden("python-native.folded", &folded(&options));
    golden_picture("python-native", &written(Format::Svg, &options));
}

/// Python alone; what else the process did is one frame.
#[test]
fn python_only_view_is_the_golden_one() {
    let options = FoldOptions { view: View::PythonOnly, ..FoldOptions::default() };
    golden("python-only.folded", &folded(&options));
    golden_picture("python-only", &written(Format::Svg, &options));
}

/// The time of hidden functions belongs to their callers, in every view.
#[test]
fn hidden_functions_leave_their_time_to_their_callers() {
    let hidden = ["imports", "/shop/models"].map(|text| HiddenFiles::parse(text).unwrap()).to_vec();
    for view in [View::Merged, View::Native, View::PythonOnly] {
        let lines = folded(&FoldOptions { view, hidden: hidden.clone(), ..FoldOptions::default() });
        assert!(!lines.contains("(models.py)") && !lines.contains("importlib"), "{lines}");
        assert!(lines.contains("(app.py)"), "{lines}");
    }
    let lines = folded(&FoldOptions { hidden, ..FoldOptions::default() });
    let total =
        "python3;<module> (app.py);BaseServer.serve_forever (socketserver.py);App.__call__ (app.py) 112\n";
    assert!(lines.contains(total), "{lines}");
    assert!(lines.contains("python3;<module> (app.py) 4\n"), "{lines}");
}

/// Where nothing but hidden functions is left, the time is the process's.
#[test]
fn stacks_without_a_visible_frame_are_their_process() {
    let hidden = ["/", "<frozen"].map(|text| HiddenFiles::parse(text).unwrap()).to_vec();
    let lines = folded(&FoldOptions { view: View::PythonOnly, hidden, ..FoldOptions::default() });
    let cut = "[truncated: deeper than the frame limit]";
    assert_eq!(lines, format!("python3 330\npython3;[native] 25\npython3;{cut} 12\n"));
}

/// Functions of one name in two files of one name are two frames of the picture, told apart by
/// the whole path; in folded lines they are one.
#[test]
fn files_of_one_name_are_told_apart_in_the_picture() {
    let frames = |modules| {
        let fold = Fold::new(&profile(), &FoldOptions::default(), modules);
        let named = fold.frames.into_iter().filter(|frame| frame.name == "render (app.py)");
        named.map(|frame| frame.module).collect::<Vec<_>>()
    };
    let paths = ["/srv/shop/admin/app.py", "/srv/shop/app.py"].map(|path| Some(path.to_owned()));
    assert_eq!(frames(true), paths);
    assert_eq!(frames(false), [None]);
    let picture = written(Format::Svg, &FoldOptions::default());
    assert!(picture.contains("<title>render (app.py) (/srv/shop/admin/app.py, 96 samples, "), "{picture}");
}

/// What is no path is not cut at its slash, a missing line is not shown, and hostile names stay one frame.
#[test]
fn odd_files_keep_their_names() {
    let frame = |function: &str, file: Option<&str>, line| Frame {
        file: file.map(Into::into),
        line,
        ..Frame::named(FrameKind::Python, function)
    };
    let mut profile = profile();
    for (python, expected) in [
        (frame("f", Some("<attrs generated init a/b>"), Some(3)), "f (<attrs generated init a/b>:3)"),
        (frame("<module>", Some("<string>"), None), "<module> (<string>)"),
        (frame("f", Some("relative/x.py"), None), "f (x.py)"),
        (frame("f", None, Some(3)), "f"),
        (frame("a;b\n", Some("/x/ c;\n 7"), None), "a:b (c:_7)"),
        (frame("f.<locals>.g_[k]", Some("/x.py"), Some(12)), "f.<locals>.g_{k} (x.py:12)"),
    ] {
        profile.frames = vec![python];
        profile.stacks = vec![vec![0]];
        profile.samples.truncate(1);
        let fold = Fold::new(&profile, &FoldOptions { lines: true, ..FoldOptions::default() }, false);
        assert!(fold.frames.iter().any(|frame| frame.name == expected), "{expected}: {:?}", fold.frames);
        assert_eq!(txprof::aggregate::name::harmless(expected), expected);
    }
}
