//! What may be typed to see kept requests. As in [`args`](super::args), nothing is interpreted here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, value_parser};

use super::args::{FormatArg, parse_seconds};
use super::exit_code;

/// Where requests are kept, as typed.
#[derive(Args, Debug)]
pub struct StoreArgs {
    /// Where requests are kept [default: /var/lib/txprof for root, else $XDG_STATE_HOME/txprof or
    /// ~/.local/state/txprof]
    #[arg(long, value_name = "DIR", help_heading = "Store")]
    pub store: Option<PathBuf>,

    /// What each service ran in each minute, instead of requests
    #[arg(long, help_heading = "Store")]
    pub minutes: bool,
}

/// Which requests, as typed.
#[derive(Args, Debug)]
pub struct FilterArgs {
    /// Of this user
    #[arg(long, value_name = "USER", help_heading = "Filter")]
    pub user: Option<String>,

    /// Of this method, or without one of this path: `*` stands for any text, `?` for any character
    #[arg(long, value_name = "GLOB", help_heading = "Filter")]
    pub method: Option<String>,

    /// That ended so
    #[arg(long, value_enum, help_heading = "Filter")]
    pub status: Option<StatusArg>,

    /// That took as long at least: 500ms, 2s
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Filter")]
    pub min_duration: Option<Duration>,

    /// That began within this time: 10m, 1h, 7d [default: all that are kept]
    #[arg(long, value_name = "TIME", value_parser = parse_time, help_heading = "Filter")]
    pub since: Option<Duration>,

    /// Answered by a process of this name
    #[arg(long, value_name = "NAME", help_heading = "Filter")]
    pub process: Option<String>,

    /// Kept by this policy
    #[arg(long, value_name = "NAME", help_heading = "Filter")]
    pub policy: Option<String>,

    /// The slowest come first [default: the newest]
    #[arg(long, help_heading = "Filter")]
    pub slowest: bool,

    /// At most so many, 1 to 100000 [default: 20]
    #[arg(long, value_name = "NUMBER", help_heading = "Filter")]
    #[arg(value_parser = value_parser!(u32).range(1..=100_000))]
    pub limit: Option<u32>,
}

/// How requests end, as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusArg {
    /// Answered
    Ok,
    /// A status of 500 or more, an error of the protocol, or no whole answer
    Error,
    /// Its end was not seen
    Unset,
}

/// Where the output goes and what it shows, as typed.
#[derive(Args, Debug)]
pub struct WriteArgs {
    /// Format, whatever the file's ending says [default: by the ending; folded on standard output]
    #[arg(long, value_enum, help_heading = "Output")]
    pub format: Option<FormatArg>,

    /// Show also what runs Python: the interpreter's own functions and the start of each thread
    #[arg(long, conflicts_with = "python_only", help_heading = "Output")]
    pub native: bool,

    /// Show Python functions only
    #[arg(long, help_heading = "Output")]
    pub python_only: bool,
}

const LIST_EXAMPLES: &str = "\
Examples:
  txprof list                                the last 20 requests that were kept
  txprof list --user admin --min-duration 500ms --since 1h
  txprof list --method 'res.partner.*' --slowest
  txprof list --status error --json | jq .   all that is known of failed ones";

/// `txprof list`, as typed.
#[derive(Args, Debug)]
#[command(before_help = LIST_EXAMPLES, after_help = exit_code::HELP)]
pub struct ListArgs {
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Which requests.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Print one JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

const SHOW_EXAMPLES: &str = "\
Examples:
  txprof show angry_einstein         who asked for what, and where its time went
  txprof show 4bf92f                 the request whose id begins so
  txprof show angry_einstein --json | jq .";

/// `txprof show`, as typed.
#[derive(Args, Debug)]
#[command(before_help = SHOW_EXAMPLES, after_help = exit_code::HELP)]
pub struct ShowArgs {
    /// Name or id of a request, or what it begins with
    #[arg(value_name = "NAME")]
    pub key: String,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Print one JSON object instead of tables
    #[arg(long)]
    pub json: bool,
}

const FLAME_EXAMPLES: &str = "\
Examples:
  txprof flame angry_einstein              writes txprof-angry_einstein.svg
  txprof flame angry_einstein calm_curie -o both.svg
                                           both together
  txprof flame --user admin --slowest --limit 50 -o slow.svg
                                           the 50 slowest of a user together
  txprof flame angry_einstein -o - | sort  folded stacks on standard output, in
                                           nanoseconds";

/// `txprof flame`, as typed.
#[derive(Args, Debug)]
#[command(before_help = FLAME_EXAMPLES, after_help = exit_code::HELP)]
pub struct FlameArgs {
    /// Names or ids of requests, or what they begin with; several are summed [default: those that fit the filter]
    #[arg(value_name = "NAME")]
    pub keys: Vec<String>,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Which requests.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Where to write; the ending decides the format, `-` is standard output
    /// [default: txprof-NAME.svg in this folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// What is shown.
    #[command(flatten)]
    pub write: WriteArgs,
}

const DIFF_EXAMPLES: &str = "\
Examples:
  txprof diff calm_curie angry_einstein -o d.svg
                     what the second spends more (red) or less (blue) time in
  txprof diff angry_einstein --against-median
                     the same, of one against the usual ones of its method
  txprof diff calm_curie angry_einstein -o d.folded
                     lines with the nanoseconds of both";

/// `txprof diff`, as typed.
#[derive(Args, Debug)]
#[command(before_help = DIFF_EXAMPLES, after_help = exit_code::HELP)]
pub struct DiffArgs {
    /// Name or id of the request that is compared with, or what it begins with; with `--against-median` of the one
    /// that is compared
    #[arg(value_name = "A")]
    pub first: String,

    /// Name or id of the request that is compared, or what it begins with
    #[arg(value_name = "B", conflicts_with = "against_median", required_unless_present = "against_median")]
    pub second: Option<String>,

    /// Compare A with the mean of up to 9 requests of its method whose durations are nearest to the median
    #[arg(long)]
    pub against_median: bool,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Where to write: .svg or .folded, `-` is standard output [default: txprof-diff-NAME.svg in this folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// What is shown.
    #[command(flatten)]
    pub write: WriteArgs,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  txprof export angry_einstein -o x.json      all that is known of its profile
  txprof export 4bf92f -o x.folded            folded stacks, in nanoseconds";

/// `txprof export`, as typed.
#[derive(Args, Debug)]
#[command(before_help = EXPORT_EXAMPLES, after_help = exit_code::HELP)]
pub struct ExportArgs {
    /// Name or id of a request, or what it begins with
    #[arg(value_name = "NAME")]
    pub key: String,

    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Where to write; the ending decides the format, `-` is standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,

    /// What is shown.
    #[command(flatten)]
    pub write: WriteArgs,
}

/// Longest time looked back, in seconds: a hundred years, far from overflow.
const MAX_SECONDS: f64 = 100.0 * 365.0 * 86_400.0;

/// Parses `7d` and what `-d` of `txprof record` takes; at most a hundred years.
fn parse_time(text: &str) -> Result<Duration, String> {
    let usage = || format!("`{text}` is not a time; write 500ms, 30s, 1h or 7d");
    let days = text.strip_suffix('d').filter(|days| days.starts_with(|c: char| c.is_ascii_digit()));
    let seconds = match days {
        Some(days) => days.parse::<f64>().map_err(|_| usage())? * 86_400.0,
        None => parse_seconds(text).map_err(|_| usage())?,
    };
    if (0.0..=MAX_SECONDS).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(usage()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times have units, days among them.
    #[test]
    fn times_are_read_with_their_units() {
        let millis = |text: &str| parse_time(text).ok().map(|time| time.as_millis());
        assert_eq!(millis("500ms"), Some(500));
        assert_eq!(millis("7d"), Some(7 * 86_400_000));
        assert_eq!(millis("1h"), Some(3_600_000));
        for wrong in ["", "d", "nand", "-1d", "1e300d", "1w"] {
            assert_eq!(millis(wrong), None, "`{wrong}`");
        }
    }
}
