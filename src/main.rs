//! The `txprof` program.
fn main() {}
