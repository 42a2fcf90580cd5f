//! Stacks of stopped children, walked by our rows and by framehop over the
//! same memory, frame by frame. With `TXPROF_BLESS_STACKS=1` some of them are kept for tests/unwind_replay.rs.

mod support;

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use framehop::x86_64::{CacheX86_64, Reg, UnwindRegsX86_64, UnwinderX86_64};
use framehop::{ExplicitModuleSectionInfo, Unwinder};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use object::{Object, ObjectSection, ObjectSegment, SegmentFlags};
use support::replay::{CapturedModule, CapturedProgram, CapturedStack, captured_path, hex};
use txprof::unwind::{FdeIndex, Registers, Rule, RuleKind, Step, Table, step};

const STOPS: usize = 150;
const MAX_FRAMES: usize = 1024;
/// framehop's registers in the order of DWARF's numbers.
const ORDER: [Reg; 16] = [
    Reg::RAX,
    Reg::RDX,
    Reg::RCX,
    Reg::RBX,
    Reg::RSI,
    Reg::RDI,
    Reg::RBP,
    Reg::RSP,
    Reg::R8,
    Reg::R9,
    Reg::R10,
    Reg::R11,
    Reg::R12,
    Reg::R13,
    Reg::R14,
    Reg::R15,
];

struct Module {
    avma: Range<u64>,
    bias: u64,
    table: Table,
    path: String,
    build_id: String,
}

struct Target {
    child: Child,
    memory: File,
    modules: Vec<Module>,
    framehop: UnwinderX86_64<Vec<u8>>,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    /// Starts the program and lets it run until it has loaded its libraries.
    fn start(mut command: Command) -> Option<Self> {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let read_maps =
            || std::fs::read_to_string(format!("/proc/{}/maps", child.id())).expect("our own child");
        let mut maps = String::new();
        while maps != read_maps() {
            maps = read_maps();
            std::thread::sleep(Duration::from_millis(300));
        }
        let memory = File::open(format!("/proc/{}/mem", child.id())).expect("our own child");
        let mut target = Self { child, memory, modules: Vec::new(), framehop: UnwinderX86_64::new() };
        for line in maps.lines() {
            let _ = target.add_mapping(line);
        }
        Some(target)
    }

    fn add_mapping(&mut self, line: &str) -> Option<()> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let avma = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
        words.next().filter(|rights| rights.contains('x'))?;
        let offset = u64::from_str_radix(words.next()?, 16).ok()?;
        let bytes = match words.nth(2)? {
            "[vdso]" => {
                let mut bytes = vec![0; (avma.end - avma.start) as usize];
                self.memory.read_exact_at(&mut bytes, avma.start).ok()?;
                bytes
            }
            path => std::fs::read(path).ok()?,
        };
        let elf = object::File::parse(&*bytes).ok()?;
        let code = elf.segments().find(|segment| {
            let (at, len) = segment.file_range();
            let executable =
                matches!(segment.flags(), SegmentFlags::Elf { p_flags, .. } if p_flags.0 & 1 != 0);
            executable && at < offset + (avma.end - avma.start) && offset < at + len
        })?;
        let bias =
            avma.start.wrapping_sub(offset).wrapping_sub(code.address().wrapping_sub(code.file_range().0));
        let section = |name: &str| elf.section_by_name(name);
        let range =
            |name: &str| section(name).map(|section| section.address()..section.address() + section.size());
        let data = |name: &str| section(name).and_then(|section| section.data().ok()).map(<[u8]>::to_vec);
        let info = ExplicitModuleSectionInfo {
            text_svma: range(".text"),
            text: data(".text"),
            got_svma: range(".got"),
            eh_frame_svma: range(".eh_frame"),
            eh_frame: data(".eh_frame"),
            eh_frame_hdr_svma: range(".eh_frame_hdr"),
            eh_frame_hdr: data(".eh_frame_hdr"),
            ..ExplicitModuleSectionInfo::default()
        };
        self.framehop.add_module(framehop::Module::new(line.to_owned(), avma.clone(), bias, info));
        let index = FdeIndex::parse(&bytes).ok()?;
        let table = index.build_pages(&bytes, index.page_range());
        let path = line.split_whitespace().nth(5).unwrap_or_default().to_owned();
        let build_id = elf.build_id().ok().flatten().unwrap_or_default();
        let build_id = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.modules.push(Module { avma, bias, table, path, build_id });
        Some(())
    }

    fn read(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_le_bytes(word))
    }

    fn rule(&self, address: u64) -> Rule {
        let module = self.modules.iter().find(|module| module.avma.contains(&address));
        let rule = module.and_then(|module| module.table.find(address.wrapping_sub(module.bias)));
        rule.unwrap_or(Rule::NONE)
    }

    /// Interrupts the child, which must stay stopped while `observe` looks, and lets it go on.
    fn stopped<T>(&self, observe: impl FnOnce(Registers) -> T) -> T {
        let pid = Pid::from_raw(self.child.id() as i32);
        ptrace::attach(pid).expect("our own child");
        // Signals of the child's own arrive first; they are handed on.
        while let nix::sys::wait::WaitStatus::Stopped(_, signal) = waitpid(pid, None).expect("our own child")
        {
            if signal == Signal::SIGSTOP {
                break;
            }
            ptrace::cont(pid, signal).expect("stopped");
        }
        let r = ptrace::getregs(pid).expect("stopped");
        let values = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
            r.r14, r.r15,
        ];
        let seen = observe(Registers::new(r.rip, values));
        ptrace::detach(pid, None).expect("stopped");
        seen
    }

    /// Walks by our rows; also tells how the walk ended. A new stretch begins behind a signal frame,
    /// where all registers are known again, and behind a frame whose rule framehop cannot hold: it must be
    /// set down on the other side.
    fn walk(&self, first: Registers) -> (Vec<(Registers, Vec<u64>)>, Step) {
        let mut stretches = vec![(first, vec![first.pc])];
        let (mut frame, mut exact) = (first, true);
        for depth in 0..MAX_FRAMES {
            let rule = self.rule(if exact { frame.pc } else { frame.pc - 1 });
            match step(&frame, rule, depth == 0, |address| self.read(address)) {
                Step::Caller(caller) => {
                    match rule.kind() {
                        Some(kind) if !is_held_by_framehop(kind) => stretches.push((caller, vec![caller.pc])),
                        _ => stretches.last_mut().expect("never empty").1.push(caller.pc),
                    }
                    (frame, exact) = (caller, false);
                }
                Step::Interrupted(interrupted) => {
                    stretches.push((interrupted, vec![interrupted.pc]));
                    (frame, exact) = (interrupted, true);
                }
                last => return (stretches, last),
            }
        }
        (stretches, Step::Failed(txprof::model::Outcome::TruncatedDepth))
    }

    /// Walks with framehop, at most `limit` frames; whether it came to an end by itself.
    fn walk_by_framehop(&self, first: &Registers, limit: usize) -> (Vec<u64>, bool) {
        let mut registers = UnwindRegsX86_64::new(first.pc, first.rsp(), first.get(6).unwrap_or(0));
        for (number, place) in (0..).zip(ORDER) {
            registers.set(place, first.get(number).unwrap_or(0));
        }
        let mut cache = CacheX86_64::<_>::new();
        let mut read = |address| self.read(address).ok_or(());
        let mut frames = self.framehop.iter_frames(first.pc, registers, &mut cache, &mut read);
        let mut pcs = Vec::new();
        loop {
            match frames.next() {
                _ if pcs.len() == limit => return (pcs, false),
                Ok(Some(frame)) => pcs.push(frame.address()),
                Ok(None) => return (pcs, true),
                Err(_) => return (pcs, false),
            }
        }
    }
}

/// framehop follows rsp and rbp alone, and its expressions cannot read memory. Of other rules, such as that of the
/// instructions that realign a stack and count from r10, it makes a guess by the frame pointer.
fn is_held_by_framehop(kind: RuleKind) -> bool {
    match kind {
        RuleKind::CfaRegister { register, .. } => [6, 7].contains(&register),
        RuleKind::None | RuleKind::End | RuleKind::Signal | RuleKind::Plt { .. } => true,
        _ => false,
    }
}

/// One in so many stacks is kept.
const KEPT: usize = 25;

/// Keeps `stacks` of a program for tests/unwind_replay.rs, if that is wanted.
fn keep(name: &str, target: &Target, stacks: Vec<CapturedStack>) {
    if std::env::var_os("TXPROF_BLESS_STACKS").is_none() {
        return;
    }
    // Elsewhere a scratch directory has another name.
    let is_installed = |path: &&str| path.starts_with("/usr/") || path.starts_with("/lib");
    let modules = target.modules.iter().map(|module| CapturedModule {
        path: Some(&*module.path).filter(is_installed).unwrap_or(name).to_owned(),
        build_id: module.build_id.clone(),
        range: (hex(module.avma.start), hex(module.avma.end)),
        bias: hex(module.bias),
    });
    let captured = CapturedProgram { modules: modules.collect(), stacks };
    let text = serde_json::to_string(&captured).expect("it is plain");
    std::fs::write(captured_path(name), text + "\n").expect("the tree is writable");
}

/// Stops the program many times and compares every stack; prints what was seen.
fn compare_walks(name: &str, command: Command) {
    let Some(target) = Target::start(command) else {
        println!("skipped {name}: it cannot be started here");
        return;
    };
    let (mut complete, mut frames, mut restarts) = (0, 0, 0);
    let mut kept = Vec::new();
    for stop in 0..STOPS {
        std::thread::sleep(Duration::from_micros(700 + 131 * (stop as u64 % 11)));
        target.stopped(|first| {
            let (stretches, last) = target.walk(first);
            complete += usize::from(last == Step::End);
            restarts += stretches.len() - 1;
            for (number, (start, ours)) in stretches.iter().enumerate() {
                let (theirs, ended) = target.walk_by_framehop(start, ours.len());
                let common = theirs.len().min(ours.len());
                assert_eq!(
                    ours[..common],
                    theirs[..common],
                    "{name}: stretch {number} from {start:x?}, {last:?}"
                );
                // framehop may give up where we do not, but never end a stack that we find longer.
                assert!(!ended || theirs.len() == ours.len(), "{name}: {ours:x?} against {theirs:x?}");
                frames += common;
            }
            if stop % KEPT == 0 && last == Step::End {
                let pcs: Vec<u64> = stretches.iter().flat_map(|(_, pcs)| pcs).copied().collect();
                let read = |address| target.read(address);
                kept.push(CapturedStack::capture(first, |address| target.rule(address), read, &pcs));
            }
            if last != Step::End {
                println!("{name}: {last:?} behind {:x?}", stretches.last());
            }
        });
    }
    println!(
        "{name}: {complete} of {STOPS} stacks complete, {frames} frames agree, {restarts} signal frames or loaded CFAs"
    );
    keep(name, &target, kept);
    assert!(complete * 1000 >= STOPS * 995, "{name}: {complete} of {STOPS} complete");
}

/// Recursion, libc callbacks, realigned stacks and handlers on an alternate stack, without frame pointers.
#[test]
fn stacks_of_a_c_program_agree_with_framehop() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let program = directory.path().join("unwind_walk");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/unwind_walk.c");
    let compiled =
        Command::new("cc").args(["-O2", "-fomit-frame-pointer", "-o"]).arg(&program).arg(source).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("skipped: no C compiler");
        return;
    }
    compare_walks("unwind_walk", Command::new(program));
}

/// An unprepared interpreter and the libraries that it loads.
#[test]
fn stacks_of_python_agree_with_framehop() {
    let mut command = Command::new("/usr/bin/python3");
    let script = "import re, json, hashlib\n\
        def f(n):\n    return f(n-1) if n else sorted(map(lambda x: json.dumps({str(x): re.sub('a|b', str, 'cab') if 0 else x}), range(50)))\n\
        while True:\n    f(20); hashlib.sha256(b'x' * 100000).digest(); re.findall('(a+)+b', 'aaaaaaaaaaaa')";
    command.args(["-c", script]);
    compare_walks("python3", command);
}

/// A process that sleeps in a system call.
#[test]
fn stack_of_a_sleeper_agrees_with_framehop() {
    let mut command = Command::new("sleep");
    command.arg("60");
    compare_walks("sleep", command);
}
