//! Which ReplicaSet is the Deployment's newest, its number, its making, and how many old ones are kept.

use std::collections::BTreeMap;

use api::value::to_value;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::plan::kinds::{DEPLOYMENTS, REPLICA_SETS};
use reconcile::{Action, Change, Note, Propagation, Severity};

use super::{Case, pins, replicas, rollback, rolling, scaling};
use crate::{owner, patch};

/// The label that tells the pods of one template from another's.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The number of a revision, on ReplicaSets and on the Deployment.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// The numbers a ReplicaSet had before it was rolled back to.
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was scaled last.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That plus the surge.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// The reason of event and condition about a ReplicaSet that could not be made. Upstream: `FailedRSCreateReason`.
pub(super) const CREATE_ERROR: &str = "ReplicaSetCreateError";
/// Annotations of the Deployment that are not passed on to its ReplicaSets.
const NOT_PASSED_ON: [&str; 11] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
    // kubectl's undo puts a ReplicaSet's annotations onto the Deployment.
    rollback::GOOD,
    rollback::FROM,
    rollback::TO,
    rollback::BECAUSE,
    pins::REJECTED,
];
/// The revision history annotation grows no longer than this many bytes. Upstream: `maxRevHistoryLengthInChars`.
const HISTORY_BYTES_MAX: usize = 2000;

/// The oldest ReplicaSet whose template is the Deployment's, the hash label aside.
pub(super) fn new_set<'a>(deployment: &Deployment, sets: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    let wanted = without_hash(&pins::pinned(&deployment.spec.as_ref()?.template));
    sets.iter().copied().find(|set| template(set).is_some_and(|template| without_hash(template) == wanted))
}

fn template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    template
}

pub(super) fn number(meta: &ObjectMeta) -> u64 {
    annotation(meta, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// One more than the largest number of an old revision.
fn next_number(case: &Case<'_>) -> u64 {
    case.old().map(|set| number(&set.metadata)).max().unwrap_or(0) + 1
}

/// Makes the new ReplicaSet.
pub(super) fn create(case: &Case<'_>) -> Vec<Action> {
    let Some(spec) = &case.deployment.spec else { return Vec::new() };
    let hash = template_hash(case.deployment);
    let count = rolling::new_replicas(case, 0);
    let mut template = pins::pinned(&spec.template);
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.into(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(name_of_new(case.deployment)),
            namespace: Some(case.namespace().into()),
            labels: Some(labels),
            annotations: Some(annotations_of_new(case, None)),
            owner_references: Some(vec![owner::controller_reference(DEPLOYMENTS, &case.deployment.metadata)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(count),
            min_ready_seconds: Some(min_ready_seconds(case)).filter(|seconds| *seconds > 0),
            selector,
            template: Some(template),
        }),
        status: None,
    };
    let Ok(object) = to_value(&set) else { return Vec::new() };
    let change = Change::Create { resource: REPLICA_SETS, namespace: case.namespace().into(), object };
    let note = (count > 0).then(|| scaled(case, "up", "{name}", 0, count));
    let failed = Note {
        severity: Severity::Warning,
        reason: CREATE_ERROR,
        message: create_error(case.deployment, "{error}"),
        ..scaled(case, "up", "", 0, 0)
    };
    vec![Action { change, on_success: note, on_failure: Some(failed) }]
}

/// What is told when the new ReplicaSet could not be made.
pub(super) fn create_error(deployment: &Deployment, error: &str) -> String {
    format!("Failed to create new replica set {:?}: {error}", name_of_new(deployment))
}

/// The event about a ReplicaSet's new size.
pub(super) fn scaled(case: &Case<'_>, direction: &str, name: &str, from: i32, to: i32) -> Note {
    Note {
        regarding: case.reference(),
        field: String::new(),
        severity: Severity::Normal,
        reason: "ScalingReplicaSet",
        message: format!("Scaled {direction} replica set {name} from {from} to {to}"),
    }
}

/// The name of the new ReplicaSet.
pub(super) fn name_of_new(deployment: &Deployment) -> String {
    format!("{}-{}", deployment.metadata.name.as_deref().unwrap_or_default(), template_hash(deployment))
}

fn template_hash(deployment: &Deployment) -> String {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let tree = template.and_then(|template| to_value(template).ok()).unwrap_or_default();
    api::decide::hash::template_hash(&tree, collisions.unwrap_or(0))
}

/// What the annotations of the new ReplicaSet have to be, given what they are.
fn annotations_of_new(case: &Case<'_>, current: Option<&ObjectMeta>) -> BTreeMap<String, String> {
    let mut annotations: BTreeMap<String, String> =
        current.and_then(|meta| meta.annotations.clone()).unwrap_or_default();
    for (name, value) in case.deployment.metadata.annotations.iter().flatten() {
        if !NOT_PASSED_ON.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    let was = current.map_or(0, number);
    let next = next_number(case);
    if was < next {
        if was > 0 {
            let history = remembered(annotations.get(REVISION_HISTORY).map(String::as_str), was);
            annotations.insert(REVISION_HISTORY.into(), history);
        }
        annotations.insert(REVISION.into(), next.to_string());
    }
    if current.is_none() {
        annotations.insert(DESIRED.into(), case.desired().to_string());
        annotations.insert(MAXIMUM.into(), rolling::maximum(case).to_string());
    }
    annotations
}

/// The history with one more number; the oldest are dropped when it gets long.
fn remembered(history: Option<&str>, number: u64) -> String {
    let number = number.to_string();
    let mut numbers: Vec<&str> = history.unwrap_or_default().split(',').filter(|text| !text.is_empty()).collect();
    numbers.push(&number);
    while numbers.len() > 1 && numbers.iter().map(|text| text.len() + 1).sum::<usize>() > HISTORY_BYTES_MAX {
        numbers.remove(0);
    }
    numbers.join(",")
}

/// How long its pods must be ready to count as available.
fn min_ready_seconds(case: &Case<'_>) -> i32 {
    let own = case.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    own.max(rollback::min_ready_seconds(case))
}

/// Brings number, passed-on annotations and minReadySeconds of the new ReplicaSet up to date; `None` when they are.
pub(super) fn annotate(case: &Case<'_>, set: &ReplicaSet) -> Option<Vec<Action>> {
    let wanted = annotations_of_new(case, Some(&set.metadata));
    let min_ready = min_ready_seconds(case);
    let has = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    if set.metadata.annotations.as_ref() == Some(&wanted) && has == min_ready {
        return None;
    }
    let body = patch::object([
        ("metadata", patch::object([("annotations", to_value(&wanted).ok()?)])),
        ("spec", patch::object([("minReadySeconds", i64::from(min_ready).into())])),
    ]);
    let of = owner::reference(REPLICA_SETS, &set.metadata);
    Some(vec![Change::Patch { of, subresource: None, body, revision: None }.into()])
}

/// The new ReplicaSet's number, if the Deployment does not show it yet.
pub(super) fn number_to_tell<'a>(case: &Case<'a>) -> Option<&'a str> {
    // Those of one that ends leave it one by one: the newest may be gone, and the number would fall.
    let lives = case.deployment.metadata.deletion_timestamp.is_none();
    let set = case.new_set.filter(|_| lives)?;
    // The set's own number may just be about to change; then this waits for the next decision.
    let number = annotation(&set.metadata, REVISION)?;
    let told = annotation(&case.deployment.metadata, REVISION) == Some(number);
    (!told && self::number(&set.metadata) >= next_number(case)).then_some(number)
}

/// Deletes the oldest empty ReplicaSets beyond `revisionHistoryLimit`.
pub(super) fn clean_up(case: &Case<'_>) -> Option<Vec<Action>> {
    let limit = case.deployment.spec.as_ref()?.revision_history_limit.unwrap_or(10);
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut old: Vec<&ReplicaSet> = case.old().filter(|set| set.metadata.deletion_timestamp.is_none()).collect();
    old.sort_by_key(|set| number(&set.metadata));
    let surplus = old.len().checked_sub(limit).filter(|surplus| *surplus > 0)?;
    let deletes: Vec<Action> = old
        .into_iter()
        .take(surplus)
        .filter(|set| empty(set))
        .map(|set| {
            let of = owner::reference(REPLICA_SETS, &set.metadata);
            Change::Delete { of, propagation: Propagation::Default, revision: None }.into()
        })
        .collect();
    (!deletes.is_empty()).then_some(deletes)
}

/// Whether nothing of a ReplicaSet runs or will, and its controller has seen that.
fn empty(set: &ReplicaSet) -> bool {
    let status = set.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation) >= set.metadata.generation;
    replicas(set) == 0 && status.is_none_or(|status| status.replicas == 0) && seen && !scaling::active(set)
}
