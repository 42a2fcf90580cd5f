//! Profiles become bytes. Pure: the writer comes from outside.
//!
//! [`write()`] is the one way in; a [`Format`] decides which writer runs.

pub mod differential;
pub mod dump;
pub mod folded;
pub mod format;
pub mod json;
pub mod quantity;
pub mod svg;

use std::io::{self, Write};

pub use format::Format;

use crate::aggregate::FoldOptions;
use crate::model::Profile;

/// Writes `profile` in `format`. `options` shape the folded forms; JSON is
/// always complete. Fails only when `writer` does.
pub fn write(
    profile: &Profile,
    format: Format,
    options: &FoldOptions,
    writer: &mut dyn Write,
) -> io::Result<()> {
    match format {
        Format::Svg => svg::write(profile, options, writer),
        Format::Folded => folded::write(profile, options, writer),
        Format::Json => json::write(profile, writer),
    }
}
