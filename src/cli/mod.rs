//! The command line: what was typed ([`args`]) becomes what is meant
//! ([`plan`]), a subcommand runs it, and its end is told ([`report`]).
//!
//! Data goes to standard output, words to standard error; every failure is an
//! `error:` line, with a `hint:` line below it if the user can act, and an
//! [`ExitCode`] from one table. What the agent says while it runs are events (`event_line`).

pub mod agent;
pub mod args;
pub mod backend;
mod columns;
mod diff;
pub mod doctor;
pub mod dump;
mod event_line;
pub mod exit_code;
mod export;
mod flame;
mod kept;
mod list;
pub mod output_file;
pub mod plan;
pub mod policy;
pub mod ps;
pub mod record;
pub mod report;
mod show;
pub mod store_args;
pub mod store_plan;
mod thread_table;

use std::ffi::OsString;

use clap::Parser;

pub use exit_code::ExitCode;
pub use output_file::OutputFile;
pub use plan::{BackendChoice, Destination, DumpPlan, EventChoice, ModeChoice, RecordPlan, TargetPlan};
pub use report::Progress;
pub use store_plan::{Against, Chosen, DiffPlan, ExportPlan, FlamePlan, ListPlan, ShowPlan};

use crate::Result;
use args::{Cli, Command};

/// Runs the program: parses `arguments` (the program's name first), does what
/// is meant, reports failures on standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return report::usage_error(&error, arguments.get(1)),
    };
    dispatch(cli.command).unwrap_or_else(|error| {
        report::say(&report::error_lines(&error));
        ExitCode::of(&error)
    })
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Record(args) => record::run(RecordPlan::from_args(*args)?),
        Command::Dump(args) => dump::run(&DumpPlan::from_args(args)),
        Command::Agent(args) => agent::run(*args),
        Command::Ps(args) => ps::run(&args),
        Command::Policy(command) => policy::run(command),
        Command::List(args) => list::run(&ListPlan::from_args(args)?),
        Command::Show(args) => show::run(&ShowPlan::from_args(args)?),
        Command::Flame(args) => flame::run(&FlamePlan::from_args(args)?),
        Command::Diff(args) => diff::run(&DiffPlan::from_args(args)?),
        Command::Export(args) => export::run(ExportPlan::from_args(args)?),
        Command::Doctor(args) => doctor::run(args.json).map(|()| ExitCode::Success),
    }
}
