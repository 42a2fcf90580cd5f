//! Kept requests as a user meets them: tables, pictures, differences, and errors with hints.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use txprof::model::{
    Attributes, Frame, FrameKind, Mode, Outcome, Profile, Recording, Request, RequestStatus, Root, Sample,
    StackId, ThreadState,
};
use txprof::store::{StoreWriter, StoredRequest};

const NOON_NS: u64 = 1_795_867_200_000_000_000;

fn stored(name: &str, user: &str, duration_ms: u64) -> StoredRequest {
    let duration_ns = duration_ms * 1_000_000;
    let sample = |stack, state, weight_ns| Sample {
        root: Root { process: "server".to_owned(), thread: None },
        stack: StackId(stack),
        outcome: Outcome::Complete,
        state,
        holds_gil: false,
        is_idle: false,
        count: 1,
        weight_ns,
    };
    let profile = Profile {
        recording: Recording {
            mode: Mode::Wall,
            frequency_hz: 99,
            period_ns: 10_101_010,
            ..Recording::default()
        },
        frames: vec![
            Frame::named(FrameKind::Python, "search"),
            Frame::named(FrameKind::Python, "dispatch"),
            Frame::named(FrameKind::Blocked, "[blocked: recvfrom]"),
        ],
        stacks: vec![vec![0, 1], vec![2, 1]],
        samples: vec![
            sample(0, ThreadState::Running, duration_ns / 4),
            sample(1, ThreadState::Blocked, duration_ns / 2),
        ],
        ..Profile::default()
    };
    let attributes = [("user.name", user), ("rpc.method", "model.party.search")];
    let attributes: Attributes =
        attributes.map(|(name, value)| (name.into(), value.to_owned().into())).into_iter().collect();
    let request = Request {
        id: format!("id-of-{name}"),
        name: name.to_owned(),
        process: "server".to_owned(),
        pid: 7,
        tid: 8,
        began_unix_ns: NOON_NS + duration_ns,
        duration_ns,
        run_ns: duration_ns / 4,
        blocked_ns: duration_ns / 2,
        status: RequestStatus::Ok,
        attributes,
        ..Request::default()
    };
    StoredRequest { request, policy: "slow".to_owned(), profile }
}

/// A folder with a store in `store` of three requests.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let requests = [
        stored("calm_curie", "admin", 400),
        stored("angry_einstein", "ada", 1200),
        stored("angry_euler", "ada", 400),
    ];
    StoreWriter::open(folder.path().join("store")).unwrap().write(&requests).unwrap();
    folder
}

fn txprof(folder: &Path, line: &str) -> Output {
    let mut words = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_txprof"))
        .args(words.next())
        .args(["--store", "store"])
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn answer(folder: &Path, line: &str) -> String {
    let output = txprof(folder, line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The table is data: a head and one line per request, newest or slowest first, filtered; JSON has all fields.
#[test]
fn requests_are_listed() {
    let folder = folder();
    let names = |line: &str| -> Vec<String> {
        let text = answer(folder.path(), line);
        text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
    };
    let table = answer(folder.path(), "list");
    assert!(table.starts_with("NAME"), "{table}");
    assert!(
        table.contains("1.20 s") && table.contains("300 ms") && table.contains("model.party.search"),
        "{table}"
    );
    assert_eq!(names("list --slowest --limit 1"), ["angry_einstein"]);
    assert_eq!(names("list --user admin"), ["calm_curie"]);
    assert_eq!(names("list --method model.* --min-duration 1s"), ["angry_einstein"]);
    let json: serde_json::Value =
        serde_json::from_str(&answer(folder.path(), "list --json --user ada")).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[0]["subject"], "model.party.search");
    let nothing = txprof(folder.path(), "list --user nobody");
    assert!(nothing.status.success() && nothing.stdout.is_empty() && !nothing.stderr.is_empty());
}

/// One request is shown by its name or the beginning of its id: shares, functions and the id.
#[test]
fn a_request_is_shown() {
    let folder = folder();
    let text = answer(folder.path(), "show id-of-angry_ei");
    for part in
        ["angry_einstein", "id-of-angry_einstein", "50.0 %  blocked", "25.0 %  without a sample", "search"]
    {
        assert!(text.contains(part), "`{part}` in\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&answer(folder.path(), "show --json calm_curie")).unwrap();
    assert_eq!(json["states"]["running_ns"], 100_000_000);
    assert_eq!(json["top"][0]["function"], "[blocked: recvfrom]");
    assert_eq!(json["top"][0]["self_ns"], 200_000_000);
}

/// Several are summed, one is called after it; all formats are written.
#[test]
fn flamegraphs_are_drawn_of_one_and_several() {
    let folder = folder();
    let folded = answer(folder.path(), "flame angry_einstein calm_curie -o -");
    assert_eq!(folded, "server;dispatch;[blocked: recvfrom] 800000000\nserver;dispatch;search 400000000\n");
    assert_eq!(answer(folder.path(), "flame --user ada -o -").lines().count(), 2);
    answer(folder.path(), "flame calm_curie");
    let picture = std::fs::read_to_string(folder.path().join("txprof-calm_curie.svg")).unwrap();
    assert!(picture.contains("model.party.search (calm_curie)"));
    for ending in ["json", "folded", "svg"] {
        answer(folder.path(), &format!("export id-of-calm_curie -o x.{ending}"));
        assert!(folder.path().join(format!("x.{ending}")).exists());
    }
    let profile = txprof::output::json::parse(&std::fs::read(folder.path().join("x.json")).unwrap()).unwrap();
    assert_eq!(profile.recording.mode, Mode::Wall);
}

/// A difference has both numbers, the first of the request compared with; against the median too.
#[test]
fn differences_are_drawn() {
    let folder = folder();
    let folded = answer(folder.path(), "diff calm_curie angry_einstein -o -");
    let mut lines: Vec<&str> = folded.lines().collect();
    lines.sort_unstable();
    let blocked = "server;dispatch;[blocked: recvfrom] 200000000 600000000";
    assert_eq!(lines, [blocked, "server;dispatch;search 100000000 300000000"]);
    let against_median = answer(folder.path(), "diff angry_einstein --against-median -o -");
    assert!(against_median.contains(blocked), "{against_median}");
    answer(folder.path(), "diff calm_curie angry_einstein");
    let picture = std::fs::read_to_string(folder.path().join("txprof-diff-angry_einstein.svg")).unwrap();
    assert!(picture.contains("angry_einstein against calm_curie"));
}

/// What cannot be done is one error with a hint: unknown and ambiguous names, a missing store, a wrong format.
#[test]
fn misuse_is_one_error_with_a_hint() {
    let folder = folder();
    for (line, code, error, hint) in [
        ("show nobody", 4, "no request `nobody` is kept", "`txprof list`"),
        ("show angry", 2, "several requests begin with `angry`", "angry_einstein (id-of-angry_einstein"),
        ("flame", 2, "no request given", "--since 1h"),
        ("flame --user nobody", 4, "no request that is kept fits", "`txprof list`"),
        ("flame calm_curie -o x.png", 2, "cannot tell the format", "end it in .svg"),
        ("diff calm_curie", 2, "required arguments were not provided", "`txprof diff --help`"),
        ("diff calm_curie angry_euler -o x.json", 2, "no JSON form", ".svg or .folded"),
        ("list --since never", 2, "`never` is not a time", "`txprof list --help`"),
    ] {
        let output = txprof(folder.path(), line);
        let text = String::from_utf8(output.stderr).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{line}: {text}");
        assert!(lines[0].starts_with("error: ") && lines[0].contains(error), "{line}: {text}");
        assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{line}: {text}");
        assert_eq!(output.status.code(), Some(code), "{line}: {text}");
    }
    let missing = txprof(&folder.path().join("store"), "list");
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(text.contains("hint: say where requests are kept"), "{text}");
    assert_eq!(missing.status.code(), Some(4));
    let file = tempfile::tempdir().unwrap();
    std::fs::write(file.path().join("store"), "").unwrap();
    let text = String::from_utf8(txprof(file.path(), "list").stderr).unwrap();
    assert!(text.contains("hint: say where requests are kept: `--store DIR`, a folder"), "{text}");
}

/// Help begins with examples, each of which is about its command and fits a terminal of 80 columns.
#[test]
fn help_begins_with_examples() {
    for command in [
        "agent",
        "ps",
        "list",
        "show",
        "flame",
        "diff",
        "export",
        "policy",
        "policy list",
        "policy add",
        "policy remove",
        "policy test",
    ] {
        let help = help_of(command);
        let examples = help.strip_prefix("Examples:\n").and_then(|rest| rest.split_once("\n\n"));
        let (examples, _) = examples.unwrap_or_else(|| panic!("{command}: {help}"));
        assert!(examples.contains(&format!("  txprof {command} ")), "{command}: {examples}");
        let widest = examples.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{command}: {widest:?}");
    }
}

fn help_of(command: &str) -> String {
    let words = command.split_whitespace().chain(["--help"]);
    let output = Command::new(env!("CARGO_BIN_EXE_txprof")).args(words).output().expect("it was built");
    String::from_utf8(output.stdout).expect("it is text")
}
