//! `txprof policy`: which requests a running agent keeps.

use std::path::Path;

use serde_json::Value;

use super::args::PolicyCommand;
use super::columns::columns;
use super::ps::socket_path;
use super::{ExitCode, kept, report};
use crate::agent::control::{Ask, ask};
use crate::transaction::policy::PolicySet;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Longest file that is used; one byte more is read, so that a longer one is refused.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Does what was typed.
pub fn run(command: PolicyCommand) -> Result<ExitCode> {
    match command {
        PolicyCommand::List(args) => {
            let answer = ask(&socket_path(args.socket.as_deref())?, &Ask::Policies)?;
            kept::print(&if args.json { format!("{answer}\n") } else { table(&answer) })?;
        }
        PolicyCommand::Add(args) => {
            let toml = read(&args.file)?;
            let added =
                ask(&socket_path(args.socket.as_deref())?, &Ask::AddPolicies { toml }).map_err(|error| {
                    match error.kind() {
                        ErrorKind::InvalidInput => error.context(format!("`{}`", args.file.display())),
                        _ => error,
                    }
                })?;
            let names: Vec<&str> =
                added["added"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            report::say(&format!("added: {}\n", or_none(&names)));
        }
        PolicyCommand::Remove(args) => {
            ask(&socket_path(args.socket.as_deref())?, &Ask::RemovePolicy { name: args.name.clone() })?;
            report::say(&format!("removed: {}\n", args.name));
        }
        PolicyCommand::Test(args) => {
            let policies = PolicySet::parse(&read(&args.file)?)
                .map_err(|error| Error::from(error).context(format!("`{}`", args.file.display())))?;
            let names: Vec<&str> = policies.policies().iter().map(|policy| policy.name()).collect();
            report::say(&format!("good: {}\n", or_none(&names)));
        }
    }
    Ok(ExitCode::Success)
}

fn or_none(names: &[&str]) -> String {
    if names.is_empty() { "no `[[policy]]` in it".to_owned() } else { names.join(", ") }
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .context(|| format!("failed to read `{}`", path.display()));
    read.map_err(|error| {
        error.with_kind(ErrorKind::InvalidInput).with_hint("name a TOML file with `[[policy]]` tables")
    })?;
    Ok(text)
}

/// Name, type and how often each had its say.
fn table(answer: &Value) -> String {
    let head = ["NAME", "TYPE", "KEPT", "DROPPED", "LIMITED"].map(str::to_owned);
    let policies = answer.as_array().into_iter().flatten();
    let rows: Vec<[String; 5]> = std::iter::once(head).chain(policies.map(row)).collect();
    columns(&rows, &[2, 3, 4])
}

fn row(policy: &Value) -> [String; 5] {
    let word = |name: &str| report::printable(policy[name].as_str().unwrap_or("?"));
    let number = |name: &str| policy["counts"][name].as_u64().unwrap_or(0).to_string();
    [word("name"), word("type"), number("kept"), number("dropped"), number("limited")]
}
