//! keyhatch
fn main() {}
