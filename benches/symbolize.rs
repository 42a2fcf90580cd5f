//! What naming a batch of addresses costs: time and peak memory.
//!
//! `cargo bench --bench symbolize -- [FILE [COUNT]]` spreads COUNT (300)
//! addresses evenly over the function symbols of FILE (this program itself)
//! and prints the median and the spread of 11 runs.
//! With `--once FILE ADDRESS…` it names these addresses one time and prints
//! them: a command to be timed against others (`scripts/compare-symbolizers`).

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSymbol as _, SymbolKind};
use txprof::model::Svma;
use txprof::symbolize::{Config, ModuleFile, Symbolizer};
use txprof::sys::file_map::FileMap;

const RUNS: usize = 11;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let result = match arguments.split_first() {
        Some((flag, rest)) if flag == "--once" => once(rest),
        _ => measure(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let own = std::env::current_exe()?.display().to_string();
    let path = arguments.first().unwrap_or(&own);
    let count = arguments.get(1).map_or(Ok(300), |count| count.parse())?;
    let addresses = spread_addresses(path, count)?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        resolve(path, &addresses)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "{path}: {} addresses, median {:.1?} ({:.1?} to {:.1?}), {:.1?} per address, peak {} MiB",
        addresses.len(),
        times[RUNS / 2],
        times[0],
        times[RUNS - 1],
        times[RUNS / 2] / u32::try_from(addresses.len().max(1))?,
        peak_memory_mib(),
    );
    Ok(())
}

fn once(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (path, addresses) = arguments.split_first().ok_or("usage: --once FILE ADDRESS…")?;
    let parse = |text: &String| u64::from_str_radix(text.trim_start_matches("0x"), 16);
    let addresses: BTreeSet<u64> = addresses.iter().map(parse).collect::<Result<_, _>>()?;
    let addresses: Vec<Svma> = addresses.into_iter().map(Svma).collect();
    for (address, frames) in addresses.iter().zip(resolve(path, &addresses)?) {
        println!("{address}");
        for frame in frames {
            let (file, line) = (frame.file.as_deref().unwrap_or("?"), frame.line.unwrap_or(0));
            println!("  {} {file}:{line}", frame.function);
        }
    }
    eprintln!("peak {} MiB", peak_memory_mib());
    Ok(())
}

fn resolve(
    path: &str,
    addresses: &[Svma],
) -> Result<Vec<Vec<txprof::model::Frame>>, Box<dyn std::error::Error>> {
    let module = ModuleFile { display: path.to_owned(), file: File::open(path)?, root: None };
    Ok(Symbolizer::new(Config::default()).resolve_module(&module, addresses))
}

/// `count` addresses in the middle of as many functions, ascending.
fn spread_addresses(path: &str, count: usize) -> Result<Vec<Svma>, Box<dyn std::error::Error>> {
    let data = FileMap::open(Path::new(path))?;
    let file = object::File::parse(&*data)?;
    let functions: BTreeSet<u64> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0)
        .map(|symbol| symbol.address() + symbol.size() / 2)
        .collect();
    let step = (functions.len() / count.max(1)).max(1);
    Ok(functions.into_iter().step_by(step).take(count).map(Svma).collect())
}

fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
