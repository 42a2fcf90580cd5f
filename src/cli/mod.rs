//! The command line: what was typed ([`args`]) becomes what is meant
//! ([`plan`]), a subcommand runs it, and its end is told ([`report`]).
//!
//! Data goes to standard output, words to standard error; every failure is an
//! `error:` line, with a `hint:` line below it if the user can act, and an
//! [`ExitCode`] from one table.

pub mod args;
pub mod backend;
pub mod doctor;
pub mod dump;
pub mod exit_code;
pub mod output_file;
pub mod plan;
pub mod record;
pub mod report;

use std::ffi::OsString;

use clap::Parser;

pub use exit_code::ExitCode;
pub use output_file::OutputFile;
pub use plan::{BackendChoice, Destination, DumpPlan, EventChoice, ModeChoice, RecordPlan, TargetPlan};
pub use report::Progress;

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
        Command::Doctor(args) => doctor::run(args.json).map(|()| ExitCode::Success),
    }
}
