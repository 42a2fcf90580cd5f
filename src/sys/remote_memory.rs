//! Reading another process's memory without stopping it.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::{Error, ErrorKind, Result};

/// Bytes read by one call: enough for the largest vDSO, small enough to be over in a millisecond.
pub const MAX_READ_BYTES: usize = 1 << 20;

/// Page size of x86-64 and the smallest of aarch64: reads are split there, since the
/// kernel stops at the first unreadable page but says so only for whole ranges.
const PAGE_BYTES: u64 = 4096;

/// Reads the memory of `pid` from `address` on into `buffer`, at most [`MAX_READ_BYTES`].
/// Answers how many bytes were read: fewer than asked for, or none, where memory is not
/// mapped or not readable. The bytes may change while they are read.
///
/// Fails with `NotFound` when the process is gone and `PermissionDenied` when it may not be traced.
pub fn read(pid: u32, address: u64, buffer: &mut [u8]) -> Result<usize> {
    let wanted = buffer.len().min(MAX_READ_BYTES);
    let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else {
        return Ok(0);
    };
    let target = i32::try_from(pid).ok().filter(|pid| *pid > 0);
    let target = target.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no process {pid}")))?;
    match process_vm_readv(
        Pid::from_raw(target),
        &mut [IoSliceMut::new(buffer)],
        &pages(address, wanted as u64),
    ) {
        Ok(count) => Ok(count),
        Err(nix::Error::EFAULT) => Ok(0),
        Err(errno) => Err(Error::from_io(
            format!("failed to read memory of process {pid} at {address:#x}"),
            errno.into(),
        )),
    }
}

/// The range `[address, address + length)`, split at page boundaries; cut where addresses end.
fn pages(address: u64, length: u64) -> Vec<RemoteIoVec> {
    let end = address.saturating_add(length);
    let mut pages = Vec::new();
    let mut base = address;
    while base < end {
        let next = (base | (PAGE_BYTES - 1)).saturating_add(1).min(end);
        pages.push(RemoteIoVec { base: base as usize, len: (next - base) as usize });
        base = next;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What this process wrote is what is read of it, across pages.
    #[test]
    fn own_memory_is_read_back() {
        let written: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        let mut seen = vec![0; written.len()];
        let count = read(std::process::id(), written.as_ptr() as u64, &mut seen).expect("own memory");
        assert_eq!(count, written.len());
        assert_eq!(seen, written);
    }

    /// A range whose second page has no content gives what is on the first page alone.
    #[test]
    fn read_stops_at_the_first_unreadable_page() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(PAGE_BYTES).expect("one page");
        // SAFETY: nobody writes to the file, and the page behind its end is not touched by us.
        let map = unsafe { memmap2::MmapOptions::new().len(2 * PAGE_BYTES as usize).map(&file) };
        let map = map.expect("two pages, of which one has content");
        let mut seen = [7; PAGE_BYTES as usize];
        let address = map.as_ptr() as u64 + 96;
        let count = read(std::process::id(), address, &mut seen).expect("own memory");
        assert_eq!(count, PAGE_BYTES as usize - 96);
        assert_eq!(seen.map(usize::from).iter().sum::<usize>(), 7 * 96);
        assert_eq!(read(std::process::id(), 0, &mut seen).expect("unmapped memory"), 0);
        assert_eq!(read(std::process::id(), u64::MAX - 4, &mut seen).expect("no such addresses"), 0);
    }

    /// A process that does not exist is not found, whatever the number.
    #[test]
    fn missing_process_is_not_found() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let error = read(pid, 4096, &mut [0; 8]).expect_err("no such process");
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
    }
}
