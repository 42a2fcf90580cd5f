//! The tables that the walker searches, as plain memory: that of BPF maps,
//! which the kernel reads at any time, or our own, where the walker is ours.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::{RULE_CAPACITY, TableMapping, TablePython};
use crate::{Error, ErrorKind, Result};

/// How many elements each table has.
#[derive(Clone, Copy, Debug)]
pub struct TableCapacity {
    /// Elements of `rows`, 4 bytes each.
    pub rows: u32,
    /// Elements of `pages`, 8 bytes each.
    pub pages: u32,
    /// Elements of `mappings`, 40 bytes each.
    pub mappings: u32,
    /// Elements of `pythons`, 112 bytes each.
    pub pythons: u32,
}

/// The four tables of unwind rows.
#[derive(Debug)]
pub struct TableMemory {
    /// `struct mapping[]`.
    pub mappings: SharedArray<TableMapping>,
    /// `struct page[]`, as one word each: `row_count << 32 | first_row`.
    pub pages: SharedArray<u64>,
    /// `row_t[]`.
    pub rows: SharedArray<u32>,
    /// `struct rule[]`, as words.
    pub rules: SharedArray<u64>,
}

impl TableMemory {
    /// Our own memory, all zero, and that of the interpreters. What is never written takes no room.
    pub fn anonymous(capacity: TableCapacity) -> Result<(Self, SharedArray<TablePython>)> {
        let tables = Self {
            mappings: SharedArray::anonymous(capacity.mappings as usize)?,
            pages: SharedArray::anonymous(capacity.pages as usize)?,
            rows: SharedArray::anonymous(capacity.rows as usize)?,
            rules: SharedArray::anonymous(RULE_CAPACITY)?,
        };
        Ok((tables, SharedArray::anonymous(capacity.pythons as usize)?))
    }
}

/// An array of `T` in shared memory. With the kernel on the other side only unused parts are
/// written, except for single words, which change atomically.
#[derive(Debug)]
pub struct SharedArray<T> {
    memory: NonNull<T>,
    len: usize,
}

// SAFETY: the mapping is owned by this value and not tied to a thread.
unsafe impl<T: Send> Send for SharedArray<T> {}

/// What may be in such an array: bytes of zero are a value.
pub trait Plain: Copy {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for TablePython {}
impl Plain for TableMapping {}

impl<T: Plain> SharedArray<T> {
    /// The single element of an mmap-able BPF array, seen as `len` elements of `T`.
    pub fn of_bpf_array(map: BorrowedFd<'_>, len: usize) -> Result<Self> {
        Self::map(libc::MAP_SHARED, map.as_raw_fd(), len)
    }

    /// `len` elements of our own, all zero.
    pub fn anonymous(len: usize) -> Result<Self> {
        Self::map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, -1, len)
    }

    fn map(flags: i32, fd: i32, len: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping. The kernel refuses a length beyond a BPF array's own size
        // rounded to pages; anonymous memory is as long as asked for.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), len * size_of::<T>(), protection, flags, fd, 0) };
        if address == libc::MAP_FAILED {
            return Err(Error::from_io("failed to map a table", std::io::Error::last_os_error()));
        }
        let memory = NonNull::new(address.cast());
        let memory = memory.ok_or_else(|| Error::new(ErrorKind::System, "mmap returned null"))?;
        Ok(Self { memory, len })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element at `index`.
    pub fn get(&self, index: usize) -> Option<T> {
        // SAFETY: in bounds. What is there is zero or was written by `write` and `store`, a `T` either way:
        // the kernel does not write to these arrays.
        (index < self.len).then(|| unsafe { self.memory.as_ptr().add(index).read_volatile() })
    }

    /// Writes `values` from element `first` on; the caller makes sure that the
    /// kernel does not use these elements now. Values beyond the end are not
    /// written and `false` is returned.
    pub fn write(&mut self, first: usize, values: impl ExactSizeIterator<Item = T>) -> bool {
        if first.checked_add(values.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        for (index, value) in (first..self.len).zip(values) {
            // SAFETY: `index` is below `len`, the mapped length; `zip` stops at `self.len` even if
            // the iterator lied about its own.
            unsafe { self.memory.as_ptr().add(index).write_volatile(value) };
        }
        true
    }
}

impl SharedArray<u64> {
    /// Replaces one word atomically, after everything written before.
    pub fn store(&self, index: usize, value: u64) -> bool {
        if index >= self.len {
            return false;
        }
        // SAFETY: in bounds as just checked; the mapping is page aligned, hence the word is.
        let word = unsafe { &*self.memory.as_ptr().add(index).cast::<AtomicU64>() };
        word.store(value, Ordering::Release);
        true
    }
}

impl<T> Drop for SharedArray<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the range mapped in `map`; nothing borrows from it.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.len * size_of::<T>()) };
    }
}
