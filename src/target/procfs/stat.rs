//! `/proc/PID/stat`: state, parent, flags and start of a process, in one line.
//!
//! Fields are separated by spaces and numbered from 1 (proc_pid_stat(5)). The
//! second is the `comm` in parentheses, which may itself hold spaces and
//! parentheses, so that fields count from the last `)`.

use crate::{Error, ErrorKind, Result};

/// `PF_KTHREAD` in Linux include/linux/sched.h.
const KERNEL_THREAD_FLAG: u64 = 0x0020_0000;

/// What is used of `/proc/PID/stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T`, `Z`, … as ps(1) shows it.
    pub state: char,
    /// The parent's pid; 0 for the first process and for one whose parent is in an outer pid namespace.
    pub parent_pid: u32,
    /// Whether it is a thread of the kernel, without code of its own to name.
    pub is_kernel_thread: bool,
    /// Clock ticks from boot to the process's start.
    pub start_time_ticks: u64,
    /// Address of the program's code, another one for each program that it runs; 0 or 1 where that is not told.
    pub start_code: u64,
}

impl Stat {
    /// Whether the process has ended and only its exit status is left.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads `/proc/PID/stat`.
pub fn read_stat(pid: u32) -> Result<Stat> {
    parse_stat(&super::read_small(pid, "stat")?)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("unknown format of `/proc/{pid}/stat`")))
}

/// `None` where a field is missing or no number.
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_comm = text.iter().rposition(|byte| *byte == b')')?;
    let tail = std::str::from_utf8(text.get(end_of_comm + 1..)?).ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // `fields[0]` is field 3 of the manual page.
    let field = |number: usize| fields.get(number - 3).copied();
    let flags: u64 = field(9)?.parse().ok()?;
    Some(Stat {
        state: field(3)?.chars().next()?,
        parent_pid: field(4)?.parse().ok()?,
        is_kernel_thread: flags & KERNEL_THREAD_FLAG != 0,
        start_time_ticks: field(22)?.parse().ok()?,
        start_code: field(26)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TAIL: &str = "S 7 9 9 0 -1 2129984 0 0 0 0 1 2 0 0 20 0 1 0 4711 0 0 5 4096 0";

    /// A `comm` made to look like the rest of the line does not shift the fields.
    #[test]
    fn hostile_comm_does_not_shift_fields() {
        let text = format!("12 (a) Z 1 1 (b) {TAIL}");
        let stat = parse_stat(text.as_bytes()).expect("a valid line");
        assert_eq!(
            stat,
            Stat {
                state: 'S',
                parent_pid: 7,
                is_kernel_thread: true,
                start_time_ticks: 4711,
                start_code: 4096
            }
        );
        assert!(!stat.has_ended());
    }

    /// A line cut short is no `Stat`.
    #[test]
    fn cut_line_is_refused() {
        let text = format!("12 (a) {TAIL}");
        assert!(parse_stat(&text.as_bytes()[..text.len() - 10]).is_none());
        assert!(parse_stat(b"").is_none());
    }

    proptest! {
        /// Any bytes: no panic.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_stat(&noise);
            parse_stat(&[b"1 (x) ", noise.as_slice()].concat());
        }
    }
}
