//! One call, named as well as it can be.

/// What kind of code a frame runs; decides suffix and colour in the outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Compiled code of the process's own files.
    Native,
    /// Compiled code that the compiler merged into its caller, the next frame towards the root.
    Inlined,
    /// Compiled code of a Python interpreter itself: of libpython, or of an executable that contains it.
    Interpreter,
    /// A Python function.
    Python,
    /// The kernel.
    Kernel,
    /// Code generated at run time.
    Jit,
    /// Not a call: says that, and why, frames are missing here.
    Marker,
    /// Not a call: the thread was blocked here, and by what.
    Blocked,
    /// Not a call: the thread could have run here, but other threads had the CPUs.
    RunQueue,
    /// Not a call: the thread waited here for the lock of its Python interpreter, and who held it.
    Gil,
    /// Not a call: another thread, which ended the wait, or was made by the one that waits and worked meanwhile. What
    /// it did follows towards the leaf.
    Waker,
}

impl FrameKind {
    /// Whether it says what a thread that did not run was about.
    pub fn is_wait(self) -> bool {
        matches!(self, Self::Blocked | Self::RunQueue | Self::Gil | Self::Waker)
    }
}

/// A symbolized frame. Two frames with equal fields are the same frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// What kind of code it runs.
    pub kind: FrameKind,
    /// Demangled function name; `module+0x1234` (the function's start, else the address itself, in the file's stated
    /// addresses) where no symbol covers the address. Of Python the qualified name: `<module>`, `f.<locals>.g`.
    /// Never empty.
    pub function: Box<str>,
    /// Base name of the binary, `[kernel]`, a kernel module's name, `[vdso]`; `None` for markers and for Python.
    pub module: Option<Box<str>>,
    /// Source file as the debug information, or Python's code object, states it; need not be a path: `<string>`.
    pub file: Option<Box<str>>,
    /// Line in `file`, from 1; of Python that of the instruction that was running.
    pub line: Option<u32>,
}

impl Frame {
    /// A frame with a name only.
    pub fn named(kind: FrameKind, function: impl Into<Box<str>>) -> Self {
        Self { kind, function: function.into(), module: None, file: None, line: None }
    }
}
