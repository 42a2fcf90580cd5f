//! Views: which frames of a stack are shown. A view drops frames and never
//! samples, so that sums stay the same in each.
//!
//! What the interpreter does to run Python is of no interest to most who
//! profile a Python program, and it is a lot. In the merged view
//!
//! ```text
//! _start ; __libc_start_main ; main ; Py_RunMain ; … ; <module> ; _PyEval_EvalFrameDefault ; _PyEval_Vector ; f ; memcpy
//! └──────────────── the thread's start ─────────┘                 └─────────── interpreter ────────────┘
//! ```
//!
//! is shown as `<module> ; f ; memcpy`.

use crate::model::{Frame, FrameKind};

/// Which frames of a stack are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum View {
    /// Python functions and native ones, without what only serves to run Python. In stacks that
    /// hold a Python function these are not shown:
    ///
    /// * functions of the interpreter, and calls inlined into them;
    /// * the thread's start: all frames on the root's side that are of the interpreter, of a launcher
    ///   (an executable called `python3` that only calls libpython) or of the C library and its
    ///   loader, up to the first that is none of these. A stack that was cut does not hold it.
    ///
    /// Other stacks are shown as they are.
    #[default]
    Merged,
    /// All frames.
    Native,
    /// Python functions and markers. Of stacks that hold no Python function nothing is shown but
    /// [`NO_PYTHON`].
    PythonOnly,
}

impl View {
    /// What is shown of `stack`, leaf first in and out; `reaches_start` says whether its root side is there.
    pub fn shown<'a>(self, stack: &[&'a Frame], reaches_start: bool) -> Vec<&'a Frame> {
        let mut sight = Sight::new(self, stack.iter().rev().copied(), reaches_start);
        let mut shown: Vec<&Frame> = stack.iter().rev().copied().filter(|frame| sight.shows(frame)).collect();
        shown.reverse();
        shown
    }
}

/// Stands for stacks without Python where only Python is shown.
pub const NO_PYTHON: &str = "[native]";

/// A view of one stack: asked frame by frame, root first, it tells what is shown.
#[derive(Debug)]
pub(super) struct Sight<'a> {
    view: View,
    has_python: bool,
    /// The same of the stack of who ended the wait, which follows that of who waited.
    waker_has_python: bool,
    /// Every frame so far was of the thread's start.
    in_start: bool,
    /// The module of the interpreter's function whose inlined calls may follow.
    interpreter: Option<&'a str>,
}

impl<'a> Sight<'a> {
    /// `stack` is the whole stack, root first; `reaches_start` says whether its root side is there.
    pub(super) fn new(view: View, stack: impl Iterator<Item = &'a Frame>, reaches_start: bool) -> Self {
        let (mut of_waker, mut python) = (0, [false; 2]);
        for frame in stack {
            of_waker |= usize::from(frame.kind == FrameKind::Waker);
            python[of_waker] |= frame.kind == FrameKind::Python;
        }
        let [has_python, waker_has_python] = python;
        Self { view, has_python, waker_has_python, in_start: reaches_start, interpreter: None }
    }

    /// Whether all calls are left out, so that something must say so.
    pub(super) fn is_empty(&self) -> bool {
        self.view == View::PythonOnly && !self.has_python
    }

    /// Whether `frame`, the next one towards the leaf, is shown.
    pub(super) fn shows(&mut self, frame: &'a Frame) -> bool {
        if frame.kind == FrameKind::Waker {
            (self.has_python, self.in_start, self.interpreter) = (self.waker_has_python, true, None);
        }
        if frame.kind.is_wait() {
            return true;
        }
        match self.view {
            View::Merged => !self.has_python || self.shows_merged(frame),
            View::Native => true,
            View::PythonOnly => {
                self.has_python && matches!(frame.kind, FrameKind::Python | FrameKind::Marker)
            }
        }
    }

    fn shows_merged(&mut self, frame: &'a Frame) -> bool {
        let module = frame.module.as_deref();
        match frame.kind {
            FrameKind::Interpreter => {
                self.interpreter = module;
                return false;
            }
            FrameKind::Inlined if self.interpreter.is_some() && self.interpreter == module => return false,
            _ => self.interpreter = None,
        }
        self.in_start = self.in_start && is_of_start(frame);
        !self.in_start
    }
}

/// Whether `frame` is of what starts threads and programs, if it stands at the root's side.
fn is_of_start(frame: &Frame) -> bool {
    let is_compiled = matches!(frame.kind, FrameKind::Native | FrameKind::Inlined);
    is_compiled && frame.module.as_deref().is_some_and(|module| is_c_library(module) || is_launcher(module))
}

/// `libc.so.6`, `libc-2.31.so`, `libpthread-2.31.so`, `ld-linux-x86-64.so.2`, `ld-musl-x86_64.so.1`.
fn is_c_library(module: &str) -> bool {
    let is_versioned = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
    module.strip_prefix("libc-").is_some_and(is_versioned)
        || ["libc.so", "libpthread", "ld-linux", "ld-musl"].iter().any(|start| module.starts_with(start))
}

/// `python`, `python3.12`, and with the letters of debug, malloc and free-threaded builds `python3.13td`.
fn is_launcher(module: &str) -> bool {
    module
        .strip_prefix("python")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'd' | 'm' | 't')))
}

#[cfg(test)]
mod tests {
    use FrameKind::*;

    use super::*;

    /// `f@module`, the kind told by a letter before: `n:memcpy@libc.so.6`.
    fn frame(text: &str) -> Frame {
        let (kind, rest) = text.split_once(':').expect("a kind");
        let kind = match kind {
            "n" => Native,
            "i" => Inlined,
            "p" => Interpreter,
            "y" => Python,
            "k" => Kernel,
            "j" => Jit,
            "m" => Marker,
            other => panic!("`{other}` is no kind"),
        };
        let (function, module) = rest.split_once('@').map_or((rest, None), |(f, m)| (f, Some(m.into())));
        Frame { module, ..Frame::named(kind, function) }
    }

    /// What `view` shows of `stack`, root first; `reaches_start` unless it begins with `…`.
    fn seen(view: View, stack: &str) -> String {
        let reaches_start = !stack.starts_with('…');
        let frames: Vec<Frame> = stack.trim_start_matches('…').split_whitespace().map(frame).collect();
        let mut sight = Sight::new(view, frames.iter(), reaches_start);
        let shown = frames.iter().filter(|frame| sight.shows(frame));
        shown.map(|frame| &*frame.function).collect::<Vec<_>>().join(" ")
    }

    const STATIC: &str = "p:_start@python3.11 n:__libc_start_main@libc.so.6 p:main@python3.11 y:<module> \
        p:_PyEval_EvalFrameDefault@python3.11 y:f n:memcpy@libc.so.6 k:page_fault@[kernel]";

    /// The interpreter and the thread's start are folded away; what Python calls stays, the C library included.
    #[test]
    fn merged_view_is_what_the_program_does() {
        assert_eq!(seen(View::Merged, STATIC), "<module> f memcpy page_fault");
        let thread = "n:clone3@libc.so.6 n:start_thread@libc-2.31.so p:thread_run@libpython3.12.so.1.0 y:run \
            p:call@libpython3.12.so.1.0 n:dot@_multiarray.so n:gemm@libblas.so p:PyErr@libpython3.12.so.1.0";
        assert_eq!(seen(View::Merged, thread), "run dot gemm");
    }

    /// The program that only calls libpython is of the thread's start, whatever letters its version has.
    #[test]
    fn launcher_belongs_to_the_start() {
        for launcher in ["python", "python3", "python3.12", "python3.8m", "python3.13td"] {
            let stack =
                format!("n:_start@{launcher} n:main@{launcher} p:Py_BytesMain@libpython3.so y:<module>");
            assert_eq!(seen(View::Merged, &stack), "<module>", "{launcher}");
        }
        for program in ["pythonista", "uwsgi", "python3-config"] {
            let stack =
                format!("n:_start@{program} n:libc_start@libc.so.6 p:Py_Run@libpython3.so y:<module>");
            assert_eq!(seen(View::Merged, &stack), "_start libc_start <module>", "{program}");
        }
    }

    /// A program that embeds Python keeps its own frames, and the C library's from there on.
    #[test]
    fn embedding_program_keeps_its_frames() {
        let stack = "n:clone3@libc.so.6 i:run@libc.so.6 n:start_thread@libc.so.6 n:worker@uwsgi n:qsort@libc.so.6 \
            n:compare@uwsgi p:PyObject_Call@libpython3.11.so y:application";
        assert_eq!(seen(View::Merged, stack), "worker qsort compare application");
    }

    /// Calls inlined into the interpreter go with it, several deep; those of others stay.
    #[test]
    fn inlined_calls_go_with_their_function() {
        let stack = "p:main@python3 i:a@python3 i:b@python3 y:f p:eval@python3 i:incref@python3 n:g@ext.so \
            i:h@ext.so p:call@python3 i:of_other@ext.so i:incref@python3";
        assert_eq!(seen(View::Merged, stack), "f g h of_other incref");
    }

    /// A stack without Python is shown whole, also where it is the interpreter that runs.
    #[test]
    fn stacks_without_python_are_shown_as_they_are() {
        let stack = "p:_start@python3.11 n:libc_start@libc.so.6 p:main@python3.11 i:incref@python3.11 j:stub";
        assert_eq!(seen(View::Merged, stack), "_start libc_start main incref stub");
    }

    /// What a cut stack begins with is not the thread's start, and stays unless it is the interpreter.
    #[test]
    fn cut_stacks_have_no_start() {
        let stack = "…n:qsort@libc.so.6 p:compare@libpython3.so y:key n:memcpy@libc.so.6";
        assert_eq!(seen(View::Merged, stack), "qsort key memcpy");
    }

    /// A frame without a known place ends the start.
    #[test]
    fn markers_end_the_start_and_stay() {
        let stack = "n:clone3@libc.so.6 m:[unknown_address] n:f@libc.so.6 y:g m:[unknown_address]";
        assert_eq!(seen(View::Merged, stack), "[unknown_address] f g [unknown_address]");
    }

    /// The native view drops nothing.
    #[test]
    fn native_view_shows_everything() {
        let all = "_start __libc_start_main main <module> _PyEval_EvalFrameDefault f memcpy page_fault";
        assert_eq!(seen(View::Native, STATIC), all);
    }

    /// Of Python only its functions and markers are seen, and of other stacks nothing, which must be said.
    #[test]
    fn python_only_view_shows_python_and_markers() {
        assert_eq!(seen(View::PythonOnly, STATIC), "<module> f");
        assert_eq!(seen(View::PythonOnly, "y:f m:[unknown_address] y:g j:stub"), "f [unknown_address] g");
        let native = [frame("n:main@a"), frame("m:[unknown_address]")];
        let mut sight = Sight::new(View::PythonOnly, native.iter(), true);
        assert!(sight.is_empty() && !native.iter().any(|frame| sight.shows(frame)));
        assert!(!Sight::new(View::Merged, native.iter(), true).is_empty());
    }

    /// Names of modules that are the C library's, and some that only look like it.
    #[test]
    fn c_libraries_are_known_by_name() {
        for module in
            ["libc.so.6", "libc-2.31.so", "libpthread.so.0", "ld-linux-x86-64.so.2", "ld-musl-x86_64.so.1"]
        {
            assert!(is_c_library(module), "{module}");
        }
        for module in ["libc-client.so.2007e", "libcrypto.so.3", "ld", "libcurl.so.4", ""] {
            assert!(!is_c_library(module), "{module}");
        }
    }
}
