//! What protocols above HTTP tell of a request. Each is one file and one row of [`EXTRACTORS`].

use crate::model::{Attributes, RequestStatus};

use super::head::RequestHead;
use super::jsonrpc::JsonRpc;
use super::tryton::Tryton;
use super::xmlrpc::XmlRpc;

/// All of them, in the order in which they are asked: what a later one adds replaces.
pub(super) const EXTRACTORS: &[&dyn Extractor] = &[&JsonRpc, &XmlRpc, &Tryton];

/// A protocol above HTTP. It sees hostile text, and no more than 16 KiB of head and 4 KiB of body.
pub(super) trait Extractor: std::fmt::Debug + Sync {
    /// Adds what the request tells and says whether its answer is to be looked at. `body` is the
    /// beginning of its body without compression, maybe cut, maybe empty. Asked again when more of the
    /// body was read.
    fn request(&self, head: &RequestHead<'_>, body: &[u8], attributes: &mut Attributes) -> bool;

    /// Adds what the beginning of the answer's body tells, and whether that is an error.
    fn answer(&self, body: &[u8], attributes: &mut Attributes) -> RequestStatus;
}
