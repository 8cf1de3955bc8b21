//! What a pod's supervisor and its agent tell one another, and the supervisor's decisions that need no system call.
//!
//! Architecture Invariant: nothing of Kubernetes, CRI or images is known here, and nothing but `core` and `alloc` is
//! used, so that the supervisor needs no C library and an agent of another version can read what it wrote.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod errno;
pub mod identity;
pub mod line;
pub mod message;
pub mod spec;
pub mod time;
pub mod wire;

/// The version of all messages and records here. Records grow at their ends only, and unknown ends are skipped, so a
/// number is taken only when a meaning changes.
pub const VERSION: u32 = 1;
