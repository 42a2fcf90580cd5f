//! Equal stacks are summed: a [`Profile`](crate::model::Profile) becomes a
//! [`Fold`], the common source of flamegraph and folded lines. Pure.

pub mod fold;
pub mod name;

pub use fold::{Fold, FoldFrame, FoldKind, FoldOptions, FoldedStack, UnitCounter};
