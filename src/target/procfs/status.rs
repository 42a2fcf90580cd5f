//! `/proc/PID/status`: whose thread it is and how each pid namespace calls it.

use crate::{Error, ErrorKind, Result};

/// What is used of `/proc/PID/status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The process that the thread belongs to.
    pub pid: u32,
    /// The user it acts as.
    pub effective_uid: u32,
    /// The thread's id in each pid namespace that it is in, from that of `/proc`
    /// to its own; never empty.
    pub namespace_tids: Vec<u32>,
}

/// Reads `/proc/TID/status`; a thread's id is as good as a process's.
pub fn read_status(tid: u32) -> Result<Status> {
    parse_status(&super::read_small(tid, "status")?)
        .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("unknown format of `/proc/{tid}/status`")))
}

/// `None` where a line is missing or no number. Lines are `Key:\tvalues`.
pub fn parse_status(text: &[u8]) -> Option<Status> {
    let numbers = |key: &[u8]| -> Option<Vec<u32>> {
        let mut lines = text.split(|byte| *byte == b'\n');
        let values = lines.find_map(|line| line.strip_prefix(key))?;
        std::str::from_utf8(values).ok()?.split_ascii_whitespace().map(|value| value.parse().ok()).collect()
    };
    let pid = *numbers(b"Tgid:")?.first()?;
    let effective_uid = *numbers(b"Uid:")?.get(1)?;
    // Absent before Linux 4.1 and without CONFIG_PID_NS.
    let own_tid = || numbers(b"Pid:");
    let namespace_tids = numbers(b"NSpid:").or_else(own_tid).filter(|tids| !tids.is_empty())?;
    Some(Status { pid, effective_uid, namespace_tids })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A thread of a container: process, user and the id in each namespace.
    #[test]
    fn thread_of_a_container_is_read() {
        let text = b"Name:\tx\nState:\tS (sleeping)\nTgid:\t900\nPid:\t904\nUid:\t0\t33\t33\t33\nNSpid:\t904\t12\t5\n";
        assert_eq!(
            parse_status(text),
            Some(Status { pid: 900, effective_uid: 33, namespace_tids: vec![904, 12, 5] })
        );
    }

    proptest! {
        /// Any bytes: no panic, and an answer always names the thread.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_status(&noise);
            let text = [b"Tgid:\t1\nUid:\t1 1\nNSpid:", noise.as_slice()].concat();
            prop_assert!(parse_status(&text).is_none_or(|status| !status.namespace_tids.is_empty()));
        }
    }
}
