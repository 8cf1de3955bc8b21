//! What leads to pods: Services and slices into the kernel's rules and to the data-plane process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Cache, Key, Object, Snapshot};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::feed::Feed;
use net::input::{NetState, ObjectKey, ServiceView, SliceView};
use stdx::BoxFuture;

/// How long an ending pod waits for the kernel to forget it, before it is told to stop all the same.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(5);

/// The node's rules as the agent sees them.
pub struct NodeRules(pub Feed);

impl node::Rules for NodeRules {
    fn withdraw<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match stdx::timeout(WITHDRAWAL_MAX, self.0.exclude(pod_uid)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, pod_uid, "pod not taken out of the service rules"),
                Err(_) => tracing::warn!(pod_uid, "the service rules take too long"),
            }
        })
    }

    fn forget(&self, pod_uid: &str) {
        if let Err(error) = self.0.include(pod_uid) {
            tracing::warn!(%error, pod_uid, "an ended pod stays excluded from the rules");
        }
    }

    fn obstacles(&self) -> Vec<String> {
        self.0.closed()
    }
}

/// What rules and names are made from.
pub struct Sources {
    pub services: Cache,
    pub slices: Cache,
    pub namespaces: Cache,
    pub nodes: Cache,
    /// The name of this node.
    pub node: String,
}

/// Keeps the rules as the caches say, until the task is dropped.
pub async fn feed(feed: Feed, sources: Sources) {
    let Sources { services, slices, namespaces, nodes, node } = &sources;
    let mut views = Views::default();
    // Rules are replaced only after complete lists.
    let (mut seen_services, mut seen_slices) = (services.synced().await, slices.synced().await);
    let (mut seen_namespaces, mut seen_nodes) = (namespaces.synced().await, nodes.synced().await);
    loop {
        let zone = zone_of(&seen_nodes, node);
        let state = views.state(&seen_services, &seen_slices).within(names(&seen_namespaces), zone.clone());
        if views.last.as_ref() != Some(&state) {
            match feed.apply(state.clone()).await {
                Ok(_) => views.last = Some(state),
                Err(error) => {
                    tracing::error!(%error, "service rules not written");
                    stdx::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            }
        }
        tokio::select! {
            _ = services.progressed(seen_services.revision()) => {}
            _ = slices.progressed(seen_slices.revision()) => {}
            _ = namespaces.progressed(seen_namespaces.revision()) => {}
            // Nodes tell of themselves all the time; of that only the zone counts.
            _ = zone_changes(nodes, node, &zone) => {}
        }
        (seen_services, seen_slices) = (services.snapshot(), slices.snapshot());
        (seen_namespaces, seen_nodes) = (namespaces.snapshot(), nodes.snapshot());
    }
}

async fn zone_changes(nodes: &Cache, node: &str, zone: &str) {
    let mut seen = nodes.snapshot();
    while zone_of(&seen, node) == zone {
        seen = nodes.progressed(seen.revision()).await;
    }
}

fn zone_of(nodes: &Snapshot, node: &str) -> String {
    let found = nodes.get("", node);
    found.and_then(|node| node.meta().labels.get(ZONE).map(ToString::to_string)).unwrap_or_default()
}

fn names(namespaces: &Snapshot) -> Vec<String> {
    namespaces.iter().map(|namespace| namespace.name().to_owned()).collect()
}

/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// What is made of objects, and of which revision it was made: a change of one slice among thousands costs no second look at
/// the others.
#[derive(Default)]
struct Views {
    services: BTreeMap<Key, u64>,
    slices: BTreeMap<Key, u64>,
    state: NetState,
    last: Option<NetState>,
}

impl Views {
    fn state(&mut self, services: &Snapshot, slices: &Snapshot) -> NetState {
        let service = |object: &Object| object.typed::<Service>().ok().map(|typed| ServiceView::from_service(&typed));
        let slice = |object: &Object| SliceView::from_slice(&object.typed::<EndpointSlice>().ok()?);
        follow(&mut self.services, &mut self.state.services, services, service);
        follow(&mut self.slices, &mut self.state.slices, slices, slice);
        self.state.clone()
    }
}

fn follow<V>(
    seen: &mut BTreeMap<Key, u64>,
    views: &mut BTreeMap<ObjectKey, Arc<V>>,
    snapshot: &Snapshot,
    view: impl Fn(&Object) -> Option<V>,
) {
    for object in snapshot.iter() {
        if seen.insert(object.key().clone(), object.revision()) == Some(object.revision()) {
            continue;
        }
        let key = ObjectKey::new(object.namespace(), object.name());
        match view(object) {
            Some(made) => drop(views.insert(key, Arc::new(made))),
            None => drop(views.remove(&key)),
        }
    }
    if seen.len() > snapshot.len() {
        let gone = |key: &Key| snapshot.get(key.namespace(), key.name()).is_none();
        for key in seen.extract_if(.., |key, _| gone(key)).map(|(key, _)| key) {
            views.remove(&ObjectKey::new(key.namespace(), key.name()));
        }
    }
}
