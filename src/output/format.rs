//! Which formats there are and which one a file's ending asks for.

use std::path::Path;

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Interactive flamegraph.
    Svg,
    /// Folded stacks, one per line.
    Folded,
    /// The whole profile, in txprof's own form.
    Json,
}

impl Format {
    /// The format that the ending of `path` asks for, in any case of letters;
    /// `None` for other endings. `.txt` and `.collapsed` are folded stacks too,
    /// as other tools write them.
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "svg" => Some(Self::Svg),
            "folded" | "collapsed" | "txt" => Some(Self::Folded),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// The usual ending, without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Svg => "svg",
            Self::Folded => "folded",
            Self::Json => "json",
        }
    }
}
