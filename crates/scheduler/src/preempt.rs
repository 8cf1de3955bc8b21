//! DefaultPreemption: which less important pods have to go so that a pod that no node will do for can run. Pure.
//!
//! Upstream: `pkg/scheduler/framework/preemption` and `plugins/defaultpreemption`.

use std::cmp::Reverse;
use std::sync::Arc;

use api::decide::pod::{is_pod_terminating, pod_condition};
use api::projection::{BudgetLite, PodLite};
use api::selector::Selector;
use jiff::Timestamp;

use crate::case::Case;
use crate::nodes::Nodes;
use crate::plugin::{Refusal, Verdict};
use crate::schedule::{Misfit, NodeMisfit};
use crate::subject::{Counted, Subject};

/// The condition of a pod that has to go.
pub const DISRUPTION_TARGET: &str = "DisruptionTarget";
/// The condition's reason when it makes room.
pub const BY_SCHEDULER: &str = "PreemptionByScheduler";
/// So many percent of the nodes in question are tried at least. Upstream: `minCandidateNodesPercentage`.
const CANDIDATES_PERCENT: usize = 10;
/// So many are tried at least. Upstream: `minCandidateNodesAbsolute`.
const CANDIDATES_MIN: usize = 100;

/// What preemption comes to.
#[derive(Clone, Debug)]
pub enum Preemption {
    /// The pod may not push others out now; why.
    Ineligible(&'static str),
    /// No pod that could be pushed out would help; why, in the form of a misfit.
    Useless(Misfit),
    Victims(Candidate),
}

impl Preemption {
    /// What follows the reasons in a message; nothing when room is made.
    pub fn message(&self) -> Option<String> {
        match self {
            Preemption::Ineligible(why) => Some(format!("preemption: {why}")),
            Preemption::Useless(misfit) => Some(format!("preemption: {}", misfit.message())),
            Preemption::Victims(_) => None,
        }
    }
}

/// A node, and the pods that have to leave it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: Box<str>,
    /// The most important first.
    pub victims: Vec<Arc<Counted>>,
    /// How many of them break a disruption budget by going.
    pub violations: usize,
    /// Less important pods for which room was being made there: they look for another node.
    pub displaced: Vec<Arc<Counted>>,
}

/// Chooses whom to push out for a pod that no node will do for.
pub fn preempt(
    case: &mut Case,
    who: &Subject,
    nodes: &Nodes,
    misfit: &Misfit,
    budgets: &[&BudgetLite],
    tie: u64,
) -> Preemption {
    if let Some(why) = ineligible(who, nodes, misfit) {
        return Preemption::Ineligible(why);
    }
    let possible: Vec<&NodeMisfit> = misfit.nodes.iter().filter(|node| node.refusal.resolvable).collect();
    let mut useless = Misfit {
        total: misfit.total,
        unnamed: Some(("DefaultPreemption", "Preemption is not helpful for scheduling".into())),
        ..Misfit::default()
    };
    let wanted = (possible.len() * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN);
    let mut candidates: Vec<Candidate> = Vec::new();
    let start = usize::try_from(tie % possible.len().max(1) as u64).unwrap_or(0);
    for at in (start..possible.len()).chain(0..start) {
        match victims(case, who, nodes, possible[at].slot, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(refusal) => useless.nodes.push(NodeMisfit { refusal, ..possible[at].clone() }),
        }
        if candidates.len() >= wanted && candidates.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    match best(candidates) {
        None => Preemption::Useless(useless),
        Some(candidate) => {
            Preemption::Victims(Candidate { displaced: displaced(who, nodes, &candidate.node), ..candidate })
        }
    }
}

fn ineligible(who: &Subject, nodes: &Nodes, misfit: &Misfit) -> Option<&'static str> {
    let pod = who.pod();
    if pod.spec.never_preempts {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = &pod.status.nominated_node;
    let node = nodes.nomination(who.uid()).map(|at| nodes.at(at.slot)).or_else(|| nodes.named(nominated))?;
    let hopeless = |refused: &NodeMisfit| refused.slot == node.slot && !refused.refusal.resolvable;
    if misfit.nodes.iter().any(hopeless) {
        return None;
    }
    let is_leaving = |pod: &PodLite| {
        is_pod_terminating(pod)
            && pod_condition(pod, DISRUPTION_TARGET)
                .is_some_and(|condition| condition.is_true() && &*condition.reason == BY_SCHEDULER)
    };
    let leaves = node.pods.iter().any(|other| is_less(other, pod) && is_leaving(other.pod()));
    leaves.then_some("not eligible due to a terminating pod on the nominated node.")
}

fn is_less(other: &Counted, pod: &PodLite) -> bool {
    other.pod().spec.priority < pod.spec.priority
}

/// The fewest and least important pods of a node that have to go.
fn victims(
    case: &mut Case,
    who: &Subject,
    nodes: &Nodes,
    slot: usize,
    budgets: &[&BudgetLite],
) -> Result<Candidate, Refusal> {
    let node = nodes.at(slot);
    let mut possible: Vec<Arc<Counted>> = node.pods.iter().filter(|other| is_less(other, who.pod())).cloned().collect();
    if possible.is_empty() {
        let reasons = vec!["No preemption victims found for incoming pod".into()];
        return Err(Refusal { reasons, resolvable: false });
    }
    let mut supposed = case.suppose(nodes, slot);
    possible.iter().for_each(|pod| supposed.without(pod));
    if let Verdict::Unfit(refusal) = supposed.beside_rivals(who) {
        return Err(refusal);
    }
    possible.sort_by_key(|pod| importance(pod));
    let (violating, others) = by_budget(possible, budgets);
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (pod, violates) in
        violating.into_iter().map(|pod| (pod, true)).chain(others.into_iter().map(|pod| (pod, false)))
    {
        supposed.with(&pod);
        if !supposed.beside_rivals(who).fits() {
            supposed.without(&pod);
            victims.push(pod);
            violations += usize::from(violates);
        }
    }
    victims.sort_by_key(|pod| importance(pod));
    Ok(Candidate { node: node.name.clone(), victims, violations, displaced: Vec::new() })
}

/// The more important pod is less: the higher priority, then the longer run.
fn importance(pod: &Counted) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.pod().spec.priority), started(pod))
}

/// A pod that has not started would start now.
fn started(pod: &Counted) -> Timestamp {
    pod.pod().status.started.unwrap_or(Timestamp::MAX)
}

/// The pods whose going breaks a budget, and the others, each in the order given.
fn by_budget(pods: Vec<Arc<Counted>>, budgets: &[&BudgetLite]) -> (Vec<Arc<Counted>>, Vec<Arc<Counted>>) {
    let mut allowed: Vec<i32> = budgets.iter().map(|budget| budget.disruptions_allowed).collect();
    let mut violates = |pod: &PodLite| {
        let mut violates = false;
        for (budget, allowed) in budgets.iter().zip(&mut allowed) {
            if protects(budget, pod) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    };
    pods.into_iter().partition(|pod| violates(pod.pod()))
}

/// Whether the budget counts the pod's going. One that selects everything protects nothing here, as upstream has it.
fn protects(budget: &BudgetLite, pod: &PodLite) -> bool {
    let selects = budget.selector != Selector::Nothing && !budget.selector.is_everything();
    budget.meta.namespace == pod.meta.namespace
        && !pod.meta.labels.is_empty()
        && selects
        && budget.selector.matches(&pod.meta.labels)
        && !budget.disrupted_pods.contains(&pod.meta.name)
}

/// Upstream's criteria in their order: fewest broken budgets, least important first victim, smallest sum of priorities,
/// fewest victims, latest start of the most important ones; then the first.
fn best(candidates: Vec<Candidate>) -> Option<Candidate> {
    let rank = |candidate: &Candidate| {
        let priorities = || candidate.victims.iter().map(|victim| i64::from(victim.pod().spec.priority));
        let highest = priorities().max().unwrap_or(i64::MIN);
        // Shifted, so that more victims of negative priority are not better than fewer.
        let sum: i64 = priorities().map(|priority| priority + i64::from(i32::MAX) + 1).sum();
        let important = candidate.victims.iter().filter(|victim| i64::from(victim.pod().spec.priority) == highest);
        let earliest = important.map(|victim| started(victim)).min().unwrap_or(Timestamp::MIN);
        (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
    };
    candidates.into_iter().min_by_key(rank)
}

fn displaced(who: &Subject, nodes: &Nodes, node: &str) -> Vec<Arc<Counted>> {
    let here = |slot: usize| *nodes.at(slot).name == *node;
    let nominations = nodes.nominations().filter(|nomination| here(nomination.slot));
    nominations.map(|nomination| nomination.pod.clone()).filter(|pod| is_less(pod, who.pod())).collect()
}

#[cfg(test)]
mod tests;
