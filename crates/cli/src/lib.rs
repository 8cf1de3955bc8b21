//! The command line: what can be said, files applied as kubectl applies them, and how far a cluster has come.

pub mod apply;
pub mod args;
pub mod progress;

pub use args::{Args, Command};
