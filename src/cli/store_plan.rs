//! What is meant by what was typed to see kept requests. Pure but for the usual
//! folder, which depends on the user.

use std::path::PathBuf;
use std::time::Duration;

use super::args::FormatArg;
use super::output_file::plain_name;
use super::plan::{self, Destination, invalid};
use super::store_args::{
    DiffArgs, ExportArgs, FilterArgs, FlameArgs, ListArgs, ShowArgs, StatusArg, StoreArgs, WriteArgs,
};
use crate::Result;
use crate::aggregate::FoldOptions;
use crate::model::{RequestStatus, WeightUnit};
use crate::output::Format;
use crate::store::{Filter, Order, default_folder, minutes_folder};

/// A list, as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct ListPlan {
    /// The folder of the store.
    pub store: PathBuf,
    /// Which requests; when they began is [`since`](Self::since)'s.
    pub filter: Filter,
    /// How long before now they began at most.
    pub since: Option<Duration>,
    /// As JSON.
    pub json: bool,
}

/// One request, as meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShowPlan {
    /// The folder of the store.
    pub store: PathBuf,
    /// What it is called; not empty.
    pub key: String,
    /// As JSON.
    pub json: bool,
}

/// Which requests are drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Chosen {
    /// These: not empty.
    Keys(Vec<String>),
    /// Those that fit, and that began at most so long before now.
    Filter(Filter, Option<Duration>),
}

/// A flamegraph of requests, as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct FlamePlan {
    /// The folder of the store.
    pub store: PathBuf,
    /// Which requests.
    pub chosen: Chosen,
    /// Where to write.
    pub destination: Destination,
    /// In which format.
    pub format: Format,
    /// How the profile is folded.
    pub options: FoldOptions,
}

/// What a request is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// Another one, so called.
    Request(String),
    /// The usual ones of its method.
    Median,
}

/// A comparison, as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffPlan {
    /// The folder of the store.
    pub store: PathBuf,
    /// What the request is called that is compared.
    pub key: String,
    /// With what.
    pub against: Against,
    /// Where to write.
    pub destination: Destination,
    /// Svg or folded.
    pub format: Format,
    /// How the profiles are folded.
    pub options: FoldOptions,
}

/// An export is a flamegraph's plan for one request, with a place.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportPlan(pub FlamePlan);

impl ListPlan {
    /// What was typed means.
    ///
    /// Fails with a hint when there is no usual store.
    pub fn from_args(args: ListArgs) -> Result<Self> {
        let since = args.filter.since;
        Ok(Self { store: store(args.store)?, filter: filter(args.filter), since, json: args.json })
    }
}

impl ShowPlan {
    /// What was typed means.
    ///
    /// Fails with a hint when nothing is named, or there is no usual store.
    pub fn from_args(args: ShowArgs) -> Result<Self> {
        Ok(Self { store: store(args.store)?, key: key(args.key)?, json: args.json })
    }
}

impl FlamePlan {
    /// What was typed means.
    ///
    /// Fails with a hint when no request is chosen, or some by name and by filter, or when the format cannot be told.
    pub fn from_args(args: FlameArgs) -> Result<Self> {
        let since = args.filter.since;
        let meant = filter(args.filter);
        let is_filtered = meant != Filter::default() || since.is_some();
        let chosen = match (args.keys.is_empty(), is_filtered) {
            (false, true) => {
                return Err(
                    invalid("requests are chosen both by name and by filter").with_hint("give one of both")
                );
            }
            (false, false) => Chosen::Keys(args.keys.into_iter().map(key).collect::<Result<_>>()?),
            (true, true) => Chosen::Filter(meant, since),
            (true, false) => {
                return Err(invalid("no request given")
                    .with_hint("name one of `txprof list`, or filter: `--user admin --since 1h`"));
            }
        };
        let usual = match &chosen {
            Chosen::Keys(keys) => keys.first().map_or_else(String::new, |key| plain_name(key)),
            Chosen::Filter(..) => "requests".to_owned(),
        };
        let (destination, format) = destination(args.output, &usual, args.write.format)?;
        Ok(Self { store: store(args.store)?, chosen, destination, format, options: options(&args.write) })
    }
}

impl DiffPlan {
    /// What was typed means.
    ///
    /// Fails with a hint when a request has no name, or the format is neither svg nor folded.
    pub fn from_args(args: DiffArgs) -> Result<Self> {
        let first = key(args.first)?;
        let (against, key) = match args.second {
            Some(second) => (Against::Request(first), key(second)?),
            None => (Against::Median, first),
        };
        let usual = format!("diff-{}", plain_name(&key));
        let (destination, format) = destination(args.output, &usual, args.write.format)?;
        if format == Format::Json {
            return Err(invalid("a difference has no JSON form").with_hint("end `-o` in .svg or .folded"));
        }
        let options = options(&args.write);
        Ok(Self { store: store(args.store)?, key, against, destination, format, options })
    }
}

impl ExportPlan {
    /// What was typed means.
    ///
    /// Fails with a hint when the request has no name, or the format cannot be told.
    pub fn from_args(args: ExportArgs) -> Result<Self> {
        let (destination, format) = plan::destination(Some(args.output), args.write.format)?;
        let chosen = Chosen::Keys(vec![key(args.key)?]);
        let options = options(&args.write);
        Ok(Self(FlamePlan { store: store(args.store)?, chosen, destination, format, options }))
    }
}

fn store(args: StoreArgs) -> Result<PathBuf> {
    let folder = args.store.map_or_else(default_folder, Ok)?;
    Ok(if args.minutes { minutes_folder(&folder) } else { folder })
}

fn key(key: String) -> Result<String> {
    if key.is_empty() {
        return Err(invalid("a name is empty").with_hint("`txprof list` shows the names of requests"));
    }
    Ok(key)
}

fn filter(args: FilterArgs) -> Filter {
    let status = |status| match status {
        StatusArg::Ok => RequestStatus::Ok,
        StatusArg::Error => RequestStatus::Error,
        StatusArg::Unset => RequestStatus::Unset,
    };
    let usual = Filter::default();
    Filter {
        user: args.user,
        method: args.method,
        status: args.status.map(status),
        min_duration: args.min_duration,
        process: args.process,
        policy: args.policy,
        // It is at most 100,000.
        limit: args.limit.map_or(usual.limit, |limit| limit as usize),
        order: if args.slowest { Order::Slowest } else { Order::Newest },
        ..usual
    }
}

fn destination(
    output: Option<PathBuf>,
    usual: &str,
    format: Option<FormatArg>,
) -> Result<(Destination, Format)> {
    match plan::destination(output, format)? {
        (Destination::Named, format) => {
            let file = format!("txprof-{usual}.{}", format.extension());
            Ok((Destination::File(file.into()), format))
        }
        other => Ok(other),
    }
}

fn options(args: &WriteArgs) -> FoldOptions {
    FoldOptions {
        unit: WeightUnit::Nanoseconds,
        view: plan::view(args.native, args.python_only),
        ..FoldOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn command(line: &str) -> Command {
        let words = std::iter::once("txprof").chain(line.split_whitespace());
        Cli::try_parse_from(words).expect("clap accepts it").command
    }

    fn flame(line: &str) -> Result<FlamePlan> {
        match command(line) {
            Command::Flame(args) => FlamePlan::from_args(args),
            other => panic!("no flamegraph: {other:?}"),
        }
    }

    fn diff(line: &str) -> Result<DiffPlan> {
        match command(line) {
            Command::Diff(args) => DiffPlan::from_args(args),
            other => panic!("no difference: {other:?}"),
        }
    }

    /// Every flag of a list reaches the filter.
    #[test]
    fn flags_reach_the_filter() {
        let Command::List(args) = command(
            "list --store s --user u --method m* --status error --min-duration 2s --since 1d --process p \
             --policy q --slowest --limit 7 --json",
        ) else {
            panic!("a list")
        };
        let plan = ListPlan::from_args(args).expect("valid");
        let expected = Filter {
            since_unix_ns: None,
            until_unix_ns: None,
            user: Some("u".to_owned()),
            method: Some("m*".to_owned()),
            status: Some(RequestStatus::Error),
            min_duration: Some(Duration::from_secs(2)),
            process: Some("p".to_owned()),
            policy: Some("q".to_owned()),
            limit: 7,
            order: Order::Slowest,
        };
        assert_eq!((plan.filter, plan.json, plan.store), (expected, true, PathBuf::from("s")));
        assert_eq!(plan.since, Some(Duration::from_secs(86_400)));
    }

    /// Requests are named or filtered, not both and not neither; the file is called after the first.
    #[test]
    fn flamegraphs_are_of_names_or_a_filter() {
        let plan = flame("flame --store s a/b c").expect("valid");
        assert_eq!(plan.chosen, Chosen::Keys(vec!["a/b".to_owned(), "c".to_owned()]));
        assert_eq!(plan.destination, Destination::File("txprof-a_b.svg".into()));
        let plan = flame("flame --store s --since 1h -o x.json").expect("valid");
        assert_eq!(plan.chosen, Chosen::Filter(Filter::default(), Some(Duration::from_secs(3600))));
        assert_eq!(plan.format, Format::Json);
        for line in ["flame --store s", "flame --store s a --user u"] {
            assert!(flame(line).expect_err(line).hint().is_some());
        }
    }

    /// The second of two is compared with the first, and one alone with the median; JSON is refused.
    #[test]
    fn differences_are_against_the_first_or_the_median() {
        let plan = diff("diff --store s a b").expect("valid");
        assert_eq!((plan.key.as_str(), plan.against), ("b", Against::Request("a".to_owned())));
        let plan = diff("diff --store s a --against-median").expect("valid");
        assert_eq!((plan.key.as_str(), plan.against), ("a", Against::Median));
        assert_eq!(plan.destination, Destination::File("txprof-diff-a.svg".into()));
        assert!(diff("diff --store s a b -o x.json").is_err());
        assert!(Cli::try_parse_from(["txprof", "diff", "a"]).is_err());
    }
}
