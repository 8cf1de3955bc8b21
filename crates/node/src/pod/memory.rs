//! What is remembered of a pod between two plans: backoffs, probe results, why something waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cri::KeyValue;
use jiff::Timestamp;
use stdx::Mono;

use super::seen::Known;

/// First wait before a container is restarted again. Upstream: `containerBackOffPeriod`.
pub const RESTART_BASE: Duration = Duration::from_secs(10);
/// Longest wait before a restart, and before another try to pull an image. Upstream: `MaxContainerBackOff`.
pub const RESTART_LIMIT: Duration = Duration::from_secs(300);

/// Why a container waits, as its status says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Such as `ErrImagePull`.
    pub reason: String,
    pub message: String,
}

/// Why a pod has failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Such as `DeadlineExceeded` or `Evicted`.
    pub reason: String,
    pub message: String,
    /// In place of the pod's own grace period.
    pub grace_seconds: Option<u64>,
    /// The node ended it for its own sake: a condition says so.
    pub disrupted: bool,
}

/// How often something was tried, and how long to wait before the next try. Upstream: `client-go/util/flowcontrol.Backoff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    delay: Duration,
    /// When the last try began.
    last: Timestamp,
}

impl Tries {
    /// The tries after one more at `now`. They start over when the last was more than twice the limit ago.
    #[must_use]
    pub fn again(before: Option<Tries>, now: Timestamp) -> Tries {
        let delay = match before {
            Some(tries) if !tries.expired(now) => (tries.delay * 2).min(RESTART_LIMIT),
            _ => RESTART_BASE,
        };
        Tries { delay, last: now }
    }

    /// How long to wait at `now` when the thing ended (or failed) at `ended`; `None` when it may be tried.
    pub fn left(&self, ended: Timestamp, now: Timestamp) -> Option<Duration> {
        if self.expired(ended) {
            return None;
        }
        let passed = Duration::try_from(now.duration_since(ended)).unwrap_or_default();
        self.delay.checked_sub(passed).filter(|left| !left.is_zero())
    }

    /// The current wait.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    fn expired(&self, moment: Timestamp) -> bool {
        moment.duration_since(self.last).as_secs() > 2 * RESTART_LIMIT.as_secs().cast_signed()
    }
}

/// What a container's probes say now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe succeeded, or there is none.
    pub started: bool,
    /// The readiness probe succeeds, or there is none.
    pub ready: bool,
}

/// What is remembered.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Restarts by container name.
    pub restarts: BTreeMap<String, Tries>,
    /// Failed pulls by image: the tries, when the last failed, and what it said.
    pub pulls: BTreeMap<String, (Tries, Timestamp, Waiting)>,
    /// Why a container is not created or started, by name.
    pub waiting: BTreeMap<String, Waiting>,
    /// Probe results by container id.
    pub health: BTreeMap<String, Health>,
    /// Containers that a failed probe condemned, by id, with the message for the event.
    pub condemned: BTreeMap<String, String>,
    /// Volumes are in place.
    pub volumes_ready: bool,
    /// What they are of changed while they were put in place: they may show what was before.
    pub volumes_outdated: bool,
    /// They were, once: what the API does not tell now can be as it was.
    pub prepared: bool,
    /// What each container was last started with, by its name.
    pub environments: BTreeMap<String, Vec<KeyValue>>,
    /// When a volume's token has to be fetched again.
    pub refresh_at: Option<Mono>,
    /// Steps under way, by what they are about.
    pub under_way: BTreeSet<String>,
    /// When a failed step may be tried again, by what it is about.
    pub retry_at: BTreeMap<String, Mono>,
    /// What of an ending pod is done: it is out of the `rules`, its `volumes` are removed, and the `pod` is cleaned up.
    pub stopping: BTreeSet<String>,
    /// Why the pod does not get the resources that it asks for now: reason and message.
    pub resize_pending: Option<Waiting>,
    /// What went wrong with giving it what it was granted.
    pub resize_failed: Option<String>,
    /// What no runtime tells of containers.
    pub known: Known,
    /// It was granted other resources, and its containers do not all have them yet.
    pub resizing: bool,
    /// Why the whole pod is over, whatever its containers do.
    pub verdict: Option<Verdict>,
    /// Since when all of the pod is to end.
    pub ending_since: Option<Mono>,
    /// Containers, by id, whose preStop hook has run while they wait for their turn to end.
    pub hooks_run: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn waits_ten_seconds_twice_that_and_so_on_to_five_minutes() {
        let mut tries = Tries::again(None, at(0));
        assert_eq!(tries.left(at(1), at(1)), Some(Duration::from_secs(10)));
        assert_eq!(tries.left(at(1), at(11)), None);
        let mut delays = vec![];
        for second in [11, 40, 90, 200, 500, 900] {
            tries = Tries::again(Some(tries), at(second));
            delays.push(tries.delay().as_secs());
        }
        assert_eq!(delays, [20, 40, 80, 160, 300, 300]);
        assert_eq!(tries.left(at(1501), at(1501)), None, "it ran well for ten minutes");
        assert_eq!(Tries::again(Some(tries), at(1502)).delay().as_secs(), 10);
    }
}
