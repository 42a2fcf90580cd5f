//! The kernel side's table memory, managed: which file's rows are where, which
//! process sees which slice of mappings, and what is evicted when it is full.
//!
//! ```text
//! processes: pid ──► slice of `mappings` ──► pages of a file ──► rows ──► rules
//! ```
//!
//! Nothing that a walk may be reading is changed in place, except for page
//! words, which change atomically. Freed parts rest for some ticks, see
//! [`Extents`].

use std::collections::HashMap;

use super::extents::{Extent, Extents};
use crate::model::{Avma, Outcome, Svma};
use crate::sys::abi::{MappingRows, PAGE_NOT_LOADED, RULE_CAPACITY, TableMapping, TableProcess};
use crate::sys::table_memory::TableMemory;
use crate::unwind::{Row, Rule, Table};

/// A file's place in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableId(pub u32);

/// A process's slice of `mappings`, shared by children until they run a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SliceId(u32);

/// An executable range and what is known of its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceEntry {
    /// First address.
    pub start: Avma,
    /// First address behind it.
    pub end: Avma,
    /// AVMA − SVMA of the file.
    pub bias: u64,
    /// Its rows.
    pub rows: RowsOf,
}

/// Where the rows of a mapping are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    /// There are none: generated code, files without unwind information.
    Nothing,
    /// They were not loaded yet; a sample there asks for them.
    Later,
    /// In the tables.
    Table(TableId),
}

/// How much of the table memory is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// Rows loaded.
    pub rows: u32,
    /// Files evicted so far to make room.
    pub evictions: u64,
    /// Processes whose mappings did not fit.
    pub slices_refused: u64,
    /// Pages that found no room even after eviction.
    pub pages_refused: u64,
}

struct File {
    pages: Extent,
    page_base: u32,
    /// Rows of each loaded page; parallel to `pages`.
    rows: Vec<Option<Extent>>,
    last_used_ns: u64,
}

struct Slice {
    extent: Extent,
    generation: u32,
    users: u32,
}

/// The tables. Not `Sync`: one thread manages them, the kernel reads them.
pub struct Tables {
    memory: TableMemory,
    mapping_space: Extents,
    page_space: Extents,
    row_space: Extents,
    rule_numbers: HashMap<u64, u16>,
    files: HashMap<TableId, File>,
    slices: HashMap<SliceId, Slice>,
    next_file: u32,
    next_slice: u32,
    next_generation: u32,
    used: TableUse,
}

/// Rule 0 is `RULE_NONE`, which the walker relies on; rule 1 stands in when `rules` is full.
const UNSUPPORTED_RULE: u16 = 1;

impl Tables {
    /// Empty tables in `memory`.
    pub fn new(memory: TableMemory) -> Self {
        let space = |len: usize| Extents::new(0, u32::try_from(len).unwrap_or(u32::MAX));
        let mut tables = Self {
            mapping_space: space(memory.mappings.len()),
            page_space: space(memory.pages.len()),
            row_space: space(memory.rows.len()),
            memory,
            rule_numbers: HashMap::new(),
            files: HashMap::new(),
            slices: HashMap::new(),
            next_file: 0,
            next_slice: 0,
            next_generation: 1,
            used: TableUse::default(),
        };
        tables.rule_number(Rule::NONE);
        tables.rule_number(Rule::UNSUPPORTED);
        tables
    }

    /// Makes room for a file of `page_count` 64 KiB pages from number `first_page` on;
    /// no rows are loaded yet. `None` when there is no room.
    pub fn add_file(&mut self, first_page: u64, page_count: usize, now_ns: u64) -> Option<TableId> {
        let page_base = u32::try_from(first_page).ok()?;
        let pages = self.page_space.allocate(u32::try_from(page_count).ok()?)?;
        for index in pages.first..pages.first + pages.len {
            self.memory.pages.store(index as usize, u64::from(PAGE_NOT_LOADED));
        }
        let id = TableId(self.next_file);
        self.next_file += 1;
        let rows = vec![None; pages.len as usize];
        self.files.insert(id, File { pages, page_base, rows, last_used_ns: now_ns });
        Some(id)
    }

    /// Loads the pages of `chunk`, all or part of the file's table, that are not loaded yet.
    /// Where there is no room, files that were not used for longer are emptied; that room
    /// is there some ticks later, and until then pages stay "not loaded", so that
    /// samples ask again. Returns whether all pages are loaded now.
    pub fn load(&mut self, id: TableId, chunk: &Table, now_ns: u64) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return false };
        file.last_used_ns = now_ns;
        let (page_base, page_count) = (u64::from(file.page_base), file.rows.len());
        let numbers: Vec<u16> = chunk.rules.iter().map(|rule| self.rule_number(*rule)).collect();
        let mut all = true;
        for (number, page) in (chunk.first_page..).zip(&chunk.pages) {
            let index = number.checked_sub(page_base).and_then(|index| usize::try_from(index).ok());
            let Some(index) = index.filter(|index| *index < page_count) else { continue };
            let first = page.first_row as usize;
            let rows = chunk.rows.get(first..first + page.row_count as usize).unwrap_or(&[]);
            all &= self.load_page(id, index, rows, &numbers);
        }
        self.used.rows = self.row_space.in_use();
        all
    }

    fn load_page(&mut self, id: TableId, index: usize, rows: &[Row], numbers: &[u16]) -> bool {
        let Some(file) = self.files.get(&id) else { return false };
        let word = file.pages.first as usize + index;
        if file.rows[index].is_some() {
            return true;
        }
        if rows.is_empty() {
            return self.memory.pages.store(word, 0);
        }
        let Some(extent) = self.allocate_rows(rows.len() as u32, id) else {
            self.used.pages_refused += 1;
            return false;
        };
        let number = |row: &Row| numbers.get(usize::from(row.rule())).copied().unwrap_or(UNSUPPORTED_RULE);
        self.memory
            .rows
            .write(extent.first as usize, rows.iter().map(|row| Row::new(row.offset(), number(row)).0));
        self.memory.pages.store(word, u64::from(extent.len) << 32 | u64::from(extent.first));
        if let Some(file) = self.files.get_mut(&id) {
            file.rows[index] = Some(extent);
        }
        true
    }

    /// Whether the page of the file that holds `svma` is loaded, or there is none.
    pub fn is_loaded(&self, id: TableId, svma: Svma) -> bool {
        let Some(file) = self.files.get(&id) else { return false };
        let index = (svma.0 >> 16).checked_sub(u64::from(file.page_base));
        index.is_none_or(|index| file.rows.get(index as usize).is_none_or(Option::is_some))
    }

    /// A sample was taken in this file: it is evicted later than others.
    pub fn touch(&mut self, id: TableId, now_ns: u64) {
        if let Some(file) = self.files.get_mut(&id) {
            file.last_used_ns = now_ns;
        }
    }

    /// Gives up a file that no process maps any more.
    pub fn unload_file(&mut self, id: TableId) {
        if let Some(file) = self.files.remove(&id) {
            file.rows.into_iter().flatten().for_each(|extent| self.row_space.free(extent));
            self.page_space.free(file.pages);
            self.used.rows = self.row_space.in_use();
        }
    }

    /// Writes a new slice, used by one process so far, under a new generation.
    /// `entries` must be sorted and disjoint. `None` when there is no room.
    pub fn add_slice(&mut self, entries: &[SliceEntry]) -> Option<SliceId> {
        let len = u32::try_from(entries.len()).ok()?;
        let Some(extent) = self.mapping_space.allocate(len) else {
            self.used.slices_refused += 1;
            return None;
        };
        let files = &self.files;
        let written =
            self.memory.mappings.write(extent.first as usize, entries.iter().map(|e| entry_of(files, e)));
        debug_assert!(written, "the extent lies inside the array");
        let id = SliceId(self.next_slice);
        self.next_slice = self.next_slice.wrapping_add(1);
        let slice = Slice { extent, generation: self.next_generation, users: 1 };
        self.slices.insert(id, slice);
        // 0 means "not known"; after 2³² changes a cached rule would have to survive them all to be mistaken.
        self.next_generation = self.next_generation.checked_add(1).unwrap_or(1);
        Some(id)
    }

    /// One more process uses the slice.
    pub fn share_slice(&mut self, id: SliceId) {
        if let Some(slice) = self.slices.get_mut(&id) {
            slice.users += 1;
        }
    }

    /// One process less uses the slice; the last one's leaving frees it.
    pub fn release_slice(&mut self, id: SliceId) {
        let Some(slice) = self.slices.get_mut(&id) else { return };
        slice.users -= 1;
        if slice.users == 0 {
            let extent = slice.extent;
            self.slices.remove(&id);
            self.mapping_space.free(extent);
        }
    }

    /// What the walker is told of process `pid`, which uses the slice of `entry_count` entries, if any.
    pub fn process(&self, pid: u32, slice: Option<(SliceId, usize)>) -> TableProcess {
        let known = slice.and_then(|(id, entry_count)| Some((self.slices.get(&id)?, entry_count)));
        let unknown = TableProcess { pid, ..TableProcess::default() };
        known.map_or(unknown, |(slice, entry_count)| TableProcess {
            first_mapping: slice.extent.first,
            mapping_count: entry_count as u32,
            generation: slice.generation,
            ..unknown
        })
    }

    /// The rule for `address` in `process`, found as the walker in the kernel does.
    pub fn find_rule(&self, process: &TableProcess, address: u64) -> Result<Rule, Outcome> {
        let mappings = &self.memory.mappings;
        let first = process.first_mapping as usize;
        let starts_before =
            |index: usize| mappings.get(first + index).is_some_and(|mapping| mapping.start <= address);
        let behind = partition_point(process.mapping_count as usize, starts_before);
        let mapping = behind.checked_sub(1).and_then(|index| mappings.get(first + index));
        let mapping = mapping.filter(|mapping| address < mapping.end).ok_or(Outcome::UnknownMapping)?;
        match mapping.rows {
            MappingRows::None => Ok(Rule::NONE),
            MappingRows::NotLoaded => Err(Outcome::TableNotLoaded),
            MappingRows::Pages => self.find_row(&mapping, address.wrapping_sub(mapping.bias)),
        }
    }

    fn find_row(&self, mapping: &TableMapping, svma: u64) -> Result<Rule, Outcome> {
        let offset = (svma >> 16).wrapping_sub(mapping.page_base.into());
        if offset >= mapping.page_count.into() {
            return Ok(Rule::NONE);
        }
        let page = self.memory.pages.get(mapping.first_page as usize + offset as usize).unwrap_or(0);
        let (first, count) = (page as u32, (page >> 32) as usize);
        if first == PAGE_NOT_LOADED {
            return Err(Outcome::TableNotLoaded);
        }
        let row = |index: usize| self.memory.rows.get(first as usize + index).map(Row);
        let is_before = |index: usize| row(index).is_some_and(|row| u64::from(row.offset()) <= svma & 0xffff);
        // As in the kernel: before the first row of a page, that row counts.
        let behind = partition_point(count, is_before).max(1);
        let found = (count > 0).then(|| row(behind - 1)).flatten();
        let bits = found.and_then(|row| self.memory.rules.get(row.rule().into()));
        Ok(bits.map_or(Rule::NONE, Rule::from_bits))
    }

    /// The ring was drained: parts freed some ticks ago can be used again.
    pub fn tick(&mut self) {
        self.mapping_space.tick();
        self.page_space.tick();
        self.row_space.tick();
    }

    /// How much is used.
    pub fn used(&self) -> TableUse {
        self.used
    }

    fn rule_number(&mut self, rule: Rule) -> u16 {
        let bits = rule.to_bits();
        if let Some(number) = self.rule_numbers.get(&bits) {
            return *number;
        }
        let next = self.rule_numbers.len();
        if next >= RULE_CAPACITY {
            return UNSUPPORTED_RULE;
        }
        self.memory.rules.store(next, bits);
        let number = next as u16;
        self.rule_numbers.insert(bits, number);
        number
    }

    /// Room for `count` rows; the files used longest ago are emptied until there is some,
    /// which holds after their rest at the earliest.
    fn allocate_rows(&mut self, count: u32, keep: TableId) -> Option<Extent> {
        if let Some(extent) = self.row_space.allocate(count) {
            return Some(extent);
        }
        let candidates =
            self.files.iter().filter(|(id, file)| **id != keep && file.rows.iter().any(Option::is_some));
        let (&oldest, _) = candidates.min_by_key(|(_, file)| file.last_used_ns)?;
        self.empty_file(oldest);
        None
    }

    fn empty_file(&mut self, id: TableId) {
        let Some(file) = self.files.get_mut(&id) else { return };
        for (index, rows) in (file.pages.first..).zip(file.rows.iter_mut()) {
            if let Some(extent) = rows.take() {
                self.memory.pages.store(index as usize, u64::from(PAGE_NOT_LOADED));
                self.row_space.free(extent);
            }
        }
        self.used.evictions += 1;
    }
}

/// The first of `count` indices for which `is_before` does not hold; it holds for all before that.
fn partition_point(count: usize, is_before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if is_before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

fn entry_of(files: &HashMap<TableId, File>, entry: &SliceEntry) -> TableMapping {
    let mut mapping = TableMapping {
        start: entry.start.0,
        end: entry.end.0,
        bias: entry.bias,
        first_page: 0,
        page_base: 0,
        page_count: 0,
        rows: MappingRows::None,
    };
    match entry.rows {
        RowsOf::Nothing => {}
        RowsOf::Later => mapping.rows = MappingRows::NotLoaded,
        RowsOf::Table(id) => {
            if let Some(file) = files.get(&id) {
                mapping.first_page = file.pages.first;
                mapping.page_base = file.page_base;
                mapping.page_count = file.pages.len;
                mapping.rows = MappingRows::Pages;
            }
        }
    }
    mapping
}
