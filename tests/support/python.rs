//! The CPythons of this machine, 3.8 and later, and the programs of `tests/programs/python` running on them.
//!
//! They are `/usr/bin/python3`, those of pyenv, and the Debian trees that `scripts/pythons` puts below
//! `target/pythons`, which are used through `chroot`. `TXPROF_TEST_PYTHONS` restricts them to
//! those whose name holds one of its words: `TXPROF_TEST_PYTHONS="3.8 system"`.
//! What `scripts/python-packages` installs is for whoever asks for [`pythons_with_packages`].

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Target, has};

/// The first and the last minor version that is supported.
const MINORS: RangeInclusive<u8> = 8..=14;
/// Those whose files and tables are understood.
const READABLE_MINORS: RangeInclusive<u8> = 7..=15;

/// One interpreter.
#[derive(Clone, Debug)]
pub struct Python {
    /// `system-3.11.2`, `pyenv-3.8.18`, `trixie-3.13.5`.
    pub name: String,
    /// The n of 3.n.
    pub minor: u8,
    /// The executable, as a process in `root` sees it.
    pub path: PathBuf,
    /// The tree to `chroot` to, if any.
    pub root: Option<PathBuf>,
    /// The folder of the packages that it may import, if any, seen from outside.
    pub packages: Option<PathBuf>,
}

/// Where those in a tree see their packages.
const PACKAGES_INSIDE: &str = "/packages";

/// All interpreters, oldest first. Fails under `CI=true` when the system's is missing.
pub fn pythons() -> Vec<Python> {
    pythons_of(MINORS)
}

/// As [`pythons`], with those that are not walked but whose files and tables are understood.
pub fn readable_pythons() -> Vec<Python> {
    pythons_of(READABLE_MINORS)
}

fn pythons_of(minors: RangeInclusive<u8>) -> Vec<Python> {
    let mut found = Vec::new();
    if has("/usr/bin/python3") {
        found.extend(Python::at("system", "/usr/bin/python3".into(), None));
    }
    let pyenv = std::env::var_os("PYENV_ROOT").map(PathBuf::from);
    let pyenv = pyenv.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    for version in pyenv.iter().flat_map(|pyenv| entries(&pyenv.join("versions"))) {
        found.extend(Python::at("pyenv", version.join("bin/python3"), None));
    }
    for tree in trees() {
        let name = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for minor in minors.clone() {
            let path = PathBuf::from(format!("/usr/bin/python3.{minor}"));
            found.extend(Python::at(&name, path, Some(tree.clone())));
        }
    }
    found.retain(|python| minors.contains(&python.minor));
    // Debian's of the machine's own suite is the machine's own.
    let system = found.iter().find(|python| python.root.is_none() && python.name.starts_with("system"));
    if let Some(version) = system.and_then(|system| system.name.strip_prefix("system-")).map(str::to_owned) {
        found.retain(|python| {
            python.name.starts_with("pyenv") || !python.name.ends_with(&version) || python.root.is_none()
        });
    }
    let wanted = std::env::var("TXPROF_TEST_PYTHONS").unwrap_or_default();
    let mut wanted = wanted.split_whitespace().peekable();
    if wanted.peek().is_some() {
        let wanted: Vec<&str> = wanted.collect();
        found.retain(|python| wanted.iter().any(|word| python.name.contains(word)));
    }
    found.sort_by_key(|python| (python.minor, python.name.clone()));
    found
}

/// All interpreters, with numpy and real servers, in versions that each can run, installed if need be. PyPI has wheels of all
/// of them for every version that is supported: one that it no longer has fails the installation.
pub fn pythons_with_packages() -> Vec<Python> {
    let mut found = pythons();
    let minors: BTreeSet<u8> = found.iter().map(|python| python.minor).collect();
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/python-packages"));
    script.arg("servers").args(minors.iter().map(|minor| format!("3.{minor}")));
    let output = script.stderr(Stdio::inherit()).output().expect("the script runs");
    assert!(output.status.success(), "scripts/python-packages servers: {}", output.status);
    let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    for python in &mut found {
        python.packages = Some(folder.join(format!("3.{}", python.minor)));
        if let Some(root) = &python.root {
            let inside = root.join(PACKAGES_INSIDE.trim_start_matches('/'));
            std::fs::create_dir_all(inside).expect("trees are writable");
        }
    }
    found
}

/// One of each minor version, oldest first: for claims that depend on the version, not on how it was built.
pub fn python_versions() -> Vec<Python> {
    let mut chosen = pythons();
    chosen.dedup_by_key(|python| python.minor);
    chosen
}

/// The oldest, the newest and the system's: for claims that take long and depend little on the version.
pub fn some_pythons() -> Vec<Python> {
    let all = pythons();
    let last = all.len().saturating_sub(1);
    let chosen = all
        .iter()
        .enumerate()
        .filter(|(n, python)| [0, last].contains(n) || python.name.starts_with("system"));
    chosen.map(|(_, python)| python.clone()).collect()
}

/// Those that `scripts/pythons` fetched.
fn trees() -> Vec<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is below the target directory");
    entries(&target.join("pythons"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

impl Python {
    /// `None` where there is no Python 3.
    fn at(origin: &str, path: PathBuf, root: Option<PathBuf>) -> Option<Self> {
        let outside = root
            .as_ref()
            .map_or_else(|| path.clone(), |root| root.join(path.strip_prefix("/").unwrap_or(&path)));
        if !outside.exists() {
            return None;
        }
        let mut python = Self { name: origin.to_owned(), minor: 0, path, root, packages: None };
        let output =
            python.command(&["-c", "import platform; print(platform.python_version())"]).output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        python.name = format!("{origin}-{version}");
        python.minor = version.strip_prefix("3.")?.split('.').next()?.parse().ok()?;
        Some(python)
    }

    /// What the script `source` prints.
    pub fn print(&self, source: &str, arguments: &[&str]) -> String {
        let mut command = self.command(&["-I", "-S", "-c", source]);
        let output = command.args(arguments).output().expect("an interpreter that was found starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", self.name);
        String::from_utf8(output.stdout).expect("test scripts print text")
    }

    /// The bytes of the file that holds the interpreter: the executable, or its library.
    pub fn binary(&self) -> Vec<u8> {
        let path = match &self.root {
            // There is no /proc inside, and Debian's are in one piece.
            Some(root) => root.join(self.path.strip_prefix("/").unwrap_or(&self.path)),
            None => {
                let path = self.print(
                    "files = [line.split()[-1] for line in open('/proc/self/maps') if 'r-xp' in line]
print(next((file for file in files if '/libpython3' in file), files[0]))",
                    &[],
                );
                PathBuf::from(path.trim())
            }
        };
        std::fs::read(path).expect("a running interpreter is readable")
    }

    /// The interpreter with `arguments`, as `chroot` and it understand them.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match (&self.root, &self.packages) {
            (None, _) => Command::new(&self.path),
            (Some(root), None) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.path);
                command
            }
            // In a mount namespace of its own: whatever becomes of it, the tree has no mount.
            (Some(root), Some(packages)) => {
                let mount =
                    format!("mount --bind \"$1\" \"$2{PACKAGES_INSIDE}\" && shift && exec chroot \"$@\"");
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", &mount, "sh"]).arg(packages).arg(root).arg(&self.path);
                command
            }
        };
        // Packages are compiled once; the tree of sources stays clean.
        command.args(self.packages.is_none().then_some("-B")).args(arguments);
        command
    }

    /// The folder of its packages, as a process in `root` sees it.
    pub fn packages(&self) -> &str {
        let packages = self.packages.as_ref().expect("it is one of `pythons_with_packages`");
        let outside = packages.to_str().expect("paths of the tree are plain");
        self.root.as_ref().map_or(outside, |_| PACKAGES_INSIDE)
    }

    /// Starts a program of `tests/programs/python` and waits until it burns CPU.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Target {
        let target = self.start_unwaited(program, arguments);
        self.wait_to_burn(program, &target);
        target
    }

    fn wait_to_burn(&self, program: &str, target: &Target) {
        super::wait_for(&format!("{program} to burn CPU on {}", self.name), || {
            target.account().iter().any(|slot| *slot > 0)
        });
    }

    /// As [`Self::start`], without waiting. With packages, programs of `tests/programs/servers` are beside those, all are
    /// modules, and a program may be one of the packages': its whole path inside.
    pub fn start_unwaited(&self, program: &str, arguments: &[&str]) -> Target {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        Target::start_inside(root, |directory| {
            let outside = root.join(directory.strip_prefix("/").unwrap_or(directory));
            let copied = self.root.is_some() || self.packages.is_some();
            let programs = if copied { directory.to_owned() } else { sources.join("python") };
            if copied {
                copy_all(&sources.join("python"), &outside);
            }
            let program = programs.join(program);
            let mut all = vec![program.to_str().expect("paths of the tree are plain")];
            all.extend_from_slice(arguments);
            let mut command = self.command(&all);
            if self.packages.is_some() {
                copy_all(&sources.join("servers"), &outside);
                command.env("PYTHONPATH", format!("{}:{}", self.packages(), directory.display()));
            }
            command
        })
    }

    /// `program` of all interpreters at once, each burning.
    pub fn start_each(pythons: Vec<Self>, program: &str, arguments: &[&str]) -> Vec<(Self, Target)> {
        let started = Self::start_each_unwaited(pythons, |python| python.start_unwaited(program, arguments));
        started.iter().for_each(|(python, target)| python.wait_to_burn(program, target));
        started
    }

    /// What `start` starts of all interpreters at once. More than there are CPUs are nice: what records them has to get on.
    pub fn start_each_unwaited(
        pythons: Vec<Self>,
        mut start: impl FnMut(&Self) -> Target,
    ) -> Vec<(Self, Target)> {
        let are_many = pythons.len() > 2;
        let started = pythons.into_iter().map(|python| {
            let target = start(&python);
            if are_many {
                target.be_nice();
            }
            (python, target)
        });
        started.collect()
    }
}

fn copy_all(from: &Path, to: &Path) {
    for path in entries(from).iter().filter(|path| path.is_file()) {
        std::fs::copy(path, to.join(path.file_name().unwrap_or_default()))
            .expect("scratch directories are writable");
    }
}

/// The chains of calls that `target` told so far, by slot, root first; see `tests/programs/python/oracle.py`.
pub fn chains(target: &Target) -> BTreeMap<usize, Vec<String>> {
    let text = std::fs::read_to_string(target.directory.path().join("account.chains")).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('\t')).map(chain).collect()
}

fn chain((slot, frames): (&str, &str)) -> (usize, Vec<String>) {
    (slot.parse().expect("slots are numbers"), frames.split(';').map(str::to_owned).collect())
}

/// The numbers of the lines of `program` that end in `# slot N`, by slot.
pub fn marked_lines(program: &str) -> BTreeMap<usize, Vec<u32>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/python").join(program);
    let text = std::fs::read_to_string(path).expect("programs are readable");
    let mut lines: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for (line, number) in text.lines().zip(1..) {
        let slot = line.rsplit_once("# slot ").and_then(|(_, slot)| slot.parse().ok());
        if let Some(slot) = slot {
            lines.entry(slot).or_default().push(number);
        }
    }
    lines
}

/// The numbers of the lines of the function `name` of `program`, from its `def` to the blank line behind it.
pub fn lines_of(program: &str, name: &str) -> std::ops::RangeInclusive<u32> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/python").join(program);
    let text = std::fs::read_to_string(path).expect("programs are readable");
    let numbered = || text.lines().zip(1_u32..);
    let begins = format!("def {name}(");
    let first = numbered().find(|(line, _)| line.trim_start().starts_with(&begins));
    let (_, first) = first.expect("tests name functions of the program");
    let last = numbered().find(|(line, number)| *number > first && line.is_empty());
    first..=last.map_or(u32::MAX, |(_, number)| number - 1)
}
