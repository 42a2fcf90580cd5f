//! Claim: the check at attach finds every sound interpreter of this machine sound, by comparisons that take place, and
//! finds a layout that is off by one field.

mod support;

use std::io::IoSliceMut;
use std::path::Path;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use object::{Object, ObjectSegment};
use support::{Python, Target, pythons};
use txprof::model::{MappingKind, Svma};
use txprof::target::procfs;
use txprof::unwind::python::objects::Memory;
use txprof::unwind::python::self_check::{Root, SelfCheck, Verdict};
use txprof::unwind::python::walk::Interpreter;
use txprof::unwind::python::{DebugOffsets, Layout, PythonBinary, recognise};

struct Remote(Pid);

impl Memory for Remote {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let (len, base) = (buffer.len(), usize::try_from(address).expect("64-bit"));
        let read = process_vm_readv(self.0, &mut [IoSliceMut::new(buffer)], &[RemoteIoVec { base, len }]);
        read == Ok(len)
    }
}

/// A process that runs `split.py` sixty recursions deep, and what is known of its interpreter.
struct Subject {
    _target: Target,
    file: String,
    memory: Remote,
    binary: PythonBinary,
    layout: Layout,
    bias: u64,
}

impl Subject {
    fn start(python: &Python) -> Self {
        let target = python.start("split.py", &[]);
        let pid: u32 = target.pid().parse().expect("a number");
        let elf = python.binary();
        let binary = recognise(&elf).expect("a sound file").expect("an interpreter");
        let memory = Remote(Pid::from_raw(pid.cast_signed()));
        let bias = bias(pid, &elf);
        let layout = Layout::of(binary.version).copied().unwrap_or_else(|| {
            let mut bytes = vec![0; DebugOffsets::BYTES];
            assert!(memory.read(binary.runtime.0.wrapping_add(bias), &mut bytes), "the runtime is readable");
            Layout::from_debug_offsets(&bytes, binary.version).expect("it tells its layout").layout
        });
        let directory = match &python.root {
            Some(root) => Path::new("/").join(target.directory.path().strip_prefix(root).expect("inside")),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/python"),
        };
        let file = directory.join("split.py").to_string_lossy().into_owned();
        Self { _target: target, file, memory, binary, layout, bias }
    }

    fn check<'a>(&'a self, layout: &'a Layout) -> SelfCheck<'a> {
        let at = |svma: Svma| svma.0.wrapping_add(self.bias);
        SelfCheck {
            memory: &self.memory,
            interpreter: Interpreter {
                layout,
                runtime: at(self.binary.runtime),
                code_type: at(self.binary.code_type),
            },
            version: self.binary.version,
            text_type: at(self.binary.text_type),
        }
    }

    /// What comparing the outermost frame comes to, had it been delivered so.
    fn root(&self, function: &str, file: &str) -> Verdict {
        let check = self.check(&self.layout);
        let pointer = self.thread_pointer();
        let states = check.interpreter.states(&self.memory);
        // The root of a thread that runs is found as long as the last frames are.
        let walk = check.interpreter.walk(&self.memory, pointer, &states[&pointer], 200).expect("it runs");
        let code = walk.frames.last().and_then(|frame| frame.code).expect("it has frames");
        let cookie = check.interpreter.code(&self.memory, code).expect("code").cookie;
        check.root(Root { code, cookie, function, file })
    }

    fn thread_pointer(&self) -> u64 {
        let states = self.check(&self.layout).interpreter.states(&self.memory);
        *states.keys().next().expect("the main thread has a state")
    }

    /// What comparing the frames comes to: the agreements and contradictions of some readings of the thread that runs.
    fn frames(&self, layout: &Layout) -> (usize, usize) {
        let pointer = self.thread_pointer();
        let verdicts: Vec<Verdict> = (0..20)
            .map(|_| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                self.check(layout).frames(pointer)
            })
            .collect();
        let agreements = verdicts.iter().filter(|verdict| **verdict == Verdict::Agrees).count();
        let contradictions = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Differs(_))).count();
        (agreements, contradictions)
    }
}

/// Where the file of the interpreter lies, less where it says to be: told by the mapping of its code.
fn bias(pid: u32, elf: &[u8]) -> u64 {
    let file = object::File::parse(elf).expect("an ELF file");
    for mapping in procfs::read_mappings(pid).expect("the target lives") {
        let MappingKind::File { path, .. } = &mapping.kind else { continue };
        let is_behind = |segment: &object::Segment<'_, '_>| segment.file_range().0 & !4095 == mapping.offset;
        let segment = file.segments().find(is_behind);
        if let Some(segment) =
            segment.filter(|_| path.rsplit('/').next().is_some_and(|name| name.contains("python3")))
        {
            return mapping.start.0.wrapping_sub(segment.address() & !4095);
        }
    }
    panic!("no interpreter among the mappings");
}

/// All three comparisons take place and agree, with each interpreter at work; the frames', which chance may disturb,
/// nearly always. A root that is not what its code object says is contradicted, by name and by file.
#[test]
fn sound_interpreters_agree() {
    for python in pythons() {
        let subject = Subject::start(&python);
        let check = subject.check(&subject.layout);
        assert_eq!(check.types(), Verdict::Agrees, "{}", python.name);
        let root = subject.root("<module>", &subject.file);
        assert_eq!(root, Verdict::Agrees, "{}", python.name);
        for (function, file) in [("main", &*subject.file), ("<module>", "/srv/other.py")] {
            let verdict = subject.root(function, file);
            assert!(matches!(verdict, Verdict::Differs(_)), "{}: {verdict:?}", python.name);
        }
        let (agreements, contradictions) = subject.frames(&subject.layout);
        println!("{:20} frames agree {agreements} times, {contradictions} contradictions", python.name);
        assert!(agreements >= 15 && contradictions <= 2, "{}: {agreements} {contradictions}", python.name);
    }
}

/// A layout that has one of a code object's or a text's fields a word further is contradicted at once, by the field's
/// name; one that has a frame's links elsewhere, by every reading, and agrees with none.
#[test]
fn fields_that_are_off_are_found() {
    for python in pythons() {
        let subject = Subject::start(&python);
        let check_types = |field: &str, layout: Layout| {
            let verdict = subject.check(&layout).types();
            let is_named = matches!(&verdict, Verdict::Differs(how) if how.contains(field));
            assert!(is_named, "{}: {field}: {verdict:?}", python.name);
        };
        let sound = subject.layout;
        check_types("code_name", Layout { code_name: sound.code_name + 8, ..sound });
        check_types("code_file_name", Layout { code_file_name: sound.code_file_name + 8, ..sound });
        check_types("code_first_line", Layout { code_first_line: sound.code_first_line + 4, ..sound });
        check_types("code_line_table", Layout { code_line_table: sound.code_line_table - 8, ..sound });
        check_types("text_compact", Layout { text_compact: sound.text_compact + 8, ..sound });
        if sound.code_qualified_name != Layout::ABSENT {
            let (name, code) = (sound.code_qualified_name + 8, sound.code_instructions + 8);
            check_types("code_qualified_name", Layout { code_qualified_name: name, ..sound });
            check_types("code_instructions", Layout { code_instructions: code, ..sound });
        }
        for off in [8, 16, 24, 32, 40, 48] {
            for layout in [
                Layout { frame_previous: sound.frame_previous + off, ..sound },
                Layout { frame_code: sound.frame_code + off, ..sound },
            ] {
                let (agreements, contradictions) = subject.frames(&layout);
                let is_found = agreements == 0 && contradictions >= 15;
                assert!(is_found, "{}: off by {off}: {agreements} {contradictions}", python.name);
            }
        }
    }
}
