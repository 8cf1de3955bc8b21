//! What to do next for a pod. Pure: the pod and the runtime's view in, steps out.
//!
//! Upstream: `computePodActions`. Every event plans again while steps run; a step under way is not planned twice.

use std::time::Duration;

use cri::{ContainerState, ContainerStatus, PodSandboxState};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus as Told, Pod, PodSpec};
use stdx::Mono;

use super::memory::{Memory, Waiting};
use super::seen::Seen;
use super::{Role, containers, full_name, spec};

/// The exit code of a container that ran and of which nothing is left. Upstream: `convertToAPIContainerStatuses`.
pub const LOST_CODE: i32 = 137;

/// One thing to do. Each can be cancelled at any time and done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Put the pod's volumes and files in place.
    PrepareVolumes,
    /// Make the pod's sandbox, the `attempt`-th.
    CreateSandbox { attempt: u32 },
    /// Pull the image if it must be, create the container and start it.
    Start { name: String, attempt: u32 },
    /// Run the container's preStop hook and end it within `grace_seconds`.
    Kill { id: String, name: String, grace_seconds: u64, why: Why },
    /// Forget a container that has ended and that no status needs.
    RemoveContainer { id: String },
    /// Stop a sandbox that is of no use any more.
    StopSandbox { id: String },
    /// Stop and forget a sandbox that another one has replaced: a half made one of an agent that was killed, or a lost one.
    RemoveSandbox { id: String },
    /// Take the pod out of this node's service rules.
    Withdraw,
    /// Remove sandboxes, containers, volumes and files: nothing of the pod is left on the node.
    CleanUp,
}

/// Why a container is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The pod is being deleted, or has ended.
    PodEnds,
    /// A probe condemned it; the event's message.
    Unhealthy(String),
    /// It runs in a sandbox that is gone.
    SandboxLost,
}

impl Step {
    /// What the step is about: at most one step about a thing runs at a time.
    pub fn subject(&self) -> String {
        match self {
            Step::PrepareVolumes | Step::CreateSandbox { .. } | Step::StopSandbox { .. } | Step::CleanUp => {
                "pod".into()
            }
            Step::Withdraw => "rules".into(),
            Step::Start { name, .. } | Step::Kill { name, .. } => format!("container {name}"),
            Step::RemoveContainer { id } | Step::RemoveSandbox { id } => format!("ended {id}"),
        }
    }

    /// What a failure of this step delays: an end waits for an earlier failed end, never for a failed start.
    pub fn retried(&self) -> String {
        match self {
            Step::Kill { name, .. } => format!("end {name}"),
            other => other.subject(),
        }
    }
}

/// What to do now, and when to plan again at the latest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub again_within: Option<Duration>,
    /// Why a container waits although nothing is under way for it.
    pub waiting: Vec<(String, Waiting)>,
    /// Nothing of the pod is left to do: it has ended, or is gone.
    pub finished: bool,
}

/// How far a pod is on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is to run.
    Wanted,
    /// It is to end within these seconds.
    Ending { grace_seconds: u64 },
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub wall: Timestamp,
    pub mono: Mono,
}

/// Decides.
pub fn plan(pod: &Pod, stage: Stage, seen: &Seen, memory: &Memory, now: Moment) -> Plan {
    let spec = spec(pod);
    let mut plan = match stage {
        Stage::Wanted if ended(pod, &spec, seen) => ended_plan(&spec, seen),
        Stage::Wanted => wanted(pod, &spec, seen, memory, now),
        Stage::Ending { grace_seconds } => ending(seen, memory, grace_seconds),
    };
    hold_back(&mut plan, memory, now.mono);
    plan
}

/// Takes out steps whose subject is under way or has to wait after a failure.
fn hold_back(plan: &mut Plan, memory: &Memory, now: Mono) {
    let again_within = &mut plan.again_within;
    plan.steps.retain(|step| {
        let subject = step.subject();
        if memory.under_way.contains(&subject) {
            return false;
        }
        match memory.retry_at.get(&step.retried()) {
            Some(at) if *at > now => {
                let left = *at - now;
                *again_within = Some(again_within.map_or(left, |other| other.min(left)));
                false
            }
            _ => true,
        }
    });
}

fn sooner(plan: &mut Plan, left: Duration) {
    plan.again_within = Some(plan.again_within.map_or(left, |other| other.min(left)));
}

/// Whether a container that ended with `code` is not started again.
fn stays_ended(spec: &PodSpec, role: Role, code: i32) -> bool {
    match (spec.restart_policy.as_deref(), role) {
        (Some("Never"), _) => true,
        (Some("OnFailure"), _) | (_, Role::Init) => code == 0,
        _ => false,
    }
}

/// What the pod's status told last of a container.
pub fn told<'p>(pod: &'p Pod, role: Role, name: &str) -> Option<&'p Told> {
    let status = pod.status.as_ref()?;
    let list = match role {
        Role::Init => status.init_container_statuses.as_ref(),
        Role::Main => status.container_statuses.as_ref(),
    };
    list?.iter().find(|status| status.name == name)
}

/// How a container ended: as the runtime knows, or, where a restart of the machine made it forget, as the status told.
fn exit_code(pod: &Pod, spec: &PodSpec, seen: &Seen, role: Role, name: &str) -> Option<i32> {
    if let Some(newest) = seen.newest(name) {
        return (newest.state == ContainerState::Exited).then_some(newest.exit.exit_code);
    }
    let state = told(pod, role, name)?.state.as_ref()?;
    // One that ran and is lost is not run again where that is not wanted.
    let lost = || (state.running.is_some() && spec.restart_policy.as_deref() == Some("Never")).then_some(LOST_CODE);
    state.terminated.as_ref().map(|terminated| terminated.exit_code).or_else(lost)
}

/// Which try of a container is the next. What ran before a restart of the machine counts.
fn next_attempt(pod: &Pod, seen: &Seen, role: Role, name: &str) -> u32 {
    if let Some(newest) = seen.newest(name) {
        return newest.metadata.attempt + 1;
    }
    let Some(told) = told(pod, role, name) else { return 0 };
    let ran = told.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    u32::try_from(told.restart_count).unwrap_or(0) + u32::from(ran)
}

/// Whether every container has ended for good, or an init container failed for good.
pub fn ended(pod: &Pod, spec: &PodSpec, seen: &Seen) -> bool {
    if let Some("Succeeded" | "Failed") = pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        return true;
    }
    let code = |role: Role, container: &Container| exit_code(pod, spec, seen, role, &container.name);
    let init_failed = spec.restart_policy.as_deref() == Some("Never")
        && spec
            .init_containers
            .iter()
            .flatten()
            .any(|container| code(Role::Init, container).is_some_and(|code| code != 0));
    let over = |container| code(Role::Main, container).is_some_and(|code| stays_ended(spec, Role::Main, code));
    init_failed || spec.containers.iter().all(over)
}

/// What remains of a pod that has ended: its sandbox is of no use, its containers stay for their logs.
fn ended_plan(spec: &PodSpec, seen: &Seen) -> Plan {
    let grace_seconds = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let kills = seen.running().map(|container| kill(container, grace_seconds.unwrap_or(30), Why::PodEnds));
    let mut steps: Vec<Step> = kills.collect();
    if steps.is_empty() {
        steps.extend(
            seen.sandboxes
                .iter()
                .filter(|sandbox| sandbox.state == PodSandboxState::Ready)
                .take(1)
                .map(|sandbox| Step::StopSandbox { id: sandbox.id.clone() }),
        );
    }
    Plan { finished: steps.is_empty(), steps, ..Plan::default() }
}

fn kill(container: &ContainerStatus, grace_seconds: u64, why: Why) -> Step {
    Step::Kill { id: container.id.clone(), name: container.metadata.name.clone(), grace_seconds, why }
}

fn ending(seen: &Seen, memory: &Memory, grace_seconds: u64) -> Plan {
    if !memory.stopping.contains("rules") {
        return Plan { steps: vec![Step::Withdraw], ..Plan::default() };
    }
    let kills: Vec<Step> = seen.running().map(|container| kill(container, grace_seconds, Why::PodEnds)).collect();
    if !kills.is_empty() {
        return Plan { steps: kills, ..Plan::default() };
    }
    let starting = memory.under_way.iter().any(|subject| subject.starts_with("container "));
    if starting {
        return Plan::default();
    }
    if memory.stopping.contains("pod") {
        return Plan { finished: true, ..Plan::default() };
    }
    Plan { steps: vec![Step::CleanUp], ..Plan::default() }
}

fn wanted(pod: &Pod, spec: &PodSpec, seen: &Seen, memory: &Memory, now: Moment) -> Plan {
    let mut plan = Plan::default();
    let refresh = memory.refresh_at.is_some_and(|at| at <= now.mono);
    if !memory.volumes_ready || refresh {
        plan.steps.push(Step::PrepareVolumes);
    }
    if let Some(at) = memory.refresh_at.filter(|_| !refresh) {
        sooner(&mut plan, at - now.mono);
    }
    if !memory.volumes_ready {
        return plan;
    }
    let Some(sandbox) = seen.ready_sandbox() else {
        plan.steps.retain(|step| *step != Step::PrepareVolumes);
        plan.steps.extend(seen.running().map(|container| kill(container, 0, Why::SandboxLost)));
        if plan.steps.is_empty() {
            let attempt = seen.sandboxes.first().map_or(0, |sandbox| sandbox.metadata.attempt + 1);
            plan.steps.push(Step::CreateSandbox { attempt });
        }
        return plan;
    };
    if memory.under_way.contains("pod") && !refresh {
        // The sandbox is just being made.
        return plan;
    }
    remove_replaced(seen, &sandbox.id, &mut plan);
    let in_sandbox = |name: &str| seen.newest(name).filter(|container| container.pod_sandbox_id == sandbox.id);
    for container in spec.init_containers.iter().flatten() {
        match in_sandbox(&container.name) {
            Some(status) if status.state == ContainerState::Exited && status.exit.exit_code == 0 => {}
            _ => {
                start_if_due(pod, Role::Init, container, in_sandbox(&container.name), (seen, memory, now), &mut plan);
                return plan;
            }
        }
    }
    for container in &spec.containers {
        let code = exit_code(pod, spec, seen, Role::Main, &container.name);
        // Also one that ended in an earlier sandbox.
        if code.is_some_and(|code| stays_ended(spec, Role::Main, code)) {
            continue;
        }
        start_if_due(pod, Role::Main, container, in_sandbox(&container.name), (seen, memory, now), &mut plan);
    }
    remove_old(seen, spec, &mut plan);
    plan
}

/// Starts, restarts or kills one container, or says why it waits.
fn start_if_due(
    pod: &Pod,
    role: Role,
    container: &Container,
    status: Option<&ContainerStatus>,
    (seen, memory, now): (&Seen, &Memory, Moment),
    plan: &mut Plan,
) {
    let attempt = next_attempt(pod, seen, role, &container.name);
    let start = Step::Start { name: container.name.clone(), attempt };
    let Some(status) = status else {
        plan.steps.push(start);
        return;
    };
    match status.state {
        ContainerState::Running => {
            if let Some(message) = memory.condemned.get(&status.id) {
                let grace_seconds = grace_of_probe(container, pod);
                plan.steps.push(kill(status, grace_seconds, Why::Unhealthy(message.clone())));
            }
        }
        // Made but never started: an agent ended between the two. It is removed, and made again as the same try.
        ContainerState::Created => {
            plan.steps.push(Step::Start { name: container.name.clone(), attempt: status.metadata.attempt })
        }
        ContainerState::Exited | ContainerState::Unknown => {
            if stays_ended(pod.spec.as_ref().unwrap_or(&PodSpec::default()), role, status.exit.exit_code) {
                return;
            }
            match restart_wait(memory, container, status, now.wall) {
                Some((left, delay)) => {
                    sooner(plan, left);
                    let message = format!(
                        "back-off {} restarting failed container={} pod={}",
                        go_duration(delay),
                        container.name,
                        full_name(pod)
                    );
                    plan.waiting.push((container.name.clone(), Waiting { reason: "CrashLoopBackOff".into(), message }));
                }
                None => plan.steps.push(start),
            }
        }
    }
}

/// How long to wait until a container is started again, with the whole wait.
fn restart_wait(
    memory: &Memory,
    container: &Container,
    status: &ContainerStatus,
    now: Timestamp,
) -> Option<(Duration, Duration)> {
    let tries = memory.restarts.get(&container.name)?;
    let ended = Timestamp::from_nanosecond(status.times.finished_at.into()).unwrap_or(now);
    tries.left(ended, now).map(|left| (left, tries.delay()))
}

fn grace_of_probe(container: &Container, pod: &Pod) -> u64 {
    let of_probe = container.liveness_probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    of_probe.or(of_pod).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30)
}

/// Removes tries older than the last one: a container's newest and the one before are kept, for status and logs.
fn remove_old(seen: &Seen, spec: &PodSpec, plan: &mut Plan) {
    for (_, container) in containers(spec) {
        let tries = seen.containers.iter().filter(|status| status.metadata.name == container.name);
        let old = tries.skip(2).filter(|status| status.state != ContainerState::Running);
        plan.steps.extend(old.map(|status| Step::RemoveContainer { id: status.id.clone() }));
    }
}

/// Removes sandboxes besides the one in use, as soon as no container in them is needed for status and logs.
fn remove_replaced(seen: &Seen, used: &str, plan: &mut Plan) {
    let empty = |id: &str| !seen.containers.iter().any(|container| container.pod_sandbox_id == id);
    let replaced = seen.sandboxes.iter().map(|sandbox| &sandbox.id).filter(|id| *id != used && empty(id));
    plan.steps.extend(replaced.map(|id| Step::RemoveSandbox { id: id.clone() }));
}

/// A duration as Go prints it: `10s`, `2m40s`, `5m0s`.
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m{}s", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests;
