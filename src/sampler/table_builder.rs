//! Unwind tables, built on threads of their own while sampling goes on.
//!
//! A small file comes as one piece. A large one comes in chunks: first the page
//! that a sample asked for, then all others, on several threads, each chunk
//! as soon as it is there.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};

use super::table_cache::{TableCache, TableKey};
use crate::sys::file_map::FileMap;
use crate::unwind::{FdeIndex, Table};
use crate::{Result, ResultExt};

/// Bytes to build a table from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file.
    File(Arc<File>),
    /// An image in memory: the vDSO.
    Image(Arc<[u8]>),
}

/// One file's table is wanted.
#[derive(Clone, Debug)]
pub struct Job {
    /// The asker's name for the file, given back with every answer.
    pub module: u32,
    /// Where from.
    pub source: Source,
    /// This page (stated address >> 16) first.
    pub page: Option<u64>,
    /// Only that page: the rest is there or does not fit.
    pub only_page: bool,
}

/// An answer: part of a table, or why there is none.
#[derive(Debug)]
pub struct Built {
    /// As in the job.
    pub module: u32,
    /// All pages that the file has; `chunk` has some of them.
    pub pages: Range<u64>,
    /// The part that is ready.
    pub chunk: Result<Table>,
    /// Nothing more follows for this job.
    pub last: bool,
}

/// Jobs waiting at most. Beyond it a job is refused and the next sample asks again.
const MAX_WAITING: usize = 1024;
/// Functions of a file that is built in one piece, about 30 ms of work.
const SMALL_FUNCTIONS: usize = 8_000;
/// More threads do not help: two already build more than a target's start needs.
const MAX_THREADS: usize = 4;

/// Threads that build tables.
#[derive(Debug)]
pub struct TableBuilder {
    jobs: Option<Sender<Job>>,
    built: Receiver<Built>,
    threads: Vec<JoinHandle<()>>,
    /// Jobs accepted whose last answer was not taken yet.
    pending: usize,
}

impl TableBuilder {
    /// Starts the threads, which end with this value.
    pub fn start(cache: Option<TableCache>) -> Result<Self> {
        let (jobs, queue) = bounded::<Job>(MAX_WAITING);
        // Bounded by the jobs: each answers with a bounded number of chunks.
        let (answers, built) = unbounded();
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let cache = Arc::new(cache);
        let recent = Arc::new(Mutex::new(None));
        let spawn = |number: usize| {
            let worker = Worker {
                answers: answers.clone(),
                cache: Arc::clone(&cache),
                recent: Arc::clone(&recent),
                threads: count,
            };
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("tables-{number}"))
                .spawn(move || queue.iter().for_each(|job| worker.run(&job)))
                .context(|| "failed to start a thread".to_owned())
        };
        let threads = (0..count).map(spawn).collect::<Result<_>>()?;
        Ok(Self { jobs: Some(jobs), built, threads, pending: 0 })
    }

    /// Queues `job`; `false` when too many are waiting.
    pub fn submit(&mut self, job: Job) -> bool {
        let Some(jobs) = &self.jobs else { return false };
        match jobs.try_send(job) {
            Ok(()) => {
                self.pending += 1;
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// The next answer that is ready.
    pub fn take(&mut self) -> Option<Built> {
        let built = self.built.try_recv().ok()?;
        self.pending -= usize::from(built.last);
        Some(built)
    }

    /// Whether answers are outstanding.
    pub fn is_busy(&self) -> bool {
        self.pending > 0
    }
}

impl Drop for TableBuilder {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// A parsed large file, kept because its next page is likely to be asked for soon.
type Recent = Arc<Mutex<Option<(u32, Arc<(FileMap, FdeIndex)>)>>>;

struct Worker {
    answers: Sender<Built>,
    cache: Arc<Option<TableCache>>,
    recent: Recent,
    threads: usize,
}

impl Worker {
    fn run(&self, job: &Job) {
        let result = match &job.source {
            Source::Image(bytes) => FdeIndex::parse(bytes).map(|index| {
                let table = index.build_pages(bytes, index.page_range());
                self.answer(job, index.page_range(), table, true);
            }),
            Source::File(file) => self.run_file(job, file),
        };
        if let Err(error) = result {
            self.send(Built { module: job.module, pages: 0..0, chunk: Err(error), last: true });
        }
    }

    fn run_file(&self, job: &Job, file: &File) -> Result<()> {
        if let (true, Some(page)) = (job.only_page, job.page) {
            let parsed = self.parse(job.module, file)?;
            let (map, index) = &*parsed;
            self.answer(job, index.page_range(), index.build_pages(map, page..page + 1), true);
            map.release();
            return Ok(());
        }
        let map = FileMap::map(file)?;
        let key = self.cache.as_ref().as_ref().and_then(|_| TableKey::of(&map));
        if let (Some(cache), Some(key)) = (self.cache.as_ref(), &key)
            && let Some(table) = cache.read(key)
        {
            let pages = table.first_page..table.first_page + table.pages.len() as u64;
            self.answer(job, pages, table, true);
            return Ok(());
        }
        let index = FdeIndex::parse(&map)?;
        let table = self.build_whole(job, &map, &index);
        if let (Some(cache), Some(key)) = (self.cache.as_ref(), &key) {
            cache.write(key, &table);
        }
        self.answer(job, index.page_range(), table, true);
        Ok(())
    }

    /// The whole table; of a large file, chunks are sent as they come.
    fn build_whole(&self, job: &Job, map: &[u8], index: &FdeIndex) -> Table {
        if index.function_count() <= SMALL_FUNCTIONS {
            return index.build_pages(map, index.page_range());
        }
        if let Some(page) = job.page {
            self.answer(job, index.page_range(), index.build_pages(map, page..page + 1), false);
        }
        let parts = index.split(index.function_count().div_ceil(SMALL_FUNCTIONS));
        let next = AtomicUsize::new(0);
        let chunks: Mutex<Vec<Option<Table>>> = Mutex::new(vec![None; parts.len()]);
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    while let number = next.fetch_add(1, Ordering::Relaxed)
                        && let Some(pages) = parts.get(number)
                    {
                        let chunk = index.build_pages(map, pages.clone());
                        self.answer(job, index.page_range(), chunk.clone(), false);
                        if let Ok(mut chunks) = chunks.lock() {
                            chunks[number] = Some(chunk);
                        }
                    }
                });
            }
        });
        let chunks = chunks.into_inner().unwrap_or_default();
        Table::join(chunks.into_iter().flatten()).unwrap_or_default()
    }

    fn parse(&self, module: u32, file: &File) -> Result<Arc<(FileMap, FdeIndex)>> {
        if let Ok(recent) = self.recent.lock()
            && let Some((known, parsed)) = &*recent
            && *known == module
        {
            return Ok(Arc::clone(parsed));
        }
        let map = FileMap::map(file)?;
        let index = FdeIndex::parse(&map)?;
        let parsed = Arc::new((map, index));
        if let Ok(mut recent) = self.recent.lock() {
            *recent = Some((module, Arc::clone(&parsed)));
        }
        Ok(parsed)
    }

    fn answer(&self, job: &Job, pages: Range<u64>, table: Table, last: bool) {
        self.send(Built { module: job.module, pages, chunk: Ok(table), last });
    }

    fn send(&self, built: Built) {
        // Nobody listens any more when the recording has ended.
        let _ended = self.answers.send(built);
    }
}
