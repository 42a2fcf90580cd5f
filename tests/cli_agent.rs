//! The agent's commands as a user meets them who mistypes: errors with hints and exit codes, without an agent.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use txprof::agent::config::Config;
use txprof::agent::places::default_socket;
use txprof::store::default_folder;

/// An agent that starts after all is ended after 20 s.
fn txprof(words: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["20", env!("CARGO_BIN_EXE_txprof")]).args(words).stdin(Stdio::null());
    command.output().unwrap()
}

/// One error line holding `error`, one hint line holding `hint`, nothing else, and `code`.
fn assert_refused(words: &[&str], code: i32, error: &str, hint: &str) {
    let output = txprof(words);
    let text = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(output.stdout.is_empty(), "{words:?}: words belong on standard error");
    assert_eq!(lines.len(), 2, "{words:?}:\n{text}");
    assert!(
        lines[0].starts_with("error: ") && lines[0].contains(error),
        "{words:?}: no `{error}` in\n{text}"
    );
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{words:?}: no `{hint}` in\n{text}");
    assert_eq!(output.status.code(), Some(code), "{words:?}:\n{text}");
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

/// No target, ones that are none, and a configuration that cannot be read or used.
#[test]
fn wrong_targets_and_configurations_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = at(folder.path(), "txprof.toml");
    let (store, socket) = (at(folder.path(), "store"), at(folder.path(), "socket"));
    let places = ["--store", &store, "--socket", &socket];
    let refused = |words: &[&str], code, error, hint| {
        assert_refused(&[&["agent"][..], &places[..], words].concat(), code, error, hint);
    };
    refused(&[], 2, "no process to watch was given", "-p PID");
    refused(&["-p", "0"], 2, "invalid value `0`", "`txprof agent --help`");
    refused(&["-p", "4194000"], 4, "no process 4194000", "");
    refused(&["--slow", "fast"], 2, "write 500ms", "`txprof agent --help`");
    refused(&["--log-level", "loud"], 2, "invalid value `loud`", "`txprof agent --help`");
    refused(&["--config", &config], 2, "failed to read the configuration", "TOML file");
    for (text, error, hint) in [
        ("[agent]\nnames = [\"x\"\n", "line 2: unclosed array", "`]`"),
        ("[agent]\n\npid = 3\n", "line 3: unknown field `pid`", "`pids`"),
        (
            "[agent]\nnames = [\"x\"]\n[[policy]]\nname = \"a\"\ntype = \"latency\"\n",
            "line 3: ",
            "threshold_ms",
        ),
        ("[agent]\nlog = \"\"\n", "line 2: ", "leave the key out"),
        ("[agent]\nlog_level = \"loud\"\n", "line 2: unknown variant `loud`", "`debug`"),
    ] {
        fs::write(&config, text).unwrap();
        refused(&["--config", &config], 2, error, hint);
    }
    fs::write(&config, [0xff, 0xfe]).unwrap();
    refused(&["--config", &config], 2, "failed to read the configuration", "TOML file");
    assert!(!Path::new(&store).exists() && !Path::new(&socket).exists(), "what is refused leaves nothing");
}

/// A store that cannot be made or that others may write to, a log, and a socket that is taken.
#[test]
fn places_that_cannot_be_used_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (store, socket) = (at(folder.path(), "store"), at(folder.path(), "socket"));
    let own_pid = std::process::id().to_string();
    let refused = |store: &str, socket: &str, error, hint| {
        let words = ["agent", "-p", &own_pid, "--store", store, "--socket", socket];
        assert_refused(&words, 1, error, hint);
    };
    fs::write(folder.path().join("file"), "precious").unwrap();
    let below = at(folder.path(), "file/store");
    let words = ["agent", "-p", &own_pid, "--store", &below, "--socket", &socket];
    assert_refused(&words, 1, "failed to open the store", "--store DIR");
    refused(&store, &at(folder.path(), "file"), "a file that is no socket is there", "--socket PATH");
    refused(&store, &at(folder.path(), "file/socket"), "failed to listen at", "--socket PATH");
    assert_eq!(fs::read_to_string(folder.path().join("file")).unwrap(), "precious");
    let _other = UnixListener::bind(&socket).unwrap();
    refused(&store, &socket, "an agent listens at", "--socket PATH");
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
    let words = ["agent", "-p", &own_pid, "--store", shared.to_str().unwrap(), "--socket", &socket];
    assert_refused(&words, 3, "others than its owner may write", "chmod go-w");
}

/// Why the agent does not start comes to the journal as one line with its priority; that nobody can take it changes
/// nothing else. What is the journal is told as systemd does.
#[test]
fn the_journal_is_told_why_the_agent_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let said = |path: &Path| {
        let file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        let metadata = file.metadata().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_txprof"));
        command.arg("agent").env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        command.status().unwrap().code()
    };
    let journal = folder.path().join("journal");
    assert_eq!(said(&journal), Some(2));
    assert_eq!(
        fs::read_to_string(&journal).unwrap(),
        "<3>the agent does not start reason=\"no process to watch was given\" hint=\"give one with -p PID, --name \
         NAME, --cgroup PATH or in the configuration\"\n"
    );
    assert_eq!(said(Path::new("/dev/full")), Some(2));
}

/// Without an agent, questions say that there is none and how to start one.
#[test]
fn questions_without_an_agent_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = at(folder.path(), "socket");
    let good = at(folder.path(), "good.toml");
    fs::write(&good, "[[policy]]\nname = \"all\"\ntype = \"always\"\n").unwrap();
    for words in [
        &["ps"][..],
        &["ps", "--json"],
        &["policy", "list"],
        &["policy", "remove", "x"],
        &["policy", "add", &good],
    ] {
        let words = [words, &["--socket", &socket]].concat();
        assert_refused(&words, 4, "failed to ask the agent", "txprof agent -p PID");
    }
    // One that was killed leaves its socket.
    drop(UnixListener::bind(&socket).unwrap());
    assert_refused(&["ps", "--socket", &socket], 4, "failed to ask the agent", "txprof agent -p PID");
}

/// Whatever answers at the socket, there is one error.
#[test]
fn nonsense_instead_of_an_answer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = at(folder.path(), "socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers = ["HTTP/1.1 400 Bad Request\r\n", "", "{\"ok\": [{\"pid\": -1}]}\n", "\u{1b}[2J\n"];
    let server = std::thread::spawn(move || {
        for (answer, stream) in answers.iter().zip(listener.incoming()) {
            let stream = stream.unwrap();
            BufReader::new(&stream).read_line(&mut String::new()).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        }
    });
    for answer in answers {
        let output = txprof(&["ps", "--socket", &socket]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("error: ") && text.matches("error: ").count() == 1, "{answer:?}: {text}");
        assert!(!text.contains('\u{1b}') && !text.contains("panicked"), "{answer:?}: {text}");
        assert_eq!(output.status.code(), Some(1), "{answer:?}: {text}");
    }
    server.join().unwrap();
}

/// Policies are checked without an agent; a mistake is told with file, line and what to write.
#[test]
fn policies_are_tested_without_an_agent() {
    let folder = tempfile::tempdir().unwrap();
    let file = at(folder.path(), "policies.toml");
    assert_refused(&["policy", "test", &file], 2, "failed to read", "`[[policy]]` tables");
    for (text, told) in [
        (
            "[[policy]]\nname = \"all\"\ntype = \"always\"\n[[policy]]\nname = \"errors\"\ntype = \"status_code\"\nstatus_codes = [\"ERROR\"]\n",
            "all, errors",
        ),
        ("[agent]\nnames = [\"x\"]\n", "no `[[policy]]` in it"),
    ] {
        fs::write(&file, text).unwrap();
        let output = txprof(&["policy", "test", &file]);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), format!("good: {told}\n"));
        assert!(output.status.success());
    }
    for (text, error, hint) in [
        ("[[policy]]\nname = \"a\"\ntype = \"latency\"\n", "line 1: ", "threshold_ms = 500"),
        ("\n[[policy]]\nname = \"a\"\ntype = \"alwais\"\n", "line 4: ", "always"),
        ("[[policy]]\nname = \"a\"\ntype = \"and\"\nmatch = { \"url.path\" = \"re:(\" }\n", "line 4: ", ""),
    ] {
        fs::write(&file, text).unwrap();
        assert_refused(&["policy", "test", &file], 2, &format!("policies.toml`: {error}"), hint);
    }
    fs::write(&file, " ".repeat((1 << 20) + 1)).unwrap();
    assert_refused(&["policy", "test", &file], 2, "policies.toml`: ", "");
}

/// The configurations in the README are read, and the one that says so has the defaults.
#[test]
fn configurations_of_the_readme_are_read() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let after = |part: &str| {
        let lines = readme.split_once(&format!("\n    {part}\n")).unwrap().1.lines();
        let block = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
        block.fold(format!("{part}\n"), |text, line| text + line + "\n")
    };
    let policies = Config::parse(&after("[[policy]]"), Path::new("README.md")).unwrap().policies;
    assert_eq!(policies.policies().len(), 3);
    let written = Config::parse(&after("[agent]"), Path::new("README.md")).unwrap();
    let default = Config::default();
    assert_eq!(written.sampling, default.sampling);
    assert_eq!(written.transactions, default.transactions);
    assert_eq!(written.store, default.store);
    assert_eq!(written.agent.log, default.agent.log);
    assert_eq!(written.agent.log_level, default.agent.log_level);
    let is_root = nix::unistd::geteuid().is_root();
    assert!(!is_root || written.agent.store == default_folder().ok(), "the README tells root's store");
    assert!(!is_root || written.agent.socket == default_socket().ok(), "the README tells root's socket");
}
