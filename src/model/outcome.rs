//! How a stack walk ended. Numbers and texts are those of `ebpf/outcomes.def`,
//! which the BPF side includes; a test holds the two together.

macro_rules! outcomes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $complete:literal, $text:literal;)*) => {
        /// How a stack walk ended, and why if it did not reach the thread's start.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Outcome { $($(#[$doc])* $name = $number,)* }

        impl Outcome {
            /// All outcomes, ascending by number.
            pub const ALL: &'static [Outcome] = &[$(Outcome::$name,)*];

            /// The outcome numbered `number`; `None` for numbers of a newer BPF object.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }

            /// Whether the stack reaches the thread's start.
            pub fn is_complete(self) -> bool {
                match self { $(Self::$name => $complete,)* }
            }

            /// The reason in words, for the end line and for markers.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

outcomes! {
    /// The stack reaches the thread's start.
    Complete = 0, true, "complete";
    /// More frames than are captured.
    TruncatedDepth = 1, false, "deeper than the frame limit";
    /// A pc lay in no mapping known at the time.
    UnknownMapping = 2, false, "pc in no known mapping";
    /// The module's rows were not in the kernel yet; this sample asked for them.
    TableNotLoaded = 3, false, "unwind table was still loading";
    /// No row covers the pc and the frame pointer leads nowhere.
    FramePointerLost = 4, false, "no unwind row and no usable frame pointer";
    /// The thread's stack could not be read without faulting.
    ReadFailed = 5, false, "stack memory not readable";
    /// A caller's stack pointer was not above its callee's.
    NoProgress = 6, false, "stack pointer did not advance";
    /// The row names a register whose value was not carried this far.
    RegisterUnknown = 7, false, "rule needs a register that is not tracked";
    /// The row needs an expression that rows cannot hold.
    UnsupportedRule = 8, false, "unwind rule not supported";
    /// The thread has no user registers.
    NoUserRegisters = 9, false, "user registers not available";
    /// The whole sample was lost: userland did not drain the ring in time.
    RingFull = 10, false, "sample lost: ring full";
    /// The process was so new that its mappings were not known.
    MappingsNotLoaded = 11, false, "mappings of the process were still loading";
    /// The kernel's part of the stack could not be taken; the user part is there.
    KernelStackFailed = 12, false, "kernel stack not readable";
    /// The interpreter's list of frames had no end or beginning at this instant; the native part is there.
    PythonEntering = 13, false, "interpreter was linking a new frame";
    /// Which of the thread's interpreters called which is not known.
    PythonInterpreters = 14, false, "thread is in more than two interpreters";
    /// A stopped thread had to run on before its stack was read.
    StopLimit = 15, false, "thread was held for as long as is allowed";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `outcomes.def` and the enum agree in number, completeness and text, line by line.
    #[test]
    fn outcomes_def_and_enum_agree() {
        let def = include_str!("../../ebpf/outcomes.def");
        let rows: Vec<&str> = def.lines().filter(|line| line.starts_with("OUTCOME(")).collect();
        assert_eq!(rows.len(), Outcome::ALL.len());
        for (row, outcome) in rows.iter().zip(Outcome::ALL) {
            let number = *outcome as u8;
            let tail = format!(", {number}, {}, \"{}\")", u8::from(outcome.is_complete()), outcome.text());
            assert!(row.ends_with(&tail), "`{row}` should end with `{tail}`");
            assert_eq!(Outcome::from_number(number), Some(*outcome));
        }
        assert_eq!(Outcome::from_number(255), None);
    }
}
