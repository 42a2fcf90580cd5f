//! Names of code generated at run time, from the text file that node, the
//! JVM, .NET, Python 3.12+ and others write: `/tmp/perf-PID.map`.
//!
//! One line per piece of code, appended as it is generated: start and size in
//! hexadecimal, and everything behind the second space is the name
//! (`tools/perf/Documentation/jit-interface.txt` of Linux).
//!
//! ```text
//! 7f3c1a0 40 LazyCompile:~handle server.js:12
//! ```
//!
//! Code memory is reused, so a later line replaces what it overlaps of earlier
//! ones. The file grows while we look, so parsing resumes where it stopped,
//! at the last complete line. The writer is not trusted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::model::{Avma, Frame, FrameKind};
use crate::target::namespace::{self, Root};
use crate::{Result, ResultExt};

/// Pieces of code kept. Node with a large application writes 100,000; each
/// takes about 150 bytes. Lines beyond are counted by [`PerfMap::ignored`].
const MAX_ENTRIES: usize = 400_000;

/// Bytes of all names kept.
const MAX_NAMES_BYTES: usize = 48 << 20;

/// Longest name; the rest is cut.
const MAX_NAME_BYTES: usize = 1024;

/// Longest line; longer ones are skipped.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Bytes of one file that are ever read.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// The module name of generated code.
pub const JIT_MODULE: &str = "[jit]";

/// What a process generated, by address.
#[derive(Debug, Default)]
pub struct PerfMap {
    /// Disjoint ranges by start.
    entries: BTreeMap<u64, Entry>,
    names_bytes: usize,
    /// The beginning of a line whose end has not been appended yet.
    partial: Vec<u8>,
    /// Inside a line longer than [`MAX_LINE_BYTES`].
    skipping: bool,
    ignored: u64,
}

#[derive(Debug, Clone)]
struct Entry {
    end: u64,
    name: std::sync::Arc<str>,
}

impl PerfMap {
    /// Adds the lines in `text`, which continues what was given before; it may
    /// begin and end in the middle of a line. Other lines are skipped and counted.
    pub fn append(&mut self, text: &[u8]) {
        let mut rest = text;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = rest.split_at(end);
            rest = behind.get(1..).unwrap_or_default();
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if self.partial.is_empty() {
                self.add_line(line);
            } else {
                let mut whole = std::mem::take(&mut self.partial);
                whole.extend_from_slice(line);
                self.add_line(&whole);
            }
        }
        if !self.skipping {
            self.partial.extend_from_slice(rest.get(..MAX_LINE_BYTES).unwrap_or(rest));
            if self.partial.len() >= MAX_LINE_BYTES {
                self.partial = Vec::new();
                self.skipping = true;
                self.ignored += 1;
            }
        }
    }

    /// The generated function at `address`; `None` where nothing was announced.
    pub fn resolve(&self, address: Avma) -> Option<Frame> {
        let (_, entry) = self.entries.range(..=address.0).next_back()?;
        let module = Some(JIT_MODULE.into());
        (address.0 < entry.end).then(|| Frame { module, ..Frame::named(FrameKind::Jit, &*entry.name) })
    }

    /// Number of pieces known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lines that had another form or came when the map was full.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn add_line(&mut self, line: &[u8]) {
        match parse_line(line) {
            Some((start, end, name)) if self.has_room() => self.insert(start, end, &name),
            _ if line.is_empty() => {}
            _ => self.ignored += 1,
        }
    }

    fn has_room(&self) -> bool {
        self.entries.len() < MAX_ENTRIES && self.names_bytes < MAX_NAMES_BYTES
    }

    /// Makes `name` the owner of `[start, end)`; what it covers in part keeps its other parts.
    fn insert(&mut self, start: u64, end: u64, name: &str) {
        let before = self.entries.range(..start).next_back();
        if let Some((begin, old)) =
            before.filter(|(_, old)| old.end > start).map(|(at, old)| (*at, old.clone()))
        {
            if old.end > end {
                self.names_bytes += old.name.len();
                self.entries.insert(end, old.clone());
            }
            self.entries.insert(begin, Entry { end: start, ..old });
        }
        while let Some((begin, _)) = self.entries.range(start..end).next() {
            let begin = *begin;
            let Some(old) = self.entries.remove(&begin) else { break };
            if old.end > end {
                self.entries.insert(end, old);
                break;
            }
            self.names_bytes = self.names_bytes.saturating_sub(old.name.len());
        }
        self.names_bytes += name.len();
        self.entries.insert(start, Entry { end, name: name.into() });
    }
}

/// `START SIZE NAME`; sizes of 0 and ranges past the end of memory are refused.
fn parse_line(line: &[u8]) -> Option<(u64, u64, String)> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let start = parse_hex(words.next()?)?;
    let size = parse_hex(words.next()?)?;
    let name = words.next()?;
    let name = String::from_utf8_lossy(name.get(..MAX_NAME_BYTES).unwrap_or(name));
    let name: String = name.trim().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let end = start.checked_add(size)?;
    (size > 0 && !name.is_empty()).then_some((start, end, name))
}

fn parse_hex(word: &[u8]) -> Option<u64> {
    let word = std::str::from_utf8(word).ok()?;
    let digits = word.strip_prefix("0x").unwrap_or(word);
    // `from_str_radix` would accept a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// The map file of one process: found again and read further at each call.
#[derive(Debug)]
pub struct PerfMapReader {
    pid: u32,
    /// The file being read: device, inode, and how far it has been read.
    position: Option<(u64, u64, u64)>,
    map: PerfMap,
}

impl PerfMapReader {
    /// A reader that has read nothing yet. `pid` as we see it.
    pub fn new(pid: u32) -> Self {
        Self { pid, position: None, map: PerfMap::default() }
    }

    /// What has been read so far; stays after the process has gone.
    pub fn map(&self) -> &PerfMap {
        &self.map
    }

    /// Reads what was appended since the last call. A file that was replaced or
    /// cut is read from its beginning, over what is known. A process without such
    /// a file, or one that has exited, is an ordinary answer: nothing changes.
    pub fn refresh(&mut self) -> Result<()> {
        let Some(file) = find(self.pid) else { return Ok(()) };
        let intent = || format!("failed to read the perf map of process {}", self.pid);
        let metadata = file.metadata().context(intent)?;
        let (device, inode, size) = (metadata.dev(), metadata.ino(), metadata.len().min(MAX_FILE_BYTES));
        let mut offset = match self.position {
            Some((known_device, known_inode, offset))
                if (known_device, known_inode) == (device, inode) && offset <= size =>
            {
                offset
            }
            _ => {
                self.map.partial = Vec::new();
                self.map.skipping = false;
                0
            }
        };
        let mut buffer = vec![0; 256 * 1024];
        while offset < size {
            let count = file.read_at(&mut buffer, offset).context(intent)?;
            if count == 0 {
                break;
            }
            self.map.append(buffer.get(..count).unwrap_or_default());
            offset += count as u64;
        }
        self.position = Some((device, inode, offset));
        Ok(())
    }
}

/// The map of process `pid`: below its own root and under the pid it has
/// itself, else here under the pid we know. Only a regular file that belongs to
/// the process's user or to root is believed, as `perf` does.
fn find(pid: u32) -> Option<File> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // `Uid:` real, effective, saved, file system.
    let uid: u32 = field("Uid:")?.split_whitespace().nth(1)?.parse().ok()?;
    let inner = namespace::innermost_pid(pid).unwrap_or(pid);
    let places = [(PathBuf::from(format!("/proc/{pid}/root")), inner), (PathBuf::from("/"), pid)];
    places.iter().find_map(|(root, id)| find_below(root, *id, uid))
}

fn find_below(root: &Path, pid: u32, uid: u32) -> Option<File> {
    let file = Root::open(root).ok()?.open_file(Path::new(&format!("/tmp/perf-{pid}.map"))).ok()?;
    let owner = file.metadata().ok()?.uid();
    (owner == uid || owner == 0).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(map: &PerfMap, address: u64) -> Option<String> {
        map.resolve(Avma(address)).map(|frame| frame.function.into_string())
    }

    /// Names keep their spaces, ranges are half open, odd lines are skipped and counted.
    #[test]
    fn lines_name_their_range() {
        let mut map = PerfMap::default();
        map.append(b"1000 20 LazyCompile:~f a.js:1\n0x2000 10 g\nnonsense\n3000 0 empty\n-4 10 sign\n\n");
        assert_eq!(named(&map, 0x1000).as_deref(), Some("LazyCompile:~f a.js:1"));
        assert_eq!(named(&map, 0x101f).as_deref(), Some("LazyCompile:~f a.js:1"));
        assert_eq!(named(&map, 0x1020), None);
        assert_eq!(named(&map, 0x2005).as_deref(), Some("g"));
        assert_eq!((map.len(), map.ignored()), (2, 3));
    }

    /// Appending in pieces cut anywhere gives what one piece gives.
    #[test]
    fn pieces_may_be_cut_anywhere() {
        let text = b"1000 20 first\n1010 8 second\n3000 4 third\n5 5 fourth";
        for cut in 0..text.len() {
            let mut map = PerfMap::default();
            map.append(&text[..cut]);
            map.append(&text[cut..]);
            assert_eq!(named(&map, 0x1012).as_deref(), Some("second"));
            assert_eq!(named(&map, 0x3000).as_deref(), Some("third"));
            assert_eq!(named(&map, 6), None, "an unfinished line is not believed");
            map.append(b"\n");
            assert_eq!(named(&map, 6).as_deref(), Some("fourth"));
        }
    }

    /// A line that never ends takes bounded memory and hides only itself.
    #[test]
    fn endless_line_is_skipped() {
        let mut map = PerfMap::default();
        for _ in 0..40 {
            map.append(&[b'a'; 10_000]);
            assert!(map.partial.len() <= MAX_LINE_BYTES);
        }
        map.append(b"\n1000 20 next\n");
        assert_eq!(named(&map, 0x1000).as_deref(), Some("next"));
    }

    /// A process's own file is found, read further as it grows, and not believed when another user owns it.
    #[test]
    fn growing_file_is_read_further() {
        let pid = std::process::id();
        let path = PathBuf::from(format!("/tmp/perf-{pid}.map"));
        std::fs::write(&path, "1000 20 one\n2000").expect("write");
        let mut reader = PerfMapReader::new(pid);
        reader.refresh().expect("read");
        assert_eq!(named(reader.map(), 0x1000).as_deref(), Some("one"));
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
        std::io::Write::write_all(&mut file, b" 20 two\n").expect("append");
        reader.refresh().expect("read");
        assert_eq!(named(reader.map(), 0x2000).as_deref(), Some("two"));
        let own = nix::unistd::geteuid().as_raw();
        if own == 0 {
            std::os::unix::fs::chown(&path, Some(12345), None).expect("chown");
            assert!(find(pid).is_none(), "a stranger's file is not believed");
        }
        std::fs::remove_file(&path).expect("remove");
        reader.refresh().expect("a missing file changes nothing");
        assert_eq!(reader.map().len(), 2);
    }

    proptest::proptest! {
        /// Against a plain array: whatever overlaps, the last line that covers a byte names it.
        #[test]
        fn last_line_wins(lines in proptest::collection::vec((0_u64..64, 1_u64..32), 0..40)) {
            let mut map = PerfMap::default();
            let mut truth = vec![None; 128];
            for (index, (start, size)) in lines.iter().enumerate() {
                map.append(format!("{start:x} {size:x} n{index}\n").as_bytes());
                truth[*start as usize..(start + size) as usize].fill(Some(format!("n{index}")));
            }
            for (address, expected) in truth.into_iter().enumerate() {
                proptest::prop_assert_eq!(named(&map, address as u64), expected);
            }
        }

        /// Any bytes parse.
        #[test]
        fn any_text_is_survived(text in proptest::collection::vec(proptest::num::u8::ANY, 0..300), at: u64) {
            let mut map = PerfMap::default();
            map.append(&text);
            map.append(b"\n");
            let _ = map.resolve(Avma(at));
        }
    }
}
