//! What the descriptors of a process stand for, as `/proc/PID/fd` tells it.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::path;

/// The path of the file that descriptor `number` of `pid` stands for, as the process sees it; `None` unless it is the
/// inode `inode`: the number may stand for another file by now.
pub fn file_of_descriptor(pid: u32, number: u64, inode: u64) -> Option<String> {
    let link = path(pid, &format!("fd/{number}"));
    let target = std::fs::read_link(&link).ok()?;
    // Behind the link, so that a number that was used again between the two is not believed.
    (std::fs::metadata(&link).ok()?.ino() == inode).then(|| target.to_string_lossy().into_owned())
}

/// The inode of the socket that descriptor `number` of `pid` stands for; `None` for anything else, and where the process
/// is gone or may not be traced.
pub fn socket_of_descriptor(pid: u32, number: u32) -> Option<u64> {
    socket_behind(&path(pid, &format!("fd/{number}")))
}

/// The inodes of the sockets among the first `count` descriptors of `pid`, ascending by descriptor; none when it is gone
/// or may not be traced.
pub fn sockets(pid: u32, count: usize) -> impl Iterator<Item = u64> {
    let entries = std::fs::read_dir(path(pid, "fd")).into_iter().flatten();
    entries.take(count).filter_map(|entry| socket_behind(&entry.ok()?.path()))
}

fn socket_behind(link: &Path) -> Option<u64> {
    parse_socket(std::fs::read_link(link).ok()?.as_os_str().as_bytes())
}

/// The link of a socket is `socket:[INODE]` (proc_pid_fd(5)). A file may be called so, but its link is an absolute path.
fn parse_socket(link: &[u8]) -> Option<u64> {
    let inode = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(inode).ok()?.parse().ok()
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

    /// A socket of our own has its inode and is among our descriptors; a file, and a number that stands for nothing, are
    /// no sockets.
    #[test]
    fn sockets_have_their_inodes() {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("sockets can be made");
        let file = std::fs::File::open("/proc/self/exe").expect("it is there");
        let pid = std::process::id();
        let of = |number: i32| socket_of_descriptor(pid, u32::try_from(number).expect("it is open"));
        let (one, other) = (of(one.as_raw_fd()).expect("a socket"), of(other.as_raw_fd()).expect("a socket"));
        assert_ne!(one, other);
        assert_eq!((of(file.as_raw_fd()), of(i32::MAX)), (None, None));
        let all: Vec<u64> = sockets(pid, usize::MAX).collect();
        assert!(all.contains(&one) && all.contains(&other), "{all:?}");
        assert_eq!(sockets(pid, 0).count(), 0);
    }

    /// Links of other shapes are of no sockets.
    #[test]
    fn links_of_sockets_are_told_from_others() {
        assert_eq!(parse_socket(b"socket:[4711]"), Some(4711));
        for link in
            [&b"/socket:[4711]"[..], b"socket:[4711", b"socket:[]", b"pipe:[4711]", b"socket:[\xff]", b""]
        {
            assert_eq!(parse_socket(link), None, "{link:?}");
        }
    }
}
