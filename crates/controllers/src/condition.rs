//! Conditions of pods and nodes that controllers set: the list is patched whole, pinned to the revision it was read at.

use api::decide::conditions::{NewCondition, set_condition};
use api::value::Value;
use client::Object;
use jiff::Timestamp;
use reconcile::{Change, Resource};

use crate::{owner, patch};

/// Why a pod is disrupted, told before it is deleted.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// The conditions in an object's status.
pub(crate) fn of(object: &Object) -> Vec<Value> {
    let tree = object.tree().unwrap_or_default();
    tree.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default().to_vec()
}

/// Sets these conditions of a pod, and more fields of its status; `None` when that changes nothing.
pub(crate) fn of_pod<const N: usize>(
    resource: Resource,
    pod: &Object,
    conditions: &[NewCondition<'_>],
    more: [(&str, Value); N],
    now: Timestamp,
) -> Option<Change> {
    let mut all = of(pod);
    let mut changed = N > 0;
    for new in conditions {
        if set_condition(&mut all, *new, now) {
            changed = true;
            observe_generation(&mut all, new.kind, pod.meta().generation);
        }
    }
    changed.then(|| {
        let Value::Object(mut status) = patch::object(more) else { unreachable!("an object is made of fields") };
        status.insert("conditions", patch::list(all));
        let body = patch::object([("status", Value::Object(status))]);
        let of = owner::reference_to(resource, pod);
        Change::Patch { of, subresource: Some("status"), body, revision: Some(pod.revision()) }
    })
}

/// Which state of the pod the condition was worked out from.
fn observe_generation(conditions: &mut [Value], kind: &str, generation: i64) {
    let found = conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == Some(kind));
    if let (Some(members), true) = (found.and_then(Value::as_object_mut), generation > 0) {
        members.insert("observedGeneration", generation);
    }
}
