//! What a Node's conditions say keeps pods off it, as taints; taken away when they no longer hold.
//!
//! Upstream: `doNoScheduleTaintingPass`.

use std::sync::Arc;

use api::projection::{NodeLite, condition};
use api::value::to_value;
use client::Object;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reconcile::plan::kinds::NODES;
use reconcile::{Action, Change, Now, Plan};

use crate::{owner, patch};

const NO_SCHEDULE: &str = "NoSchedule";
pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The condition, the status of it that keeps pods off, and the taint that says so.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Brings the taints that keep new pods off up to date.
pub(super) fn keep(node: &Arc<Object>, now: Now) -> Plan {
    let lite: &NodeLite = node.project();
    // A node that has not said anything yet keeps the taint it was created with.
    if lite.conditions.is_empty() {
        return Plan::nothing();
    }
    let wanted = wanted(lite);
    let present = |key: &str| lite.taints.iter().any(|taint| &*taint.key == key && &*taint.effect == NO_SCHEDULE);
    if ours().all(|key| present(key) == wanted.contains(&key)) {
        return Plan::nothing();
    }
    let change = change(node, |taints| {
        taints.retain(|taint| {
            let mine = taint.effect == NO_SCHEDULE && ours().any(|key| key == taint.key);
            !mine || wanted.contains(&taint.key.as_str())
        });
        for key in wanted.iter().filter(|key| !present(key)) {
            taints.push(new(key, NO_SCHEDULE, now));
        }
    });
    Plan::nothing().then(change)
}

/// A taint that holds from now on.
pub(super) fn new(key: &str, effect: &str, now: Now) -> Taint {
    Taint { key: key.into(), effect: effect.into(), time_added: Some(Time(now.wall)), value: None }
}

/// Changes a node's taints. The list is written whole: nobody may have changed it meanwhile.
pub(super) fn change(node: &Object, edit: impl FnOnce(&mut Vec<Taint>)) -> Option<Action> {
    let typed: Node = owner::typed(node)?;
    let mut taints = typed.spec.and_then(|spec| spec.taints).unwrap_or_default();
    edit(&mut taints);
    let taints = to_value(&taints).ok()?;
    let body = patch::object([("spec", patch::object([("taints", taints)]))]);
    let of = owner::reference_to(NODES, node);
    Some(Change::Patch { of, subresource: None, body, revision: Some(node.revision()) }.into())
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
