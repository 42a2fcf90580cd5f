//! The commands, as typed and as meant.

pub mod doctor;
