//! ReplicaSet: keeps as many pods of a template as `spec.replicas` says.
//!
//! Upstream: `pkg/controller/replicaset`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::decide::pod::{is_pod_active, is_pod_ready, is_pod_terminated, pod_condition};
use api::projection::PodLite;
use api::selector::Selector;
use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use reconcile::plan::kinds::{PODS, REPLICA_SETS};
use reconcile::{
    Action, Change, Controller, Facts, Failure, Note, Now, Outcomes, Plan, Propagation, Severity, Verb, View, Watch,
};

use crate::{owner, patch};

/// No more pods are made or deleted in one decision. Upstream: `BurstReplicas`.
const BURST: usize = 500;
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The controller of ReplicaSets.
pub struct ReplicaSetController;

/// Everything a decision about one ReplicaSet depends on.
pub struct Observed {
    set: Option<ReplicaSet>,
    selector: Option<Selector>,
    /// Pods that it controls, and orphans that its selector matches.
    pods: Vec<Arc<Object>>,
    /// How many pods of related ReplicaSets run on each node, for choosing whom to delete.
    neighbours: BTreeMap<String, usize>,
}

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![Watch::primary(REPLICA_SETS), Watch::mapped(PODS, keys_of_pod)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let set: Option<ReplicaSet> = view.get(REPLICA_SETS, key).and_then(|object| owner::typed(&object));
        let selector = set.as_ref().and_then(selector);
        let uid = set.as_ref().and_then(|set| set.metadata.uid.clone()).unwrap_or_default();
        let pods = match &set {
            Some(_) => view
                .in_namespace(PODS, key.namespace())
                .filter(|pod| owner::relevant(pod.meta(), &uid, selector.as_ref()))
                .collect(),
            None => Vec::new(),
        };
        let neighbours = set.as_ref().map(|set| related_pods_by_node(view, set)).unwrap_or_default();
        Observed { set, selector, pods, neighbours }
    }

    fn reconcile(observed: &Observed, now: Now, last: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let (Some(set), Some(selector)) = (&observed.set, &observed.selector) else { return Plan::nothing() };
        let deleting = set.metadata.deletion_timestamp.is_some();
        if !deleting {
            let reference = owner::reference(REPLICA_SETS, &set.metadata);
            if let Some(plan) = claims(set, selector, &observed.pods).plan(reference, facts) {
                return plan;
            }
        }
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let owned = observed.pods.iter().filter(|pod| pod.meta().is_controlled_by(uid));
        let mut pods = Pods::default();
        for pod in owned.filter(|pod| selector.matches(&pod.meta().labels)) {
            pods.add(pod);
        }
        if deleting {
            return write_status(set, &pods, now, last, Plan::nothing());
        }
        let (steps, left) = resize(set, &pods, &observed.neighbours, now);
        if last.failures.is_empty() {
            // The status tells of deletions as soon as they are done: whoever goes by it may then make other pods.
            return write_status(set, &left, now, last, Plan::nothing().then(steps));
        }
        // After a failure the status goes first, or it would never be told.
        write_status(set, &pods, now, last, Plan::nothing()).then(steps)
    }
}

/// The pods of a ReplicaSet.
#[derive(Clone, Default)]
struct Pods<'a> {
    active: Vec<&'a Arc<Object>>,
    /// Being deleted and not ended yet.
    terminating: usize,
}

impl<'a> Pods<'a> {
    fn add(&mut self, pod: &'a Arc<Object>) {
        let lite = pod.project::<PodLite>();
        if is_pod_active(lite) {
            self.active.push(pod);
        } else if !is_pod_terminated(lite) {
            self.terminating += 1;
        }
    }
}

fn selector(set: &ReplicaSet) -> Option<Selector> {
    Selector::from_object(Some(&set.spec.as_ref()?.selector)).ok()
}

/// The ReplicaSets that a pod concerns: its owner, or all that select the orphan.
fn keys_of_pod(view: &View, pod: &Object) -> Vec<Key> {
    let meta = pod.meta();
    if meta.controller().is_some() {
        return owner::owner_key(pod, "ReplicaSet").into_iter().collect();
    }
    let selects = |object: &Arc<Object>| {
        let set: Option<ReplicaSet> = owner::typed(object);
        let selector = set.as_ref().and_then(selector);
        selector.is_some_and(|selector| !selector.is_everything() && selector.matches(&meta.labels))
    };
    view.in_namespace(REPLICA_SETS, pod.namespace()).filter(selects).map(|object| object.key().clone()).collect()
}

/// Active pods by node, over all ReplicaSets of the same owner. Upstream: `getPodsRankedByRelatedPodsOnSameNode`.
fn related_pods_by_node(view: &View, set: &ReplicaSet) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let Some(owner) = owner::controller_uid(&set.metadata) else { return count };
    for related in view.owned(REPLICA_SETS, owner) {
        for pod in view.owned(PODS, related.uid()).filter(|pod| owner::is_active(pod)) {
            *count.entry(pod.project::<PodLite>().spec.node_name.to_string()).or_default() += 1;
        }
    }
    count
}

fn claims(set: &ReplicaSet, selector: &Selector, pods: &[Arc<Object>]) -> owner::Claims {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let mut claims = owner::Claims::default();
    for pod in pods {
        let matches = selector.matches(&pod.meta().labels);
        if pod.meta().is_controlled_by(uid) == matches {
            continue;
        }
        let owners = owner::typed::<Pod>(pod).and_then(|pod| pod.metadata.owner_references).unwrap_or_default();
        let dependent = owner::Dependent {
            of: owner::reference_to(PODS, pod),
            owners: &owners,
            revision: Some(pod.revision()),
            adoptable: owner::is_active(pod),
        };
        claims.look((REPLICA_SETS, &set.metadata), &dependent, matches);
    }
    claims
}

/// Makes or deletes what is missing or too much; and the pods that are left after deletions.
fn resize<'a>(
    set: &ReplicaSet,
    pods: &Pods<'a>,
    neighbours: &BTreeMap<String, usize>,
    now: Now,
) -> (Vec<Action>, Pods<'a>) {
    let wanted = usize::try_from(wanted(set)).unwrap_or(0);
    let Some(surplus) = pods.active.len().checked_sub(wanted) else {
        let missing = (wanted - pods.active.len()).min(BURST);
        return ((0..missing).filter_map(|_| create(set)).collect(), pods.clone());
    };
    let mut left = pods.clone();
    left.active.sort_by_cached_key(|pod| usefulness(pod, neighbours, now));
    let going: Vec<&Arc<Object>> = left.active.drain(..surplus.min(BURST)).collect();
    left.terminating += going.len();
    (going.into_iter().map(|pod| delete(set, pod)).collect(), left)
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

fn create(set: &ReplicaSet) -> Option<Action> {
    let template = set.spec.as_ref()?.template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    let pod = Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owned_by(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    };
    let note = |severity, reason, message: &str| {
        let regarding = owner::reference(REPLICA_SETS, &set.metadata);
        Some(Note { regarding, field: String::new(), severity, reason, message: message.into() })
    };
    let object = to_value(&pod).ok()?;
    Some(Action {
        change: Change::Create {
            resource: PODS,
            namespace: set.metadata.namespace.clone().unwrap_or_default(),
            object,
        },
        on_success: note(Severity::Normal, "SuccessfulCreate", "Created pod: {name}"),
        on_failure: note(Severity::Warning, "FailedCreate", "Error creating: {error}"),
    })
}

fn owned_by(set: &ReplicaSet) -> OwnerReference {
    owner::controller_reference(REPLICA_SETS, &set.metadata)
}

fn delete(set: &ReplicaSet, pod: &Object) -> Action {
    let note = |severity, reason, message: &str| {
        let regarding = owner::reference(REPLICA_SETS, &set.metadata);
        Some(Note { regarding, field: String::new(), severity, reason, message: message.into() })
    };
    Action {
        change: Change::Delete {
            of: owner::reference_to(PODS, pod),
            propagation: Propagation::Default,
            revision: None,
        },
        on_success: note(Severity::Normal, "SuccessfulDelete", "Deleted pod: {name}"),
        on_failure: note(Severity::Warning, "FailedDelete", "Error deleting: {error}"),
    }
}

/// The order in which pods are given up: the least useful first. Upstream: `ActivePodsWithRanks`.
fn usefulness(pod: &Object, neighbours: &BTreeMap<String, usize>, now: Now) -> impl Ord + use<> {
    let lite = pod.project::<PodLite>();
    let phase = match &*lite.status.phase {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = pod.meta().annotations.get("controller.kubernetes.io/pod-deletion-cost");
    let cost = cost.and_then(|text| text.parse::<i32>().ok()).unwrap_or(0);
    let crowded = std::cmp::Reverse(neighbours.get(&*lite.spec.node_name).copied().unwrap_or(0));
    // Ages count by powers of two, so that pods of about the same age are told apart by other things (the uid).
    let log = |since: Option<jiff::Timestamp>| {
        since.map(|since| {
            let nanos = now.wall.duration_since(since).as_nanos().max(1).unsigned_abs();
            nanos.ilog2()
        })
    };
    let assigned = !lite.spec.node_name.is_empty();
    let restarts = std::cmp::Reverse(restarts_max(lite));
    let created = pod.meta().creation;
    (
        assigned,
        phase,
        is_pod_ready(lite),
        cost,
        crowded,
        log(ready_since(lite)),
        restarts,
        log(created),
        pod.uid().to_owned(),
    )
}

/// The restarts of the pod's most restarted container.
fn restarts_max(pod: &PodLite) -> i32 {
    pod.status.containers.iter().map(|container| container.restart_count).max().unwrap_or(0)
}

/// Since when the pod is ready.
fn ready_since(pod: &PodLite) -> Option<jiff::Timestamp> {
    pod_condition(pod, "Ready").filter(|condition| condition.is_true()).and_then(|condition| condition.last_transition)
}

fn write_status(set: &ReplicaSet, pods: &Pods<'_>, now: Now, last: &Outcomes, plan: Plan) -> Plan {
    let current = set.status.clone().unwrap_or_default();
    let (wanted, next) = status(set, pods, now, last);
    let plan = next.map_or(plan.clone(), |next| plan.again_within(next));
    if tree(&current) == tree(&wanted) {
        return plan;
    }
    let body = patch::object([("status", tree(&wanted))]);
    let of = owner::reference(REPLICA_SETS, &set.metadata);
    plan.then([Change::Patch { of, subresource: Some("status"), body, revision: None }.into()])
}

/// The status, and when a ready pod becomes an available one.
fn status(set: &ReplicaSet, pods: &Pods<'_>, now: Now, last: &Outcomes) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let template_labels =
        spec.and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let min_ready = Duration::from_secs(
        spec.and_then(|spec| spec.min_ready_seconds).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0),
    );
    let mut counts = (0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in &pods.active {
        let labels = &pod.meta().labels;
        counts.0 += i32::from(template_labels.iter().all(|(name, value)| labels.get(name) == Some(value)));
        let lite = pod.project::<PodLite>();
        if !is_pod_ready(lite) {
            continue;
        }
        counts.1 += 1;
        let age = ready_since(lite).map_or(0.0, |since| now.wall.duration_since(since).as_secs_f64());
        let left = min_ready.as_secs_f64() - age;
        if min_ready.is_zero() || left <= 0.0 {
            counts.2 += 1;
        } else {
            let left = Duration::from_secs_f64(left);
            next = Some(next.map_or(left, |next| next.min(left)));
        }
    }
    let current = set.status.as_ref();
    let conditions = conditions(current, now, last);
    let status = ReplicaSetStatus {
        replicas: i32::try_from(pods.active.len()).unwrap_or(i32::MAX),
        terminating_replicas: Some(i32::try_from(pods.terminating).unwrap_or(i32::MAX)),
        fully_labeled_replicas: Some(counts.0),
        ready_replicas: Some(counts.1),
        available_replicas: Some(counts.2),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    };
    (status, next)
}

fn conditions(current: Option<&ReplicaSetStatus>, now: Now, last: &Outcomes) -> Vec<ReplicaSetCondition> {
    let mut conditions = current.and_then(|status| status.conditions.clone()).unwrap_or_default();
    let failure = last.failed(Verb::Create, PODS).map(|failure| ("FailedCreate", failure));
    let failure = failure.or_else(|| last.failed(Verb::Delete, PODS).map(|failure| ("FailedDelete", failure)));
    let present = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
        Some((reason, failure)) if !present => conditions.push(failed(reason, failure, now)),
        Some(_) => {}
    }
    conditions
}

fn failed(reason: &str, failure: &Failure, now: Now) -> ReplicaSetCondition {
    ReplicaSetCondition {
        type_: REPLICA_FAILURE.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(failure.message.clone()),
        last_transition_time: Some(Time(now.wall)),
    }
}

fn tree(status: &ReplicaSetStatus) -> Value {
    let count = |count: Option<i32>| match count {
        Some(count) if count != 0 => Value::from(i64::from(count)),
        _ => Value::Null,
    };
    let conditions = status.conditions.as_ref().filter(|conditions| !conditions.is_empty());
    patch::object([
        // Present even when zero, as upstream writes it.
        ("replicas", i64::from(status.replicas).into()),
        ("fullyLabeledReplicas", count(status.fully_labeled_replicas)),
        ("readyReplicas", count(status.ready_replicas)),
        ("availableReplicas", count(status.available_replicas)),
        // Zero is told, too; absent means that nobody counted.
        ("terminatingReplicas", status.terminating_replicas.map_or(Value::Null, |count| i64::from(count).into())),
        ("observedGeneration", status.observed_generation.map_or(Value::Null, Value::from)),
        ("conditions", conditions.and_then(|conditions| to_value(conditions).ok()).unwrap_or(Value::Null)),
    ])
}

#[cfg(test)]
mod tests;
