//! A node's clocks, which follow virtual time as well as real ones follow real time.

use std::time::Duration;

use crate::time::Mono;

/// What every wall clock shows at the beginning: 2026-01-01T00:00:00Z, in nanoseconds since 1970.
const WALL_START: i128 = 1_767_225_600 * 1_000_000_000;

const MILLION: i128 = 1_000_000;

/// A monotonic clock that may run too fast or too slow, and a wall clock beside it that may be set.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    /// What the monotonic clock showed at `since`.
    shown: Duration,
    /// Virtual time from which on the present rate holds.
    since: Duration,
    /// How much too fast the clock runs, in parts per million.
    drift_ppm: i32,
    /// What the wall clock shows when the monotonic clock shows zero, in nanoseconds since 1970.
    wall_at_zero: i128,
}

impl Clock {
    /// Clocks that are right, the monotonic one showing `shown` at virtual time `now`.
    pub(super) fn new(shown: Duration, now: Duration) -> Clock {
        let wall_at_zero = WALL_START + signed(now) - signed(shown);
        Clock { shown, since: now, drift_ppm: 0, wall_at_zero }
    }

    pub(super) fn mono(&self, now: Duration) -> Mono {
        let passed = signed(now.saturating_sub(self.since));
        Mono(self.shown.saturating_add(unsigned(passed * (MILLION + i128::from(self.drift_ppm)) / MILLION)))
    }

    /// The virtual time at which the monotonic clock shows `moment` or just more; `None` when that is never to come.
    pub(super) fn virtual_time(&self, moment: Mono) -> Option<Duration> {
        const NEVER: i128 = i64::MAX as i128;
        let to_pass = signed(moment.0.saturating_sub(self.shown));
        let rate = MILLION + i128::from(self.drift_ppm);
        let at = signed(self.since) + (to_pass * MILLION + rate - 1) / rate;
        (at < NEVER).then(|| unsigned(at))
    }

    pub(super) fn wall(&self, now: Duration) -> jiff::Timestamp {
        let nanoseconds = self.wall_at_zero + signed(self.mono(now).0);
        jiff::Timestamp::from_nanosecond(nanoseconds).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Sets the wall clock forwards or backwards.
    pub(super) fn step_wall(&mut self, step: jiff::SignedDuration) {
        self.wall_at_zero += step.as_nanos();
    }

    /// Lets both clocks run too fast, or too slow, from now on.
    pub(super) fn drift(&mut self, drift_ppm: i32, now: Duration) {
        self.shown = self.mono(now).0;
        self.since = now;
        self.drift_ppm = drift_ppm.clamp(-900_000, 900_000);
    }
}

fn signed(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).expect("a duration has less than 2^95 nanoseconds")
}

fn unsigned(nanoseconds: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanoseconds.max(0)).unwrap_or(u64::MAX))
}
