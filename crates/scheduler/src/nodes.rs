//! The nodes as the scheduler sees them: what each has, and what is asked of it already. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::decide::Resources;
use api::decide::pod::{is_pod_schedulable, occupies_node};
use api::projection::{NodeLite, PodLite};
use client::Object;

/// One node with the sum of its pods' requests, assumed ones included.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: Box<str>,
    /// The Node; absent while only pods name it.
    object: Option<Arc<Object>>,
    pub requested: Resources,
    /// What pods ask for, where those that ask for nothing count a little, so that scores spread them.
    pub nonzero_requested: Resources,
    pub pods: usize,
}

/// Requests that count for a container without any, in scores only. Upstream: `DefaultMilliCPURequest`, `DefaultMemoryRequest`.
const NONZERO_CPU: &str = "100m";
const NONZERO_MEMORY: &str = "200Mi";

impl NodeInfo {
    fn new(name: &str) -> NodeInfo {
        NodeInfo {
            name: name.into(),
            object: None,
            requested: Resources::default(),
            nonzero_requested: Resources::default(),
            pods: 0,
        }
    }

    /// The Node's fields that decisions go by.
    pub fn node(&self) -> &NodeLite {
        self.object.as_ref().expect("nodes without an object are not offered").project()
    }

    fn add(&mut self, pod: &PodLite) {
        let requests = pod.spec.resources.requests();
        self.nonzero_requested.add(&nonzero(&requests));
        self.requested.add(&requests);
        self.pods += 1;
    }

    fn remove(&mut self, pod: &PodLite) {
        let requests = pod.spec.resources.requests();
        self.nonzero_requested.sub(&nonzero(&requests));
        self.requested.sub(&requests);
        self.pods = self.pods.saturating_sub(1);
    }
}

/// The requests with something for processor and memory.
pub fn nonzero(requests: &Resources) -> Resources {
    let mut requests = requests.clone();
    for (name, least) in [("cpu", NONZERO_CPU), ("memory", NONZERO_MEMORY)] {
        if requests.amount(name).is_zero() {
            requests.set(name, api::quantity::Quantity::parse(least).expect("a constant quantity"));
        }
    }
    requests
}

/// All nodes, in a dense array, with the pods that occupy them.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    nodes: Vec<NodeInfo>,
    index: BTreeMap<Box<str>, usize>,
    /// Counted pods by uid.
    pods: BTreeMap<Box<str>, Counted>,
}

/// A pod that counts on a node.
#[derive(Clone, Debug)]
struct Counted {
    object: Arc<Object>,
    node: Box<str>,
    /// It is only about to be bound there.
    assumed: bool,
}

impl Nodes {
    /// Nodes that exist, in the order they were first seen.
    pub fn iter(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.object.is_some())
    }

    /// How many nodes exist.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, object: Arc<Object>) {
        let slot = self.slot(object.name());
        self.nodes[slot].object = Some(object);
    }

    /// A node is gone; pods that name it stay counted until they go.
    pub fn remove_node(&mut self, name: &str) {
        let slot = self.slot(name);
        self.nodes[slot].object = None;
    }

    /// A pod appeared or changed: it counts on the node it names while it occupies it.
    pub fn set_pod(&mut self, object: &Arc<Object>) {
        let lite: &PodLite = object.project();
        let node = lite.spec.node_name.clone();
        // A pod assumed on a node and not yet seen there stays assumed.
        if is_pod_schedulable(lite) && self.pods.get(object.uid()).is_some_and(|counted| counted.assumed) {
            return;
        }
        self.remove_pod(object.uid());
        if !node.is_empty() && occupies_node(lite) {
            self.count(Counted { object: object.clone(), node, assumed: false });
        }
    }

    /// Counts a pod on a node that it is about to be bound to.
    pub fn assume(&mut self, object: &Arc<Object>, node: &str) {
        self.remove_pod(object.uid());
        self.count(Counted { object: object.clone(), node: node.into(), assumed: true });
    }

    /// The node that a pod is assumed on and not yet seen on.
    pub fn assumed_on(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).filter(|counted| counted.assumed).map(|counted| &*counted.node)
    }

    /// A pod was not bound where it was assumed. One that was seen on a node since stays there.
    pub fn forget(&mut self, uid: &str) {
        if self.pods.get(uid).is_some_and(|counted| counted.assumed) {
            self.remove_pod(uid);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        if let Some(counted) = self.pods.remove(uid) {
            let slot = self.slot(&counted.node);
            self.nodes[slot].remove(counted.object.project());
        }
    }

    /// Whether the pod counts on some node.
    pub fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    fn count(&mut self, counted: Counted) {
        let slot = self.slot(&counted.node);
        self.nodes[slot].add(counted.object.project());
        self.pods.insert(counted.object.uid().into(), counted);
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(slot) = self.index.get(name) {
            return *slot;
        }
        self.nodes.push(NodeInfo::new(name));
        self.index.insert(name.into(), self.nodes.len() - 1);
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests;
