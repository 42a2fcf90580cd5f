//! Read-only views of whole files that other people own.
//!
//! A mapped file can be truncated while we read it, which raises `SIGBUS`.
//! The first mapping installs a handler that puts a page of zeros where the
//! file ended, so that a shrinking file reads as a corrupt one and nothing else.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;
use std::sync::Once;

use crate::{Error, ErrorKind, Result, ResultExt};

/// A file mapped read-only and privately. Empty files give an empty slice.
#[derive(Debug)]
pub struct FileMap {
    map: Option<memmap2::Mmap>,
}

impl FileMap {
    /// Opens and maps the regular file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let intent = || format!("failed to open `{}`", path.display());
        Self::map(&File::open(path).context(intent)?).context(intent)
    }

    /// Maps all of `file`, which may be closed afterwards. Only regular files
    /// are accepted: a device or pipe could block or have side effects.
    pub fn map(file: &File) -> Result<Self> {
        let metadata = file.metadata().context(|| "fstat".to_owned())?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Corrupt, "not a regular file"));
        }
        if metadata.len() == 0 {
            return Ok(Self { map: None });
        }
        install_bus_handler();
        // SAFETY: the slice may change under us when somebody writes to the file; all readers
        // treat the bytes as hostile and copy nothing out by reference to other types. Truncation
        // is turned into zeros by the SIGBUS handler installed above.
        let map = unsafe { memmap2::Mmap::map(file) }.context(|| "mmap".to_owned())?;
        Ok(Self { map: Some(map) })
    }

    /// Tells the kernel that the pages read so far are not needed for now; they
    /// leave our resident set and come back from the page cache when touched.
    pub fn release(&self) {
        if let Some(map) = &self.map {
            // SAFETY: MADV_DONTNEED on a private read-only file mapping loses nothing; the pages
            // are read again from the file.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }
}

impl Deref for FileMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }
}

static BUS_HANDLER: Once = Once::new();

fn install_bus_handler() {
    BUS_HANDLER.call_once(|| {
        // SAFETY: an all-zero sigaction is a valid value of this plain C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: `action` is initialised and lives across the call; the handler only calls
        // async-signal-safe system calls.
        unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) };
    });
}

/// Replaces the page behind the end of a truncated file by zeros; any other
/// bus error ends the program as it would have without this handler.
extern "C" fn on_bus_error(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    /// Page size of x86-64 and of most aarch64 kernels; a larger page makes the mmap fail, which is fatal as before.
    const PAGE_BYTES: usize = 4096;
    // SAFETY: the kernel passes a valid siginfo to a SA_SIGINFO handler.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let page = (address & !(PAGE_BYTES - 1)) as *mut libc::c_void;
    if code == libc::BUS_ADRERR {
        // SAFETY: a file-backed page that raised BUS_ADRERR has no content to lose; MAP_FIXED
        // replaces just that page by zeros.
        let mapped = unsafe {
            libc::mmap(
                page,
                PAGE_BYTES,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped == page {
            return;
        }
    }
    // SAFETY: restoring the default action and returning re-raises the fault fatally.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file truncated after mapping reads as zeros; the program survives.
    #[test]
    fn truncated_file_reads_as_zeros() {
        let mut file = tempfile::tempfile().expect("temporary file");
        file.write_all(&[7; 3 * 4096]).expect("write");
        let map = FileMap::map(&file).expect("map");
        assert_eq!(map[4096], 7);
        file.set_len(100).expect("truncate");
        assert_eq!(map[2 * 4096 + 5], 0);
        assert_eq!(map.len(), 3 * 4096);
    }

    /// Directories and devices are refused, empty files are empty.
    #[test]
    fn only_regular_files_are_mapped() {
        assert!(FileMap::open(Path::new("/dev/zero")).is_err());
        let empty = tempfile::tempfile().expect("temporary file");
        assert!(FileMap::map(&empty).expect("map").is_empty());
    }
}
