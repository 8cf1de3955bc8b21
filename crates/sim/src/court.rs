//! The invariants by name, and the first that did not hold.

use std::sync::{Arc, Mutex, MutexGuard};

/// What has to hold, and what it means.
pub const INVARIANTS: &[(&str, &str)] = &[
    (
        "ceiling",
        "no pod is made beyond the desired number and the surge, those aside that go with an earlier Deployment",
    ),
    ("floor", "no deletion leaves fewer pods available than desired, less those that may be unavailable"),
    ("capacity", "no node is given more than it has"),
    ("adoption", "a pod that serves goes on serving when its agent is restarted"),
    ("convergence", "in the end there are as many pods as desired, all new, all available, and no others"),
    ("endpoints", "Services name exactly the pods that are ready"),
    ("orphans", "nothing runs on a node that the API does not have"),
    ("ownership", "nothing passes from one controller to another unasked, and no template has two ReplicaSets"),
    ("durability", "an acknowledged write is never lost"),
    ("monotony", "revisions of the store and of a Deployment only grow"),
    ("progress", "the cluster never waits for nothing, and never spins"),
    ("panic", "nothing panics"),
    ("determinism", "a seed plays the same every time"),
];

/// An invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// One of [`INVARIANTS`].
    pub invariant: &'static str,
    pub text: String,
}

/// What pods there may be, since the cluster was last at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    pub ceiling: usize,
    pub floor: usize,
}

#[derive(Default)]
struct State {
    violation: Option<Violation>,
    bounds: Bounds,
    /// Something happened since the last rest that may take pods away without anybody's fault.
    disturbed: bool,
    /// Pods that went since the last rest though no controller took them away.
    spared: usize,
    acknowledged: u64,
}

/// Where violations are told; clones share it.
#[derive(Clone, Default)]
pub struct Court(Arc<Mutex<State>>);

impl Court {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Tells of a violation; the first counts, for later ones may follow from it.
    pub fn accuse(&self, invariant: &'static str, text: String) {
        debug_assert!(INVARIANTS.iter().any(|(name, _)| *name == invariant));
        self.state().violation.get_or_insert(Violation { invariant, text });
    }

    /// The first violation.
    pub fn verdict(&self) -> Option<Violation> {
        self.state().violation.clone()
    }

    /// Whether the run may as well end.
    pub fn is_decided(&self) -> bool {
        self.state().violation.is_some()
    }

    pub fn bounds(&self) -> Bounds {
        self.state().bounds
    }

    /// The user is about to ask for the first thing. As many pods as that have never been there: no floor yet.
    pub fn begin(&self, wanted: Bounds) {
        self.state().bounds = Bounds { floor: 0, ..wanted };
    }

    /// The user is about to ask for something: from now on what was allowed and what will be is.
    pub fn widen(&self, wanted: Bounds) {
        let mut state = self.state();
        let floor = wanted.floor.saturating_sub(state.spared);
        let bounds = &mut state.bounds;
        bounds.ceiling = bounds.ceiling.max(wanted.ceiling);
        bounds.floor = bounds.floor.min(floor);
    }

    /// So many pods go that no controller took away: whoever does not know it yet may take as many others as before.
    pub fn spare(&self, pods: usize) {
        let mut state = self.state();
        state.spared += pods;
        state.bounds.floor = state.bounds.floor.saturating_sub(pods);
    }

    /// The cluster is at rest: only what is wanted now is allowed.
    pub fn rest(&self, wanted: Bounds) {
        let mut state = self.state();
        state.bounds = wanted;
        state.disturbed = false;
        state.spared = 0;
    }

    /// A machine is about to take the pods that it has with it.
    pub fn disturb(&self) {
        self.state().disturbed = true;
    }

    pub fn is_disturbed(&self) -> bool {
        self.state().disturbed
    }

    /// A write of this revision was answered.
    pub fn acknowledged(&self, revision: u64) {
        let acknowledged = &mut self.state().acknowledged;
        *acknowledged = revision.max(*acknowledged);
    }

    /// The highest revision that anybody was told.
    pub fn highest(&self) -> u64 {
        self.state().acknowledged
    }
}
