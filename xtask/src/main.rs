//! Checks of the repository itself: crate edges, generated files.
fn main() {}
