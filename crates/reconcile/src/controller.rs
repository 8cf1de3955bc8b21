//! What a controller is: which objects concern which keys, what it looks at, and a pure decision.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use client::{Index, Key, Object, Snapshot};
use jiff::Timestamp;
use stdx::Mono;

use crate::plan::kinds::PODS;
use crate::plan::{Need, Outcomes, Plan, Resource};

/// The moment of a decision, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For timestamps in objects.
    pub wall: Timestamp,
    /// For durations.
    pub mono: Mono,
}

/// A range of addresses and how it is divided among nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRanges {
    pub network: Ipv4Addr,
    /// The length of the whole range's prefix.
    pub prefix: u8,
    /// The length of a node's prefix. Upstream: `--node-cidr-mask-size`.
    pub node_prefix: u8,
    /// The node whose range was chosen beforehand, and where that begins: it gets no other, and nobody else gets it.
    pub chosen: Option<(Arc<str>, Ipv4Addr)>,
}

/// What a request for a certificate asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedCertificate {
    pub common_name: String,
    pub organizations: Vec<String>,
    pub dns_names: Vec<String>,
    pub emails: Vec<String>,
    pub addresses: Vec<IpAddr>,
    pub uris: Vec<String>,
}

/// The cluster's authority, as far as controllers lean on it.
pub trait Authority: Debug + Send + Sync {
    /// Reads a request in PEM; what is wrong with it otherwise. The same for the same request.
    fn read(&self, request: &[u8]) -> Result<WantedCertificate, String>;
    /// Whether an address is the cluster's own (the API server's, a Service's, a pod's), so that no node gets a certificate
    /// for it.
    fn keeps(&self, address: IpAddr) -> bool;
    /// The detached signature of a text with a bootstrap token (JWS, HS256). The same for the same texts.
    fn signature(&self, text: &str, token_id: &str, token_secret: &str) -> String;
    /// Until when a certificate in PEM is valid.
    fn valid_until(&self, certificate: &[u8]) -> Option<Timestamp>;
    /// Signs a request: the certificate in PEM. Only the loop calls it; decisions name the need for it.
    fn sign(&self, request: &[u8], usages: &[String], lifetime: Duration) -> Result<String, String>;
}

/// What a decision may use besides the caches.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Who reads and signs requests for certificates; nobody in clusters without an authority of their own.
    pub authority: Option<Arc<dyn Authority>>,
    /// The certificates that this decision asked for, or why there is none.
    pub certificates: BTreeMap<Need, Result<String, String>>,
    /// The certificate of the API server's authority, PEM.
    pub root_ca: Arc<str>,
    /// From where nodes get the addresses of their pods; nothing when they bring their own.
    pub node_ranges: Option<NodeRanges>,
    /// How long a node may be silent before it is taken for dead; upstream's default when absent.
    /// Upstream: `--node-monitor-grace-period`.
    pub node_monitor_grace_period: Option<Duration>,
    /// The answers to the needs that this decision named before, in this round.
    pub answers: BTreeMap<Need, bool>,
}

/// The index of every cache that controllers use: by the uid of each owner; see `client::Index::owner`.
const BY_OWNER: &str = "owner";
/// Pods are found by their node, too; see `client::Index::node`.
const BY_NODE: &str = "node";

/// By what the caches of controllers find the objects of a kind.
pub fn indexes(resource: Resource) -> Vec<Index> {
    if resource == PODS { vec![Index::owner(), Index::node()] } else { vec![Index::owner()] }
}

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

    /// The pods that are bound to a node.
    pub fn pods_on<'v>(&'v self, node: &'v str) -> impl Iterator<Item = Arc<Object>> + 'v {
        self.of(PODS).by_index(BY_NODE, node).cloned()
    }

    /// How many objects of a kind there are.
    pub fn count(&self, resource: Resource) -> usize {
        self.of(resource).len()
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
    /// The source of its events; `NAME-controller` when empty.
    const COMPONENT: &'static str = "";
    /// What is decided about: the key of an object, for most.
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    /// Everything a decision depends on.
    type Observed<'c>: Send;
    /// What may be lost at any time and is bounded, such as the window of an autoscaler.
    type Memory: Clone + Default + Send + 'static;

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
