//! etrace
fn main() {}
