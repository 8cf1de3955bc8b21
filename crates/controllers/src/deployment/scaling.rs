//! Changing the size of ReplicaSets, and spreading a change of the Deployment's size over several of them.

use k8s_openapi::api::apps::v1::ReplicaSet;
use reconcile::plan::kinds::REPLICA_SETS;
use reconcile::{Action, Change};

use super::revision::{DESIRED, MAXIMUM, annotation, scaled};
use super::{Case, pods_at_most, replicas, rolling};
use crate::{owner, patch};

/// Whether a ReplicaSet has or wants pods.
pub(super) fn active(set: &ReplicaSet) -> bool {
    replicas(set) > 0
}

/// Whether the Deployment's size changed since its ReplicaSets were scaled last.
pub(super) fn wanted(case: &Case<'_>) -> bool {
    case.sets
        .iter()
        .filter(|set| active(set))
        .filter_map(|set| annotation(&set.metadata, DESIRED)?.parse::<i32>().ok())
        .any(|desired| desired != case.desired())
}

/// Sets a ReplicaSet's size, with the annotations that remember for which size of the Deployment.
pub(super) fn scale(case: &Case<'_>, set: &ReplicaSet, size: i32) -> Action {
    let annotations = patch::object([
        (DESIRED, case.desired().to_string().into()),
        (MAXIMUM, rolling::maximum(case).to_string().into()),
    ]);
    let body = patch::object([
        ("metadata", patch::object([("annotations", annotations)])),
        ("spec", patch::object([("replicas", i64::from(size).into())])),
    ]);
    let of = owner::reference(REPLICA_SETS, &set.metadata);
    let current = replicas(set);
    let direction = if size > current { "up" } else { "down" };
    let note = (size != current).then(|| scaled(case, direction, &of.name, current, size));
    Action { change: Change::Patch { of, subresource: None, body, revision: None }, on_success: note, on_failure: None }
}

/// Moves the Deployment's new size onto its ReplicaSets. Upstream: `scale` in `sync.go`.
pub(super) fn proportional(case: &Case<'_>) -> Option<Vec<Action>> {
    let mut active_sets: Vec<&ReplicaSet> = case.sets.iter().copied().filter(|set| active(set)).collect();
    if let Some(set) = only(&active_sets).or_else(|| latest(case, &active_sets)) {
        return alone(case, set);
    }
    if saturated(case) {
        let downs: Vec<Action> = case.old().filter(|set| active(set)).map(|set| scale(case, set, 0)).collect();
        return (!downs.is_empty()).then_some(downs);
    }
    if super::strategy_is_recreate(case.deployment) {
        return None;
    }
    let total: i32 = active_sets.iter().map(|set| replicas(set)).sum();
    let allowed = if case.desired() > 0 { rolling::maximum(case) } else { 0 };
    let mut to_add = allowed - total;
    if to_add > 0 {
        if !case.settled() {
            return None;
        }
        // Pods that are still to be deleted take room, too.
        let surplus: i32 = case.sets.iter().map(|set| pods_at_most(set) - replicas(set)).sum();
        to_add = (to_add - surplus).max(0);
    }
    // Growing favours the newest, shrinking the oldest; ties by size.
    active_sets.sort_by_key(|set| {
        let created = set.metadata.creation_timestamp.clone().map(|time| time.0);
        (std::cmp::Reverse(replicas(set)), created)
    });
    if to_add > 0 {
        active_sets.sort_by_key(|set| {
            let created = set.metadata.creation_timestamp.clone().map(|time| time.0);
            (std::cmp::Reverse(replicas(set)), std::cmp::Reverse(created))
        });
    }
    let sizes = spread(case, &active_sets, to_add);
    let steps: Vec<Action> = active_sets
        .into_iter()
        .zip(sizes)
        .filter(|(set, size)| *size != replicas(set) || stale(case, set))
        .map(|(set, size)| scale(case, set, size))
        .collect();
    (!steps.is_empty()).then_some(steps)
}

/// Gives the whole size to the one ReplicaSet that counts, as far as what others still have leaves room.
fn alone(case: &Case<'_>, set: &ReplicaSet) -> Option<Vec<Action>> {
    let current = replicas(set);
    let mut size = case.desired();
    if size > current {
        if !case.settled() {
            return None;
        }
        let others = case.sets.iter().filter(|other| other.metadata.uid != set.metadata.uid);
        let taken: i32 = others.map(|other| pods_at_most(other)).sum();
        size = size.min(rolling::maximum(case) - taken).max(current);
    }
    (size != current || stale(case, set)).then(|| vec![scale(case, set, size)])
}

/// The sizes after `to_add` pods (negative: taken away) are spread in proportion; what rounding leaves goes to the first.
fn spread(case: &Case<'_>, sets: &[&ReplicaSet], to_add: i32) -> Vec<i32> {
    let mut left = to_add;
    let mut sizes: Vec<i32> = Vec::with_capacity(sets.len());
    for set in sets {
        let current = replicas(set);
        let share = if left == 0 { 0 } else { share(case, set, to_add, left) };
        sizes.push(current + share);
        left -= share;
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + left).max(0);
    }
    sizes
}

/// A ReplicaSet's part of a change, no more than is left of it. Upstream: `GetReplicaSetProportion`.
fn share(case: &Case<'_>, set: &ReplicaSet, to_add: i32, left: i32) -> i32 {
    if case.desired() == 0 {
        return -replicas(set);
    }
    let deployment_maximum = f64::from(rolling::maximum(case));
    let remembered = annotation(&set.metadata, MAXIMUM).and_then(|text| text.parse::<i32>().ok());
    let before =
        remembered.unwrap_or_else(|| case.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0));
    let current = f64::from(replicas(set));
    let wanted = if before == 0 { current } else { (current * deployment_maximum / f64::from(before)).round() };
    // Both are replica counts, far below 2^31.
    #[allow(clippy::cast_possible_truncation, reason = "replica counts are far below 2^31")]
    let fraction = (wanted - current) as i32;
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

/// Whether the annotations remember another size of the Deployment.
fn stale(case: &Case<'_>, set: &ReplicaSet) -> bool {
    annotation(&set.metadata, DESIRED) != Some(case.desired().to_string().as_str())
        || annotation(&set.metadata, MAXIMUM) != Some(rolling::maximum(case).to_string().as_str())
}

fn only<'a>(sets: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    if let [set] = sets { Some(set) } else { None }
}

/// With nothing active, the new ReplicaSet, or else the newest.
fn latest<'a>(case: &Case<'a>, active_sets: &[&ReplicaSet]) -> Option<&'a ReplicaSet> {
    active_sets.is_empty().then(|| case.new_set.or_else(|| case.sets.last().copied())).flatten()
}

/// Whether the new ReplicaSet alone has all the Deployment wants. Upstream: `IsSaturated`.
fn saturated(case: &Case<'_>) -> bool {
    case.new_set.is_some_and(|set| {
        replicas(set) == case.desired()
            && annotation(&set.metadata, DESIRED) == Some(case.desired().to_string().as_str())
            && super::available(set) == case.desired()
    })
}
