//! Automatic rollback: `isopod.dev/auto-rollback: "true"` on a Deployment. A revision that was available once is remembered
//! as good; one that misses its progress deadline is given up for the newest good one.

use std::collections::BTreeMap;

use api::decide::trouble::{past, trouble};
use api::value::{Value, to_value};
use k8s_openapi::api::apps::v1::{DeploymentCondition, ReplicaSet};
use reconcile::plan::kinds::REPLICA_SETS;
use reconcile::{Action, Change, Note, Severity};

use super::condition::{self, PROGRESSING, TIMED_OUT};
use super::{Case, pins, revision};
use crate::{owner, patch};

/// On a Deployment: wanted.
pub(super) const OPT_IN: &str = "isopod.dev/auto-rollback";
/// On a ReplicaSet: its pods were all available once.
pub(super) const GOOD: &str = "isopod.dev/good";
/// On a Deployment: the ReplicaSet that was given up, and the one that took its place.
pub(super) const FROM: &str = "isopod.dev/rolled-back-from";
pub(super) const TO: &str = "isopod.dev/rolled-back-to";
/// And which of its pods had what trouble.
pub(super) const BECAUSE: &str = "isopod.dev/rolled-back-because";
/// The condition that says so, and its reason.
pub(super) const ROLLED_BACK: &str = "RolledBack";
const REASON: &str = "ProgressDeadlineExceeded";

/// Without a time of its own, a revision is not taken for good by pods that come up and crash at once: they have to stay
/// ready this long.
const MIN_READY_SECONDS: i32 = 5;

/// How long pods must be ready at least, where a revision is judged by them.
pub(super) fn min_ready_seconds(case: &Case<'_>) -> i32 {
    let Some(spec) = case.deployment.spec.as_ref().filter(|_| opted_in(case)) else { return 0 };
    let deadline = spec.progress_deadline_seconds.unwrap_or(i32::MAX);
    if spec.min_ready_seconds.unwrap_or(0) > 0 { 0 } else { MIN_READY_SECONDS.min(deadline - 1).max(0) }
}

fn opted_in(case: &Case<'_>) -> bool {
    revision::annotation(&case.deployment.metadata, OPT_IN) == Some("true")
}

fn is_good(set: &ReplicaSet) -> bool {
    revision::annotation(&set.metadata, GOOD) == Some("true")
}

fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// Remembers a complete revision as good.
pub(super) fn remember(case: &Case<'_>) -> Option<Vec<Action>> {
    let set = case.new_set.filter(|set| opted_in(case) && !is_good(set))?;
    let annotations = patch::object([(GOOD, "true".into())]);
    let body = patch::object([("metadata", patch::object([("annotations", annotations)]))]);
    let of = owner::reference(REPLICA_SETS, &set.metadata);
    Some(vec![Change::Patch { of, subresource: None, body, revision: None }.into()])
}

/// Forgets a rollback once another revision than the one it brought is complete.
pub(super) fn forget(case: &Case<'_>) -> Option<Vec<Action>> {
    let to = revision::annotation(&case.deployment.metadata, TO)?;
    if case.new_set.map(name) == Some(to) {
        return None;
    }
    let annotations = patch::object([(FROM, Value::Null), (TO, Value::Null), (BECAUSE, Value::Null)]);
    let body = patch::object([("metadata", patch::object([("annotations", annotations)]))]);
    Some(vec![Change::Patch { of: case.reference(), subresource: None, body, revision: None }.into()])
}

/// Gives the present revision up when it has missed its deadline and there is a good one.
pub(super) fn step(case: &Case<'_>) -> Option<Vec<Action>> {
    if !opted_in(case) || case.paused() || case.new_set.is_some_and(is_good) || !missed_deadline(case) {
        return None;
    }
    let good = case.old().filter(|set| is_good(set) && set.metadata.deletion_timestamp.is_none());
    let good = good.max_by_key(|set| revision::number(&set.metadata))?;
    let mut template = pins::unpinned(good.spec.as_ref()?.template.as_ref()?);
    if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(revision::HASH_LABEL);
    }
    let present = &case.deployment.spec.as_ref()?.template;
    let failed = case.new_set.map_or_else(|| revision::name_of_new(case.deployment), |set| name(set).to_owned());
    let because = culprit(case);
    let mut annotations = BTreeMap::from([
        (FROM, Value::from(failed.as_str())),
        (TO, name(good).into()),
        // What an earlier rollback said is no reason for this one.
        (BECAUSE, because.as_deref().map_or(Value::Null, Value::from)),
    ]);
    let rejected = pins::text(&pins::of_template(present));
    if rejected != pins::text(&pins::of_template(&template)) {
        annotations.insert(pins::REJECTED, rejected.as_str().into());
    }
    let annotations = annotations.into_iter().collect::<Vec<_>>();
    let body = patch::object([
        ("metadata", patch::object([("annotations", object(annotations))])),
        ("spec", patch::object([("template", replacing(&to_value(present).ok()?, &to_value(&template).ok()?))])),
    ]);
    let note = Note {
        regarding: case.reference(),
        field: String::new(),
        severity: Severity::Warning,
        reason: ROLLED_BACK,
        message: message(case, &failed, name(good), because.as_deref()),
    };
    let revision = case.deployment.metadata.resource_version.as_ref().and_then(|text| text.parse().ok());
    // It is this very template that missed its deadline.
    let change = Change::Patch { of: case.reference(), subresource: None, body, revision };
    Some(vec![Action { change, on_success: Some(note), on_failure: None }])
}

fn object(fields: Vec<(&str, Value)>) -> Value {
    let mut map = api::value::Map::default();
    for (name, value) in fields {
        map.insert(name, value);
    }
    Value::Object(map)
}

/// The merge patch that makes one tree of another: what is not wanted any more is named, so that merging removes it.
fn replacing(present: &Value, wanted: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (present, wanted) else { return wanted.clone() };
    let mut patch = api::value::Map::default();
    for (key, _) in before.iter().filter(|(key, _)| !after.contains_key(key.as_str())) {
        patch.insert(key.as_str(), Value::Null);
    }
    for (key, value) in after.iter() {
        let value = before.get(key.as_str()).map_or_else(|| value.clone(), |before| replacing(before, value));
        patch.insert(key.as_str(), value);
    }
    Value::Object(patch)
}

fn message(case: &Case<'_>, from: &str, to: &str, because: Option<&str>) -> String {
    let seconds = case.deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds).unwrap_or_default();
    let because = because.map(|because| format!(". {because}")).unwrap_or_default();
    format!(
        "Rolled back from replica set {from:?}, which made no progress within {seconds} seconds, to {to:?}{because}"
    )
}

/// Which pod of the present revision has what trouble, in plain words.
pub(super) fn culprit(case: &Case<'_>) -> Option<String> {
    let uid = case.new_set?.metadata.uid.as_ref()?;
    let pods = case.pods.get(uid)?.iter().filter(|pod| pod.meta().deletion.is_none());
    let trees: Vec<(&str, Value)> = pods.filter_map(|pod| Some((pod.name(), pod.tree().ok()?))).collect();
    let now = trees.iter().find_map(|(name, pod)| Some((name, trouble(pod)?)));
    let (name, trouble) = now.or_else(|| trees.iter().find_map(|(name, pod)| Some((name, past(pod)?))))?;
    Some(format!("Pod {name:?}: {}.", trouble.words))
}

/// Whether the deadline was missed by the present revision, not by one before it.
fn missed_deadline(case: &Case<'_>) -> bool {
    let status = case.deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation == case.deployment.metadata.generation;
    let subject = case.new_set.map_or_else(|| case.name().to_owned(), |set| name(set).to_owned());
    let progress = condition::get(status.conditions.as_deref().unwrap_or_default(), PROGRESSING);
    seen && progress.is_some_and(|progress| {
        let about_it = progress.message.as_deref().unwrap_or_default().contains(&format!("{subject:?}"));
        progress.reason.as_deref() == Some(TIMED_OUT) && about_it
    })
}

/// The condition that tells of a rollback, as long as the revision that it brought is the present one.
pub(super) fn tell(case: &Case<'_>, conditions: &mut Vec<DeploymentCondition>) {
    let text = |name: &str| revision::annotation(&case.deployment.metadata, name);
    match (text(FROM), text(TO), case.new_set.map(name)) {
        (Some(from), Some(to), Some(present)) if present == to => {
            let message = message(case, from, to, text(BECAUSE));
            condition::set(conditions, condition::new(ROLLED_BACK, "True", REASON, message, case.now.wall));
        }
        _ => condition::remove(conditions, ROLLED_BACK),
    }
}
