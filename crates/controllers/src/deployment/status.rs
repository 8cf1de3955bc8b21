//! The status of a Deployment, worked out from the statuses of its ReplicaSets, and the deadline of its progress.

use std::time::Duration;

use api::value::{Map, Value, to_value};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use reconcile::plan::kinds::{DEPLOYMENTS, REPLICA_SETS};
use reconcile::{Action, Change, Failure, Note, Plan, Severity, Verb};

use super::condition::{self, AVAILABLE, COMPLETE, PAUSED, PROGRESSING, REPLICA_FAILURE, TIMED_OUT};
use super::{Case, available, replicas, revision, rollback, rolling, scaling};
use crate::{owner, patch};

/// A deadline of this many seconds means none. Upstream: `HasProgressDeadline`.
const NO_DEADLINE_SECONDS: i32 = i32::MAX;

/// Adds the status to the plan when it differs from the one observed; else the moment of the deadline.
pub(super) fn write(case: &Case<'_>, plan: Plan) -> Plan {
    let current = case.deployment.status.clone().unwrap_or_default();
    let mut wanted = counts(case);
    wanted.conditions = Some(conditions(case, &current, &wanted));
    let plan = match time_to_deadline(case, &wanted) {
        Some(left) => plan.again_within(left),
        None => plan,
    };
    let number = revision::number_to_tell(case);
    if number.is_none() && same(&current, &wanted) {
        return plan;
    }
    let mut body = Map::default();
    if let Some(number) = number {
        // With the status, because a change of annotations by itself would count as a new generation.
        let annotations = patch::object([(revision::REVISION, number.into())]);
        body.insert("metadata", patch::object([("annotations", annotations)]));
    }
    body.insert("status", tree(&wanted));
    let (of, body) = (case.reference(), Value::Object(body));
    let change = Change::Patch { of, subresource: Some("status"), body, revision: None };
    plan.then([Action { change, on_success: missed_deadline(case, &current, &wanted), on_failure: None }])
}

/// The event of a deadline that was missed just now. Upstream tells in the condition only, whose message `kubectl describe` does
/// not show.
fn missed_deadline(case: &Case<'_>, current: &DeploymentStatus, wanted: &DeploymentStatus) -> Option<Note> {
    let missed = |status: &DeploymentStatus| {
        let progress = condition::get(status.conditions.as_deref().unwrap_or_default(), PROGRESSING).cloned();
        progress.filter(|progress| progress.reason.as_deref() == Some(TIMED_OUT))
    };
    let now = missed(wanted).filter(|_| missed(current).is_none())?;
    Some(Note {
        regarding: case.reference(),
        field: String::new(),
        severity: Severity::Warning,
        reason: TIMED_OUT,
        message: now.message.unwrap_or_default(),
    })
}

/// Only tells that the generation was seen.
pub(super) fn observed_generation(deployment: &Deployment) -> Plan {
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    let Some(generation) = deployment.metadata.generation.filter(|generation| seen < Some(*generation)) else {
        return Plan::nothing();
    };
    let body = patch::object([("status", patch::object([("observedGeneration", generation.into())]))]);
    let of = owner::reference(DEPLOYMENTS, &deployment.metadata);
    Plan::nothing().then([Change::Patch { of, subresource: Some("status"), body, revision: None }.into()])
}

/// Why the new ReplicaSet could not be made, the last time.
pub(super) fn create_failure<'a>(case: &Case<'a>) -> Option<&'a Failure> {
    case.last.failed(Verb::Create, REPLICA_SETS)
}

fn counts(case: &Case<'_>) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| case.sets.iter().map(|set| count(set)).sum::<i32>();
    let of_status = |set: &ReplicaSet| set.status.as_ref().map_or(0, |status| status.replicas);
    let ready = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let all_available = sum(available);
    let collisions = case.deployment.status.as_ref().and_then(|status| status.collision_count);
    DeploymentStatus {
        observed_generation: case.deployment.metadata.generation,
        replicas: Some(sum(of_status)),
        updated_replicas: Some(case.new_set.map_or(0, of_status)),
        ready_replicas: Some(sum(ready)),
        available_replicas: Some(all_available),
        unavailable_replicas: Some((sum(replicas) - all_available).max(0)),
        terminating_replicas: case.sets.iter().map(|set| set.status.as_ref()?.terminating_replicas).sum(),
        collision_count: if case.taken { Some(collisions.unwrap_or(0) + 1) } else { collisions },
        ..DeploymentStatus::default()
    }
}

fn conditions(case: &Case<'_>, current: &DeploymentStatus, wanted: &DeploymentStatus) -> Vec<DeploymentCondition> {
    let mut conditions = current.conditions.clone().unwrap_or_default();
    let now = case.now.wall;
    let enough = wanted.available_replicas.unwrap_or(0) >= case.desired() - rolling::max_unavailable(case);
    let (status, reason, message) = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    condition::set(&mut conditions, condition::new(AVAILABLE, status, reason, message.into(), now));
    progress(case, current, wanted, &mut conditions);
    rollback::tell(case, &mut conditions);
    match replica_failure(case) {
        Some(failure) => condition::set(&mut conditions, failure),
        None => condition::remove(&mut conditions, REPLICA_FAILURE),
    }
    conditions
}

fn progress(
    case: &Case<'_>,
    current: &DeploymentStatus,
    wanted: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
) {
    if deadline_seconds(case).is_none() {
        condition::remove(conditions, PROGRESSING);
        return;
    }
    paused(case, conditions);
    if case.paused() || scaling::wanted(case) {
        return;
    }
    found(case, conditions);
    let present = condition::get(conditions, PROGRESSING).cloned();
    let was_complete = present.as_ref().is_some_and(|present| present.reason.as_deref() == Some(COMPLETE));
    if wanted.replicas == wanted.updated_replicas && was_complete {
        return;
    }
    let now = case.now.wall;
    let subject = case.new_set.map_or_else(
        || format!("Deployment {:?}", case.name()),
        |set| format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
    );
    if is_complete(case, wanted) {
        let message = format!("{subject} has successfully progressed.");
        condition::set(conditions, condition::new(PROGRESSING, "True", COMPLETE, message, now));
    } else if moved(current, wanted) {
        let message = format!("{subject} is progressing.");
        let mut moving = condition::new(PROGRESSING, "True", "ReplicaSetUpdated", message, now);
        if let Some(present) = present.filter(|present| present.status == "True") {
            moving.last_transition_time = present.last_transition_time;
        }
        condition::replace(conditions, moving);
    } else if present.is_some_and(|present| timed_out(case, &present)) {
        // Upstream's sentence comes first, since clients look for it.
        let culprit = rollback::culprit(case).map(|culprit| format!(" {culprit}")).unwrap_or_default();
        let message = format!("{subject} has timed out progressing.{culprit}");
        condition::set(conditions, condition::new(PROGRESSING, "False", TIMED_OUT, message, now));
    }
}

/// Pausing stops the clock of the deadline, resuming starts it anew.
fn paused(case: &Case<'_>, conditions: &mut Vec<DeploymentCondition>) {
    let present = condition::get(conditions, PROGRESSING).and_then(|present| present.reason.clone());
    if present.as_deref() == Some(TIMED_OUT) {
        return;
    }
    let said = present.as_deref() == Some(PAUSED);
    let now = case.now.wall;
    if case.paused() && !said {
        let message = "Deployment is paused".into();
        condition::set(conditions, condition::new(PROGRESSING, "Unknown", PAUSED, message, now));
    } else if !case.paused() && said {
        let message = "Deployment is resumed".into();
        condition::set(conditions, condition::new(PROGRESSING, "Unknown", "DeploymentResumed", message, now));
    }
}

/// Starts the clock of the deadline: the new ReplicaSet was made, found or refused.
fn found(case: &Case<'_>, conditions: &mut Vec<DeploymentCondition>) {
    let now = case.now.wall;
    let name = revision::name_of_new(case.deployment);
    if let (None, Some(failure)) = (case.new_set, create_failure(case)) {
        let message = revision::create_error(case.deployment, &failure.message);
        let condition = condition::new(PROGRESSING, "False", revision::CREATE_ERROR, message, now);
        condition::set(conditions, condition);
    } else if case.new_set.is_none() && !case.taken && !super::strategy_is_recreate(case.deployment) {
        let message = format!("Created new replica set {name:?}");
        condition::set(conditions, condition::new(PROGRESSING, "True", "NewReplicaSetCreated", message, now));
    } else if let (Some(set), None) = (case.new_set, condition::get(conditions, PROGRESSING)) {
        let message = format!("Found new replica set {:?}", set.metadata.name.as_deref().unwrap_or_default());
        condition::set(conditions, condition::new(PROGRESSING, "True", "FoundNewReplicaSet", message, now));
    }
}

/// Whether everything wanted is there, new and available, as observed.
pub(super) fn complete(case: &Case<'_>) -> bool {
    is_complete(case, &counts(case))
}

fn is_complete(case: &Case<'_>, status: &DeploymentStatus) -> bool {
    let desired = Some(case.desired());
    status.updated_replicas == desired && status.replicas == desired && status.available_replicas == desired
}

fn moved(current: &DeploymentStatus, wanted: &DeploymentStatus) -> bool {
    let count = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(wanted.updated_replicas) > count(current.updated_replicas)
        || old(wanted) < old(current)
        || count(wanted.ready_replicas) > count(current.ready_replicas)
        || count(wanted.available_replicas) > count(current.available_replicas)
}

fn timed_out(case: &Case<'_>, present: &DeploymentCondition) -> bool {
    match present.reason.as_deref() {
        Some(COMPLETE) => false,
        Some(TIMED_OUT) => true,
        _ => remaining(case, present).is_some_and(|left| left <= 0.0),
    }
}

/// Seconds until the deadline, negative after it.
fn remaining(case: &Case<'_>, present: &DeploymentCondition) -> Option<f64> {
    let deadline = f64::from(deadline_seconds(case)?);
    let since = case.now.wall.duration_since(present.last_update_time.as_ref()?.0).as_secs_f64();
    Some(deadline - since)
}

fn deadline_seconds(case: &Case<'_>) -> Option<i32> {
    let seconds = case.deployment.spec.as_ref()?.progress_deadline_seconds?;
    (seconds != NO_DEADLINE_SECONDS).then_some(seconds)
}

/// When to look whether the rollout has missed its deadline; `None` when it cannot any more.
fn time_to_deadline(case: &Case<'_>, status: &DeploymentStatus) -> Option<Duration> {
    let present = condition::get(status.conditions.as_deref().unwrap_or_default(), PROGRESSING)?;
    if case.paused() || matches!(present.reason.as_deref(), Some(TIMED_OUT | COMPLETE)) || is_complete(case, status) {
        return None;
    }
    // A second more, since the times in objects have whole seconds.
    Some(Duration::from_secs_f64(remaining(case, present)?.max(0.0) + 1.0))
}

/// The failure of the new ReplicaSet to make pods, else that of an old one.
fn replica_failure(case: &Case<'_>) -> Option<DeploymentCondition> {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE && condition.status == "True").cloned()
    };
    let found = case.new_set.and_then(failure).or_else(|| case.sets.iter().find_map(|set| failure(set)))?;
    let mut condition =
        condition::new(REPLICA_FAILURE, &found.status, "", found.message.unwrap_or_default(), case.now.wall);
    condition.reason = found.reason;
    if let Some(since) = found.last_transition_time {
        condition.last_transition_time = Some(since.clone());
        condition.last_update_time = Some(since);
    }
    Some(condition)
}

/// Zero and absent are the same, since zero counts are not written.
fn same(current: &DeploymentStatus, wanted: &DeploymentStatus) -> bool {
    tree(current) == tree(wanted)
}

/// The status with every field that this controller owns named, so that merging it removes what is no longer so.
fn tree(status: &DeploymentStatus) -> Value {
    let count = |count: Option<i32>| match count {
        Some(count) if count != 0 => Value::from(i64::from(count)),
        _ => Value::Null,
    };
    let conditions = status.conditions.as_ref().filter(|conditions| !conditions.is_empty());
    patch::object([
        ("observedGeneration", status.observed_generation.map_or(Value::Null, Value::from)),
        ("replicas", count(status.replicas)),
        ("updatedReplicas", count(status.updated_replicas)),
        ("readyReplicas", count(status.ready_replicas)),
        ("availableReplicas", count(status.available_replicas)),
        ("unavailableReplicas", count(status.unavailable_replicas)),
        // Zero is told, too; absent means that some ReplicaSet does not tell.
        ("terminatingReplicas", status.terminating_replicas.map_or(Value::Null, |count| i64::from(count).into())),
        ("collisionCount", count(status.collision_count)),
        ("conditions", conditions.and_then(|conditions| to_value(conditions).ok()).unwrap_or(Value::Null)),
    ])
}
