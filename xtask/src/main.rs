//! Project tasks: long test suites and comparisons.
fn main() {}
