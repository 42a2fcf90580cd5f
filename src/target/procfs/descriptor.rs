//! What the descriptors of a process stand for, as `/proc/PID/fd` tells it.

use std::os::unix::fs::MetadataExt;

use super::path;

/// The path of the file that descriptor `number` of `pid` stands for, as the process sees it; `None` unless it is the
/// inode `inode`: the number may stand for another file by now.
pub fn file_of_descriptor(pid: u32, number: u64, inode: u64) -> Option<String> {
    let link = path(pid, &format!("fd/{number}"));
    let target = std::fs::read_link(&link).ok()?;
    // Behind the link, so that a number that was used again between the two is not believed.
    (std::fs::metadata(&link).ok()?.ino() == inode).then(|| target.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// A file of our own has its path, under its own inode only; a number that stands for nothing has none.
    #[test]
    fn descriptor_has_the_path_of_its_inode() {
        let file = std::fs::File::open("/proc/self/exe").expect("it is there");
        let inode = file.metadata().expect("it is open").ino();
        let (pid, number) = (std::process::id(), file.as_raw_fd() as u64);
        let exe = std::fs::read_link("/proc/self/exe").expect("it is a link");
        assert_eq!(file_of_descriptor(pid, number, inode), Some(exe.to_string_lossy().into_owned()));
        assert_eq!(file_of_descriptor(pid, number, inode + 1), None);
        assert_eq!(file_of_descriptor(pid, 1 << 40, inode), None);
    }
}
