//! Wall and monotonic time, sleeping and deadlines.
#![allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::context;

/// A moment on the node's monotonic clock, as time since an arbitrary start; comparable within one process only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mono(pub Duration);

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(duration))
    }
}

impl Sub for Mono {
    type Output = Duration;
    /// The time from `earlier` to `self`; zero when `earlier` is later.
    fn sub(self, earlier: Mono) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// What time it is, for people and for timestamps in objects; may jump.
pub fn wall() -> jiff::Timestamp {
    context::current().map_or_else(jiff::Timestamp::now, |context| context.wall())
}

/// What time it is, for measuring durations; never goes backwards.
pub fn mono() -> Mono {
    static START: OnceLock<Instant> = OnceLock::new();
    match context::current() {
        Some(context) => context.mono(),
        None => Mono(START.get_or_init(Instant::now).elapsed()),
    }
}

/// Resolves after `duration` on the current node's clock.
pub async fn sleep(duration: Duration) {
    match context::current() {
        Some(context) => context.sleep(duration).await,
        None => tokio::time::sleep(duration).await,
    }
}

/// Resolves at `moment`; at once when it has passed.
pub async fn sleep_until(moment: Mono) {
    sleep(moment - mono()).await;
}

/// The deadline of [`timeout`] passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

/// The future's result, or [`Elapsed`] when it takes longer than `duration`; the future is then dropped.
pub async fn timeout<F: Future>(duration: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = sleep(duration) => Err(Elapsed),
    }
}
