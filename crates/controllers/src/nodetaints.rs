//! Node taints: what a Node's conditions say keeps pods off it, as taints; and takes them away when they no longer hold.
//!
//! Upstream: `doNoScheduleTaintingPass` of `pkg/controller/nodelifecycle`. Eviction by time is not part of this yet.

use std::sync::Arc;

use api::projection::{NodeLite, condition};
use api::value::to_value;
use client::{Key, Object};
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reconcile::plan::kinds::NODES;
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, View, Watch};

use crate::{owner, patch};

const NO_SCHEDULE: &str = "NoSchedule";
/// The condition, the status of it that keeps pods off, and the taint that says so.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", "node.kubernetes.io/not-ready"),
    ("Ready", "Unknown", "node.kubernetes.io/unreachable"),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// The controller that taints nodes by their conditions.
pub struct NodeTaintController;

impl Controller for NodeTaintController {
    const NAME: &'static str = "node-lifecycle";
    type Key = Key;
    type Observed<'c> = Option<Arc<Object>>;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![Watch::primary(NODES)]
    }

    fn observe(view: &View, key: &Key) -> Option<Arc<Object>> {
        view.get(NODES, key)
    }

    fn reconcile(observed: &Option<Arc<Object>>, now: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some(object) = observed else { return Plan::nothing() };
        let lite: &NodeLite = object.project();
        // A node that has not said anything yet keeps the taint it was created with.
        if lite.conditions.is_empty() {
            return Plan::nothing();
        }
        let wanted = wanted(lite);
        let present = |key: &str| lite.taints.iter().any(|taint| &*taint.key == key && &*taint.effect == NO_SCHEDULE);
        if ours().all(|key| present(key) == wanted.contains(&key)) {
            return Plan::nothing();
        }
        let Some(node) = owner::typed::<Node>(object) else { return Plan::nothing() };
        let mut taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
        taints.retain(|taint| {
            let mine = taint.effect == NO_SCHEDULE && ours().any(|key| key == taint.key);
            !mine || wanted.contains(&taint.key.as_str())
        });
        for key in wanted.into_iter().filter(|key| !present(key)) {
            let added = Some(Time(now.wall));
            taints.push(Taint { key: key.into(), effect: NO_SCHEDULE.into(), time_added: added, value: None });
        }
        let Ok(taints) = to_value(&taints) else { return Plan::nothing() };
        let body = patch::object([("spec", patch::object([("taints", taints)]))]);
        let of = owner::reference_to(NODES, object);
        // The list is written whole: nobody may have changed it meanwhile.
        let revision = Some(object.revision());
        Plan::nothing().then([Change::Patch { of, subresource: None, body, revision }.into()])
    }
}

/// The keys of the taints that are this controller's to set.
fn ours() -> impl Iterator<Item = &'static str> {
    BY_CONDITION.iter().map(|(_, _, taint)| *taint).chain([UNSCHEDULABLE])
}

fn wanted(node: &NodeLite) -> Vec<&'static str> {
    let holds =
        |kind: &str, status: &str| condition(&node.conditions, kind).is_some_and(|found| &*found.status == status);
    let mut wanted: Vec<&'static str> =
        BY_CONDITION.iter().filter(|(kind, status, _)| holds(kind, status)).map(|(_, _, taint)| *taint).collect();
    if node.unschedulable {
        wanted.push(UNSCHEDULABLE);
    }
    wanted
}
