//! All containers of a pod started anew in place, since one of them ended as a rule of its says. Pure.
//!
//! Upstream: `ShouldAllContainersRestart` and KEP 5532. What runs is ended without much ado, what has ended is forgotten, the one
//! that was the cause last; then the pod begins as if it had just come, in its sandbox and with its volumes. Until then the
//! condition says so, by which another agent goes on with it.

use cri::{ContainerState, ContainerStatus};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::policy::{RESTART_ALL, rule_that_matches};
use super::{Moment, Plan, Step, Why, kill, must_wait, sooner};
use crate::pod::memory::Memory;
use crate::pod::seen::Seen;
use crate::pod::{containers, find_container};

/// The condition that says so.
pub const CONDITION: &str = "AllContainersRestarting";

/// How far a pod is with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    No,
    /// There still is something of the run that is over.
    UnderWay,
    /// Nothing is: what the status tells of containers is of the run before.
    Cleared,
}

/// Whether some container may have all of them started anew.
pub fn is_possible(spec: &PodSpec) -> bool {
    let rules = containers(spec).flat_map(|(_, container)| container.restart_policy_rules.iter().flatten());
    rules.into_iter().any(|rule| rule.action == RESTART_ALL)
}

/// Decides how far the pod is.
pub fn progress(pod: &Pod, spec: &PodSpec, seen: &Seen) -> Restart {
    if !is_possible(spec) {
        return Restart::No;
    }
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_marked = conditions.iter().any(|condition| condition.type_ == CONDITION && condition.status == "True");
    match (is_marked, ordinary(spec, seen).next().is_some()) {
        (true, false) => Restart::Cleared,
        (true, true) => Restart::UnderWay,
        (false, _) if sources(spec, seen).next().is_some() => Restart::UnderWay,
        (false, _) => Restart::No,
    }
}

/// All but ephemeral containers: those are neither ended nor begun.
fn ordinary<'a>(spec: &'a PodSpec, seen: &'a Seen) -> impl Iterator<Item = &'a ContainerStatus> {
    let is_ordinary = |name: &str| containers(spec).any(|(_, container)| container.name == name);
    seen.containers.iter().filter(move |status| is_ordinary(&status.metadata.name))
}

/// The containers whose end is the cause.
fn sources<'a>(spec: &'a PodSpec, seen: &'a Seen) -> impl Iterator<Item = &'a ContainerStatus> {
    let newest = containers(spec).filter_map(|(_, container)| Some((container, seen.newest(&container.name)?)));
    let ended = newest.filter(|(_, status)| status.state == ContainerState::Exited);
    let is_cause = |(container, status): &(&Container, &ContainerStatus)| {
        let ended_for_another_reason = seen.known.again.contains(&status.id);
        let rule = rule_that_matches(container, status.exit.exit_code).filter(|_| !ended_for_another_reason);
        rule.is_some_and(|rule| rule.action == RESTART_ALL)
    };
    ended.filter(is_cause).map(|(_, status)| status)
}

/// What is to be done until nothing of the run is left. The cause goes last, and waits as a container that crashes does.
pub fn clear(pod: &Pod, spec: &PodSpec, seen: &Seen, memory: &Memory, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let runs = |status: &&ContainerStatus| status.state == ContainerState::Running;
    plan.steps.extend(ordinary(spec, seen).filter(runs).map(|status| kill(status, 0, Why::AllRestart)));
    let begins = memory.under_way.iter().any(|subject| subject.starts_with("container "));
    if !plan.steps.is_empty() || begins {
        return plan;
    }
    let causes: Vec<&str> = sources(spec, seen).map(|status| status.id.as_str()).collect();
    let others = ordinary(spec, seen).filter(|status| !causes.contains(&status.id.as_str()));
    plan.steps.extend(others.map(|status| Step::RemoveContainer { id: status.id.clone() }));
    if !plan.steps.is_empty() {
        return plan;
    }
    for status in sources(spec, seen) {
        let Some((_, container)) = find_container(spec, &status.metadata.name) else { continue };
        match must_wait(pod, memory, &container, status, now.wall) {
            Some((left, waiting)) => {
                sooner(&mut plan, left);
                plan.waiting.push((container.name.clone(), waiting));
            }
            None => {
                let (id, name) = (status.id.clone(), status.metadata.name.clone());
                plan.steps.push(Step::RemoveCause { id, name });
            }
        }
    }
    plan
}
