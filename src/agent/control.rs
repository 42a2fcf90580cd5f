//! Questions to a running agent, over a socket that only its user can open: one line of JSON each way.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::info;

use super::in_flight::in_flight;
use super::service::Service;
use super::troubles::{Failures, with_files_hint};
use crate::sys::clock::monotonic_ns;
use crate::transaction::policy::PolicySet;
use crate::{Error, ErrorKind, Result, ResultExt};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// The requests in flight: a list of [`InFlightRow`](super::in_flight::InFlightRow).
    Ps,
    /// The policies, and how often each had its say.
    Policies,
    /// Adds the policies of this TOML text.
    AddPolicies {
        /// `[[policy]]` tables.
        toml: String,
    },
    /// Takes a policy away.
    RemovePolicy {
        /// Which one.
        name: String,
    },
    /// How the agent is.
    Status,
    /// What was lost so far: a list of [`Loss`](super::losses::Loss), those of nothing left out.
    Losses,
}

/// Something asked, and where the answer goes.
#[derive(Debug)]
pub struct Question {
    /// What.
    pub ask: Ask,
    /// Takes one answer.
    pub reply: Sender<Answer>,
}

/// `{"ok": …}` or `{"error": "…", "hint": …}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub struct Answer {
    /// What was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Value>,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What can be done about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Answer {
    fn of(result: Result<Value>) -> Self {
        match result {
            Ok(value) => Self { ok: Some(value), error: None, hint: None },
            Err(error) => {
                Self { ok: None, error: Some(error.to_string()), hint: error.hint().map(str::to_owned) }
            }
        }
    }
}

/// Longest question or answer that is read.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);
/// After nobody could be let in it is tried again this much later: until then the reason may well stay.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Questions that wait for the agent's next round.
const MAX_QUESTIONS: usize = 16;

/// The socket; it goes with this value.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
}

impl ControlSocket {
    /// Listens at `path`, mode 0600, in a folder that is made (0700) if it is missing. Fails with a hint when
    /// another agent does so or there is something else than a socket; what one that was killed has left is replaced.
    pub fn open(path: &Path) -> Result<(Self, Receiver<Question>)> {
        let intent = || format!("failed to listen at `{}`", path.display());
        if UnixStream::connect(path).is_ok() {
            let error =
                Error::new(ErrorKind::Output, format!("an agent listens at `{}` already", path.display()));
            return Err(
                error.with_hint("stop it first, or give this one another socket with `--socket PATH`")
            );
        }
        let listener = bind(path).context(intent).map_err(|error| {
            error.with_kind(ErrorKind::Output).with_hint("choose another place with `--socket PATH`")
        })?;
        let (questions, asked) = bounded(MAX_QUESTIONS);
        let thread = std::thread::Builder::new().name("control".to_owned());
        thread.spawn(move || listen(&listener, &questions)).context(intent)?;
        Ok((Self { path: path.to_owned() }, asked))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_file(&self.path);
    }
}

/// A listener at `path`, which replaces a socket there, and nothing else.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.file_type().is_socket()) {
        return Err(std::io::Error::other("a file that is no socket is there"));
    }
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // Under another name, so that nobody can connect before it is private.
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let _absent = std::fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    let moved = std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| std::fs::rename(&new, path));
    if moved.is_err() {
        let _best_effort = std::fs::remove_file(&new);
    }
    moved.map(|()| listener)
}

fn listen(listener: &UnixListener, questions: &Sender<Question>) {
    let mut failures = Failures::default();
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => {
                // Whoever hangs up or talks nonsense has no answer; the next one is served.
                let _no_answer = serve(&stream, questions);
            }
            Err(error) => {
                failures.tell("questions are not taken", &refusal(error), monotonic_ns());
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn refusal(error: std::io::Error) -> Error {
    let wants_descriptors = error.raw_os_error() == Some(libc::EMFILE);
    let error = Error::from_io("failed to accept a connection", error);
    if wants_descriptors { with_files_hint(error) } else { error }
}

fn serve(stream: &UnixStream, questions: &Sender<Question>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_line(&mut line)?;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => {
            let (reply, replied) = bounded(1);
            let is_asked = questions.send_timeout(Question { ask, reply }, PATIENCE).is_ok();
            let replied = is_asked.then(|| replied.recv_timeout(PATIENCE).ok()).flatten();
            replied.unwrap_or_else(|| Answer::of(Err(Error::new(ErrorKind::System, "the agent is busy"))))
        }
        Err(error) => Answer::of(Err(Error::new(ErrorKind::InvalidInput, error.to_string()))),
    };
    let mut text = serde_json::to_vec(&answer)?;
    text.push(b'\n');
    (&*stream).write_all(&text)
}

/// What to type where no agent listens.
fn no_agent(is_root: bool) -> &'static str {
    match is_root {
        true => "no agent runs there: start one with `txprof agent -p PID`, or name its socket with --socket",
        false => {
            "no agent of yours runs there: ask root's with sudo, start one with `txprof agent -p PID`, or name its \
             socket with --socket"
        }
    }
}

/// Asks the agent that listens at `path`.
pub fn ask(path: &Path, ask: &Ask) -> Result<Value> {
    let intent = || format!("failed to ask the agent at `{}`", path.display());
    let stream = UnixStream::connect(path).context(intent).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => error.with_hint("only its own user can: try sudo"),
        _ => error.with_kind(ErrorKind::NotFound).with_hint(no_agent(nix::unistd::geteuid().is_root())),
    })?;
    stream.set_read_timeout(Some(PATIENCE * 2)).context(intent)?;
    let mut text =
        serde_json::to_vec(ask).map_err(|error| Error::new(ErrorKind::System, error.to_string()))?;
    text.push(b'\n');
    (&stream).write_all(&text).context(intent)?;
    let mut line = String::new();
    BufReader::new((&stream).take(MAX_LINE_BYTES)).read_line(&mut line).context(intent)?;
    let answer: Answer = serde_json::from_str(&line)
        .map_err(|error| Error::new(ErrorKind::Corrupt, format!("{}: {error}", intent())))
        .map_err(|error| error.with_hint("`--socket PATH` names that of a `txprof agent` of this version"))?;
    match (answer.ok, answer.error) {
        (Some(value), _) => Ok(value),
        (None, error) => {
            let error = Error::new(ErrorKind::InvalidInput, error.unwrap_or_else(|| "no answer".to_owned()));
            Err(answer.hint.into_iter().fold(error, Error::with_hint))
        }
    }
}

/// Answers a question to the agent.
pub(super) fn answer(service: &mut Service, question: Question) {
    let result = match question.ask {
        Ask::Ps => to_value(&in_flight(service.recorder())),
        Ask::Policies => to_value(&service.policies.list().collect::<Vec<_>>()),
        Ask::AddPolicies { toml } => add_policies(&mut service.policies, &toml).inspect_err(|error| {
            info!(reason = %error, hint = error.hint(), "policies were not added");
        }),
        Ask::RemovePolicy { name } => match service.policies.remove(&name) {
            true => {
                info!(policy = name, "a policy was removed");
                Ok(json!({ "removed": name }))
            }
            false => Err(Error::new(ErrorKind::NotFound, format!("no policy is called `{name}`"))
                .with_hint("`txprof policy list` shows them")),
        },
        Ask::Status => to_value(&service.status()),
        Ask::Losses => to_value(&service.losses().iter().filter(|loss| loss.count > 0).collect::<Vec<_>>()),
    };
    let _nobody_waits = question.reply.send(Answer::of(result));
}

/// All of them or none.
fn add_policies(policies: &mut PolicySet, toml: &str) -> Result<Value> {
    let added = PolicySet::parse(toml)?;
    let is_in_force = |name: &&str| policies.policies().iter().any(|policy| policy.name() == *name);
    if let Some(name) = added.policies().iter().map(|policy| policy.name()).find(is_in_force) {
        let error =
            Error::new(ErrorKind::InvalidInput, format!("a policy called `{name}` is in force already"));
        return Err(
            error.with_hint(format!("`txprof policy remove {name}` first, or give this one another name"))
        );
    }
    let mut all = policies.policies().to_vec();
    all.extend(added.policies().iter().cloned());
    let names: Vec<String> = added.policies().iter().map(|policy| policy.name().to_owned()).collect();
    policies.replace(PolicySet::from_policies(all)?);
    info!(policies = names.join(", "), "policies were added");
    Ok(json!({ "added": names }))
}

fn to_value<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::new(ErrorKind::System, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question reaches the agent's loop and its answer comes back; nonsense and strangers do not disturb it.
    #[test]
    fn questions_are_answered() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new/control");
        let (socket, asked) = ControlSocket::open(&path).expect("it listens");
        assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert!(ControlSocket::open(&path).is_err());
        let agent = std::thread::spawn(move || {
            for question in asked.iter().take(2) {
                let result = match question.ask {
                    Ask::Ps => Ok(json!([1])),
                    _ => Err(Error::new(ErrorKind::NotFound, "no").with_hint("yes")),
                };
                question.reply.send(Answer::of(result)).expect("somebody waits");
            }
        });
        let stranger = UnixStream::connect(&path).expect("it listens");
        (&stranger).write_all(b"nonsense\n").expect("it reads");
        assert_eq!(ask(&path, &Ask::Ps).expect("an answer"), json!([1]));
        let error = ask(&path, &Ask::RemovePolicy { name: "x".to_owned() }).expect_err("it is refused");
        assert_eq!((error.to_string().as_str(), error.hint()), ("no", Some("yes")));
        agent.join().expect("it ends");
        drop(socket);
        std::fs::write(&path, "precious").expect("it is gone");
        let error = ControlSocket::open(&path).expect_err("a file is there");
        assert!(error.to_string().ends_with("a file that is no socket is there"), "{error}");
        assert!(std::fs::read(&path).is_ok_and(|text| text == b"precious"));
        std::fs::remove_file(&path).expect("it stayed");
        assert!(ask(&path, &Ask::Ps).is_err_and(|error| error.kind() == ErrorKind::NotFound));
    }

    /// A policy whose name is taken is refused by that, with what to type, and nothing changes.
    #[test]
    fn policy_in_force_is_not_added_again() {
        let slow = "[[policy]]\nname = 'slow'\ntype = 'always'\n";
        let mut policies = PolicySet::parse(slow).expect("it is right");
        let error = add_policies(&mut policies, slow).expect_err("it is there");
        assert_eq!(error.to_string(), "a policy called `slow` is in force already");
        assert!(error.hint().is_some_and(|hint| hint.contains("`txprof policy remove slow`")), "{error}");
        let twice = format!("{}{}", slow.replace("slow", "other"), slow.replace("slow", "other"));
        assert!(add_policies(&mut policies, &twice).is_err());
        assert_eq!(policies.policies().len(), 1);
        add_policies(&mut policies, &slow.replace("slow", "other")).expect("it is new");
        assert_eq!(policies.policies().len(), 2);
    }
}
