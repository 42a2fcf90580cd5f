//! The system call that a thread is in, as `/proc/TID/syscall` tells it (proc_pid_syscall(5)).
//!
//! ```text
//! 7 0x7ffd3cb1e2a8 0x1 0xffffffffffffffff 0x0 0x8 0x0 0x7ffd3cb1e260 0x7f30b2a4e9ef
//! number, six arguments, sp, pc; `running`, or `-1 sp pc`, where there is none
//! ```

use super::read_small;

/// A system call that has not returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which one, as `SYS_…` of libc; never negative.
    pub number: i64,
    /// What was passed; those that the call does not have are whatever the registers held.
    pub arguments: [u64; 6],
    /// Stack pointer.
    pub sp: u64,
    /// Behind the instruction that called.
    pub pc: u64,
}

/// The call that thread `tid` waits in; `None` for one that runs, waits outside of a call, is gone, or may not be
/// traced.
pub fn call(tid: u32) -> Option<Call> {
    parse_call(&read_small(tid, "syscall").ok()?)
}

/// `None` where there is no call, and for text of another shape.
pub fn parse_call(text: &[u8]) -> Option<Call> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let mut next = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = next()?;
    }
    Some(Call { number, arguments, sp: next()?, pc: next()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] =
        b"7 0x7ffd3cb1e2a8 0x1 0xffffffffffffffff 0x0 0x8 0x0 0x7ffd3cb1e260 0x7f30b2a4e9ef\n";

    /// A call is read whole; a thread that is in none has none, nor has a line that is cut short.
    #[test]
    fn calls_are_read_from_text() {
        let arguments = [0x7ffd_3cb1_e2a8, 1, u64::MAX, 0, 8, 0];
        let call = Call { number: libc::SYS_poll, arguments, sp: 0x7ffd_3cb1_e260, pc: 0x7f30_b2a4_e9ef };
        assert_eq!(parse_call(TEXT), Some(call));
        for text in [&b"running\n"[..], b"-1 0x7ffd3cb1e260 0x7f30b2a4e9ef\n", b"", &TEXT[..60]] {
            assert_eq!(parse_call(text), None, "{text:?}");
        }
    }

    proptest! {
        /// Any bytes, alone or in a real line: no panic.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..100), at in 0..TEXT.len()) {
            parse_call(&noise);
            parse_call(&[&TEXT[..at], &noise, &TEXT[at..]].concat());
        }
    }
}
