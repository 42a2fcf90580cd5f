//! Two readings of one instant, and who judges them.
//!
//! ```text
//!                       ┌─ on_cpu walks the stack ─────► Event::Sample ─┐
//! interrupt of a thread ┤                                               ├─► Pairs ─► judge
//!                       └─ perf copies registers, stack ► Event::Kept ──┘
//! ```
//!
//! [`Session`] samples targets and gives both readings of each instant; [`Space`] knows
//! what a target has mapped; [`judge`](judge()) lets framehop unwind the copy and
//! compares it pc by pc with our walk. What framehop cannot decide, or decides otherwise,
//! goes to a second judge that runs the binaries' whole unwind programs, [`programs`];
//! [`Account`] sums the verdicts.

// As in tests/support: a private crate whose items are public to one another.
#![allow(unreachable_pub)]

mod account;
mod image;
mod judge;
mod kept;
mod pairs;
mod programs;
mod session;
mod space;

pub use account::Account;
pub use session::Session;

use image::{Image, Images};
use judge::judge;
use kept::Kept;
use pairs::{Ours, Pairs};
use space::Space;
