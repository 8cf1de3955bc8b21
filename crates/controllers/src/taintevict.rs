//! Taint eviction: drives pods off nodes whose `NoExecute` taints they do not tolerate, or no longer.
//!
//! Upstream: `pkg/controller/tainteviction`.

use std::sync::Arc;

use api::decide::conditions::NewCondition;
use api::decide::pod::pod_condition;
use api::decide::taints::{NO_EXECUTE, seconds_tolerated};
use api::projection::{NodeLite, PodLite, Taint};
use client::{Key, Object};
use jiff::{SignedDuration, Timestamp};
use reconcile::plan::kinds::{NODES, PODS};
use reconcile::{Action, Change, Controller, Facts, Note, Now, Outcomes, Plan, Propagation, Severity, View, Watch};

use crate::{condition, owner};

/// The controller that carries out `NoExecute` taints.
pub struct TaintEvictionController;

/// A pod, and the taints of its node that drive pods away.
pub struct Observed {
    pod: Option<Arc<Object>>,
    taints: Vec<Taint>,
}

/// A deletion that was put off.
#[derive(Clone, Default)]
pub struct Memory {
    since: Option<Timestamp>,
}

impl Controller for TaintEvictionController {
    const NAME: &'static str = "taint-eviction";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = Memory;

    fn watches() -> Vec<Watch<Key>> {
        let tainted = |view: &View, pod: &Object| {
            let node = Key::new("", &pod.project::<PodLite>().spec.node_name);
            let tainted = view.get(NODES, &node).is_some_and(|node| !evicting(&node).is_empty());
            if tainted { vec![pod.key().clone()] } else { Vec::new() }
        };
        // The taints before a change concern pods as well: they are let off when those are taken away.
        let on_node = |view: &View, node: &Object| match evicting(node).is_empty() {
            true => Vec::new(),
            false => view.pods_on(node.name()).map(|pod| pod.key().clone()).collect(),
        };
        vec![Watch::mapped(PODS, tainted), Watch::mapped(NODES, on_node)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let pod = view.get(PODS, key);
        let name = pod.as_ref().map(|pod| Key::new("", &pod.project::<PodLite>().spec.node_name));
        let node = name.filter(|name| !name.name().is_empty()).and_then(|name| view.get(NODES, &name));
        Observed { taints: node.map(|node| evicting(&node)).unwrap_or_default(), pod }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, _: &Facts, memory: &mut Memory) -> Plan {
        let Some(pod) = observed.pod.as_ref().filter(|pod| pod.meta().deletion.is_none()) else {
            return Plan::nothing();
        };
        let tolerations = &pod.project::<PodLite>().spec.tolerations;
        let seconds = match seconds_tolerated(&observed.taints, tolerations) {
            Some(seconds) if !observed.taints.is_empty() => seconds,
            _ => return cancel(pod, memory),
        };
        if seconds == 0 {
            return evict(pod, now);
        }
        let since = *memory.since.get_or_insert_with(|| start(pod, &observed.taints, now.wall));
        let end = since.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
        let left = end.duration_since(now.wall);
        if left.is_positive() { Plan::nothing().again_within(left.unsigned_abs()) } else { evict(pod, now) }
    }
}

fn evicting(node: &Object) -> Vec<Taint> {
    node.project::<NodeLite>().taints.iter().filter(|taint| &*taint.effect == NO_EXECUTE).cloned().collect()
}

/// Since when the pod has been enduring the taints: since the last of them, or since it came. Taints whose age nobody
/// knows count from now.
fn start(pod: &Object, taints: &[Taint], now: Timestamp) -> Timestamp {
    let Some(tainted) = taints.iter().map(|taint| taint.added).collect::<Option<Vec<_>>>() else { return now };
    let placed = pod_condition(pod.project::<PodLite>(), "PodScheduled").and_then(|placed| placed.last_transition);
    tainted.into_iter().chain(placed).max().unwrap_or(now).min(now)
}

fn note(pod: &Object, message: &str) -> Note {
    Note {
        regarding: owner::reference_to(PODS, pod),
        field: String::new(),
        severity: Severity::Normal,
        reason: "TaintManagerEviction",
        message: format!("{message} {}/{}", pod.namespace(), pod.name()),
    }
}

fn cancel(pod: &Object, memory: &mut Memory) -> Plan {
    let mut plan = Plan::nothing();
    if memory.since.take().is_some() {
        plan.notes.push(note(pod, "Cancelling deletion of Pod"));
    }
    plan
}

fn evict(pod: &Object, now: Now) -> Plan {
    let target = NewCondition {
        kind: condition::DISRUPTION_TARGET,
        status: "True",
        reason: "DeletionByTaintManager",
        message: "Taint manager: deleting due to NoExecute taint",
    };
    let mark = condition::of_pod(PODS, pod, &[target], [], now.wall).map(Action::from);
    let delete = Action {
        change: Change::Delete {
            of: owner::reference_to(PODS, pod),
            propagation: Propagation::Default,
            revision: None,
        },
        on_success: Some(note(pod, "Marking for deletion Pod")),
        on_failure: None,
    };
    Plan::nothing().then(mark).then([delete])
}

#[cfg(test)]
mod tests;
