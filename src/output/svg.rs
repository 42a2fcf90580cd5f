//! stub
use crate::aggregate::FoldOptions;
use crate::model::Profile;
use std::io::{self, Write};
/// stub
pub fn write(_profile: &Profile, _options: FoldOptions, _writer: &mut dyn Write) -> io::Result<()> {
    Ok(())
}
