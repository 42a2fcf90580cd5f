//! Noise: Python files whose functions are not shown. Their time belongs to
//! their callers.

use crate::model::{Frame, FrameKind};
use crate::{Error, ErrorKind, Result};

/// Longest text looked for, in bytes: the kernel's `PATH_MAX`, beyond which nothing can be in a path.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Most of them in one fold. Each is looked for once in each distinct frame's file; more than
/// anybody types, and little beside the folding itself.
pub const MAX_HIDDEN: usize = 64;

/// Python files whose functions are left out of every stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HiddenFiles {
    /// The import machinery: `<frozen importlib._bootstrap>` and its like, `<frozen zipimport>`,
    /// `importlib/_bootstrap.py` and `importlib/_bootstrap_external.py`.
    Imports,
    /// Those with this text anywhere in their path.
    Containing(String),
}

impl HiddenFiles {
    /// `imports` is the word for [`Self::Imports`]; any other text is looked for as it is.
    ///
    /// Fails with [`ErrorKind::InvalidInput`] for the empty text, which is in every path, and for
    /// one of more than [`MAX_TEXT_BYTES`].
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "imports" => Ok(Self::Imports),
            "" => Err(Error::new(ErrorKind::InvalidInput, "the text to look for is empty")),
            long if long.len() > MAX_TEXT_BYTES => {
                let message = format!("the text to look for is longer than {MAX_TEXT_BYTES} bytes");
                Err(Error::new(ErrorKind::InvalidInput, message))
            }
            text => Ok(Self::Containing(text.to_owned())),
        }
    }

    /// Whether `frame` is a Python function of such a file.
    pub fn hide(&self, frame: &Frame) -> bool {
        let Some(file) = frame.file.as_deref().filter(|_| frame.kind == FrameKind::Python) else {
            return false;
        };
        match self {
            Self::Imports => is_of_imports(file),
            Self::Containing(text) => file.contains(text.as_str()),
        }
    }
}

fn is_of_imports(file: &str) -> bool {
    let bootstrap = file.rsplit_once("importlib/_bootstrap").map(|(_, rest)| rest);
    file.starts_with("<frozen importlib")
        || file == "<frozen zipimport>"
        || bootstrap.is_some_and(|rest| rest.ends_with(".py") && !rest.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hides(text: &str, file: &str) -> bool {
        let frame = Frame { file: Some(file.into()), ..Frame::named(FrameKind::Python, "f") };
        HiddenFiles::parse(text).expect("valid").hide(&frame)
    }

    /// The word stands for the files of the import system, frozen or not, and for no others.
    #[test]
    fn imports_are_the_import_machinery() {
        for file in [
            "<frozen importlib._bootstrap>",
            "<frozen importlib._bootstrap_external>",
            "<frozen zipimport>",
            "/usr/lib/python3.9/importlib/_bootstrap.py",
            "/usr/lib/python3.9/importlib/_bootstrap_external.py",
        ] {
            assert!(hides("imports", file), "{file}");
        }
        for file in [
            "/usr/lib/python3.9/importlib/metadata.py",
            "/srv/imports/app.py",
            "/srv/importlib/_bootstrap.py/app.py",
            "<frozen runpy>",
            "<string>",
        ] {
            assert!(!hides("imports", file), "{file}");
        }
    }

    /// Any other text is looked for literally, anywhere in the path.
    #[test]
    fn text_is_no_pattern() {
        assert!(hides("site-packages/", "/venv/lib/site-packages/flask/app.py"));
        assert!(hides("imports/", "/srv/imports/app.py"));
        assert!(!hides("flask.app", "/venv/lib/site-packages/flask/app.py"));
        assert!(!hides(".*", "/srv/app.py"));
    }

    /// Only Python's frames are left out, and only those whose file is known.
    #[test]
    fn other_kinds_are_never_hidden() {
        let app = HiddenFiles::parse("app").expect("valid");
        let native = Frame { file: Some("/src/app.c".into()), ..Frame::named(FrameKind::Native, "f") };
        assert!(!app.hide(&native));
        assert!(!app.hide(&Frame::named(FrameKind::Python, "app")));
    }

    /// The empty text, which would hide all, and an endless one are refused.
    #[test]
    fn text_has_bounds() {
        assert_eq!(HiddenFiles::parse("").expect_err("empty").kind(), ErrorKind::InvalidInput);
        assert!(HiddenFiles::parse(&"x".repeat(MAX_TEXT_BYTES)).is_ok());
        let error = HiddenFiles::parse(&"x".repeat(MAX_TEXT_BYTES + 1)).expect_err("too long");
        assert!(error.to_string().contains("4096 bytes"), "{error}");
    }
}
