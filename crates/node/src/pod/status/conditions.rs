//! The conditions of a pod that its node tells, beside those that others tell. Pure.
//!
//! Upstream: `pkg/kubelet/status/generate.go`, words and order included.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Told, View, runs};
use crate::pod::Role;
use crate::pod::plan::restart_all::{self, Restart};
use crate::resize;

/// Conditions that the node tells, in upstream's order.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// That of pods of which a container may have all started anew.
const RESTARTING: &str = restart_all::CONDITION;
/// And those that it tells only while they hold.
const RESIZES: [&str; 2] = [resize::PENDING, resize::IN_PROGRESS];

/// Status, reason and message of a condition.
type Holds = (&'static str, &'static str, String);

/// All conditions: those of others stay as they are and come first.
pub(super) fn conditions(view: &View<'_>, phase: &str, told: &Told, now: Timestamp) -> Vec<PodCondition> {
    let pod = view.pod;
    let old = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut all: Vec<PodCondition> = old.iter().filter(|condition| is_others(condition)).cloned().collect();
    let make = |type_: &str, (status, reason, message): Holds| {
        let since = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
        PodCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.to_owned()).filter(|reason| !reason.is_empty()),
            message: Some(message).filter(|message| !message.is_empty()),
            last_transition_time: since.and_then(|since| since.last_transition_time.clone()).or(Some(Time(now))),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        }
    };
    let disruption = view.memory.verdict.as_ref().filter(|verdict| verdict.disrupted);
    if let Some(verdict) = disruption.filter(|_| !all.iter().any(|condition| condition.type_ == "DisruptionTarget")) {
        all.push(make("DisruptionTarget", ("True", "TerminationByKubelet", verdict.message.clone())));
    }
    let ended = matches!(phase, "Succeeded" | "Failed");
    let sandbox = view.seen.ready_sandbox().is_some() && !ended;
    let containers_ready = containers_ready(view, phase, told);
    let ready = ready(view, &containers_ready, &all);
    let holds = [
        (if sandbox { "True" } else { "False" }, "", String::new()),
        initialized(view, phase, told, &old),
        ready,
        containers_ready,
        ("True", "", String::new()),
    ];
    let [pending, in_progress] = RESIZES;
    if let Some(waiting) = view.memory.resize_pending.as_ref().filter(|_| !ended) {
        let reason = if waiting.reason == "Infeasible" { "Infeasible" } else { "Deferred" };
        all.push(make(pending, ("True", reason, waiting.message.clone())));
    }
    if view.memory.resizing && !ended {
        let failed = view.memory.resize_failed.clone();
        let reason = if failed.is_some() { "Error" } else { "" };
        all.push(make(in_progress, ("True", reason, failed.unwrap_or_default())));
    }
    all.extend(OWN.into_iter().zip(holds).map(|(type_, holds)| make(type_, holds)));
    if restart_all::is_possible(view.spec) {
        all.push(make(RESTARTING, restarting(view, phase)));
    }
    all
}

fn names<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> String {
    let names: Vec<&str> = statuses.map(|status| status.name.as_str()).collect();
    format!("[{}]", names.join(" "))
}

/// Whether all containers are just being ended to start anew.
fn restarting(view: &View<'_>, phase: &str) -> Holds {
    match phase {
        "Succeeded" => ("False", "PodCompleted", String::new()),
        "Failed" => ("False", "PodFailed", String::new()),
        _ if view.restart() == Restart::UnderWay => {
            ("True", "RestartAllContainersStarted", "container exited with restart policy rule".into())
        }
        _ => ("False", "", String::new()),
    }
}

fn initialized(view: &View<'_>, phase: &str, told: &Told, old: &[PodCondition]) -> Holds {
    let was = old.iter().any(|condition| condition.type_ == "Initialized" && condition.status == "True");
    let incomplete = |role: Role, status: &ContainerStatus| match role {
        Role::Sidecar => status.started != Some(true),
        Role::Init => !status.ready,
        Role::Main | Role::Ephemeral => false,
    };
    let begun = |status: &ContainerStatus| {
        runs(status) || status.state.as_ref().is_some_and(|state| state.terminated.is_some())
    };
    let waits: Vec<&ContainerStatus> = told
        .ordinary(view.spec)
        .filter(|(role, _, status)| incomplete(*role, status))
        .map(|(_, _, status)| status)
        .collect();
    match () {
        () if phase == "Succeeded" => ("True", "PodCompleted", String::new()),
        // A pod that starts anew in place stays initialized.
        () if was && restart_all::is_possible(view.spec) => ("True", "", String::new()),
        () if waits.is_empty() || told.mains.iter().any(begun) => ("True", "", String::new()),
        () => {
            let message = format!("containers with incomplete status: {}", names(waits.into_iter()));
            ("False", "ContainersNotInitialized", message)
        }
    }
}

fn containers_ready(view: &View<'_>, phase: &str, told: &Told) -> Holds {
    let unready: Vec<&ContainerStatus> = told
        .ordinary(view.spec)
        .filter(|(role, _, status)| *role != Role::Init && !status.ready)
        .map(|(_, _, status)| status)
        .collect();
    match () {
        () if phase == "Succeeded" => ("False", "PodCompleted", String::new()),
        () if phase == "Failed" => ("False", "PodFailed", String::new()),
        () if unready.is_empty() => ("True", "", String::new()),
        () => {
            let message = format!("containers with unready status: {}", names(unready.into_iter()));
            ("False", "ContainersNotReady", message)
        }
    }
}

/// Ready is what its containers are, and what the conditions say that it was made to wait for.
fn ready(view: &View<'_>, containers_ready: &Holds, others: &[PodCondition]) -> Holds {
    if containers_ready.0 != "True" {
        return containers_ready.clone();
    }
    let gates = view.spec.readiness_gates.iter().flatten().map(|gate| gate.condition_type.as_str());
    let closed: Vec<String> = gates
        .filter_map(|gate| match others.iter().find(|condition| condition.type_ == gate) {
            None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(condition) if condition.status != "True" => {
                Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {}", condition.status))
            }
            Some(_) => None,
        })
        .collect();
    match closed.is_empty() {
        true => ("True", "", String::new()),
        false => ("False", "ReadinessGatesNotReady", closed.join(", ")),
    }
}

/// Whether a condition is not the node's to tell.
fn is_others(condition: &PodCondition) -> bool {
    let type_ = condition.type_.as_str();
    !OWN.contains(&type_) && !RESIZES.contains(&type_) && type_ != RESTARTING
}

/// The status that was told, with the conditions that others have told meanwhile.
pub fn with_others_conditions(told: &PodStatus, api: Option<&PodStatus>) -> PodStatus {
    let mut status = told.clone();
    let of_others = |status: Option<&PodStatus>| -> Vec<PodCondition> {
        let all = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        all.iter().filter(|condition| is_others(condition)).cloned().collect()
    };
    if let Some(conditions) = &mut status.conditions {
        let own = std::mem::take(conditions).into_iter().filter(|condition| !is_others(condition));
        *conditions = of_others(api).into_iter().chain(own).collect();
    }
    status
}
