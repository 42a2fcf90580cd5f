//! What requests share: strings, frames and stacks, each stored once per day.
//!
//! Three tables of one form: a number, a hash, the content. A *string*'s content
//! is its text. A *frame*'s are varints: its kind's position in [`KINDS`], the
//! strings of function, module and file, and the line; of the last three a
//! missing one is 0 and one that is there 1 more than it is. A *stack*'s are the
//! frames, leaf first.
//!
//! The hash only finds candidates, the content decides: contents that collide,
//! even if someone made them so, are never taken for each other. Of contents
//! that share a hash, [`MAX_CANDIDATES`] are compared; one beyond these is
//! stored once more each time.

use ahash::AHashMap;
use rusqlite::{Connection, OptionalExtension};

use super::varint::{self, Reader};
use crate::model::{Frame, FrameKind, Profile, StackId};

/// How kinds of frames are numbered. Only ever grows at its end.
const KINDS: [FrameKind; 11] = [
    FrameKind::Native,
    FrameKind::Inlined,
    FrameKind::Interpreter,
    FrameKind::Python,
    FrameKind::Kernel,
    FrameKind::Jit,
    FrameKind::Marker,
    FrameKind::Blocked,
    FrameKind::RunQueue,
    FrameKind::Gil,
    FrameKind::Waker,
];

const MAX_CANDIDATES: u32 = 16;

/// Most contents of a table whose numbers are remembered, and how many bytes they may have: all three tables take some
/// 30 MB at most. One that is full is forgotten, and looked up in the file again.
const MAX_KNOWN: usize = 1 << 16;
const MAX_KNOWN_BYTES: usize = 4 << 20;

/// Deepest stack read, in frames: four times what is ever captured.
const MAX_STACK_FRAMES: usize = 16 << 10;

/// Most frames read of all stacks of a request together: 64 MiB of numbers.
const MAX_FRAMES: usize = 16 << 20;

/// The statements of one table.
struct Table {
    find: &'static str,
    insert: &'static str,
    read: &'static str,
}

macro_rules! table {
    ($name:literal) => {
        Table {
            find: concat!("SELECT id, content FROM ", $name, " WHERE hash = ?1 ORDER BY id LIMIT ?2"),
            insert: concat!("INSERT INTO ", $name, " (hash, content) VALUES (?1, ?2)"),
            read: concat!("SELECT content FROM ", $name, " WHERE id = ?1"),
        }
    };
}

const STRING: Table = table!("string");
const FRAME: Table = table!("frame");
const STACK: Table = table!("stack");

/// Numbers of contents that a file is known to hold. Forget them when a transaction fails or another program has
/// written to the file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    strings: Known,
    frames: Known,
    stacks: Known,
    /// Bytes of contents stored so far.
    pub(super) stored_bytes: u64,
}

/// Numbers of contents of one table.
#[derive(Debug, Default)]
struct Known {
    numbers: AHashMap<Box<[u8]>, i64>,
    bytes: usize,
}

impl Known {
    fn insert(&mut self, content: &[u8], number: i64) {
        if self.numbers.len() >= MAX_KNOWN || self.bytes + content.len() > MAX_KNOWN_BYTES {
            self.numbers.clear();
            self.bytes = 0;
        }
        self.bytes += content.len();
        self.numbers.insert(content.into(), number);
    }
}

impl Contents {
    /// Forgets what is known.
    pub(super) fn forget(&mut self) {
        *self = Self { stored_bytes: self.stored_bytes, ..Self::default() };
    }

    /// The numbers in the file of `profile`'s stacks, by their place in the profile; those that are missing are stored.
    pub(super) fn stacks(
        &mut self,
        connection: &Connection,
        profile: &Profile,
    ) -> rusqlite::Result<Vec<i64>> {
        let mut numbers = Vec::with_capacity(profile.frames.len());
        for frame in &profile.frames {
            numbers.push(self.frame(connection, frame)?);
        }
        let mut stacks = Vec::with_capacity(profile.stacks.len());
        let mut content = Vec::new();
        for stack in &profile.stacks {
            content.clear();
            // Frames that the profile does not have are not in its stacks either.
            for number in stack.iter().filter_map(|frame| numbers.get(*frame as usize)) {
                varint::push(&mut content, *number as u64);
            }
            stacks.push(number(&STACK, &mut self.stacks, &mut self.stored_bytes, connection, &content)?);
        }
        Ok(stacks)
    }

    fn frame(&mut self, connection: &Connection, frame: &Frame) -> rusqlite::Result<i64> {
        let mut content = Vec::with_capacity(16);
        varint::push(&mut content, kind_number(frame.kind));
        let function = self.string(connection, &frame.function)?;
        varint::push(&mut content, function as u64);
        for text in [&frame.module, &frame.file] {
            let number = match text {
                Some(text) => (self.string(connection, text)? as u64).saturating_add(1),
                None => 0,
            };
            varint::push(&mut content, number);
        }
        varint::push(&mut content, frame.line.map_or(0, |line| u64::from(line) + 1));
        number(&FRAME, &mut self.frames, &mut self.stored_bytes, connection, &content)
    }

    fn string(&mut self, connection: &Connection, text: &str) -> rusqlite::Result<i64> {
        number(&STRING, &mut self.strings, &mut self.stored_bytes, connection, text.as_bytes())
    }
}

/// The number of `content` in `table`, where it is stored if it is missing.
fn number(
    table: &Table,
    known: &mut Known,
    stored_bytes: &mut u64,
    connection: &Connection,
    content: &[u8],
) -> rusqlite::Result<i64> {
    if let Some(number) = known.numbers.get(content) {
        return Ok(*number);
    }
    let hash = hash(content);
    let mut find = connection.prepare_cached(table.find)?;
    let mut candidates = find.query((hash, MAX_CANDIDATES))?;
    let mut found = None;
    while let Some(row) = candidates.next()? {
        if row.get_ref(1)?.as_bytes()? == content {
            found = Some(row.get(0)?);
            break;
        }
    }
    let number = match found {
        Some(number) => number,
        None => {
            connection.prepare_cached(table.insert)?.execute((hash, content))?;
            *stored_bytes += content.len() as u64;
            connection.last_insert_rowid()
        }
    };
    known.insert(content, number);
    Ok(number)
}

fn kind_number(kind: FrameKind) -> u64 {
    KINDS.iter().position(|known| *known == kind).expect("KINDS has every kind") as u64
}

/// FNV-1a of 64 bits: equal in every version of this program. SQLite's numbers have a sign.
fn hash(content: &[u8]) -> i64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    content.iter().fold(0xcbf2_9ce4_8422_2325, fold).cast_signed()
}

/// Reads stacks back: each number becomes a stack of a profile, with the frames that it has.
#[derive(Debug)]
pub(super) struct StackReader<'a> {
    connection: &'a Connection,
    frames: AHashMap<i64, u32>,
    stacks: AHashMap<i64, StackId>,
    frames_read: usize,
}

impl<'a> StackReader<'a> {
    /// Reads from `connection`.
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, frames: AHashMap::new(), stacks: AHashMap::new(), frames_read: 0 }
    }

    /// The stack numbered `number`, which is added to `profile` the first time; `Ok(None)` when the file contradicts
    /// itself or a bound is exceeded.
    pub(super) fn read(&mut self, number: i64, profile: &mut Profile) -> rusqlite::Result<Option<StackId>> {
        if let Some(stack) = self.stacks.get(&number) {
            return Ok(Some(*stack));
        }
        let Some(content) = content(self.connection, &STACK, number)? else { return Ok(None) };
        let mut reader = Reader(&content);
        let mut frames = Vec::new();
        while !reader.is_empty() {
            self.frames_read += 1;
            if frames.len() >= MAX_STACK_FRAMES || self.frames_read > MAX_FRAMES {
                return Ok(None);
            }
            let Some(number) = reader.number() else { return Ok(None) };
            let Some(frame) = self.frame(number.cast_signed(), profile)? else { return Ok(None) };
            frames.push(frame);
        }
        let Ok(index) = u32::try_from(profile.stacks.len()) else { return Ok(None) };
        profile.stacks.push(frames);
        self.stacks.insert(number, StackId(index));
        Ok(Some(StackId(index)))
    }

    fn frame(&mut self, number: i64, profile: &mut Profile) -> rusqlite::Result<Option<u32>> {
        if let Some(frame) = self.frames.get(&number) {
            return Ok(Some(*frame));
        }
        let Some(content) = content(self.connection, &FRAME, number)? else { return Ok(None) };
        let mut reader = Reader(&content);
        let mut next = || reader.number();
        let (Some(kind), Some(function), Some(module), Some(file), Some(line)) =
            (next(), next(), next(), next(), next())
        else {
            return Ok(None);
        };
        let kind = usize::try_from(kind).ok().and_then(|kind| KINDS.get(kind));
        let line = u32::try_from(line.saturating_sub(1)).ok().map(|known| (line > 0).then_some(known));
        let (Some(kind), Some(line)) = (kind, line) else { return Ok(None) };
        let Some(function) = self.text(function)? else { return Ok(None) };
        let (module, file) = (self.optional_text(module)?, self.optional_text(file)?);
        let Ok(index) = u32::try_from(profile.frames.len()) else { return Ok(None) };
        profile.frames.push(Frame { kind: *kind, function, module, file, line });
        self.frames.insert(number, index);
        Ok(Some(index))
    }

    fn optional_text(&self, number: u64) -> rusqlite::Result<Option<Box<str>>> {
        match number.checked_sub(1) {
            Some(number) => self.text(number),
            None => Ok(None),
        }
    }

    fn text(&self, number: u64) -> rusqlite::Result<Option<Box<str>>> {
        let content = content(self.connection, &STRING, number.cast_signed())?;
        Ok(content.and_then(|content| String::from_utf8(content).ok()).map(String::into_boxed_str))
    }
}

fn content(connection: &Connection, table: &Table, number: i64) -> rusqlite::Result<Option<Vec<u8>>> {
    connection.prepare_cached(table.read)?.query_row([number], |row| row.get(0)).optional()
}

/// Removes what none of `stacks`, ascending numbers of those in use, needs.
///
/// Fails with what SQLite says, also when a row is not of its type.
pub(super) fn remove_unused(connection: &Connection, stacks: &[i64]) -> rusqlite::Result<()> {
    let retain = |table: &str, used: &[i64]| -> rusqlite::Result<()> {
        let ids: Vec<i64> = {
            let mut all = connection.prepare(&format!("SELECT id FROM {table}"))?;
            all.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?
        };
        let mut delete = connection.prepare(&format!("DELETE FROM {table} WHERE id = ?1"))?;
        for id in ids.iter().filter(|id| used.binary_search(id).is_err()) {
            delete.execute([id])?;
        }
        Ok(())
    };
    retain("stack", stacks)?;
    let numbers = |table: &str, pick: &dyn Fn(Reader<'_>, &mut Vec<i64>)| -> rusqlite::Result<Vec<i64>> {
        let mut used = Vec::new();
        let mut all = connection.prepare(&format!("SELECT content FROM {table}"))?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            pick(Reader(row.get_ref(0)?.as_bytes()?), &mut used);
            // Stacks share frames: what comes again is dropped before it grows.
            if used.len() > MAX_FRAMES {
                used.sort_unstable();
                used.dedup();
            }
        }
        used.sort_unstable();
        used.dedup();
        Ok(used)
    };
    let frames = numbers("stack", &|mut reader, used| {
        used.extend(std::iter::from_fn(|| reader.number()).map(u64::cast_signed));
    })?;
    retain("frame", &frames)?;
    let strings = numbers("frame", &|mut reader, used| {
        let _kind = reader.number();
        used.extend(reader.number().map(u64::cast_signed));
        for _module_and_file in 0..2 {
            used.extend(reader.number().and_then(|number| number.checked_sub(1)).map(u64::cast_signed));
        }
    })?;
    retain("string", &strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents of one hash are told apart, and only what is new is stored.
    #[test]
    fn content_decides_not_its_hash() {
        let connection = Connection::open_in_memory().expect("memory");
        connection
            .execute_batch("CREATE TABLE string (id INTEGER PRIMARY KEY, hash INTEGER, content BLOB)")
            .expect("table");
        connection.execute(STRING.insert, (hash(b"one"), b"other")).expect("a collision");
        let mut contents = Contents::default();
        assert_eq!(contents.string(&connection, "one").expect("stored"), 2);
        contents.forget();
        assert_eq!(contents.string(&connection, "one").expect("found"), 2);
        assert_eq!(contents.stored_bytes, 3);
    }

    /// What is remembered is bounded in number and in bytes, whatever its size.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for number in 0..10_u8 {
            known.insert(&vec![number; MAX_KNOWN_BYTES / 3], 0);
            assert!(known.bytes <= MAX_KNOWN_BYTES && known.numbers.len() <= 3);
        }
        for number in 0..MAX_KNOWN + 9 {
            known.insert(&number.to_le_bytes(), 0);
        }
        assert!(known.numbers.len() <= MAX_KNOWN);
    }
}
