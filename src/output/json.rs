//! stub
use crate::model::Profile;
use std::io::{self, Write};
/// stub
pub fn write(_profile: &Profile, _writer: &mut dyn Write) -> io::Result<()> {
    Ok(())
}
