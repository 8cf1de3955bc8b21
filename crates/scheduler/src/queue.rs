//! Pods that wait for a node: ready to be tried, backing off, or without hope until something changes. Pure.
//!
//! Upstream: `pkg/scheduler/backend/queue`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::projection::PodLite;
use client::Object;
use stdx::Mono;

/// First wait after a failed try. Upstream: `podInitialBackoffSeconds`.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Longest wait. Upstream: `podMaxBackoffSeconds`.
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// A pod without hope is tried again after this even if nothing changed. Upstream: `podMaxInUnschedulablePodsDuration`.
const HOPELESS_LIMIT: Duration = Duration::from_secs(300);

/// What may give a pod without hope a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// A node appeared, or one has more room, fewer taints or other labels.
    Node,
    /// A pod left a node.
    Room,
}

/// The order in which pods are tried: higher priority first, then the one that waits longer.
type Rank = (std::cmp::Reverse<i32>, u64);

struct Waiting {
    object: Arc<Object>,
    /// When it came, as a count.
    arrival: u64,
    tries: u32,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// Until then.
    BackingOff(Mono),
    /// Since then, refused by these plugins.
    Hopeless(Mono, Vec<&'static str>),
    /// It is just being tried; whether something changed meanwhile.
    Tried { changed: bool },
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pods: BTreeMap<Box<str>, Waiting>,
    ready: BTreeSet<(Rank, Box<str>)>,
    arrivals: u64,
}

fn rank(waiting: &Waiting) -> Rank {
    (std::cmp::Reverse(waiting.object.project::<PodLite>().spec.priority), waiting.arrival)
}

impl Queue {
    /// A pod without a node appeared or changed; a change may give it hope.
    pub fn set(&mut self, object: Arc<Object>, now: Mono) {
        let uid: Box<str> = object.uid().into();
        if let Some(waiting) = self.pods.get_mut(&uid) {
            let old = std::mem::replace(&mut waiting.object, object);
            // Its own status is what a failed try writes; that gives no hope.
            let hope = old.meta().generation != waiting.object.meta().generation
                || old.meta().labels != waiting.object.meta().labels;
            self.ready.retain(|(_, ready)| *ready != uid);
            match &mut waiting.place {
                Place::Ready => drop(self.ready.insert((rank(waiting), uid))),
                Place::Hopeless(..) if hope => self.wake(&uid, now),
                Place::Tried { changed } => *changed |= hope,
                _ => {}
            }
            return;
        }
        self.arrivals += 1;
        let waiting = Waiting { object, arrival: self.arrivals, tries: 0, place: Place::Ready };
        self.ready.insert((rank(&waiting), uid.clone()));
        self.pods.insert(uid, waiting);
    }

    /// A pod has a node, or is gone.
    pub fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.remove(uid) {
            self.ready.remove(&(rank(&waiting), uid.into()));
        }
    }

    /// The next pod to try; it is being tried until [`Queue::failed`] or [`Queue::remove`].
    pub fn take(&mut self, now: Mono) -> Option<Arc<Object>> {
        self.promote(now);
        let (_, uid) = self.ready.pop_first()?;
        let waiting = self.pods.get_mut(&uid).expect("what is ready is waiting");
        waiting.place = Place::Tried { changed: false };
        Some(waiting.object.clone())
    }

    /// A try found no node: the pod waits for what the plugins that refused it care about.
    pub fn failed(&mut self, uid: &str, plugins: Vec<&'static str>, now: Mono) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let changed = matches!(waiting.place, Place::Tried { changed: true });
        waiting.tries += 1;
        waiting.place = if changed { Place::BackingOff(now + backoff(waiting.tries)) } else { Place::Hopeless(now, plugins) };
    }

    /// A try went wrong for a reason that is not the pod's: it is tried again after its backoff.
    pub fn retry(&mut self, uid: &str, now: Mono) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.tries += 1;
        waiting.place = Place::BackingOff(now + backoff(waiting.tries));
    }

    /// Something changed: wakes the pods it may help. Upstream: queueing hints.
    pub fn hint(&mut self, hint: Hint, now: Mono) {
        let helps = |plugins: &[&str]| hint == Hint::Node || plugins.contains(&"NodeResourcesFit");
        let mut woken = Vec::new();
        for (uid, waiting) in &mut self.pods {
            match &mut waiting.place {
                Place::Hopeless(_, plugins) if helps(plugins) => woken.push(uid.clone()),
                Place::Tried { changed } => *changed = true,
                _ => {}
            }
        }
        for uid in woken {
            self.wake(&uid, now);
        }
    }

    /// When a pod has to be tried next although nothing changes.
    pub fn next_due(&self) -> Option<Mono> {
        let due = |waiting: &Waiting| match waiting.place {
            Place::BackingOff(until) => Some(until),
            Place::Hopeless(since, _) => Some(since + HOPELESS_LIMIT),
            _ => None,
        };
        self.pods.values().filter_map(due).min()
    }

    fn wake(&mut self, uid: &str, now: Mono) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let Place::Hopeless(since, _) = waiting.place else { return };
        let until = since + backoff(waiting.tries);
        if until <= now {
            waiting.place = Place::Ready;
            self.ready.insert((rank(waiting), uid.into()));
        } else {
            waiting.place = Place::BackingOff(until);
        }
    }

    fn promote(&mut self, now: Mono) {
        for (uid, waiting) in &mut self.pods {
            let due = match waiting.place {
                Place::BackingOff(until) => until <= now,
                Place::Hopeless(since, _) => since + HOPELESS_LIMIT <= now,
                _ => false,
            };
            if due {
                waiting.place = Place::Ready;
                self.ready.insert((rank(waiting), uid.clone()));
            }
        }
    }
}

fn backoff(tries: u32) -> Duration {
    BACKOFF_BASE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(BACKOFF_LIMIT)
}
