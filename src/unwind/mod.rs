//! From a binary's own unwind program to the packed rows that the in-kernel
//! walker searches.
//!
//! ```text
//! ELF bytes ──► image ──► frames ──► cfi ──► state ──► rule ──► table ──► codec
//!              (where)   (CIE, FDE)  (run)   (what is  (8 bytes) (pages   (on disk)
//!                                             saved)             of rows)
//! ```
//!
//! [`FdeIndex`] parses a file once: which functions there are and where the
//! instructions for each begin. From it [`Table`]s are built for any range of
//! 64 KiB pages: one page when a sample needs it, all of them split over
//! threads. [`step()`] walks one frame with a rule as the BPF program does and
//! is that program's executable specification.
//!
//! Nothing here does I/O: whoever maps the file hands its bytes in, to
//! [`FdeIndex::parse`] and again, the same, to [`FdeIndex::build_pages`].
//! All bytes are hostile: nonsense becomes absent or unsupported rules, and
//! work and memory stay proportional to the bytes given.

pub mod row;
pub mod rule;
mod reader;
mod state;
mod cfi;
mod frames;
mod image;
mod stubs;
mod stack_depth;
mod code_flow;
pub mod table;
mod build;
pub mod index;
pub mod codec;
pub mod step;
pub mod walk;
pub mod python;

pub use index::FdeIndex;
pub use row::Row;
pub use rule::{Rule, RuleKind, Slot};
pub use state::Unsupported;
pub use step::{Registers, Step, step};
pub use table::{Page, Stats, Table};
pub use walk::{WalkedFrame, walk};
