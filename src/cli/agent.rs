//! `txprof agent`: everything that can be refused is checked first; then it runs until it is told to end.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::args::AgentArgs;
use super::{ExitCode, report};
use crate::agent::config::{Config, Log};
use crate::agent::control::ControlSocket;
use crate::agent::keeper::{Keeper, KeptCounts, Retention};
use crate::agent::notify::notify;
use crate::agent::places::default_socket;
use crate::agent::service::{Service, ServiceStatus};
use crate::agent::{Options, Recorder};
use crate::sampler::clock::ClockChoice;
use crate::sampler::{Sampler, SamplerSettings};
use crate::store::{StoreWriter, default_folder, minutes_folder};
use crate::sys::lane_record::LaneSettings;
#[cfg(feature = "bpf")]
use crate::sys::rights::Facts;
use crate::sys::wait_record::OffCpuSettings;
use crate::target::select::{Selector, Wish};
use crate::transaction::policy::PolicySet;
use crate::{Error, ErrorKind, Result, ResultExt};

/// Shorter waits have no stack, in nanoseconds.
const MIN_WAIT_NS: u32 = 50_000;
/// Stacks of waits a second on one CPU: they cost some 0.3 % of it.
const WAITS_PER_SECOND: u32 = 200;
/// Oldest kernel with the tracepoints `sock_recv_length` and `sock_send_length` (include/trace/events/sock.h).
#[cfg(feature = "bpf")]
const OLDEST_KERNEL: (u32, u32) = (6, 3);
/// Longest configuration that is used; one byte more is read, so that a longer one is refused.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Watches as configured and typed.
pub fn run(args: AgentArgs) -> Result<ExitCode> {
    let config = configure(&args)?;
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
    let stop = crate::sys::signal::stop_flag()?;
    let reload = crate::sys::signal::reload_flag()?;
    let settings = settings(&config, follows);
    let mut recorder = Recorder::attach(open(&settings)?, options(&config, settings), &pids, Some(selector))?;
    recorder.prepare()?;
    recorder.enable()?;
    let retention = Retention { max_age: config.store.max_age, max_bytes: config.store.max_bytes };
    let (keeper, kept) = Keeper::start(writer, minutes, retention, log, complain)?;
    let mut service = Service::new(recorder, config.policies, config.transactions, kept);
    report::say(&format!(
        "watching {} process{}; requests are kept in {}, questions answered at {}\n",
        pids.len(),
        if pids.len() == 1 { "" } else { "es" },
        store.display(),
        socket.display()
    ));
    notify("READY=1");
    service.run(stop, &questions, &mut |service| {
        if reload.swap(false, Ordering::Relaxed) {
            reload_policies(&args, service);
        }
        Ok(())
    })?;
    notify("STOPPING=1");
    let status = service.status();
    drop(service);
    report::say(&end_lines(&status, keeper.finish()));
    Ok(ExitCode::Success)
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
                selection.notes.iter().for_each(|note| report::say(&format!("note: {note}\n")));
            }
            Err(error) if part.pids.is_empty() && error.kind() == ErrorKind::NotFound => {
                report::say(&format!("note: {error}: waiting for it\n"));
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
    let Some(path) = &args.config else { return report::say("note: no configuration to read again\n") };
    match configure(args) {
        Ok(config) => {
            service.policies.replace(config.policies);
            report::say(&format!("policies of {} are in force\n", path.display()));
        }
        Err(error) => {
            report::say(&report::error_lines(&error.context("the policies in force stay")));
        }
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

/// Where a line for each kept request goes.
fn open_log(log: &Log, quiet: bool) -> Result<Box<dyn Write + Send>> {
    match log {
        Log::File(path) => {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
            Ok(Box::new(file.context(|| format!("failed to open the log `{}`", path.display()))?))
        }
        Log::Stdout if quiet => Ok(Box::new(std::io::sink())),
        Log::Stdout => Ok(Box::new(std::io::stdout())),
    }
}

fn complain(what: &str) {
    report::say(&format!("warning: {what}\n"));
}

/// What the agent did, and what was lost.
fn end_lines(status: &ServiceStatus, kept: KeptCounts) -> String {
    let ServiceStatus { counts, losses, .. } = status;
    let mut lines = format!("{} requests seen, {} kept\n", counts.requests, kept.written);
    for (count, what) in [
        (kept.refused, "requests that the store refused"),
        (kept.too_large, "requests with more samples than the store takes of one"),
        (counts.not_written, "requests not kept because the store was too slow"),
        (losses.connections, "connections given up for others"),
        (losses.requests + status.untracked, "requests not followed: too many at once"),
        (losses.lost_sync, "times that a connection made no sense"),
        (status.transfers_lost, "transfers lost: the ring was full"),
        (status.samples_lost, "samples lost: the ring was full"),
    ] {
        if count > 0 {
            lines.push_str(&format!("warning: {count} {what}\n"));
        }
    }
    let seconds = Duration::from_nanos(status.own_cpu_ns).as_secs_f64();
    lines.push_str(&format!(
        "cost: {seconds:.2} s of CPU time, {} MiB resident, {} MiB BPF\n",
        status.peak_rss_bytes >> 20,
        status.bpf_memory_bytes >> 20
    ));
    lines
}

#[cfg(all(test, feature = "bpf"))]
mod tests {
    use super::*;

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
