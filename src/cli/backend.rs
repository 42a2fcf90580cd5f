//! Which backend records, and what is different about it.

use super::{BackendChoice, EventChoice, ModeChoice, RecordPlan, TargetPlan};
use crate::sampler::clock::ClockChoice;
use crate::sampler::ptrace::MAX_FREQUENCY_HZ;
use crate::sampler::{Sampler, SamplerSettings, ptrace};
#[cfg(feature = "bpf")]
use crate::sys::rights::preflight;
use crate::{Error, ErrorKind, Result};

/// What takes the samples.
#[derive(Debug)]
pub enum ChosenBackend {
    /// Programs in the kernel.
    Ebpf,
    /// This process, by stopping threads.
    Ptrace {
        /// Why not the kernel; `None` where this was asked for.
        refusal: Option<Error>,
    },
}

impl ChosenBackend {
    /// What was asked for, or the best that this machine allows. Fails where that is not permitted.
    pub fn of(plan: &RecordPlan) -> Result<Self> {
        let counts_cycles = plan.event == EventChoice::Cycles;
        match plan.backend {
            BackendChoice::Ptrace if counts_cycles => {
                Err(Error::new(ErrorKind::InvalidInput, "`--backend ptrace` counts run time, not cycles")
                    .with_hint("leave out `-e cycles`"))
            }
            BackendChoice::Ptrace if plan.off_cpu.is_some() => {
                Err(Error::new(ErrorKind::InvalidInput, "`--backend ptrace` does not see waits")
                    .with_hint("`--mode cpu` samples what runs; waits need BPF, see `txprof doctor`"))
            }
            BackendChoice::Ptrace => Ok(Self::Ptrace { refusal: None }),
            BackendChoice::Auto | BackendChoice::Ebpf => match preflight() {
                Ok(()) => Ok(Self::Ebpf),
                Err(refusal)
                    if plan.backend == BackendChoice::Auto && !counts_cycles && plan.off_cpu.is_none() =>
                {
                    Ok(Self::Ptrace { refusal: Some(refusal) })
                }
                Err(refusal) => Err(refusal),
            },
        }
    }

    /// What the user should know before the recording.
    pub fn notes(&self, plan: &RecordPlan) -> Vec<String> {
        let Self::Ptrace { refusal } = self else { return Vec::new() };
        let mut notes = Vec::new();
        if let Some(refusal) = refusal {
            notes.push(format!("{refusal}: running threads are stopped for moments instead"));
        }
        if plan.frequency_hz > MAX_FREQUENCY_HZ {
            let wanted = plan.frequency_hz;
            notes.push(format!("{MAX_FREQUENCY_HZ} Hz instead of {wanted}: each sample stops a thread"));
        }
        if plan.tasks {
            notes.push("asyncio's tasks are not told apart by the ptrace backend".to_owned());
        }
        notes
    }

    /// What the sampler is to do.
    pub fn settings(&self, plan: &RecordPlan) -> SamplerSettings {
        SamplerSettings {
            clock: match plan.event {
                EventChoice::Auto => ClockChoice::Auto,
                EventChoice::CpuClock => ClockChoice::CpuClock,
                EventChoice::Cycles => ClockChoice::Cycles,
            },
            frequency_hz: match self {
                Self::Ebpf => plan.frequency_hz,
                Self::Ptrace { .. } => plan.frequency_hz.min(MAX_FREQUENCY_HZ),
            },
            follow_children: plan.children,
            watch_all: matches!(plan.target, TargetPlan::Name(_) | TargetPlan::Cgroup(_)),
            kernel_frames: plan.kernel,
            on_cpu: plan.mode != ModeChoice::OffCpu,
            off_cpu: plan.off_cpu,
            lane: None,
            keep_samples: false,
        }
    }

    /// Opens it.
    pub fn open(&self, settings: &SamplerSettings) -> Result<Sampler> {
        match self {
            #[cfg(feature = "bpf")]
            Self::Ebpf => crate::sampler::bpf::open(settings),
            #[cfg(not(feature = "bpf"))]
            Self::Ebpf => preflight().and_then(|()| ptrace::open(settings)),
            Self::Ptrace { .. } => ptrace::open(settings),
        }
    }
}

#[cfg(not(feature = "bpf"))]
fn preflight() -> Result<()> {
    Err(Error::new(ErrorKind::UnsupportedSystem, "this txprof was built without its BPF programs")
        .with_hint("build it with its default features: cargo build --release"))
}
