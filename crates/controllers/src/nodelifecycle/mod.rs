//! Node lifecycle: says of nodes that say nothing themselves how they are, taints nodes by their conditions, and decides
//! when pods are driven off dead ones.
//!
//! Upstream: `pkg/controller/nodelifecycle`.

mod health;
mod taints;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use api::decide::pod::{is_pod_ready, is_pod_terminated};
use api::projection::{Condition, NodeLite, PodLite, condition};
use client::{Key, Object};
use reconcile::plan::kinds::{LEASES, NODES, PODS};
use reconcile::{Controller, Facts, Note, Now, Outcomes, Plan, Reference, Severity, View, Watch};

use crate::owner;

/// Where nodes keep their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// What was seen of a silent node is remembered this long at least.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The controller of nodes.
pub struct NodeLifecycleController;

/// What is decided about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One node: how it is, and what of that keeps new pods off.
    Node(Key),
    /// All nodes together: from which of them pods are driven away.
    Eviction,
}

/// A node with its lease and, if it is silent, its pods; or all nodes.
pub enum Observed {
    Node { signs: health::Signs, pods: Vec<Arc<Object>> },
    Gone,
    All(Vec<Arc<Object>>),
}

/// What was seen before.
#[derive(Clone, Default)]
pub struct Memory {
    registered: Option<Reference>,
    health: health::Memory,
    zones: zones::Memory,
}

impl Controller for NodeLifecycleController {
    const NAME: &'static str = "node-lifecycle";
    const COMPONENT: &'static str = "node-controller";
    type Key = Subject;
    type Observed<'c> = Observed;
    type Memory = Memory;

    fn watches() -> Vec<Watch<Subject>> {
        vec![
            Watch::mapped(NODES, subjects_of_node),
            Watch::mapped(LEASES, |_, lease| match lease.namespace() {
                LEASE_NAMESPACE => vec![Subject::Node(Key::new("", lease.name()))],
                _ => Vec::new(),
            }),
            Watch::mapped(PODS, subjects_of_pod),
        ]
    }

    fn observe(view: &View, subject: &Subject) -> Observed {
        let Subject::Node(key) = subject else { return Observed::All(view.all(NODES).collect()) };
        let Some(node) = view.get(NODES, key) else { return Observed::Gone };
        let lease = view.get(LEASES, &Key::new(LEASE_NAMESPACE, key.name()));
        let silent = !is_ready(&node);
        let pods = if silent { view.pods_on(key.name()).filter(|pod| serves(pod)).collect() } else { Vec::new() };
        Observed::Node { signs: health::Signs { node, lease }, pods }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, facts: &Facts, memory: &mut Memory) -> Plan {
        match observed {
            Observed::All(nodes) => zones::drive(nodes, now, &mut memory.zones),
            Observed::Gone => gone(memory),
            Observed::Node { signs, pods } => keep(signs, pods, (now, facts), memory),
        }
    }
}

fn ready(node: &Object) -> Option<&Condition> {
    condition(&node.project::<NodeLite>().conditions, "Ready")
}

fn is_ready(node: &Object) -> bool {
    ready(node).is_some_and(Condition::is_true)
}

/// Whether somebody may still count on the pod.
fn serves(pod: &Object) -> bool {
    let lite = pod.project::<PodLite>();
    is_pod_ready(lite) && !is_pod_terminated(lite)
}

fn subjects_of_node(_: &View, node: &Object) -> Vec<Subject> {
    let own = Subject::Node(node.key().clone());
    // Healthy nodes, of which there are many, and which change often, drive nobody away.
    if is_ready(node) && !zones::drives_away(node) { vec![own] } else { vec![own, Subject::Eviction] }
}

fn subjects_of_pod(view: &View, pod: &Object) -> Vec<Subject> {
    let key = Key::new("", &pod.project::<PodLite>().spec.node_name);
    let silent = |node: &Object| ready(node).is_some_and(|ready| &*ready.status == "Unknown");
    if key.name().is_empty() || !serves(pod) || !view.get(NODES, &key).is_some_and(|node| silent(&node)) {
        return Vec::new();
    }
    vec![Subject::Node(key)]
}

fn keep(signs: &health::Signs, pods: &[Arc<Object>], (now, facts): (Now, &Facts), memory: &mut Memory) -> Plan {
    let node = &signs.node;
    let mut plan = match health::judge(signs, now, facts, &mut memory.health) {
        health::Verdict::Alive { look_again } => taints::keep(node, now).again_within(look_again),
        health::Verdict::Unsure(needs) => Plan { needs, ..Plan::default() },
        health::Verdict::Silent(change) => {
            let note = ready(node).is_some_and(Condition::is_true).then(|| status_note(node, "NodeNotReady"));
            // The taints follow when the caches show the change.
            let action = reconcile::Action { change, on_success: note, on_failure: None };
            Plan::nothing().then([action])
        }
        health::Verdict::Told => taints::keep(node, now).then(health::unready(pods, now)),
    };
    let mine = owner::reference_to(NODES, node);
    if memory.registered.as_ref() != Some(&mine) {
        let name = node.name();
        let message = format!("Node {name} event: Registered Node {name} in Controller");
        plan.notes.push(note(&mine, Severity::Normal, "RegisteredNode", message));
        memory.registered = Some(mine);
    }
    plan.again_within(REMEMBERED)
}

fn gone(memory: &mut Memory) -> Plan {
    let mut plan = Plan::nothing();
    if let Some(node) = memory.registered.take() {
        let name = &node.name;
        let message = format!("Node {name} event: Removing Node {name} from Controller");
        plan.notes.push(note(&node, Severity::Normal, "RemovingNode", message));
    }
    plan
}

fn status_note(node: &Object, status: &'static str) -> Note {
    let message = format!("Node {} status is now: {status}", node.name());
    note(&owner::reference_to(NODES, node), Severity::Normal, status, message)
}

fn note(regarding: &Reference, severity: Severity, reason: &'static str, message: String) -> Note {
    Note { regarding: regarding.clone(), field: String::new(), severity, reason, message }
}

#[cfg(test)]
mod tests;
