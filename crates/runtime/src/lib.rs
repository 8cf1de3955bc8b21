//! The built-in container runtime: CRI's contract on namespaces, control groups and overlayfs.
//!
//! [`BuiltIn`] keeps sandboxes and containers; each sandbox has a supervisor, a process of its own that starts,
//! watches and logs the containers (crate `shim`). `spec` decides what a supervisor is told, `cgroup` is what the
//! kernel is told, `image` keeps images.
//!
//! Architecture Invariant: no container's process is a child of this process, and nothing here forks: what must be
//! done between fork and exec is done by the supervisor.

mod built_in;
pub mod cgroup;
pub mod image;
mod record;
pub mod source;
mod spec;
mod supervisor;
mod sys;

pub use built_in::{BuiltIn, OpenFiles, RuntimeOptions};
pub use source::{ImageConfig, ImageRoot, ImageSource};
