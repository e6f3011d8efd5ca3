//! The `mkv` program.

fn main() {}
