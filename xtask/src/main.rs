//! The project's own chores: `cargo xtask {example,test,tidy,codegen,bench,planted}`.
fn main() {}
