//! Waiting, seen from outside a cluster.

use std::time::Duration;

/// How long anything may take that takes no time to speak of.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until there is something to see; fails the test after [`PATIENCE`].
pub fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// Looks again and again until there is something to see; fails the test after `limit`.
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = stdx::mono();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(stdx::mono() - start < limit, "{what}: not after {} s", limit.as_secs());
        pause(Duration::from_millis(50));
    }
}

/// Looks again and again until nothing is wrong; fails the test after [`PATIENCE`] with what still is.
pub fn until_right(what: &str, mut wrong: impl FnMut() -> String) {
    let mut last = String::new();
    let end = stdx::mono() + PATIENCE;
    while stdx::mono() < end {
        last = wrong();
        if last.is_empty() {
            return;
        }
        pause(Duration::from_millis(50));
    }
    panic!("{what}: not after {} s:\n{last}", PATIENCE.as_secs());
}

/// Does nothing for a while: between two looks, or as long as a measurement takes.
#[allow(clippy::disallowed_methods, reason = "a test outside the cluster has nothing to be told by")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}
