//! `txprof agent`: everything that can be refused is checked first; then it runs until it is told to end.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, info, warn};

use super::ExitCode;
use super::args::{AgentArgs, LevelArg};
use super::event_line::{self, Form};
use crate::agent::config::{Config, Log, LogLevel};
use crate::agent::control::ControlSocket;
use crate::agent::keeper::{Keeper, KeptCounts, Retention};
use crate::agent::losses::Loss;
use crate::agent::notify::notify;
use crate::agent::places::default_socket;
use crate::agent::service::{Service, ServiceStatus};
use crate::agent::{Options, Recorder};
use crate::sampler::clock::ClockChoice;
use crate::sampler::{Sampler, SamplerSettings};
use crate::store::{StoreWriter, default_folder, minutes_folder};
use crate::symbolize::KernelSymbols;
use crate::sys::lane_record::LaneSettings;
#[cfg(feature = "bpf")]
use crate::sys::rights::Facts;
use crate::sys::wait_record::OffCpuSettings;
use crate::target::select::{Selector, Wish};
use crate::transaction::policy::PolicySet;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Shorter waits have no stack, in nanoseconds.
const MIN_WAIT_NS: u32 = 50_000;
/// Stacks of waits a second on one CPU, up to two and a half times as many where there are few waits; 20 to 30 µs each
/// where other work has the caches. The longest waits have theirs first. Those of idle threads are among them, but for those
/// that wait for the next request of a connection.
const WAITS_PER_SECOND: u32 = 100;
/// Of those for Python's lock, of which a busy server has some hundred a second.
const GIL_WAITS_PER_SECOND: u32 = 50;
/// Oldest kernel with the tracepoints `sock_recv_length` and `sock_send_length` (include/trace/events/sock.h).
#[cfg(feature = "bpf")]
const OLDEST_KERNEL: (u32, u32) = (6, 3);
/// Longest configuration that is used; one byte more is read, so that a longer one is refused.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Watches as configured and typed. What is refused before is told as by any other command, but for the journal, which
/// is given its priority.
pub fn run(args: AgentArgs) -> Result<ExitCode> {
    let form = Form::of_stderr();
    let config = configure(&args);
    let configured = config.as_ref().map_or(LogLevel::default(), |config| config.agent.log_level);
    event_line::begin(form, level(&args, configured));
    match config.and_then(|config| watch(&args, config)) {
        Err(error) if form == Form::Journal => Ok(tell_failure("the agent does not start", &error)),
        ended => ended,
    }
}

/// What is typed, else what is configured.
fn level(args: &AgentArgs, configured: LogLevel) -> LogLevel {
    match args.log_level {
        Some(LevelArg::Error) => LogLevel::Error,
        Some(LevelArg::Warn) => LogLevel::Warn,
        Some(LevelArg::Info) => LogLevel::Info,
        Some(LevelArg::Debug) => LogLevel::Debug,
        None if args.quiet => LogLevel::Warn,
        None => configured,
    }
}

fn watch(args: &AgentArgs, config: Config) -> Result<ExitCode> {
    let wish = Wish {
        pids: config.agent.pids.clone(),
        names: config.agent.names.clone(),
        cgroups: config.agent.cgroups.iter().map(PathBuf::from).collect(),
        with_children: true,
    };
    let selector = Selector::new(&wish).map_err(no_command)?;
    let follows = !wish.names.is_empty() || !wish.cgroups.is_empty();
    let pids = first_pids(&wish)?;
    let store = config.agent.store.clone().map_or_else(default_folder, Ok)?;
    let socket = config.agent.socket.clone().map_or_else(default_socket, Ok)?;
    let writer = StoreWriter::open(&store)?;
    let minutes = StoreWriter::open(minutes_folder(&store))?;
    let log = open_log(&config.agent.log, args.quiet)?;
    let (_socket, questions) = ControlSocket::open(&socket)?;
    crate::sys::precedence::wait_for_others();
    let stop = crate::sys::signal::stop_flag()?;
    let reload = crate::sys::signal::reload_flag()?;
    let settings = settings(&config, follows);
    let mut recorder = Recorder::attach(open(&settings)?, options(&config, settings), &pids, Some(selector))?;
    recorder.prepare()?;
    if config.sampling.kernel {
        name_kernel();
    }
    recorder.enable()?;
    let retention = Retention { max_age: config.store.max_age, max_bytes: config.store.max_bytes };
    let (keeper, kept) = Keeper::start(writer, minutes, retention, log)?;
    let mut service = Service::new(recorder, config.policies, config.transactions, kept);
    tell_beginning(pids.len(), &store, &socket);
    notify("READY=1");
    let ran = service.run(stop, &questions, &mut |service| {
        if reload.swap(false, Ordering::Relaxed) {
            reload_policies(args, service);
        }
        Ok(())
    });
    notify("STOPPING=1");
    let code = match ran {
        // What was kept until then is written and told all the same.
        Err(error) => tell_failure("the agent ends", &error),
        Ok(()) => {
            let is_asked = stop.load(Ordering::Relaxed);
            info!("stopping: {}", if is_asked { "it was asked to" } else { "all processes have ended" });
            ExitCode::Success
        }
    };
    let (status, losses) = (service.status(), service.losses());
    drop(service);
    tell_end(&status, &losses, keeper.finish());
    Ok(code)
}

/// The processes to begin with. What is wished for is looked for part by part, as one that is not there yet must
/// not hide the others: a name or a cgroup may select some later, a process that is gone is an error.
fn first_pids(wish: &Wish) -> Result<Vec<u32>> {
    let part = || Wish { with_children: wish.with_children, ..Wish::default() };
    let pids =
        std::iter::once(Wish { pids: wish.pids.clone(), ..part() }).filter(|part| !part.pids.is_empty());
    let names = wish.names.iter().map(|name| Wish { names: vec![name.clone()], ..part() });
    let cgroups = wish.cgroups.iter().map(|cgroup| Wish { cgroups: vec![cgroup.clone()], ..part() });
    let mut found = BTreeSet::new();
    for part in pids.chain(names).chain(cgroups) {
        match Selector::new(&part)?.find() {
            Ok(selection) => {
                found.extend(selection.targets.iter().map(|target| target.pid));
                selection.notes.iter().for_each(|note| info!("{note}"));
            }
            Err(error) if part.pids.is_empty() && error.kind() == ErrorKind::NotFound => {
                info!("{error}: waiting for it");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found.into_iter().collect())
}

/// What is typed adds to the file's targets and replaces the rest.
fn configure(args: &AgentArgs) -> Result<Config> {
    let mut config = match &args.config {
        Some(path) => read_config(path)?,
        None => Config::default(),
    };
    config.agent.pids.extend(&args.pids);
    config.agent.names.extend(args.names.iter().cloned());
    config.agent.cgroups.extend(args.cgroups.iter().map(|path| path.to_string_lossy().into_owned()));
    if args.store.is_some() {
        config.agent.store.clone_from(&args.store);
    }
    if args.socket.is_some() {
        config.agent.socket.clone_from(&args.socket);
    }
    if let Some(slow) = args.slow {
        let threshold = slow.as_millis();
        let policy = format!("[[policy]]\nname = \"slow\"\ntype = \"latency\"\nthreshold_ms = {threshold}\n");
        // It comes first, so that it is what such requests are kept by.
        let mut policies = PolicySet::parse(&policy)?.policies().to_vec();
        config.policies.remove("slow");
        policies.extend(config.policies.policies().iter().cloned());
        config.policies = PolicySet::from_policies(policies)?;
    }
    Ok(config)
}

fn read_config(path: &Path) -> Result<Config> {
    use std::io::Read as _;
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text))
        .context(|| format!("failed to read the configuration `{}`", path.display()));
    read.map_err(|error| {
        error
            .with_kind(ErrorKind::InvalidInput)
            .with_hint("`--config FILE` names a TOML file; the README has one")
    })?;
    Config::parse(&text, path)
}

/// The file's policies, and what was typed beside them, replace those in force; when the file is bad, nothing does.
fn reload_policies(args: &AgentArgs, service: &mut Service) {
    let Some(path) = &args.config else {
        return warn!("the policies in force stay: no `--config` was given");
    };
    match configure(args) {
        Ok(config) => {
            let policies = config.policies.policies().len();
            service.policies.replace(config.policies);
            info!(policies, config = %path.display(), "the policies just read are in force");
        }
        // The reason names file and line.
        Err(error) => warn!(reason = %error, hint = error.hint(), "the policies in force stay"),
    }
}

fn no_command(error: Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidInput => Error::new(ErrorKind::InvalidInput, "no process to watch was given")
            .with_hint("give one with -p PID, --name NAME, --cgroup PATH or in the configuration"),
        _ => error,
    }
}

fn settings(config: &Config, follows: bool) -> SamplerSettings {
    let sampling = config.sampling;
    SamplerSettings {
        clock: ClockChoice::CpuClock,
        frequency_hz: sampling.request_hz,
        follow_children: true,
        watch_all: follows,
        kernel_frames: sampling.kernel,
        on_cpu: true,
        off_cpu: Some(OffCpuSettings {
            min_wait_ns: MIN_WAIT_NS,
            stacks_per_second: WAITS_PER_SECOND,
            gil_stacks_per_second: GIL_WAITS_PER_SECOND,
            every: false,
            wakers: false,
        }),
        lane: Some(LaneSettings { base_share: (sampling.request_hz / sampling.hz).max(1) }),
        keep_samples: false,
    }
}

fn options(config: &Config, sampler: SamplerSettings) -> Options {
    Options {
        sampler,
        duration: None,
        per_thread: true,
        tasks: true,
        gil_only: false,
        max_overhead_percent: None,
        ring_bytes: Some(usize::try_from(config.transactions.ring_bytes).unwrap_or(usize::MAX)),
    }
}

#[cfg(feature = "bpf")]
fn open(settings: &SamplerSettings) -> Result<Sampler> {
    crate::sys::rights::preflight()?;
    check_kernel(&Facts::gather())?;
    crate::sampler::bpf::open(settings)
}

/// Whether the kernel tells of sockets; one whose version is not understood is tried.
#[cfg(feature = "bpf")]
fn check_kernel(facts: &Facts) -> Result<()> {
    if facts.kernel_version().is_none_or(|version| version >= OLDEST_KERNEL) {
        return Ok(());
    }
    let message = format!("requests are seen from Linux 6.3 on, and this is {}", facts.kernel_release);
    let error = Error::new(ErrorKind::UnsupportedSystem, message);
    Err(error.with_hint("boot a newer kernel; `txprof record --mode wall` works with this one"))
}

#[cfg(not(feature = "bpf"))]
fn open(_: &SamplerSettings) -> Result<Sampler> {
    Err(Error::new(ErrorKind::UnsupportedSystem, "this txprof was built without its BPF programs")
        .with_hint("build it with its default features: cargo build --release"))
}

/// Reads what the kernel's functions are called before a request could wait for that.
fn name_kernel() {
    const HINT: &str =
        "`txprof doctor` tells what this machine hides; under systemd, ProtectKernelTunables= does";
    match KernelSymbols::list().map(|symbols| symbols.absence()) {
        Ok(None) => {}
        Ok(Some(reason)) => warn!(reason, hint = HINT, "kernel functions will have no names"),
        Err(error) => warn!(reason = %error, hint = HINT, "kernel functions will have no names"),
    }
}

/// Where a line for each kept request goes.
fn open_log(log: &Log, quiet: bool) -> Result<Box<dyn Write + Send>> {
    match log {
        Log::File(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            let file = file.context(|| format!("failed to open the log `{}`", path.display()));
            Ok(Box::new(file.map_err(|error| {
                let is_refused = error.kind() == ErrorKind::PermissionDenied;
                let error = if is_refused { error } else { error.with_kind(ErrorKind::Output) };
                error.with_hint(
                    "`log` of the configuration names a file in a folder that is there, or \"stdout\"",
                )
            })?))
        }
        Log::Stdout if quiet => Ok(Box::new(std::io::sink())),
        Log::Stdout => Ok(Box::new(std::io::stdout())),
    }
}

fn tell_beginning(count: usize, store: &Path, socket: &Path) {
    let plural = if count == 1 { "" } else { "es" };
    info!(
        store = %store.display(),
        socket = %socket.display(),
        version = env!("CARGO_PKG_VERSION"),
        "watching {count} process{plural}"
    );
}

/// An error with its hint; gives the exit code that belongs to it.
fn tell_failure(what: &str, error: &Error) -> ExitCode {
    error!(reason = %error, hint = error.hint(), "{what}");
    ExitCode::of(error)
}

/// What the agent did, and what was lost.
fn tell_end(status: &ServiceStatus, losses: &[Loss], kept: KeptCounts) {
    let (requests, written) = (status.counts.requests, kept.written);
    info!(requests, kept = written, "{requests} requests seen, {written} kept");
    let of_store = [
        ("requests_refused", kept.refused, "requests that the store refused"),
        ("requests_too_large", kept.too_large, "requests with more samples than the store takes of one"),
    ];
    let others = losses.iter().map(|loss| (loss.kind, loss.count, loss.what));
    for (loss, total, what) in of_store.into_iter().chain(others).filter(|(_, total, _)| *total > 0) {
        warn!(loss, total, "in all, {total} {what}");
    }
    let (cpu_ms, resident, bpf) =
        (status.own_cpu_ns / 1_000_000, status.peak_rss_bytes, status.bpf_memory_bytes);
    info!(
        cpu_ms,
        resident_bytes = resident,
        bpf_bytes = bpf,
        "cost: {:.2} s of CPU time, {} MiB resident, {} MiB BPF",
        Duration::from_millis(cpu_ms).as_secs_f64(),
        resident >> 20,
        bpf >> 20
    );
}

#[cfg(all(test, feature = "bpf"))]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    /// A level that is typed beats `-q`, which beats what is configured.
    #[test]
    fn the_level_is_what_is_typed_else_configured() {
        for (words, expected) in [
            ("", LogLevel::Error),
            ("-q", LogLevel::Warn),
            ("--log-level info", LogLevel::Info),
            ("-q --log-level debug", LogLevel::Debug),
        ] {
            let line = ["txprof", "agent", "-p", "1"].into_iter().chain(words.split_whitespace());
            let Ok(Cli { command: Command::Agent(args) }) = Cli::try_parse_from(line) else {
                panic!("`{words}` is refused")
            };
            assert_eq!(level(&args, LogLevel::Error), expected, "{words}");
        }
    }

    /// A kernel without the tracepoints is refused with its version, as a machine that lacks a feature.
    #[test]
    fn kernel_that_does_not_tell_of_sockets_is_refused() {
        let mut facts = Facts::gather();
        facts.kernel_release = "6.3.0".to_owned();
        assert!(check_kernel(&facts).is_ok());
        facts.kernel_release = "6.1.0-28-amd64".to_owned();
        let error = check_kernel(&facts).expect_err("too old");
        assert_eq!(error.kind(), ErrorKind::UnsupportedSystem);
        assert!(error.to_string().contains("6.1.0-28-amd64") && error.hint().is_some(), "{error}");
    }
}
