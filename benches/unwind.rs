//! How fast rows are built and read back, on this machine's own binaries.
//!
//! `cargo bench --bench unwind [FILE…]` prints, for each file, the median and the range over a
//! number of runs: parsing, building everything on one core, building one page, decoding from the
//! cache's form; and the bytes that a row takes with all that belongs to it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use txprof::unwind::{FdeIndex, Table, codec};

const RUNS: usize = 15;
const FILES: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/bin/python3",
    "/usr/lib/postgresql/15/bin/postgres",
    "/usr/bin/node",
];
/// Rows of the large table that decoding is measured on.
const LARGE_TABLE_ROWS: usize = 5_000_000;

/// Median, least and most of some runs.
struct Timing {
    median: Duration,
    least: Duration,
    most: Duration,
}

fn time<T>(mut run: impl FnMut() -> T) -> Timing {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(run());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    Timing { median: times[RUNS / 2], least: times[0], most: times[RUNS - 1] }
}

impl std::fmt::Display for Timing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?} ({:.1?} … {:.1?})", self.median, self.least, self.most)
    }
}

fn measure(path: &str) -> Option<()> {
    let bytes = std::fs::read(path).ok()?;
    let index = FdeIndex::parse(&bytes).ok()?;
    let pages = index.page_range();
    let table = index.build_pages(&bytes, pages.clone());
    let parse = time(|| FdeIndex::parse(&bytes));
    let build = time(|| index.build_pages(&bytes, pages.clone()));
    let encoded = codec::encode(&table, b"key");
    let decode = time(|| codec::decode(&encoded, b"key"));
    let largest = pages.max_by_key(|page| table.rows_of(*page).map_or(0, <[_]>::len))?;
    let page = time(|| index.build_pages(&bytes, largest..largest + 1));
    println!(
        "{path}: {} functions, {} rows, {} rules",
        index.function_count(),
        table.rows.len(),
        table.rules.len()
    );
    println!("  parse   {parse}");
    println!("  build   {build}, {:.1} M rows/s", table.rows.len() as f64 / build.median.as_secs_f64() / 1e6);
    println!("  page    {page}, the one with most rows: {}", table.rows_of(largest)?.len());
    println!("  decode  {decode}");
    println!(
        "  memory  {:.2} B/row, on disk {:.2}",
        table.size_bytes() as f64 / table.rows.len() as f64,
        encoded.len() as f64 / table.rows.len() as f64
    );
    println!("  {:?}", table.stats);
    Some(())
}

/// A table of the given size made by repeating a real one.
fn enlarge(mut table: Table, rows: usize) -> Table {
    let (pages, original) = (table.pages.clone(), table.rows.clone());
    while table.rows.len() < rows {
        let base = table.rows.len() as u32;
        table.rows.extend(&original);
        table.pages.extend(pages.iter().map(|page| {
            let mut page = *page;
            page.first_row += base;
            page
        }));
    }
    table
}

fn main() {
    let named: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let files: Vec<&str> =
        if named.is_empty() { FILES.to_vec() } else { named.iter().map(String::as_str).collect() };
    for path in &files {
        if measure(path).is_none() {
            println!("skipped `{path}`: not on this machine, or not an ELF file");
        }
    }
    let Some(bytes) = files.iter().find_map(|path| std::fs::read(path).ok()) else { return };
    if let Ok(index) = FdeIndex::parse(&bytes) {
        let table = enlarge(index.build_pages(&bytes, index.page_range()), LARGE_TABLE_ROWS);
        let encoded = codec::encode(&table, b"key");
        println!(
            "large table, {} rows: decode {}",
            table.rows.len(),
            time(|| codec::decode(&encoded, b"key"))
        );
    }
}
