//! The Python interpreters of the machine: its own, those of pyenv, and the trees that
//! `scripts/pythons` fetched. Nothing is fetched here.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;

/// An interpreter that can be started.
#[derive(Clone, Debug)]
pub struct Python {
    /// For messages and for choosing: `python3.11`, `pyenv-3.12.1`, `sid-3.14`.
    pub name: String,
    /// The executable as this process sees it.
    pub path: PathBuf,
    /// The tree that it runs in, as root: Debian's of another suite than the machine's.
    tree: Option<PathBuf>,
}

impl Python {
    /// A command that runs this interpreter; in a tree, paths are those of the tree.
    pub fn command(&self) -> Command {
        let Some(tree) = &self.tree else { return Command::new(&self.path) };
        let inside = self.path.strip_prefix(tree).expect("interpreters are in their tree");
        let mut command = Command::new("chroot");
        command.arg(tree).arg(Path::new("/").join(inside));
        command
    }

    /// Whether `tests/programs` and other files of the machine can be named to it.
    pub fn sees_the_machine(&self) -> bool {
        self.tree.is_none()
    }
}

/// All interpreters of version 3.7 or later, by name; those in trees only for root.
pub fn pythons() -> Vec<Python> {
    let mut found = in_directory(Path::new("/usr/bin"), "", None);
    let pyenv = std::env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".pyenv")));
    for version in pyenv.iter().flat_map(|pyenv| entries(&pyenv.join("versions"))) {
        let name = version.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // `bin` also has `python3` and links to it; the first is enough.
        for mut python in in_directory(&version.join("bin"), "", None).into_iter().take(1) {
            python.name = format!("pyenv-{name}");
            found.push(python);
        }
    }
    let trees = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pythons");
    for tree in entries(&trees).into_iter().filter(|tree| geteuid().is_root() && tree.is_dir()) {
        let suite = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.extend(in_directory(&tree.join("usr/bin"), &format!("{suite}-"), Some(&tree)));
    }
    found
}

/// The files `python3.X` in a directory, 3.7 and later.
fn in_directory(directory: &Path, prefix: &str, tree: Option<&Path>) -> Vec<Python> {
    let interpreters = entries(directory).into_iter().filter_map(|path| {
        let version = path.file_name()?.to_str()?.strip_prefix("python3.")?;
        let name = format!("{prefix}{}3.{version}", if prefix.is_empty() { "python" } else { "" });
        (version.parse::<u8>().ok()? >= 7).then(|| Python { name, path, tree: tree.map(Path::to_owned) })
    });
    interpreters.collect()
}

/// What is in a directory, sorted; nothing where there is none.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
