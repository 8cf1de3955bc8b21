//! Where time, chance and tasks come from: the machine, or the simulation that polls the current task.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use crate::BoxFuture;
use crate::time::Mono;

/// A source of time, chance and tasks other than the machine: a simulated node.
///
/// The simulation's executor installs the context of a task's node around every poll of that task, and tasks inherit
/// the context of the one that spawned them.
pub trait Context: Send + Sync {
    /// The node's wall clock, which may jump.
    fn wall(&self) -> jiff::Timestamp;
    /// The node's monotonic clock.
    fn mono(&self) -> Mono;
    /// Runs a task to its end under this context.
    fn spawn(&self, future: BoxFuture<'static, ()>);
    /// Resolves once the node's monotonic clock has advanced by `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Fills `bytes` from the simulation's seed.
    fn random(&self, bytes: &mut [u8]);
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Context>>> = const { RefCell::new(None) };
}

/// Runs `body` with `context` as the source of time, chance and tasks on this thread; the previous one returns after.
pub fn with<R>(context: Arc<dyn Context>, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<Arc<dyn Context>>);
    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.with(|current| *current.borrow_mut() = self.0.take());
        }
    }
    let _restore = Restore(CURRENT.with(|current| current.borrow_mut().replace(context)));
    body()
}

/// The simulated context of this thread, if the current task runs in a simulation.
pub fn current() -> Option<Arc<dyn Context>> {
    CURRENT.with(|current| current.borrow().clone())
}

/// Fills `bytes` with unpredictable bytes (with the seed's, in a simulation).
pub fn random(bytes: &mut [u8]) {
    match current() {
        Some(context) => context.random(bytes),
        None => aws_lc_rs::rand::fill(bytes).expect("the system's random source does not fail once seeded"),
    }
}

/// An unpredictable number.
pub fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_le_bytes(bytes)
}
