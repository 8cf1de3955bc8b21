//! How long to wait before the next try.

use std::time::Duration;

/// Exponential backoff: `base`, twice that, and so on up to `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff that has seen no failure.
    pub const fn new(base: Duration, limit: Duration) -> Self {
        Backoff { base, limit, failures: 0 }
    }

    /// Counts a failure and tells how long to wait after it.
    pub fn fail(&mut self) -> Duration {
        let delay = self.base.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1).min(31);
        delay.min(self.limit)
    }

    /// Forgets the failures.
    pub fn succeed(&mut self) {
        self.failures = 0;
    }

    /// How many failures were counted since the last success; saturates at 31.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `delay` spread over `[delay, 2 × delay)` by `random`, so that many waiters do not return in step.
pub fn jittered(delay: Duration, random: u64) -> Duration {
    delay + delay.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::new(Duration::from_secs(10), Duration::from_secs(300));
        let delays: Vec<u64> = (0..7).map(|_| backoff.fail().as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.succeed();
        assert_eq!(backoff.fail().as_secs(), 10);
    }
}
