//! Doing something inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Opens a network namespace by a path such as `/proc/PID/ns/net`.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Moves the calling thread into `namespace`, for good: only for threads that nothing else runs on.
pub(crate) fn enter(namespace: impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Runs `body` in `namespace` on a thread of its own, which ends with it; so no worker can be left in the wrong place.
pub(crate) fn inside<T: Send>(
    namespace: impl AsFd + Sync,
    body: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            enter(&namespace)?;
            body()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}
