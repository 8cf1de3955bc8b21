//! Real containers: namespaces, control groups, overlayfs. Needs root and a static busybox at `/bin/busybox`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach;
mod attacks;
mod exec;
mod isolation;
mod lifecycle;
mod podspec;
mod restart;
mod world;
