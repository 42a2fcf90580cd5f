//! The layouts followed in the memory of real interpreters: from `_PyRuntime` to the names and lines of
//! every thread, compared with what `tests/programs/known_stack.py` says of itself. Reading is done as
//! a profiler must, from outside; the line tables are decoded here, apart from the library.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSliceMut};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use object::{Object, ObjectSegment, ObjectSymbol};
use support::Python;
use txprof::unwind::python::{DebugOffsets, FrameForm, Layout, Version};

/// A running `known_stack.py` and what it says of itself.
struct Target {
    child: Child,
    told: serde_json::Value,
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target {
    fn start(python: &Python) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/known_stack.py");
        let source = std::fs::read_to_string(source).expect("the tree is readable");
        let run = "import sys; exec(compile(sys.argv[1], '/srv/known_stack.py', 'exec'))";
        let mut command = python.command(&["-c", run, &source]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", python.name));
        let mut target = Self { child, told: serde_json::Value::Null };
        let mut line = String::new();
        let stdout = target.child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("it writes a line of UTF-8");
        target.told =
            serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", python.name));
        target
    }

    /// User time of all threads, in ticks of 10 ms: the 14th word of `/proc/PID/stat`.
    fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it lives");
        let behind_name = stat.rsplit(')').next().expect("a split has a part");
        behind_name.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).expect("a number")
    }

    fn number(&self, field: &str) -> u64 {
        self.told[field].as_u64().unwrap_or_else(|| panic!("the program tells its `{field}`"))
    }

    fn version(&self) -> Version {
        let part = |at: usize| self.told["version"][at].as_u64().and_then(|part| u8::try_from(part).ok());
        let part = |at| part(at).expect("parts of versions are small");
        Version { major: part(0), minor: part(1), micro: part(2) }
    }

    /// The frames of each thread as the program says, by `pthread_self`.
    fn threads(&self) -> BTreeMap<u64, Vec<Frame>> {
        let thread = |thread: &serde_json::Value| {
            let frames = thread[1].as_array()?.iter().map(|frame| {
                let text = |at: usize| Some(frame[at].as_str()?.to_owned());
                let number = |at: usize| frame[at].as_i64();
                Some(Frame {
                    name: text(0)?,
                    file: text(1)?,
                    line: number(2)?,
                    first_line: number(3)?,
                    hash: number(4)?,
                })
            });
            Some((thread[0].as_u64()?, frames.collect::<Option<Vec<Frame>>>()?))
        };
        let threads = self.told["threads"].as_array().expect("a list").iter().map(thread);
        threads.collect::<Option<_>>().expect("threads are as `known_stack.py` prints them")
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Frame {
    /// Qualified from 3.11 on.
    name: String,
    file: String,
    line: i64,
    first_line: i64,
    /// Of the plain name.
    hash: i64,
}

/// A thread state as found in memory.
#[derive(Debug)]
struct Thread {
    address: u64,
    status: Option<u64>,
    frames: Vec<Frame>,
    /// For each frame, whether it entered an evaluation loop; empty where versions do not tell.
    entries: Vec<bool>,
}

/// A process's memory. Addresses that cannot be read are failures of the test.
struct Memory {
    pid: Pid,
    layout: Layout,
}

impl Memory {
    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        read(self.pid, address, len)
    }

    fn u64(&self, address: u64, offset: u32) -> u64 {
        let bytes = self.bytes(address + u64::from(offset), 8);
        u64::from_le_bytes(bytes.try_into().expect("eight were read"))
    }

    fn i32(&self, address: u64, offset: u32) -> i32 {
        let bytes = self.bytes(address + u64::from(offset), 4);
        i32::from_le_bytes(bytes.try_into().expect("four were read"))
    }

    fn u8(&self, address: u64, offset: u32) -> u32 {
        u32::from(self.bytes(address + u64::from(offset), 1)[0])
    }

    /// A compact `str`. Its state is interned:2, kind:3, compact:1, ascii:1 from the lowest bit in all
    /// versions with a GIL (`Include/cpython/unicodeobject.h`).
    fn text(&self, address: u64) -> String {
        let state = self.i32(address, self.layout.text_state);
        let (kind, compact, ascii) = (state >> 2 & 7, state >> 5 & 1, state >> 6 & 1);
        assert_eq!(compact, 1, "state {state:#x} of a name");
        let data = if ascii == 1 { self.layout.text_ascii } else { self.layout.text_compact };
        let length = self.u64(address, self.layout.text_length);
        assert!(length < 4096, "a name of {length} characters");
        let width = usize::try_from(kind).expect("three bits");
        let bytes = self.bytes(address + u64::from(data), width * length as usize);
        let character = |bytes: &[u8]| {
            let number = bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte));
            char::from_u32(number).expect("a character")
        };
        bytes.chunks_exact(width).map(character).collect()
    }

    /// Addresses in the list that begins at `head`, whose next is at `next`.
    fn list(&self, head: u64, next: u32) -> Vec<u64> {
        let following = |address: &u64| Some(self.u64(*address, next)).filter(|address| *address != 0);
        let list: Vec<u64> =
            std::iter::successors(Some(head).filter(|head| *head != 0), following).take(100).collect();
        assert!(list.len() < 100, "a list without end");
        list
    }

    fn thread(&self, address: u64) -> Thread {
        let layout = &self.layout;
        let status =
            (layout.thread_status != Layout::ABSENT).then(|| self.i32(address, layout.thread_status) as u64);
        let holder = match layout.thread_cframe {
            Layout::ABSENT => address,
            cframe => self.u64(address, cframe),
        };
        let mut thread = Thread { address, status, frames: Vec::new(), entries: Vec::new() };
        for frame in self.list(self.u64(holder, layout.thread_frame), layout.frame_previous) {
            let owner = match layout.frame_owner {
                Layout::ABSENT => None,
                offset => Some(self.u8(frame, offset)),
            };
            match (layout.form, owner) {
                (FrameForm::Shim, Some(owner)) if owner >= layout.shim_owner => {
                    if let Some(entered) = thread.entries.last_mut() {
                        *entered = true;
                    }
                    continue;
                }
                (FrameForm::EntryFlag, Some(flag)) => thread.entries.push(flag == 1),
                (FrameForm::Shim, _) => thread.entries.push(false),
                _ => {}
            }
            thread.frames.push(self.frame(frame));
        }
        thread
    }

    fn frame(&self, frame: u64) -> Frame {
        let layout = &self.layout;
        let code = self.u64(frame, layout.frame_code) & !7;
        let byte = match layout.form {
            FrameForm::ObjectBytes => i64::from(self.i32(frame, layout.frame_instruction)),
            FrameForm::ObjectUnits => i64::from(self.i32(frame, layout.frame_instruction)) * 2,
            FrameForm::EntryFlag | FrameForm::Shim => self
                .u64(frame, layout.frame_instruction)
                .wrapping_sub(code + u64::from(layout.code_instructions))
                .cast_signed(),
        };
        let table = self.u64(code, layout.code_line_table);
        let size = self.u64(table, layout.bytes_size);
        assert!(size < 1 << 16, "a line table of {size} bytes");
        let table = self.bytes(table + u64::from(layout.bytes_data), size as usize);
        let first_line = i64::from(self.i32(code, layout.code_first_line));
        let line = match layout.form {
            FrameForm::ObjectBytes => line_by_lnotab(&table, first_line, byte),
            FrameForm::ObjectUnits => line_by_pairs(&table, first_line, byte),
            FrameForm::EntryFlag | FrameForm::Shim => line_by_locations(&table, first_line, byte),
        };
        let plain_name = self.u64(code, layout.code_name);
        let name = match layout.code_qualified_name {
            Layout::ABSENT => plain_name,
            qualified => self.u64(code, qualified),
        };
        Frame {
            name: self.text(name),
            file: self.text(self.u64(code, layout.code_file_name)),
            line,
            first_line,
            hash: self.u64(plain_name, layout.text_hash).cast_signed(),
        }
    }
}

fn read(pid: Pid, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let base = usize::try_from(address).expect("64-bit");
    let count =
        process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &[RemoteIoVec { base, len }]).unwrap_or(0);
    assert_eq!(count, len, "{len} bytes at {address:#x} cannot be read");
    bytes
}

/// Up to 3.9: pairs of bytes to go and lines to go, which are signed (`Objects/lnotab_notes.txt`, 3.9).
fn line_by_lnotab(table: &[u8], first_line: i64, byte: i64) -> i64 {
    let (mut at, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        at += i64::from(pair[0]);
        if at > byte {
            break;
        }
        line += i64::from(pair[1].cast_signed());
    }
    line
}

/// 3.10: pairs of the length of a range in bytes and the step to its line; -128: no line
/// (`Objects/lnotab_notes.txt`, 3.10).
fn line_by_pairs(table: &[u8], first_line: i64, byte: i64) -> i64 {
    let (mut end, mut line) = (0, first_line);
    for pair in table.chunks_exact(2) {
        let step = pair[1].cast_signed();
        line += if step == -128 { 0 } else { i64::from(step) };
        end += i64::from(pair[0]);
        if end > byte {
            break;
        }
    }
    line
}

/// From 3.11: entries of a byte `1 kind:4 length-1:3` and, by kind, a step of the line and columns
/// (`Objects/locations.md`, 3.11).
fn line_by_locations(table: &[u8], first_line: i64, byte: i64) -> i64 {
    let (mut end, mut line) = (0, first_line);
    let mut entry = 0;
    while let Some(head) = table.get(entry) {
        line += match head >> 3 & 15 {
            13 | 14 => {
                let digits = table[entry + 1..].iter().take_while(|digit| **digit & 64 != 0).count() + 1;
                let number = table[entry + 1..][..digits]
                    .iter()
                    .rev()
                    .fold(0, |number, digit| number << 6 | i64::from(digit & 63));
                if number & 1 == 1 { -(number >> 1) } else { number >> 1 }
            }
            one_line @ 10..=12 => i64::from(one_line) - 10,
            _ => 0,
        };
        end += 2 * (i64::from(head & 7) + 1);
        if end > byte {
            break;
        }
        // The next entry is the next byte with its highest bit set.
        entry += 1 + table[entry + 1..].iter().take_while(|byte| **byte & 128 == 0).count();
    }
    line
}

/// The address of `_PyRuntime` in the process: its address in the file that has it, plus the file's bias.
fn find_runtime(pid: Pid) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the target lives");
    let mut seen: Vec<&str> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(offset), Some(path)) = (words.next(), words.nth(1), words.nth(2)) else {
            continue;
        };
        let is_python = path.rsplit('/').next().is_some_and(|name| name.contains("python3"));
        if !is_python || seen.contains(&path) {
            continue;
        }
        seen.push(path);
        let bytes = std::fs::read(path).expect("mapped files are there");
        let file = object::File::parse(&*bytes).expect("an ELF file");
        let Some(symbol) = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("_PyRuntime")) else {
            continue;
        };
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("maps have hex numbers");
        let page = |address: u64| address & !4095;
        let segment = file
            .segments()
            .find(|segment| page(segment.file_range().0) == page(hex(offset)))
            .expect("mappings are of segments");
        let start = hex(range.split('-').next().expect("a split has a first part"));
        return start - page(segment.address()) + symbol.address();
    }
    panic!("no `_PyRuntime` in {seen:?}");
}

/// The layout as a profiler would get it, by the version.
fn layout(pid: Pid, runtime: u64, version: Version) -> Layout {
    if let Some(layout) = Layout::of(version) {
        return *layout;
    }
    let told = Layout::from_debug_offsets(&read(pid, runtime, DebugOffsets::BYTES), version)
        .unwrap_or_else(|refused| panic!("{refused}"));
    assert_eq!((told.version, told.free_threaded), (version, false));
    told.layout
}

/// Compares all that the layout leads to with what the program said.
fn compare(target: &Target) {
    let pid = Pid::from_raw(target.child.id().cast_signed());
    let runtime = find_runtime(pid);
    let layout = layout(pid, runtime, target.version());
    let memory = Memory { pid, layout };
    let head = memory.u64(runtime, layout.runtime_interpreters_head);
    let interpreters = memory.list(head, layout.interpreter_next);
    assert_eq!(interpreters.len() as u64, target.number("interpreters"), "interpreters");
    let main = *interpreters.last().expect("there is one: the main one is last");

    let mut found = BTreeMap::new();
    let states = memory.list(memory.u64(main, layout.interpreter_threads_head), layout.thread_next);
    for state in states {
        assert_eq!(memory.u64(state, layout.thread_interpreter), main, "interpreter of a thread");
        found.insert(memory.u64(state, layout.thread_id), memory.thread(state));
    }
    let expected = target.threads();
    assert!(found.keys().eq(expected.keys()), "threads {found:#?}, not {expected:#?}");
    let spinner = target.number("spinner");
    for (id, expected) in &expected {
        let mut frames = found[id].frames.clone();
        if *id == spinner {
            // It goes round in a loop of two lines.
            frames[0].line = expected[0].line;
        }
        assert_eq!(frames, *expected, "frames of {id:#x}");
    }
    compare_entries(&found[&target.number("main")]);
    compare_gil(&memory, runtime, main, &found, spinner);
}

/// C entered the evaluation loop for both modules, the sort's key and the sum's generator, for no others.
fn compare_entries(main: &Thread) {
    let entered = ["<module>", "Server.handle.<locals>.<lambda>", "Server.generate"];
    for (frame, is_entry) in main.frames.iter().zip(&main.entries) {
        assert_eq!(*is_entry, entered.contains(&&*frame.name), "entry flag of {frame:?}");
    }
}

/// The spinning thread holds the GIL, and is the only active one.
fn compare_gil(memory: &Memory, runtime: u64, main: u64, threads: &BTreeMap<u64, Thread>, spinner: u64) {
    let layout = &memory.layout;
    let spinning = threads[&spinner].address;
    if layout.runtime_tstate_current != Layout::ABSENT {
        assert_eq!(memory.u64(runtime, layout.runtime_tstate_current), spinning, "current thread state");
        return;
    }
    assert_eq!(memory.u64(main, layout.interpreter_gil_holder), spinning, "holder of the GIL");
    assert_eq!(memory.i32(main, layout.interpreter_gil_locked), 1, "the GIL is held");
    for (id, thread) in threads {
        let status = thread.status.expect("versions with a GIL per interpreter have a status");
        let active = status & u64::from(layout.thread_active_mask) != 0;
        assert_eq!(active, *id == spinner, "status {status:#x} of {id:#x}");
    }
}

/// Each interpreter of the machine is started, and read when its spinning thread has spun for a while
/// since all was told.
#[test]
fn layouts_lead_to_the_names_and_lines_of_every_thread() {
    let pythons = support::pythons();
    if !pythons.iter().any(|python| python.name.starts_with("system")) {
        support::skip::<()>("needs Debian's Python in /usr/bin");
    }
    for python in pythons {
        let target = Target::start(&python);
        let told = target.cpu_ticks();
        support::wait_for("the spinning thread to spin", || target.cpu_ticks() > told + 4);
        println!("{}: {:?}", python.name, target.version());
        compare(&target);
    }
}
