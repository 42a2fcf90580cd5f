//! Which processes and threads there are, and who started whom.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use crate::{ErrorKind, Result, ResultExt};

/// All processes that `/proc` shows, ascending; at most the kernel's 4,194,304 (2²²) pids.
pub fn pids() -> Result<Vec<u32>> {
    numbered_entries(Path::new("/proc")).context(|| "failed to list `/proc`".to_owned())
}

/// The threads of `pid`, ascending, the main one included unless it has ended.
pub fn thread_ids(pid: u32) -> Result<Vec<u32>> {
    numbered_entries(&super::path(pid, "task")).context(|| format!("failed to list threads of process {pid}"))
}

/// All children of `roots`, their children and so on, ascending; `roots` are not
/// included unless one descends from another. Processes that come or go meanwhile
/// may be missed.
pub fn descendants(roots: &[u32]) -> Result<Vec<u32>> {
    let has_children_files = Path::new("/proc/thread-self/children").exists();
    let tree = if has_children_files { HashMap::new() } else { children_of_all()? };
    let mut found = BTreeSet::new();
    let mut todo = roots.to_vec();
    while let Some(pid) = todo.pop() {
        let children = if has_children_files {
            read_children(pid)?
        } else {
            tree.get(&pid).cloned().unwrap_or_default()
        };
        todo.extend(children.iter().filter(|child| found.insert(**child)));
    }
    Ok(found.into_iter().collect())
}

/// The living and ended children of all threads of `pid`; none when it is gone.
fn read_children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    let threads = or_none_if_gone(thread_ids(pid))?;
    for tid in threads {
        let text = super::read_bounded(pid, &format!("task/{tid}/children"), MAX_CHILDREN_BYTES);
        children.extend(parse_pids(&or_none_if_gone(text)?));
    }
    Ok(children)
}

fn or_none_if_gone<T: Default>(result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

/// Each parent with its children, by one look at every process: for kernels
/// built without CONFIG_PROC_CHILDREN.
fn children_of_all() -> Result<HashMap<u32, Vec<u32>>> {
    let mut tree: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in pids()? {
        // Whatever cannot be read has just ended.
        if let Ok(stat) = super::read_stat(pid) {
            tree.entry(stat.parent_pid).or_default().push(pid);
        }
    }
    Ok(tree)
}

/// 2²² pids of 7 digits and a space.
const MAX_CHILDREN_BYTES: u64 = 8 << 22;

fn parse_pids(text: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let words = text.split(|byte| byte.is_ascii_whitespace());
    words.filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

fn numbered_entries(directory: &Path) -> std::io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words that are no pids are passed over.
    #[test]
    fn pids_are_read_from_any_text() {
        assert_eq!(parse_pids(b"12 x 7\n99999999999 \xff 3 ").collect::<Vec<_>>(), [12, 7, 3]);
    }
}
