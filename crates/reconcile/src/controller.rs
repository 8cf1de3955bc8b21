//! What a controller is: which objects concern which keys, what it looks at, and a pure decision.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use client::{Key, Object, Snapshot};
use jiff::Timestamp;
use stdx::Mono;

use crate::plan::{Need, Outcomes, Plan, Resource};

/// The moment of a decision, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For timestamps in objects.
    pub wall: Timestamp,
    /// For durations.
    pub mono: Mono,
}

/// What a decision may use besides the caches.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The certificate of the API server's authority, PEM.
    pub root_ca: Arc<str>,
    /// The answers to the needs that this decision named before, in this round.
    pub answers: BTreeMap<Need, bool>,
}

/// The index of every cache that controllers use: by the uid of each owner; see `client::Index::owner`.
const BY_OWNER: &str = "owner";

/// The caches at one moment: immutable, and each possibly at a revision of its own.
#[derive(Clone)]
pub struct View {
    snapshots: BTreeMap<Resource, Arc<Snapshot>>,
}

impl View {
    /// A view of these snapshots.
    pub fn new(snapshots: BTreeMap<Resource, Arc<Snapshot>>) -> View {
        View { snapshots }
    }

    /// One object.
    pub fn get(&self, resource: Resource, key: &Key) -> Option<Arc<Object>> {
        self.of(resource).get_key(key).cloned()
    }

    /// All objects of a kind.
    pub fn all(&self, resource: Resource) -> impl Iterator<Item = Arc<Object>> + '_ {
        self.of(resource).iter().cloned()
    }

    /// The objects of a kind in a namespace.
    pub fn in_namespace<'v>(
        &'v self,
        resource: Resource,
        namespace: &'v str,
    ) -> impl Iterator<Item = Arc<Object>> + 'v {
        self.of(resource).by_namespace(namespace).cloned()
    }

    /// The objects of a kind that name `uid` among their owners.
    pub fn owned<'v>(&'v self, resource: Resource, uid: &'v str) -> impl Iterator<Item = Arc<Object>> + 'v {
        self.of(resource).by_index(BY_OWNER, uid).cloned()
    }

    /// The cached kinds.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        self.snapshots.keys().copied()
    }

    fn of(&self, resource: Resource) -> &Snapshot {
        self.snapshots.get(&resource).expect("a controller looks only at kinds it watches, and those are cached")
    }
}

/// Which keys a changed object concerns.
pub type Concerns<K> = Box<dyn Fn(&View, &Object) -> Vec<K> + Send + Sync>;

/// A kind that a controller watches.
pub struct Watch<K> {
    pub resource: Resource,
    /// Called with the object before the change and with the one after it.
    pub concerns: Concerns<K>,
}

impl Watch<Key> {
    /// Each object concerns the key of its own name.
    pub fn primary(resource: Resource) -> Watch<Key> {
        Watch { resource, concerns: Box::new(|_, object| vec![object.key().clone()]) }
    }
}

impl<K> Watch<K> {
    /// Each object concerns the keys that `concerns` tells.
    pub fn mapped(resource: Resource, concerns: impl Fn(&View, &Object) -> Vec<K> + Send + Sync + 'static) -> Watch<K> {
        Watch { resource, concerns: Box::new(concerns) }
    }
}

/// A control loop's part that is its own: everything else is in `run.rs`.
///
/// A decision is pure: no clock, no I/O, no logging. It sees only what it observed, and says only what to do.
pub trait Controller: Send + Sync + 'static {
    /// Upstream's name of the controller, such as `replicaset`; also in its service account and metrics.
    const NAME: &'static str;
    /// What is decided about: the key of an object, for most.
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    /// Everything a decision depends on.
    type Observed<'c>: Send;
    /// What may be lost at any time and is bounded, such as the window of an autoscaler.
    type Memory: Default + Send;

    /// The kinds it watches, and which keys they concern.
    fn watches() -> Vec<Watch<Self::Key>>;

    /// Collects what a decision about `key` depends on; its object may be absent.
    fn observe<'c>(view: &'c View, key: &Self::Key) -> Self::Observed<'c>;

    /// Decides. `last` tells what failed of the last plan for the key; it is empty after a success.
    fn reconcile(
        observed: &Self::Observed<'_>,
        now: Now,
        last: &Outcomes,
        facts: &Facts,
        memory: &mut Self::Memory,
    ) -> Plan;
}
