//! Control groups: which processes a service, container or slice consists of.
//!
//! A group is a directory in a hierarchy. There is one unified hierarchy (v2) and, on older
//! set-ups, one per set of controllers (v1); each may be mounted anywhere, and from a
//! container only a part of it. `/proc/PID/cgroup` names a process's group in each (cgroups(7)):
//!
//! ```text
//! 4:memory:/system.slice/nginx.service      v1: number, controllers, path
//! 0::/system.slice/nginx.service            v2
//! ```
//!
//! Paths there and in `/proc/self/mountinfo` are both relative to our cgroup namespace.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::procfs;
use crate::{Error, ErrorKind, Result, ResultExt};

/// One control group with all groups below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// As the second field of `/proc/PID/cgroup`: empty for v2.
    controllers: String,
    /// As the third field: `/` or without a slash at its end.
    path: PathBuf,
    /// Where it is mounted.
    directory: PathBuf,
}

impl Cgroup {
    /// Finds the group that `name` means: a directory such as `/sys/fs/cgroup/system.slice`, or
    /// a path as `/proc/PID/cgroup` shows it, with or without the slash in front. Such a
    /// path is looked for in v2 first.
    ///
    /// Fails with `NotFound` when there is no such group.
    pub fn find(name: &Path) -> Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo")
            .context(|| "failed to read `/proc/self/mountinfo`".to_owned())?;
        let mut hierarchies = parse_mounts(&text);
        hierarchies.sort_by_key(|hierarchy| !hierarchy.controllers.is_empty());
        let candidates = hierarchies.iter().filter_map(|hierarchy| hierarchy.below(name));
        let inside = hierarchies.iter().filter_map(|hierarchy| hierarchy.named(name));
        candidates.chain(inside).find(|group| group.directory.is_dir()).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("no control group `{}`", name.display()))
                .with_hint("`systemd-cgls` or `cat /proc/PID/cgroup` shows control groups")
        })
    }

    /// Whether `pid` is in this group or one below it; a process that is gone is not.
    pub fn contains(&self, pid: u32) -> bool {
        procfs::read_small(pid, "cgroup").is_ok_and(|text| self.is_named_in(&text))
    }

    /// Where the group is found in the file system.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the text of a `/proc/PID/cgroup` names this group or one below it.
    fn is_named_in(&self, text: &[u8]) -> bool {
        text.split(|byte| *byte == b'\n').any(|line| {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (_number, controllers, path) = (fields.next(), fields.next(), fields.next());
            controllers == Some(self.controllers.as_bytes())
                && path
                    .is_some_and(|path| Path::new(std::ffi::OsStr::from_bytes(path)).starts_with(&self.path))
        })
    }
}

/// A mounted hierarchy, or the part of one that is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    controllers: String,
    /// The group that is mounted.
    root: PathBuf,
    mount_point: PathBuf,
}

impl Hierarchy {
    /// The group whose directory `directory` is, if that is below the mount point.
    fn below(&self, directory: &Path) -> Option<Cgroup> {
        let tail = directory.strip_prefix(&self.mount_point).ok()?;
        Some(self.group(tail))
    }

    /// The group that `/proc/PID/cgroup` calls `path`, if that is in the mounted part.
    fn named(&self, path: &Path) -> Option<Cgroup> {
        let absolute = Path::new("/").join(path);
        Some(self.group(absolute.strip_prefix(&self.root).ok()?))
    }

    fn group(&self, tail: &Path) -> Cgroup {
        // `components` drops the slash that joining an empty tail leaves.
        let join = |base: &Path| base.join(tail).components().collect();
        Cgroup {
            controllers: self.controllers.clone(),
            path: join(&self.root),
            directory: join(&self.mount_point),
        }
    }
}

/// The cgroup mounts in the text of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)):
///
/// ```text
/// 30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
/// 3: device  4: root  5: mount point      options   optional - type  source  super options
/// ```
fn parse_mounts(text: &[u8]) -> Vec<Hierarchy> {
    let text = String::from_utf8_lossy(text);
    text.lines().filter_map(parse_mount).collect()
}

fn parse_mount(line: &str) -> Option<Hierarchy> {
    let (mount, system) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, mount_point) = (fields.next()?, fields.next()?);
    let mut fields = system.split(' ');
    let controllers = match fields.next()? {
        "cgroup2" => String::new(),
        "cgroup" => {
            // Options of the mount itself stand beside the controllers.
            let options = fields.nth(1)?.split(',');
            let is_controller = |option: &&str| {
                !["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"]
                    .contains(option)
                    && !option.starts_with("release_agent=")
            };
            options.filter(is_controller).collect::<Vec<_>>().join(",")
        }
        _ => return None,
    };
    // A mount from outside our cgroup namespace has a root like `/..`, whose groups have no name here.
    Some(Hierarchy { controllers, root: unescape(root), mount_point: unescape(mount_point) })
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(path: &str) -> PathBuf {
    let plain = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    plain.iter().fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOUNTS: &[u8] = b"\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/a,name=systemd\n\
32 25 0:28 /docker/12 /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw,nsdelegate\n";

    /// Both versions are found with controllers as `/proc/PID/cgroup` writes them.
    #[test]
    fn mounts_of_both_versions_are_found() {
        let hierarchies = parse_mounts(MOUNTS);
        let controllers: Vec<_> = hierarchies.iter().map(|mount| mount.controllers.as_str()).collect();
        assert_eq!(controllers, ["cpu,cpuacct", "name=systemd", ""]);
        assert_eq!(hierarchies[2].mount_point, Path::new("/sys/fs/cgroup/uni fied"));
        assert_eq!(hierarchies[2].root, Path::new("/docker/12"));
    }

    /// Both ways of naming a group agree, and groups below belong to it but not those with a similar name.
    #[test]
    fn groups_below_belong_to_the_group() {
        let unified = &parse_mounts(MOUNTS)[2];
        let by_directory =
            unified.below(Path::new("/sys/fs/cgroup/uni fied/web/")).expect("below the mount point");
        let by_path = unified.named(Path::new("docker/12/web")).expect("below the mounted root");
        assert_eq!(by_directory, by_path);
        assert!(by_path.is_named_in(b"7:cpu,cpuacct:/\n0::/docker/12/web\n"));
        assert!(by_path.is_named_in(b"0::/docker/12/web/a:b"));
        assert!(!by_path.is_named_in(b"0::/docker/12/web2\n"));
        assert!(!by_path.is_named_in(b"7:cpu,cpuacct:/docker/12/web\n"));
        assert!(unified.named(Path::new("/docker/13")).is_none());
        let everything = unified.below(Path::new("/sys/fs/cgroup/uni fied")).expect("the mount point");
        assert!(everything.is_named_in(b"0::/docker/12/db\n"));
    }

    proptest! {
        /// Any bytes in place of either file: no panic.
        #[test]
        fn any_bytes_do_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_mounts(&noise);
            parse_mounts(&[b"1 1 0:1 / /m rw - cgroup ", noise.as_slice()].concat());
            parse_mounts(MOUNTS)[0].group(Path::new("a")).is_named_in(&noise);
        }
    }
}
