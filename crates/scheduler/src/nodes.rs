//! The nodes as the scheduler sees them: what each has, and what is asked of it already. Pure.
//!
//! Nodes lie in a dense array. Every change is written to a short log, so that who worked something out from the nodes
//! brings it up to date by what changed since, instead of working it out again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};

use api::decide::pod::{is_pod_schedulable, is_pod_terminating, occupies_node};
use api::projection::{Meta, NodeLite, PodLite, Texts};
use client::Object;

use crate::amounts::{Amounts, Load};
use crate::subject::{Counted, HostPort};

/// The log's length: who is further behind starts afresh.
const LOG_MAX: usize = 4096;

/// One node with the sum of its pods' requests, assumed ones included.
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its place in the array.
    pub slot: usize,
    pub name: Box<str>,
    /// The Node; absent while only pods name it.
    object: Option<Arc<Object>>,
    pub allocatable: Amounts,
    pub requested: Amounts,
    pub nonzero_requested: Load,
    /// The host's ports that are taken.
    pub ports: Vec<HostPort>,
    pub pods: Vec<Arc<Counted>>,
    /// How many of its pods have something to say about pods near them.
    pub with_terms: usize,
}

impl NodeInfo {
    fn new(slot: usize, name: &str) -> NodeInfo {
        NodeInfo {
            slot,
            name: name.into(),
            object: None,
            allocatable: Amounts::default(),
            requested: Amounts::default(),
            nonzero_requested: Load::default(),
            ports: Vec::new(),
            pods: Vec::new(),
            with_terms: 0,
        }
    }

    /// Whether there is a Node, rather than only pods that name one.
    pub fn exists(&self) -> bool {
        self.object.is_some()
    }

    /// The Node's fields that decisions go by.
    pub fn node(&self) -> &NodeLite {
        self.object.as_ref().expect("nodes without an object are not offered").project()
    }

    /// Its label of that key.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node().meta.labels.get(key)
    }

    /// Counts a pod.
    pub fn add(&mut self, pod: Arc<Counted>) {
        self.requested.add(&pod.requests, 1);
        self.nonzero_requested = self.nonzero_requested.plus(pod.nonzero);
        self.ports.extend(pod.ports.iter().cloned());
        self.with_terms += usize::from(pod.has_terms());
        self.pods.push(pod);
    }

    /// Counts a pod no more.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<Counted>> {
        let at = self.pods.iter().position(|pod| pod.object.uid() == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.add(&pod.requests, -1);
        self.nonzero_requested = self.nonzero_requested.minus(pod.nonzero);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        self.with_terms -= usize::from(pod.has_terms());
        Some(pod)
    }
}

/// A change that was made.
#[derive(Clone, Debug)]
pub enum Delta {
    /// The node of this slot came, changed or went.
    Node(usize),
    /// The node of this slot holds other images, and is the same in all else.
    Images(usize),
    Came(usize, Arc<Counted>),
    Left(usize, Arc<Counted>),
    /// Something that all decisions may depend on.
    All,
}

/// Where a counted pod is.
#[derive(Clone, Debug)]
struct Place {
    slot: usize,
    /// It is only about to be bound there.
    assumed: bool,
}

/// A pod for which room is being made on a node.
#[derive(Clone, Debug)]
pub struct Nomination {
    pub slot: usize,
    pub pod: Arc<Counted>,
}

/// All nodes, in a dense array, with the pods that occupy them.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    nodes: Vec<NodeInfo>,
    index: BTreeMap<Box<str>, usize>,
    /// How many of the nodes exist.
    existing: usize,
    /// Counted pods by uid.
    pods: BTreeMap<Box<str>, Place>,
    /// How many counted pods have something to say about pods near them.
    with_terms: usize,
    nominated: BTreeMap<Box<str>, Nomination>,
    /// Namespaces' metadata by name.
    namespaces: BTreeMap<Box<str>, Arc<Meta>>,
    /// How many nodes hold an image, by its name.
    images: BTreeMap<Box<str>, usize>,
    log: VecDeque<Delta>,
    /// The number of the first change that is still in the log.
    first: u64,
}

static NO_LABELS: LazyLock<Texts> = LazyLock::new(Texts::default);

impl Nodes {
    /// Nodes that exist, in the order they were first seen.
    pub fn iter(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.exists())
    }

    /// How many nodes exist.
    pub fn len(&self) -> usize {
        self.existing
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.existing == 0
    }

    /// How many slots there are, those of nodes that do not exist included.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// The node in a slot, whether it exists or not.
    pub fn at(&self, slot: usize) -> &NodeInfo {
        &self.nodes[slot]
    }

    /// The node of this name, if it exists.
    pub fn named(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|slot| &self.nodes[*slot]).filter(|node| node.exists())
    }

    /// How many counted pods have something to say about pods near them.
    pub fn with_terms(&self) -> usize {
        self.with_terms
    }

    /// How many nodes hold the image of that name.
    pub fn with_image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or(0)
    }

    /// The labels of a namespace.
    pub fn namespace_labels(&self, name: &str) -> &Texts {
        self.namespaces.get(name).map_or(&*NO_LABELS, |meta| &meta.labels)
    }

    /// The number of the next change.
    pub fn now(&self) -> u64 {
        self.first + self.log.len() as u64
    }

    /// The changes from that number on; `None` when they are not all known any more.
    pub fn since(&self, number: u64) -> Option<impl Iterator<Item = &Delta>> {
        let skipped = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(self.log.iter().skip(skipped))
    }

    fn note(&mut self, delta: Delta) {
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
            self.first += 1;
        }
        self.log.push_back(delta);
    }

    /// A node appeared or changed. Tells whether in anything that may let a pod run there.
    pub fn set_node(&mut self, object: Arc<Object>) -> bool {
        let slot = self.slot(object.name());
        let old = self.nodes[slot].object.replace(object);
        let node = self.nodes[slot].node();
        let old_node: Option<&NodeLite> = old.as_ref().map(|old| old.project());
        let same = old_node.is_some_and(|old| is_same(old, node));
        if same && old_node.is_some_and(|old| old.images == node.images) {
            return false;
        }
        let allocatable = Amounts::of(&node.allocatable);
        let images: Vec<Box<str>> = node.images.iter().flat_map(|image| image.names.iter().cloned()).collect();
        self.nodes[slot].allocatable = allocatable;
        self.existing += usize::from(old.is_none());
        if let Some(old) = old_node {
            self.forget_images(old);
        }
        images.into_iter().for_each(|name| *self.images.entry(name).or_default() += 1);
        self.note(if same { Delta::Images(slot) } else { Delta::Node(slot) });
        !same
    }

    /// A node is gone; pods that name it stay counted until they go.
    pub fn remove_node(&mut self, name: &str) {
        let slot = self.slot(name);
        if let Some(old) = self.nodes[slot].object.take() {
            self.existing -= 1;
            self.forget_images(old.project());
            self.note(Delta::Node(slot));
        }
    }

    fn forget_images(&mut self, node: &NodeLite) {
        for name in node.images.iter().flat_map(|image| &image.names) {
            if let Some(count) = self.images.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.images.remove(name);
                }
            }
        }
    }

    /// A namespace appeared or changed. Tells whether in its labels.
    pub fn set_namespace(&mut self, meta: &Arc<Meta>) -> bool {
        let old = self.namespaces.insert(meta.name.clone(), meta.clone());
        let changed = old.is_none_or(|old| old.labels != meta.labels);
        if changed {
            self.note(Delta::All);
        }
        changed
    }

    /// A namespace is gone.
    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// A pod appeared or changed: it counts on the node it names while it occupies it.
    pub fn set_pod(&mut self, object: &Arc<Object>) {
        let lite: &PodLite = object.project();
        let place = self.pods.get(object.uid());
        // A pod assumed on a node and not yet seen there stays assumed.
        if is_pod_schedulable(lite) && place.is_some_and(|place| place.assumed) {
            return;
        }
        if lite.spec.node_name.is_empty() || !occupies_node(lite) {
            return self.remove_pod(object.uid());
        }
        self.nominated.remove(object.uid());
        let slot = self.slot(&lite.spec.node_name);
        if let Some(place) = self.pods.get_mut(object.uid()).filter(|place| place.slot == slot) {
            place.assumed = false;
            if self.refresh(slot, object) {
                return;
            }
        }
        self.remove_pod(object.uid());
        self.count(Arc::new(Counted::new(object.clone())), slot, false);
    }

    /// Replaces a counted pod by a later sight of it, if no decision goes by what changed.
    fn refresh(&mut self, slot: usize, object: &Arc<Object>) -> bool {
        let pods = &mut self.nodes[slot].pods;
        let Some(counted) = pods.iter_mut().find(|pod| pod.object.uid() == object.uid()) else { return false };
        let (old, new): (&PodLite, &PodLite) = (counted.pod(), object.project());
        let same = old.meta.labels == new.meta.labels
            && is_pod_terminating(old) == is_pod_terminating(new)
            && old.spec.priority == new.spec.priority
            && old.spec.resources == new.spec.resources;
        if same {
            let renewed = Counted { object: object.clone(), ..Counted::clone(counted) };
            *counted = Arc::new(renewed);
        }
        same
    }

    /// Counts a pod on a node that it is about to be bound to.
    pub fn assume(&mut self, pod: &Arc<Counted>, node: &str) {
        self.remove_pod(pod.object.uid());
        self.nominated.remove(pod.object.uid());
        let slot = self.slot(node);
        self.count(pod.clone(), slot, true);
    }

    /// The node that a pod is assumed on and not yet seen on.
    pub fn assumed_on(&self, uid: &str) -> Option<&str> {
        self.pods.get(uid).filter(|place| place.assumed).map(|place| &*self.nodes[place.slot].name)
    }

    /// A pod was not bound where it was assumed. One that was seen on a node since stays there.
    pub fn forget(&mut self, uid: &str) {
        if self.pods.get(uid).is_some_and(|place| place.assumed) {
            self.remove_pod(uid);
        }
    }

    /// A pod is gone.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(place) = self.pods.remove(uid) else { return };
        if let Some(pod) = self.nodes[place.slot].remove(uid) {
            self.with_terms -= usize::from(pod.has_terms());
            self.note(Delta::Left(place.slot, pod));
        }
    }

    /// Whether the pod counts on some node.
    pub fn has_pod(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// Room is being made for a pod on a node.
    pub fn nominate(&mut self, pod: &Arc<Counted>, node: &str) {
        let slot = self.slot(node);
        self.nominated.insert(pod.object.uid().into(), Nomination { slot, pod: pod.clone() });
    }

    /// No room is made for the pod any more.
    pub fn withdraw(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// All pods for which room is being made.
    pub fn nominations(&self) -> impl Iterator<Item = &Nomination> {
        self.nominated.values()
    }

    /// Where room is being made for the pod.
    pub fn nomination(&self, uid: &str) -> Option<&Nomination> {
        self.nominated.get(uid)
    }

    fn count(&mut self, pod: Arc<Counted>, slot: usize, assumed: bool) {
        self.pods.insert(pod.object.uid().into(), Place { slot, assumed });
        self.with_terms += usize::from(pod.has_terms());
        self.nodes[slot].add(pod.clone());
        self.note(Delta::Came(slot, pod));
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(slot) = self.index.get(name) {
            return *slot;
        }
        let slot = self.nodes.len();
        self.nodes.push(NodeInfo::new(slot, name));
        self.index.insert(name.into(), slot);
        slot
    }
}

/// Whether no verdict goes by what changed: heartbeats change conditions only.
fn is_same(old: &NodeLite, new: &NodeLite) -> bool {
    (&old.allocatable, &old.taints, old.unschedulable, &old.meta.labels)
        == (&new.allocatable, &new.taints, new.unschedulable, &new.meta.labels)
}

#[cfg(test)]
mod tests;
