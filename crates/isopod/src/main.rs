//! The isopod binary: parses arguments, composes components, drains on shutdown.
fn main() {}
