//! Pods that wait for a node: ready to be tried, backing off, or without hope until something changes. Pure.
//!
//! Upstream: `pkg/scheduler/backend/queue`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::projection::PodLite;
use client::Object;
use stdx::Mono;

use crate::nodes::Nodes;
use crate::plugin::Change;
use crate::plugins;

/// First wait after a failed try. Upstream: `podInitialBackoffSeconds`.
const BACKOFF_BASE: Duration = Duration::from_secs(1);
/// Longest wait. Upstream: `podMaxBackoffSeconds`.
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// A pod without hope is tried again after this even if nothing changed. Upstream: `podMaxInUnschedulablePodsDuration`.
const HOPELESS_LIMIT: Duration = Duration::from_secs(300);

/// In place of a plugin's name: the pod asks for something that no change of the cluster brings.
pub const UNSUPPORTED: &str = "UnsupportedField";

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
    /// Until then, having been given hope again: when no other pod is ready, it need not wait so long. Upstream:
    /// `SchedulerPopFromBackoffQ`.
    BackingOff(Mono),
    /// Until then, after a fault that was not the pod's.
    Resting(Mono),
    /// Since then, refused by these plugins.
    Hopeless(Mono, Vec<&'static str>),
    /// It is just being tried; whether something changed meanwhile.
    Tried {
        changed: bool,
    },
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pods: BTreeMap<Box<str>, Waiting>,
    ready: BTreeSet<(Rank, Box<str>)>,
    /// Those that back off, by when they are ready.
    backing_off: BTreeSet<(Mono, Box<str>)>,
    hopeless: BTreeSet<Box<str>>,
    tried: BTreeSet<Box<str>>,
    /// When pods become ready although nothing changes.
    due: BTreeSet<(Mono, Box<str>)>,
    arrivals: u64,
}

impl Waiting {
    fn rank(&self) -> Rank {
        (std::cmp::Reverse(self.object.project::<PodLite>().spec.priority), self.arrival)
    }

    fn due(&self) -> Option<Mono> {
        match self.place {
            Place::BackingOff(until) | Place::Resting(until) => Some(until),
            Place::Hopeless(since, _) => Some(since + HOPELESS_LIMIT),
            Place::Ready | Place::Tried { .. } => None,
        }
    }
}

impl Queue {
    /// A pod without a node appeared or changed; a change may give it hope.
    pub fn set(&mut self, object: Arc<Object>, now: Mono) {
        let uid: Box<str> = object.uid().into();
        let Some(mut waiting) = self.lift(&uid) else {
            self.arrivals += 1;
            let waiting = Waiting { object, arrival: self.arrivals, tries: 0, place: Place::Ready };
            return self.put(uid, waiting);
        };
        let old = std::mem::replace(&mut waiting.object, object);
        // Its own status is what a failed try writes; that gives no hope.
        let hope = old.meta().generation != waiting.object.meta().generation
            || old.meta().labels != waiting.object.meta().labels;
        match &mut waiting.place {
            Place::Hopeless(..) if hope => wake(&mut waiting, now),
            Place::Tried { changed } => *changed |= hope,
            _ => {}
        }
        self.put(uid, waiting);
    }

    /// A pod has a node, or is gone.
    pub fn remove(&mut self, uid: &str) {
        drop(self.lift(uid));
    }

    /// The next pod to try; it is being tried until [`Queue::failed`] or [`Queue::remove`].
    pub fn take(&mut self, now: Mono) -> Option<Arc<Object>> {
        while let Some((_, uid)) = self.due.first().filter(|(due, _)| *due <= now).cloned() {
            self.place(&uid, |waiting| waiting.place = Place::Ready);
        }
        let ready = self.ready.first().map(|(_, uid)| uid.clone());
        let uid = ready.or_else(|| self.backing_off.first().map(|(_, uid)| uid.clone()))?;
        self.place(&uid, |waiting| waiting.place = Place::Tried { changed: false });
        self.pods.get(&uid).map(|waiting| waiting.object.clone())
    }

    /// A try found no node: the pod waits for what the plugins that refused it care about.
    pub fn failed(&mut self, uid: &str, plugins: Vec<&'static str>, now: Mono) {
        self.place(uid, |waiting| {
            let changed = matches!(waiting.place, Place::Tried { changed: true });
            waiting.tries += 1;
            waiting.place =
                if changed { Place::BackingOff(now + backoff(waiting.tries)) } else { Place::Hopeless(now, plugins) };
        });
    }

    /// A try went wrong for a reason that is not the pod's: it is tried again after its backoff.
    pub fn retry(&mut self, uid: &str, now: Mono) {
        self.place(uid, |waiting| {
            waiting.tries += 1;
            waiting.place = Place::Resting(now + backoff(waiting.tries));
        });
    }

    /// Gives a pod another try, whatever refused it.
    pub fn wake(&mut self, uid: &str, now: Mono) {
        self.place(uid, |waiting| wake(waiting, now));
    }

    /// Something changed: wakes the pods it may help. Upstream: queueing hints.
    pub fn hint(&mut self, change: &Change<'_>, nodes: &Nodes, now: Mono) {
        for uid in &self.tried {
            if let Some(Waiting { place: Place::Tried { changed }, .. }) = self.pods.get_mut(uid) {
                *changed = true;
            }
        }
        let is_helped = |uid: &str| match self.pods.get(uid) {
            Some(Waiting { place: Place::Hopeless(_, refused_by), object, .. }) => {
                helps(refused_by, object.project(), change, nodes)
            }
            _ => false,
        };
        let woken: Vec<Box<str>> = self.hopeless.iter().filter(|uid| is_helped(uid)).cloned().collect();
        for uid in woken {
            self.place(&uid, |waiting| wake(waiting, now));
        }
    }

    /// When a pod has to be tried next although nothing changes.
    pub fn next_due(&self) -> Option<Mono> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Changes what is known of a waiting pod.
    fn place(&mut self, uid: &str, change: impl FnOnce(&mut Waiting)) {
        if let Some(mut waiting) = self.lift(uid) {
            change(&mut waiting);
            self.put(uid.into(), waiting);
        }
    }

    /// Takes a pod out of all three sets.
    fn lift(&mut self, uid: &str) -> Option<Waiting> {
        let waiting = self.pods.remove(uid)?;
        match waiting.place {
            Place::Ready => drop(self.ready.remove(&(waiting.rank(), uid.into()))),
            Place::BackingOff(until) => drop(self.backing_off.remove(&(until, uid.into()))),
            Place::Hopeless(..) => drop(self.hopeless.remove(uid)),
            Place::Tried { .. } => drop(self.tried.remove(uid)),
            Place::Resting(_) => {}
        }
        if let Some(due) = waiting.due() {
            self.due.remove(&(due, uid.into()));
        }
        Some(waiting)
    }

    /// Puts a pod where its place says.
    fn put(&mut self, uid: Box<str>, waiting: Waiting) {
        match waiting.place {
            Place::Ready => drop(self.ready.insert((waiting.rank(), uid.clone()))),
            Place::BackingOff(until) => drop(self.backing_off.insert((until, uid.clone()))),
            Place::Hopeless(..) => drop(self.hopeless.insert(uid.clone())),
            Place::Tried { .. } => drop(self.tried.insert(uid.clone())),
            Place::Resting(_) => {}
        }
        if let Some(due) = waiting.due() {
            self.due.insert((due, uid.clone()));
        }
        self.pods.insert(uid, waiting);
    }
}

/// Gives a pod without hope another try, after its backoff.
fn wake(waiting: &mut Waiting, now: Mono) {
    let Place::Hopeless(since, _) = waiting.place else { return };
    let until = since + backoff(waiting.tries);
    waiting.place = if until <= now { Place::Ready } else { Place::BackingOff(until) };
}

/// Whether one of the plugins that refused the pod cares about the change; where there was no node to refuse it, any may.
fn helps(refused_by: &[&'static str], pod: &PodLite, change: &Change<'_>, nodes: &Nodes) -> bool {
    let cares = |name: &&str| plugins::named(name).is_some_and(|plugin| plugin.helps(pod, change, nodes));
    refused_by.is_empty() || refused_by.iter().any(cares)
}

fn backoff(tries: u32) -> Duration {
    BACKOFF_BASE.saturating_mul(1 << tries.saturating_sub(1).min(10)).min(BACKOFF_LIMIT)
}

#[cfg(test)]
mod tests;
