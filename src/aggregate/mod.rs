//! Equal stacks are summed: a [`Profile`](crate::model::Profile) becomes a
//! [`Fold`], the common source of flamegraph and folded lines. Pure.

pub mod call_tree;
pub mod fold;
pub mod hidden;
mod merge;
pub mod name;
mod top;
pub mod view;

pub use call_tree::{CallTree, NodeId};
pub use fold::{Fold, FoldFrame, FoldKind, FoldOptions, FoldedStack, UnitCounter};
pub use hidden::HiddenFiles;
pub use merge::merge;
pub use top::{TopFunction, top};
pub use view::View;
