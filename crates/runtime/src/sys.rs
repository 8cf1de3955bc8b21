//! Open files that the executor waits for.
#![allow(unsafe_code, reason = "the executor asks for a promise that a file stays open as long as it is watched")]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Has the executor watch `file`, which must not block.
pub(crate) fn watch(file: OwnedFd) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` keeps one and the same file open until it is dropped, and only `AsyncFd` drops it.
    unsafe { AsyncFd::register(File::from(file)) }.map_err(io::Error::from)
}
