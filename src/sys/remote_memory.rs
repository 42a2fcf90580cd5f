//! Reads another process's memory, as it runs.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::{Error, ErrorKind, Result, ResultExt};

/// Fills `buffer` from `address` of process `pid`. Fails when the process is gone, may not be
/// traced, or has no such memory; a part that could be read is not told.
pub fn read(pid: u32, address: u64, buffer: &mut [u8]) -> Result<()> {
    let intent = || format!("failed to read memory of process {pid} at {address:#x}");
    let wanted = buffer.len();
    if read_prefix(pid, address, buffer).context(intent)? == wanted {
        Ok(())
    } else {
        Err(Error::new(ErrorKind::System, "memory ends early").context(intent()))
    }
}

/// As [`read`], as far as there is memory: how many bytes of `buffer` were filled, up to the end of a
/// page at least.
pub fn read_prefix(pid: u32, address: u64, buffer: &mut [u8]) -> nix::Result<usize> {
    let base = usize::try_from(address).unwrap_or(usize::MAX);
    let remote = [RemoteIoVec { base, len: buffer.len() }];
    process_vm_readv(Pid::from_raw(pid.cast_signed()), &mut [IoSliceMut::new(buffer)], &remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own memory is read as it is; an address that is not mapped is an error.
    #[test]
    fn memory_is_read_or_refused() {
        let secret = [1u8, 2, 3, 4];
        let mut copy = [0; 4];
        read(std::process::id(), secret.as_ptr() as u64, &mut copy).expect("own memory");
        assert_eq!(copy, secret);
        assert!(read(std::process::id(), 8, &mut copy).is_err());
        assert!(read(std::process::id(), u64::MAX, &mut copy).is_err());
    }
}
