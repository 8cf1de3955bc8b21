//! The command line: what can be said, files applied as kubectl applies them, how far a cluster has come,
//! and what is wrong with it.

pub mod apply;
pub mod args;
pub mod progress;
pub mod why;

pub use args::{Args, Command};
