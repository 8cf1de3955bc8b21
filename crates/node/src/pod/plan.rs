//! What to do next for a pod. Pure: the pod and the runtime's view in, steps out.
//!
//! Upstream: `computePodActions`. Every event plans again while steps run; a step under way is not planned twice.

use std::time::Duration;

use cri::{ContainerState, ContainerStatus, PodSandboxState};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus as Told, Pod, PodSpec};
use stdx::Mono;

use super::memory::{Memory, Verdict, Waiting};
use super::seen::Seen;
use super::{Role, containers, full_name, ordinary_form, spec};
use crate::resize::{self, Change};

mod end;
pub mod policy;
pub mod restart_all;

use policy::starts_again;
use restart_all::Restart;

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
    /// Run a container's preStop hook before it is the container's turn to end.
    PreStop { id: String, name: String, grace_seconds: u64 },
    /// Give a running container the resources that it was granted.
    Resize { id: String, name: String },
    /// Forget a container that has ended and that no status needs.
    RemoveContainer { id: String },
    /// Forget the container for whose end all of the pod is started anew.
    RemoveCause { id: String, name: String },
    /// Stop a sandbox that is of no use any more.
    StopSandbox { id: String },
    /// Stop and forget a sandbox that another one has replaced: a half made one of an agent that was killed, or a lost one.
    RemoveSandbox { id: String },
    /// Remove the volumes of a pod that has ended: what it wrote there is of use to nobody, and the node may be short of room.
    RemoveVolumes,
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
    /// A probe condemned it; the event's whole message.
    Unhealthy(String),
    /// It runs in a sandbox that is gone.
    SandboxLost,
    /// It was granted other resources, and is to start anew with them.
    Resized,
    /// All of the pod is to start anew, for the end of one of its containers.
    AllRestart,
}

impl Step {
    /// What the step is about: at most one step about a thing runs at a time.
    pub fn subject(&self) -> String {
        match self {
            Step::PrepareVolumes
            | Step::CreateSandbox { .. }
            | Step::StopSandbox { .. }
            | Step::RemoveVolumes
            | Step::CleanUp => "pod".into(),
            Step::Withdraw => "rules".into(),
            Step::Start { name, .. } | Step::Kill { name, .. } | Step::Resize { name, .. } => {
                format!("container {name}")
            }
            Step::PreStop { name, .. } => format!("hook {name}"),
            Step::RemoveContainer { id } | Step::RemoveCause { id, .. } | Step::RemoveSandbox { id } => {
                format!("ended {id}")
            }
        }
    }

    /// What a failure of this step delays: an end waits for an earlier failed end, never for a failed start.
    pub fn retried(&self) -> String {
        match self {
            Step::Kill { name, .. } => format!("end {name}"),
            Step::Resize { name, .. } => format!("resize {name}"),
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
        Stage::Wanted if memory.verdict.is_some() || ended(pod, &spec, seen) => {
            ended_plan(&spec, seen, memory, now.mono)
        }
        Stage::Wanted if restart_all::progress(pod, &spec, seen) == Restart::UnderWay => {
            restart_all::clear(pod, &spec, seen, memory, now)
        }
        Stage::Wanted => wanted(pod, &spec, seen, memory, now),
        Stage::Ending { grace_seconds } => ending(&spec, seen, memory, grace_seconds, now.mono),
    };
    hold_back(&mut plan, memory, now.mono);
    plan
}

/// Whether a pod was active for as long as it may be, or how long it still may. Upstream: `activeDeadlineHandler`.
pub fn deadline(pod: &Pod, now: Timestamp) -> Option<Result<Duration, Verdict>> {
    let seconds = u64::try_from(pod.spec.as_ref()?.active_deadline_seconds?).ok()?;
    let begun = pod.status.as_ref()?.start_time.as_ref()?.0;
    let active = Duration::try_from(now.duration_since(begun)).unwrap_or_default();
    let left = Duration::from_secs(seconds).saturating_sub(active);
    Some(if left.is_zero() {
        Err(Verdict {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
            grace_seconds: None,
            disrupted: false,
        })
    } else {
        Ok(left)
    })
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

/// What the pod's status told last of a container.
pub fn told<'p>(pod: &'p Pod, role: Role, name: &str) -> Option<&'p Told> {
    let status = pod.status.as_ref()?;
    let list = match role {
        Role::Init | Role::Sidecar => status.init_container_statuses.as_ref(),
        Role::Ephemeral => status.ephemeral_container_statuses.as_ref(),
        Role::Main => status.container_statuses.as_ref(),
    };
    list?.iter().find(|status| status.name == name)
}

/// How a container ended: as the runtime knows, or, where a restart of the machine made it forget, as the status told.
fn exit_code(pod: &Pod, spec: &PodSpec, seen: &Seen, role: Role, container: &Container) -> Option<i32> {
    if let Some(newest) = seen.newest(&container.name) {
        return (newest.state == ContainerState::Exited).then(|| seen.code(newest));
    }
    if restart_all::progress(pod, spec, seen) == Restart::Cleared {
        return None;
    }
    let state = told(pod, role, &container.name)?.state.as_ref()?;
    // One that ran and is lost is not run again where that is not wanted.
    let lost = || (state.running.is_some() && !starts_again(spec, role, container, LOST_CODE)).then_some(LOST_CODE);
    state.terminated.as_ref().map(|terminated| terminated.exit_code).or_else(lost)
}

/// Which try of a container is the next. What ran before a restart of the machine counts.
fn next_attempt(pod: &Pod, seen: &Seen, role: Role, name: &str) -> u32 {
    if let Some(newest) = seen.newest(name) {
        return newest.metadata.attempt + 1;
    }
    let Some(told) = told(pod, role, name) else { return 0 };
    let ran = told.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some());
    // One that waits to be started again ran, too: only of such is the id told.
    u32::try_from(told.restart_count).unwrap_or(0) + u32::from(ran || told.container_id.is_some())
}

/// Whether every container has ended for good, or an init container failed for good.
pub fn ended(pod: &Pod, spec: &PodSpec, seen: &Seen) -> bool {
    if let Some("Succeeded" | "Failed") = pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        return true;
    }
    if restart_all::progress(pod, spec, seen) != Restart::No {
        return false;
    }
    let for_good = |role: Role, container: &Container| {
        let code = exit_code(pod, spec, seen, role, container);
        code.filter(|code| !starts_again(spec, role, container, *code))
    };
    let init_failed = |(role, container)| role == Role::Init && for_good(role, container).is_some_and(|code| code != 0);
    containers(spec).any(init_failed)
        || spec.containers.iter().all(|container| for_good(Role::Main, container).is_some())
}

/// What remains of a pod that has ended: its sandbox and its volumes are of no use, its containers stay for their logs.
/// Upstream: `SyncTerminatingPod` and `SyncTerminatedPod`.
fn ended_plan(spec: &PodSpec, seen: &Seen, memory: &Memory, now: Mono) -> Plan {
    let of_verdict = memory.verdict.as_ref().and_then(|verdict| verdict.grace_seconds);
    let of_pod = spec.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let (mut steps, again_within) = end::kills(spec, seen, memory, of_verdict.or(of_pod).unwrap_or(30), now);
    if seen.running().next().is_none() {
        let mut ready = seen.sandboxes.iter().filter(|sandbox| sandbox.state == PodSandboxState::Ready);
        match ready.next() {
            Some(sandbox) => steps.push(Step::StopSandbox { id: sandbox.id.clone() }),
            None if memory.stopping.contains("volumes") || is_starting(memory) => {}
            None => steps.push(Step::RemoveVolumes),
        }
    }
    Plan { finished: steps.is_empty() && again_within.is_none(), steps, again_within, ..Plan::default() }
}

/// Whether a container is just being started or ended.
fn is_starting(memory: &Memory) -> bool {
    memory.under_way.iter().any(|subject| subject.starts_with("container "))
}

fn kill(container: &ContainerStatus, grace_seconds: u64, why: Why) -> Step {
    Step::Kill { id: container.id.clone(), name: container.metadata.name.clone(), grace_seconds, why }
}

fn ending(spec: &PodSpec, seen: &Seen, memory: &Memory, grace_seconds: u64, now: Mono) -> Plan {
    if !memory.stopping.contains("rules") {
        return Plan { steps: vec![Step::Withdraw], ..Plan::default() };
    }
    let (steps, again_within) = end::kills(spec, seen, memory, grace_seconds, now);
    if seen.running().next().is_some() {
        return Plan { steps, again_within, ..Plan::default() };
    }
    if is_starting(memory) {
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
    let view = View { pod, spec, seen, memory, now, sandbox: &sandbox.id };
    view.start_ephemeral(&mut plan);
    if view.initialize(&mut plan) {
        view.run_main(&mut plan);
    }
    remove_old(seen, spec, &mut plan);
    plan
}

/// A pod whose sandbox is up.
struct View<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    seen: &'a Seen,
    memory: &'a Memory,
    now: Moment,
    sandbox: &'a str,
}

impl View<'_> {
    fn in_sandbox(&self, name: &str) -> Option<&ContainerStatus> {
        self.seen.newest(name).filter(|container| container.pod_sandbox_id == self.sandbox)
    }

    /// Ephemeral containers begin whatever the others do, once.
    fn start_ephemeral(&self, plan: &mut Plan) {
        for container in self.spec.ephemeral_containers.iter().flatten().map(ordinary_form) {
            let newest = self.seen.newest(&container.name);
            let made = newest.is_some_and(|newest| newest.state != ContainerState::Created);
            let told = told(self.pod, Role::Ephemeral, &container.name).and_then(|told| told.state.as_ref());
            let ran = told.is_some_and(|state| state.running.is_some() || state.terminated.is_some());
            if !made && !ran {
                plan.steps.push(Step::Start { name: container.name, attempt: 0 });
            }
        }
    }

    /// Runs init containers in order and keeps sidecars running; whether the others may run. Upstream:
    /// `computeInitContainerActions`: from the last that was begun backwards, since earlier ones may be forgotten by then.
    fn initialize(&self, plan: &mut Plan) -> bool {
        let inits = self.spec.init_containers.as_deref().unwrap_or_default();
        let mut initialized =
            inits.is_empty() || self.spec.containers.iter().any(|container| self.in_sandbox(&container.name).is_some());
        let mut past = initialized;
        let mut due: Vec<usize> = Vec::new();
        for (index, container) in inits.iter().enumerate().rev() {
            let role = super::init_role(container);
            match self.in_sandbox(&container.name) {
                None if past && role == Role::Sidecar => due.push(index),
                None => {}
                Some(_) if past && role == Role::Init => {}
                Some(status) => {
                    let next = Some(index + 1).filter(|_| !past && self.has_initialized(role, container, status));
                    match next {
                        Some(next) if next == inits.len() => initialized = true,
                        Some(next) => due.push(next),
                        None => {}
                    }
                    let done = role == Role::Init && status.state == ContainerState::Exited && next.is_some();
                    if !done {
                        due.push(index);
                    }
                    past = true;
                }
            }
        }
        if !past {
            due.push(0);
        }
        due.sort_unstable();
        for container in due.into_iter().map(|index| &inits[index]) {
            self.start_if_due(super::init_role(container), container, plan);
        }
        initialized
    }

    /// Whether a begun init container lets the next begin: by its end, or as a sidecar by having started, hook included.
    fn has_initialized(&self, role: Role, container: &Container, status: &ContainerStatus) -> bool {
        match (role, status.state) {
            (Role::Sidecar, ContainerState::Running) => {
                let health = self.memory.health.get(&status.id);
                let started = health.map_or(container.startup_probe.is_none(), |health| health.started);
                started && !self.memory.under_way.contains(&format!("container {}", container.name))
            }
            (Role::Init, ContainerState::Exited) => status.exit.exit_code == 0,
            _ => false,
        }
    }

    fn run_main(&self, plan: &mut Plan) {
        for container in &self.spec.containers {
            let code = exit_code(self.pod, self.spec, self.seen, Role::Main, container);
            // Also one that ended in an earlier sandbox.
            if code.is_some_and(|code| !starts_again(self.spec, Role::Main, container, code)) {
                continue;
            }
            self.start_if_due(Role::Main, container, plan);
        }
    }

    /// Starts, restarts or kills one container, or says why it waits.
    fn start_if_due(&self, role: Role, container: &Container, plan: &mut Plan) {
        let attempt = next_attempt(self.pod, self.seen, role, &container.name);
        let start = Step::Start { name: container.name.clone(), attempt };
        let Some(status) = self.in_sandbox(&container.name) else {
            plan.steps.push(start);
            return;
        };
        match status.state {
            ContainerState::Running => {
                if let Some(probe) = self.memory.condemned.get(&status.id) {
                    let grace_seconds = grace_of_probe(container, self.pod, probe);
                    let message = unhealthy(self.spec, role, container, probe);
                    plan.steps.push(kill(status, grace_seconds, Why::Unhealthy(message)));
                } else if matches!(role, Role::Main | Role::Sidecar) {
                    self.resize(container, status, plan);
                }
            }
            // Made but never started: an agent ended between the two. It is removed, and made again as the same try.
            ContainerState::Created => {
                plan.steps.push(Step::Start { name: container.name.clone(), attempt: status.metadata.attempt })
            }
            ContainerState::Exited | ContainerState::Unknown => {
                if !starts_again(self.spec, role, container, self.seen.code(status)) {
                    return;
                }
                match must_wait(self.pod, self.memory, container, status, self.now.wall) {
                    Some((left, waiting)) => {
                        sooner(plan, left);
                        plan.waiting.push((container.name.clone(), waiting));
                    }
                    None => plan.steps.push(start),
                }
            }
        }
    }
}

impl View<'_> {
    /// Gives a running container what it was granted; one container after the other, since the last one to get there settles
    /// the pod's own limits.
    fn resize(&self, container: &Container, status: &ContainerStatus, plan: &mut Plan) {
        let another_goes_first = plan.steps.iter().any(|step| matches!(step, Step::Resize { .. }));
        match resize::change(container, status, &self.seen.known) {
            None => {}
            Some(Change::Update) if another_goes_first => {}
            Some(Change::Restart) => {
                let seconds = self.spec.termination_grace_period_seconds;
                let grace_seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30);
                plan.steps.push(kill(status, grace_seconds, Why::Resized));
            }
            Some(Change::Update) => {
                plan.steps.push(Step::Resize { id: status.id.clone(), name: container.name.clone() });
            }
        }
    }
}

/// What the event of a container says that a probe condemned.
fn unhealthy(spec: &PodSpec, role: Role, container: &Container, probe: &str) -> String {
    let name = &container.name;
    match role {
        Role::Sidecar => format!("Init container {name} failed {probe} probe"),
        _ if starts_again(spec, role, container, LOST_CODE) => {
            format!("Container {name} failed {probe} probe, will be restarted")
        }
        _ => format!("Container {name} failed {probe} probe"),
    }
}

/// How long to wait until a container is started again, and what is told of it meanwhile.
fn must_wait(
    pod: &Pod,
    memory: &Memory,
    container: &Container,
    status: &ContainerStatus,
    now: Timestamp,
) -> Option<(Duration, Waiting)> {
    let tries = memory.restarts.get(&container.name)?;
    let ended = Timestamp::from_nanosecond(status.times.finished_at.into()).unwrap_or(now);
    let left = tries.left(ended, now)?;
    let delay = go_duration(tries.delay());
    let message = format!("back-off {delay} restarting failed container={} pod={}", container.name, full_name(pod));
    Some((left, Waiting { reason: "CrashLoopBackOff".into(), message }))
}

/// The grace period of the probe that condemned a container, else the pod's. Upstream: `setTerminationGracePeriod`.
fn grace_of_probe(container: &Container, pod: &Pod, probe: &str) -> u64 {
    let probe = if probe == "startup" { &container.startup_probe } else { &container.liveness_probe };
    let of_probe = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
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
