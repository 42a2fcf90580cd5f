//! A reader of debug sections that gives up in time.
//!
//! DWARF can be written so that reading it takes for ever: millions of
//! functions sharing one endless range list, calls inlined a million deep, a
//! path of megabytes repeated for each file of a line table. The parsers above
//! have no limits of their own, but all of them read through here: every read
//! is charged to a budget, and when that or the thread's stack is used up,
//! reads fail and the parsers stop. What they keep is proportional to what they
//! read, so memory is bounded by the same budget.
//!
//! The guard also hands pages back to the kernel on the way, since walking a
//! large mapped file would otherwise leave all of it in our resident set.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use gimli::{LittleEndian, ReaderOffsetId, Result, leb128};
use memchr::memchr;

/// Stack of the threads that parse. Calls inlined into each other recurse, one
/// level per level; compilers stop at some dozens.
pub(super) const STACK_BYTES: usize = 8 << 20;

/// What is left for the deepest call when reads begin to fail.
const STACK_RESERVE_BYTES: usize = 2 << 20;

/// Reads between two looks at stack and budget.
const QUANTUM: u64 = 256;

/// Reads between two releases of pages. They touch a megabyte or two of what is parsed, and some
/// 20 MB around names here and there, since each page fault maps 16 pages.
const RELEASE_INTERVAL: u64 = 1024 * 1024;

/// Longest string handed to the parsers, in bytes; paths and names beyond are cut.
const MAX_STRING_BYTES: usize = 4096;

/// Counts the work of one thread.
pub(super) struct Guard<'data> {
    /// Reads left before the next look at `budget`.
    quantum: Cell<u64>,
    /// Reads left altogether.
    budget: Cell<u64>,
    spent: Cell<u64>,
    released_at: Cell<u64>,
    /// Stack addresses below are too deep.
    stack_floor: usize,
    release: &'data dyn Fn(),
}

impl<'data> Guard<'data> {
    /// A guard with nothing to spend. Must be made near the start of a thread
    /// with [`STACK_BYTES`]; `release` hands mapped pages back.
    pub(super) fn new(release: &'data dyn Fn()) -> Self {
        let stack_floor = stack_pointer().saturating_sub(STACK_BYTES - STACK_RESERVE_BYTES);
        let zero = || Cell::new(0);
        Self { quantum: zero(), budget: zero(), spent: zero(), released_at: zero(), stack_floor, release }
    }

    /// Allows `reads` from now on, whatever was left.
    pub(super) fn allow(&self, reads: u64) {
        self.quantum.set(0);
        self.budget.set(reads);
    }

    /// Allows `reads` more.
    pub(super) fn allow_more(&self, reads: u64) {
        self.budget.set(self.budget.get().saturating_add(reads));
    }

    /// Reads so far, rounded up.
    pub(super) fn spent(&self) -> u64 {
        self.spent.get()
    }

    /// Pays for work; fails when there is nothing left.
    #[inline]
    pub(super) fn charge(&self, reads: u64) -> Result<()> {
        match self.quantum.get().checked_sub(reads) {
            Some(left) => {
                self.quantum.set(left);
                Ok(())
            }
            None => self.next_quantum(reads),
        }
    }

    #[cold]
    fn next_quantum(&self, reads: u64) -> Result<()> {
        let wanted = reads.saturating_add(QUANTUM);
        let left = self.budget.get().checked_sub(wanted).filter(|_| stack_pointer() > self.stack_floor);
        let Some(left) = left else {
            // Fail this and all following reads, so that no parser goes on with its next entry.
            self.allow(0);
            return Err(gimli::Error::UnexpectedEof(ReaderOffsetId(0)));
        };
        self.budget.set(left);
        self.quantum.set(QUANTUM);
        self.spent.set(self.spent.get() + wanted);
        if self.spent.get() - self.released_at.get() >= RELEASE_INTERVAL {
            self.released_at.set(self.spent.get());
            (self.release)();
        }
        Ok(())
    }
}

/// About where the stack ends now.
#[inline(never)]
fn stack_pointer() -> usize {
    let marker = 0_u8;
    std::hint::black_box(&raw const marker) as usize
}

/// A section, or the rest of one, read under a [`Guard`].
#[derive(Clone, Copy)]
pub(super) struct GuardedReader<'data> {
    bytes: &'data [u8],
    guard: &'data Guard<'data>,
}

impl<'data> GuardedReader<'data> {
    pub(super) fn new(bytes: &'data [u8], guard: &'data Guard<'data>) -> Self {
        Self { bytes, guard }
    }

    pub(super) fn bytes(&self) -> &'data [u8] {
        self.bytes
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'data [u8]> {
        self.guard.charge(1)?;
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or_else(|| self.end())?;
        self.bytes = rest;
        Ok(taken)
    }

    /// A LEB128 number of one byte, as most are; `None` leaves a longer one unread.
    #[inline]
    fn take_short_leb128(&mut self) -> Result<Option<u8>> {
        self.guard.charge(1)?;
        let [value @ 0..0x80, rest @ ..] = self.bytes else { return Ok(None) };
        self.bytes = rest;
        Ok(Some(*value))
    }

    #[cold]
    fn end(&self) -> gimli::Error {
        gimli::Error::UnexpectedEof(gimli::Reader::offset_id(self))
    }
}

impl fmt::Debug for GuardedReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardedReader({} bytes)", self.bytes.len())
    }
}

impl gimli::Reader for GuardedReader<'_> {
    type Endian = LittleEndian;
    type Offset = usize;

    #[inline]
    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    #[inline]
    fn len(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn empty(&mut self) {
        self.bytes = &[];
    }

    #[inline]
    fn truncate(&mut self, len: usize) -> Result<()> {
        self.bytes = self.bytes.get(..len).ok_or_else(|| self.end())?;
        Ok(())
    }

    #[inline]
    fn offset_from(&self, base: &Self) -> usize {
        (self.bytes.as_ptr() as usize).wrapping_sub(base.bytes.as_ptr() as usize)
    }

    #[inline]
    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.bytes.as_ptr() as u64)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<usize> {
        let offset = id.0.checked_sub(self.bytes.as_ptr() as u64)?;
        usize::try_from(offset).ok().filter(|offset| *offset <= self.bytes.len())
    }

    fn find(&self, byte: u8) -> Result<usize> {
        let found = memchr(byte, self.bytes);
        // Looking at 16 bytes costs about as much as one read.
        self.guard.charge(found.unwrap_or(self.bytes.len()) as u64 / 16)?;
        found.ok_or_else(|| self.end())
    }

    #[inline]
    fn skip(&mut self, len: usize) -> Result<()> {
        self.take(len).map(drop)
    }

    #[inline]
    fn split(&mut self, len: usize) -> Result<Self> {
        let bytes = self.take(len)?;
        Ok(Self { bytes, guard: self.guard })
    }

    #[inline]
    fn skip_leb128(&mut self) -> Result<()> {
        match self.take_short_leb128()? {
            Some(_) => Ok(()),
            None => leb128::read::skip(self),
        }
    }

    #[inline]
    fn read_uleb128(&mut self) -> Result<u64> {
        match self.take_short_leb128()? {
            Some(value) => Ok(value.into()),
            None => leb128::read::unsigned(self),
        }
    }

    #[inline]
    fn read_uleb128_u16(&mut self) -> Result<u16> {
        match self.take_short_leb128()? {
            Some(value) => Ok(value.into()),
            None => leb128::read::u16(self),
        }
    }

    fn to_slice(&self) -> Result<Cow<'_, [u8]>> {
        Ok(Cow::Borrowed(self.bytes))
    }

    fn to_string(&self) -> Result<Cow<'_, str>> {
        std::str::from_utf8(self.bytes).map(Cow::Borrowed).map_err(|_| gimli::Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> Result<Cow<'_, str>> {
        let bytes = self.bytes.get(..MAX_STRING_BYTES).unwrap_or(self.bytes);
        // The parsers keep copies of these.
        self.guard.charge(bytes.len() as u64 / 16)?;
        Ok(String::from_utf8_lossy(bytes))
    }

    #[inline]
    fn read_slice(&mut self, buffer: &mut [u8]) -> Result<()> {
        let bytes = self.take(buffer.len())?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    #[inline]
    fn read_u8(&mut self) -> Result<u8> {
        self.guard.charge(1)?;
        let (byte, rest) = self.bytes.split_first().ok_or_else(|| self.end())?;
        self.bytes = rest;
        Ok(*byte)
    }
}

#[cfg(test)]
mod tests {
    use gimli::Reader as _;

    use super::*;

    /// Reads succeed until the budget is spent, then fail for good, until more is allowed.
    #[test]
    fn reads_fail_when_the_budget_is_spent() {
        let bytes = vec![1; 2_000_000];
        let released = Cell::new(0);
        let release = || released.set(released.get() + 1);
        let guard = Guard::new(&release);
        let mut reader = GuardedReader::new(&bytes, &guard);
        assert!(reader.read_u8().is_err(), "nothing allowed yet");
        guard.allow(1_200_000);
        let count = std::iter::from_fn(|| reader.read_u8().ok()).count();
        assert!((1_190_000..=1_200_000).contains(&count), "{count}");
        assert!(reader.read_u8().is_err() && reader.skip(0).is_err());
        assert_eq!(released.get(), 1);
        guard.allow(1000);
        assert!(reader.read_u32().is_ok());
    }

    /// A recursion that reads at each level is ended before the stack is.
    #[test]
    fn deep_recursion_fails_to_read() {
        fn descend(reader: &mut GuardedReader<'_>, depth: u64) -> u64 {
            let ballast = std::hint::black_box([depth; 16]);
            match reader.read_u8() {
                Ok(_) => descend(reader, depth + 1).max(std::hint::black_box(ballast)[0]),
                Err(_) => depth,
            }
        }
        let depth = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
            let bytes = vec![1; 10_000_000];
            let guard = Guard::new(&|| {});
            guard.allow(u64::MAX / 2);
            descend(&mut GuardedReader::new(&bytes, &guard), 0)
        });
        let depth = depth.expect("thread").join().expect("no overflow");
        assert!((1000..10_000_000).contains(&depth), "{depth}");
    }
}
