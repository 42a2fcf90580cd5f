//! Requests that are told apart, named and judged: which of them are kept is decided when they end. Pure.

pub mod errands;
mod hash;
pub mod lives;
pub mod name;
pub mod policy;
pub mod timeline;
pub mod tracker;
mod words;
