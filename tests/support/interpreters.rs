//! The CPython interpreters of this machine: Debian's, and those that pyenv has built.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::skip;

/// An interpreter that runs.
#[derive(Debug)]
pub struct Interpreter {
    /// What to start.
    pub program: PathBuf,
    /// The file that holds the interpreter: the program itself or its library.
    pub binary: PathBuf,
    /// `sys.version_info[:3]`.
    pub version: (u8, u8, u8),
}

impl Interpreter {
    /// What the script `source` prints; arguments are behind `argv[1]`.
    pub fn run(&self, source: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.args(["-I", "-S", "-c", source]).args(arguments);
        let output = command.output().expect("an interpreter that was found starts");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}:\n{errors}", self.program.display());
        String::from_utf8(output.stdout).expect("test scripts print text")
    }
}

/// Of all interpreters of Python 3.7 and later. Says aloud that the test is skipped if there is none, and
/// fails in CI, where Debian's is always there.
pub fn interpreters() -> Vec<Interpreter> {
    let mut programs = vec![PathBuf::from("/usr/bin/python3")];
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    let versions = pyenv.and_then(|root| std::fs::read_dir(root.join("versions")).ok());
    programs
        .extend(versions.into_iter().flatten().flatten().map(|version| version.path().join("bin/python3")));
    programs.sort();
    let found: Vec<Interpreter> = programs.iter().filter_map(|program| interpreter(program)).collect();
    if !found.iter().any(|interpreter| interpreter.program.starts_with("/usr")) {
        skip::<()>("needs `/usr/bin/python3`");
    }
    found
}

fn interpreter(program: &Path) -> Option<Interpreter> {
    const QUESTION: &str = "import sys; print(*sys.version_info[:3]); print(sys.executable)
with open('/proc/self/maps') as maps:
    files = [line.split()[-1] for line in maps if 'r-xp' in line]
print(next((file for file in files if '/libpython3' in file), ''))";
    let output = Command::new(program).args(["-I", "-S", "-c", QUESTION]).output().ok()?;
    let answer = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let mut lines = answer.lines();
    let mut numbers = lines.next()?.split(' ').map(|number| number.parse().ok());
    let version = (numbers.next()??, numbers.next()??, numbers.next()??);
    let (executable, library) = (lines.next()?, lines.next()?);
    let binary = if library.is_empty() { executable } else { library };
    let binary = std::fs::canonicalize(binary).ok()?;
    (version >= (3, 7, 0)).then(|| Interpreter { program: program.to_owned(), binary, version })
}
