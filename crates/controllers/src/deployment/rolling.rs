//! The rolling update: never more pods than the ceiling, never fewer available than the floor.

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reconcile::Action;

use super::{Case, available, available_at_least, pods_at_most, replicas, revision, scaling};
use crate::share::{Rounding, resolved};

/// The largest surge and the largest number of unavailable pods, resolved to numbers. Upstream: `ResolveFenceposts`.
fn fenceposts(case: &Case<'_>) -> (i32, i32) {
    let spec = case.deployment.spec.as_ref();
    let strategy = spec.and_then(|spec| spec.strategy.as_ref());
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = resolved(surge, case.desired(), Rounding::Up);
    let unavailable = resolved(unavailable, case.desired(), Rounding::Down);
    // Both may round to zero, and then the update could not move; validation refuses literal zeros.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(case.desired())) }
}

/// The ceiling: desired replicas plus surge.
pub(super) fn maximum(case: &Case<'_>) -> i32 {
    case.desired().saturating_add(fenceposts(case).0)
}

/// How many may be unavailable.
pub(super) fn max_unavailable(case: &Case<'_>) -> i32 {
    if case.desired() == 0 { 0 } else { fenceposts(case).1 }
}

/// The size the new ReplicaSet may have now, given its current one. Upstream: `NewRSNewReplicas`.
pub(super) fn new_replicas(case: &Case<'_>, current: i32) -> i32 {
    if super::strategy_is_recreate(case.deployment) {
        return case.desired();
    }
    if !case.settled() {
        return current;
    }
    let total: i32 = case.sets.iter().map(|set| pods_at_most(set)).sum();
    let room = maximum(case) - total;
    if room <= 0 {
        return current;
    }
    current + room.min(case.desired() - current).max(0)
}

/// One step of the update; `None` when nothing is to be moved now.
pub(super) fn step(case: &Case<'_>) -> Option<Vec<Action>> {
    let Some(set) = case.new_set else { return Some(revision::create(case)) };
    resize_new(case, set).or_else(|| shrink_old(case, set))
}

fn resize_new(case: &Case<'_>, set: &ReplicaSet) -> Option<Vec<Action>> {
    let current = replicas(set);
    let wanted = match current.cmp(&case.desired()) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => case.desired(),
        std::cmp::Ordering::Less => new_replicas(case, current),
    };
    (wanted != current).then(|| vec![scaling::scale(case, set, wanted)])
}

/// Takes away old pods: first those that do not work anyway, then as many working ones as the floor allows.
///
/// Upstream: `reconcileOldReplicaSets`. Both are worked out on the same observed counts, so that one step does not spend what
/// another has spent.
fn shrink_old(case: &Case<'_>, new_set: &ReplicaSet) -> Option<Vec<Action>> {
    let mut old: Vec<(&ReplicaSet, i32)> =
        case.old().filter(|set| replicas(set) > 0).map(|set| (set, replicas(set))).collect();
    if old.is_empty() || !case.settled() {
        return None;
    }
    let total: i32 = case.sets.iter().map(|set| replicas(set)).sum();
    let floor = case.desired() - max_unavailable(case);
    let new_unavailable = replicas(new_set) - available(new_set);
    let mut surplus = (total - floor - new_unavailable).max(0);
    if surplus == 0 {
        return None;
    }
    for (set, size) in &mut old {
        let broken = (replicas(set) - available_at_least(set)).min(surplus);
        *size -= broken;
        surplus -= broken;
    }
    let all_available: i32 = case.sets.iter().map(|set| available_at_least(set)).sum();
    let mut spare = (all_available - floor).max(0);
    for (_, size) in &mut old {
        let gone = (*size).min(spare);
        *size -= gone;
        spare -= gone;
    }
    let steps: Vec<Action> = old
        .into_iter()
        .filter(|(set, size)| *size != replicas(set))
        .map(|(set, size)| scaling::scale(case, set, size))
        .collect();
    (!steps.is_empty()).then_some(steps)
}
