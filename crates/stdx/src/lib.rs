//! What `std` lacks: an injectable clock, randomness and task spawner, backoff, task trees that drain.
//!
//! Everything that needs time, chance or a task asks the free functions here. Outside a simulation they answer from the
//! machine and from tokio; inside one, the executor that polls the current task answers (see [`context`]), so the same
//! code runs under both.
//!
//! Architecture Invariant: nothing of Kubernetes is known here.

pub mod backoff;
pub mod context;
pub mod disk;
pub mod map;
pub mod sim;
pub mod task;
pub mod time;
pub mod told;

pub use backoff::Backoff;
pub use context::{random, random_u64};
pub use map::{FixedMap, FixedSet};
pub use task::{Cancel, Task, TaskTree, blocking, spawn};
pub use time::{Elapsed, Mono, mono, sleep, sleep_until, timeout, wall};
pub use told::told;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
