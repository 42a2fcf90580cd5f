//! Samples targets with both readings and has each pair judged at once.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use framehop::x86_64::CacheX86_64;
use txprof::sampler::clock::ClockChoice;
use txprof::sampler::{Event, Sampler, SamplerSettings, bpf};
use txprof::sys::abi::ProcessChange;
use txprof::sys::clock::monotonic_ns;
use txprof::target::select::{Selector, Wish};

use super::{Account, Images, Kept, Pairs, Space, judge};

/// Not a divisor of anything that programs do regularly.
const FREQUENCY_HZ: u32 = 997;
/// The rings hold four of these.
const TICK: Duration = Duration::from_millis(50);

/// Both halves of a pair are written this long after either's time: a walk takes some 10 µs.
const UNDELIVERED_NS: u64 = 10_000_000;

/// A target and what the account calls it.
struct Followed {
    name: String,
    space: Option<Rc<Space>>,
}

/// Samples a few targets.
pub struct Session {
    sampler: Sampler,
    images: Images,
    followed: HashMap<u32, Followed>,
    pairs: Pairs,
    cache: CacheX86_64,
    /// Targets whose mappings must be read anew.
    stale: BTreeSet<u32>,
}

impl Session {
    /// Sampling begins; there are no targets yet.
    pub fn open() -> Self {
        let settings = SamplerSettings {
            // The timer: the CPU's counters may interrupt the kernel where it has not saved the user's registers yet.
            clock: ClockChoice::CpuClock,
            frequency_hz: FREQUENCY_HZ,
            follow_children: true,
            watch_all: false,
            kernel_frames: true,
            on_cpu: true,
            off_cpu: None,
            lane: None,
            keep_samples: true,
        };
        let mut sampler = bpf::open(&settings).expect("BPF is allowed here");
        sampler.backend_mut().enable().expect("the clocks start");
        Self {
            sampler,
            images: Images::default(),
            followed: HashMap::new(),
            pairs: Pairs::default(),
            cache: CacheX86_64::new(),
            stale: BTreeSet::new(),
        }
    }

    /// Adds a process and its children under one name.
    pub fn add(&mut self, pid: &str, name: &str) {
        let pids = vec![pid.parse().expect("pids are numbers")];
        let wish = Wish { pids, with_children: true, ..Wish::default() };
        let found = Selector::new(&wish).and_then(|selector| selector.find()).expect("the target lives");
        for target in found.targets {
            self.followed.insert(target.pid, Followed { name: name.to_owned(), space: None });
            self.refresh(target.pid, true);
        }
    }

    /// Samples until `account` has `stacks` of each of `names`, or for `limit`.
    pub fn run(&mut self, names: &[&str], stacks: u64, limit: Duration, account: &mut Account) {
        let began = Instant::now();
        let is_short =
            |account: &Account| names.iter().any(|name| account.of_program(name).stacks() < stacks);
        while is_short(account) && began.elapsed() < limit {
            self.round(account);
        }
        account.lost += std::mem::take(&mut self.pairs.lost);
    }

    fn round(&mut self, account: &mut Account) {
        let before_ns = monotonic_ns() - UNDELIVERED_NS;
        let Self { sampler, pairs, followed, stale, .. } = self;
        sampler.poll(TICK, |_, event| match event {
            Event::Sample(sample, _) => pairs.add_ours(&sample),
            Event::Kept(body) => {
                // A thread that ends has nothing in user mode any more.
                Kept::parse(body).into_iter().for_each(|kept| pairs.add_kept(kept));
            }
            Event::Mapped(record) if followed.contains_key(&record.pid) => {
                stale.insert(record.pid);
            }
            Event::Process { pid, change: ProcessChange::Fork { parent }, .. } => {
                if let Some(Followed { name, space }) = followed.get(&parent) {
                    let child = Followed { name: name.clone(), space: space.clone() };
                    followed.insert(pid, child);
                }
            }
            Event::Process { pid, change: ProcessChange::Exec, .. } => {
                followed.entry(pid).and_modify(|followed| followed.space = None);
                stale.insert(pid);
            }
            _ => {}
        });
        for (ours, kept) in self.pairs.take(before_ns) {
            let Some(Followed { name, space }) = self.followed.get(&ours.pid) else { continue };
            match space {
                Some(space) if space.read_ns < ours.time_ns => {
                    let judgement = judge(space, &mut self.cache, &ours, &kept);
                    let callers = ours.pcs.iter().skip(1).map(|pc| pc - 1);
                    let looked_up = ours.pcs.iter().take(1).copied().chain(callers);
                    account.add(name, judgement, looked_up.map(|address| space.module(address)));
                }
                _ => account.add_gone(name),
            }
        }
        for pid in std::mem::take(&mut self.stale) {
            self.refresh(pid, false);
        }
    }

    /// Reads the mappings of a target and tells the walker.
    fn refresh(&mut self, pid: u32, is_new: bool) {
        let Some(followed) = self.followed.get_mut(&pid) else { return };
        let Some(space) = Space::read(pid, &mut self.images, &mut self.sampler.tables) else { return };
        if followed.space.as_ref().is_some_and(|known| known.equals(&space)) {
            return;
        }
        let entries = space.slice();
        followed.space = Some(Rc::new(space));
        let slice = self.sampler.tables.add_slice(&entries).map(|slice| (slice, entries.len()));
        let told = match is_new {
            true => self.sampler.add_target(pid, slice),
            false => self.sampler.update_target(pid, slice, None),
        };
        told.expect("the map of targets has room");
    }
}
