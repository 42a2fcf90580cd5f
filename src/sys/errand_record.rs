//! The record of `ebpf/shared.h` about work that may be given to a thread of a pool, or done by it: `struct errand_event`.

use super::abi::{PythonFrame, take, take_u32, take_u64, words};

/// `ERRAND_LOCALS`.
const LOCALS: usize = 8;
/// `ERRAND_FRAMES` of `struct errand_call`.
const CALLS_BYTES: usize = 8 * CALL_BYTES;
const CALL_BYTES: usize = 24;

/// A thread that runs a coroutine wakes another one, or a thread that was woken so has told a loop something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrandRecord<'a> {
    /// `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// The process.
    pub pid: u32,
    /// The thread that is woken, or has told.
    pub tid: u32,
    /// Who wakes it; `None`: it has told.
    pub giver: Option<Giver>,
    /// The calls that it is in, leaf first, [`CALL_BYTES`] each.
    calls: &'a [u8],
}

/// Who wakes a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Giver {
    /// Which thread.
    pub tid: u32,
    /// As in a sample, the outermost coroutine that it runs.
    pub coroutine: u64,
    /// The first local variables of its innermost call, some of them perhaps of what lies behind: objects, with their tags.
    pub locals: [u64; LOCALS],
}

/// A call of a Python function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrandCall {
    /// As in a sample.
    pub frame: PythonFrame,
    /// Its first local variable: an object, with its tag.
    pub first_local: u64,
}

impl<'a> ErrandRecord<'a> {
    /// What follows the head of a record of type 13.
    pub(super) fn parse(time_ns: u64, pid: u32, mut rest: &'a [u8]) -> Option<Self> {
        let coroutine = take_u64(&mut rest)?;
        let mut locals = [0; LOCALS];
        for local in &mut locals {
            *local = take_u64(&mut rest)?;
        }
        let calls = take(&mut rest, CALLS_BYTES)?;
        let (tid, giver_tid) = (take_u32(&mut rest)?, take_u32(&mut rest)?);
        let giver = (coroutine != 0).then_some(Giver { tid: giver_tid, coroutine, locals });
        Some(Self { time_ns, pid, tid, giver, calls })
    }

    /// The calls that the thread is in, leaf first, as far as they were noted.
    pub fn calls(&self) -> impl Iterator<Item = ErrandCall> + use<'a> {
        let calls = self.calls.as_chunks::<CALL_BYTES>().0.iter().map(ErrandCall::new);
        calls.take_while(|call| call.frame.code != 0)
    }
}

impl ErrandCall {
    fn new(bytes: &[u8; CALL_BYTES]) -> Self {
        let mut words = words(bytes);
        let mut word = || words.next().unwrap_or(0);
        Self { frame: PythonFrame::from_words([word(), word()]), first_local: word() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::abi::Record;

    fn bytes(coroutine: u64) -> Vec<u8> {
        let words =
            |values: &[u64]| -> Vec<u8> { values.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        let mut bytes = words(&[9, 13 << 32 | 41, coroutine, 1, 2, 3, 4, 5, 6, 7, 8]);
        bytes.extend(words(&[0x1000, 7 << 32 | 24, 0x11, 0x2000, 8 << 32 | 26, 0x21]));
        bytes.extend(vec![0; 6 * CALL_BYTES]);
        bytes.extend([42u32, 43].map(u32::to_ne_bytes).concat());
        assert_eq!(bytes.len(), 288);
        bytes
    }

    /// The fields laid out by hand as in shared.h; a cut record is refused.
    #[test]
    fn errand_record_decodes_as_laid_out() {
        let all = bytes(0x7000);
        let Ok(Record::Errand(record)) = Record::parse(&all) else { panic!("not of an errand") };
        assert_eq!((record.time_ns, record.pid, record.tid), (9, 41, 42));
        let giver = Giver { tid: 43, coroutine: 0x7000, locals: [1, 2, 3, 4, 5, 6, 7, 8] };
        assert_eq!(record.giver, Some(giver));
        let calls: Vec<_> =
            record.calls().map(|call| (call.frame.code, call.frame.cookie, call.first_local)).collect();
        assert_eq!(calls, [(0x1000, 7, 0x11), (0x2000, 8, 0x21)]);
        for cut in 0..all.len() {
            assert!(Record::parse(&all[..cut]).is_err(), "{cut}");
        }
    }

    /// Without a coroutine nobody has given anything: it is told.
    #[test]
    fn what_no_coroutine_gives_is_told() {
        let all = bytes(0);
        let Ok(Record::Errand(record)) = Record::parse(&all) else { panic!("not of an errand") };
        assert_eq!((record.giver, record.calls().count()), (None, 2));
    }
}
