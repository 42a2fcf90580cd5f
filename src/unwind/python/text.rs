//! stub
use super::Layout;
/// stub
pub fn decode(bytes: &[u8], layout: &Layout) -> Option<String> {
    let len = u64::from_ne_bytes(bytes.get(16..24)?.try_into().ok()?) as usize;
    let start = layout.text_ascii as usize;
    Some(String::from_utf8_lossy(bytes.get(start..(start + len).min(bytes.len()))?).into_owned())
}
