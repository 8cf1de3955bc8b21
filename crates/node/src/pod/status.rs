//! The status of a pod, from its specification, the runtime's view and what is remembered. Pure.
//!
//! Upstream: `generateAPIPodStatus`, `getPhase` and `pkg/kubelet/status/generate.go`, words and order included.

use cri::{ContainerState as State, ContainerStatus as Status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::{Memory, Waiting};
use super::plan::{LOST_CODE, Stage, told};
use super::seen::Seen;
use super::{Role, spec};

/// Conditions that the node tells, in upstream's order.
const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// What the node adds.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub host_ip: String,
    /// Prefix of container ids, `isopod`.
    pub runtime_name: String,
    /// Why the pod was refused or evicted, if it was.
    pub refusal: Option<Waiting>,
    /// The pod is being deleted, and nothing of it is left on the node.
    pub over: bool,
}

/// What is told of a container that ran and of which nothing is left. Upstream: `convertToAPIContainerStatuses`, where
/// the pod goes on, and `TerminatePod`, where it does not.
const LOST: &str = "The container could not be located when the pod was deleted.  The container used to be Running";
const LOST_AT_END: &str = "The container could not be located when the pod was terminated";

/// The status to tell.
pub fn status(
    pod: &Pod,
    stage: Stage,
    seen: &Seen,
    memory: &Memory,
    waiting: &[(String, Waiting)],
    facts: &Facts,
    now: Timestamp,
) -> PodStatus {
    let spec = spec(pod);
    let old = pod.status.clone().unwrap_or_default();
    let mut new = PodStatus {
        qos_class: old.qos_class.clone(),
        start_time: old.start_time.clone().or(Some(Time(now))),
        nominated_node_name: old.nominated_node_name.clone(),
        observed_generation: pod.metadata.generation,
        host_ip: Some(facts.host_ip.clone()),
        host_ips: Some(vec![HostIP { ip: facts.host_ip.clone() }]),
        ..PodStatus::default()
    };
    if let Some(refusal) = &facts.refusal {
        new.phase = Some("Failed".into());
        new.reason = Some(refusal.reason.clone());
        new.message = Some(refusal.message.clone());
        new.conditions = old.conditions;
        return new;
    }
    let ip = seen.sandboxes.first().and_then(|sandbox| sandbox.network.ip).map(|ip| ip.to_string());
    new.pod_ip = ip.or(old.pod_ip.clone());
    new.pod_ips = new.pod_ip.as_ref().map(|ip| vec![PodIP { ip: ip.clone() }]);
    let view = View { pod, spec: &spec, stage, seen, memory, waiting, facts };
    let mut inits: Vec<ContainerStatus> =
        spec.init_containers.iter().flatten().map(|container| view.container(Role::Init, container)).collect();
    let mut mains: Vec<ContainerStatus> =
        spec.containers.iter().map(|container| view.container(Role::Main, container)).collect();
    if facts.over {
        end(&mut inits);
        end(&mut mains);
    }
    let phase = match old.phase.as_deref() {
        // An ended pod does not come back to life.
        Some(phase @ ("Succeeded" | "Failed")) => phase,
        _ => phase(&spec, stage, &inits, &mains),
    };
    new.phase = Some(phase.into());
    new.conditions = Some(conditions(pod, &view, phase, &inits, &mains, now));
    new.init_container_statuses = (!inits.is_empty()).then_some(inits);
    new.container_statuses = Some(mains);
    new
}

struct View<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    stage: Stage,
    seen: &'a Seen,
    memory: &'a Memory,
    waiting: &'a [(String, Waiting)],
    facts: &'a Facts,
}

impl View<'_> {
    fn container(&self, role: Role, container: &Container) -> ContainerStatus {
        let newest = self.seen.newest(&container.name);
        // While the pod is cleaned up, its newest try may go before older ones.
        let newest = newest.filter(|newest| !self.removed_after(role, container, newest));
        let old = told(self.pod, role, &container.name);
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            ..ContainerStatus::default()
        };
        let Some(newest) = newest else { return self.forgotten(role, container, status) };
        if newest.state == State::Created {
            // Not started yet: it waits, and what ended before it is its last state.
            let before = self.seen.before(newest);
            status.restart_count =
                before.map_or(newest.metadata.attempt, |before| before.metadata.attempt).try_into().unwrap_or(i32::MAX);
            status.last_state =
                before.map(|before| self.terminated(before)).or_else(|| old.and_then(|old| old.last_state.clone()));
            status.started = Some(false);
            status.state = Some(self.not_run(role, container));
            return status;
        }
        status.restart_count = i32::try_from(newest.metadata.attempt).unwrap_or(i32::MAX);
        status.container_id = Some(self.id(newest));
        status.image = newest.image.spec.user_specified_image.clone();
        status.image_id = newest.image.image_ref.clone();
        let before = self.seen.before(newest).filter(|before| before.state == State::Exited);
        status.last_state = before
            .map(|before| self.terminated(before))
            .or_else(|| old.and_then(|old| old.last_state.clone()).filter(|_| status.restart_count > 0));
        let running = newest.state == State::Running;
        let health = self.memory.health.get(&newest.id).copied().unwrap_or_default();
        status.started = Some(running && health.started);
        status.ready = match role {
            Role::Main => running && health.started && health.ready,
            Role::Init => newest.state == State::Exited && newest.exit.exit_code == 0,
        };
        status.state = Some(if running { self.running(newest) } else { self.terminated(newest) });
        self.allocated(container, &mut status, running);
        // A container about to be started again waits; how it ended is its last state.
        if let Some(reason) = self.reason_to_wait(&container.name).filter(|_| !running) {
            status.last_state = status.state.take();
            status.state = Some(waits(reason));
        }
        status
    }

    /// Upstream reports what the container really has; here that is what was asked for, since nothing else is given.
    fn allocated(&self, container: &Container, status: &mut ContainerStatus, running: bool) {
        if !running {
            return;
        }
        status.resources = container.resources.clone();
        status.allocated_resources = container.resources.as_ref().and_then(|resources| resources.requests.clone());
        let mounts =
            container.volume_mounts.iter().flatten().map(|mount| k8s_openapi::api::core::v1::VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: mount.read_only.filter(|read_only| *read_only),
                recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".into()),
                ..Default::default()
            });
        let mounts: Vec<_> = mounts.collect();
        status.volume_mounts = (!mounts.is_empty()).then_some(mounts);
    }

    /// Whether a later try than this one was told of, and was removed since.
    fn removed_after(&self, role: Role, container: &Container, newest: &Status) -> bool {
        let told = told(self.pod, role, &container.name).map_or(0, |told| told.restart_count);
        self.stage != Stage::Wanted && i64::from(newest.metadata.attempt) < i64::from(told)
    }

    /// A container that the runtime does not know: it never ran, or what ran was removed or lost with its record.
    fn forgotten(&self, role: Role, container: &Container, mut status: ContainerStatus) -> ContainerStatus {
        let old = told(self.pod, role, &container.name);
        let state = old.and_then(|old| old.state.as_ref());
        if let Some(old) = old.filter(|_| state.is_some_and(|state| state.terminated.is_some())) {
            return ContainerStatus { ready: old.ready && role == Role::Init, started: Some(false), ..old.clone() };
        }
        status.restart_count = old.map_or(0, |old| old.restart_count);
        status.last_state = old.and_then(|old| old.last_state.clone());
        status.started = Some(false);
        let ran = state.is_some_and(|state| state.running.is_some());
        let again = self.stage == Stage::Wanted && self.spec.restart_policy.as_deref() != Some("Never");
        match (ran, again) {
            (true, true) => {
                status.restart_count += 1;
                status.last_state = Some(lost(LOST));
                status.state = Some(self.not_run(role, container));
            }
            (true, false) => status.state = Some(lost(LOST_AT_END)),
            (false, _) => status.state = Some(self.not_run(role, container)),
        }
        status
    }

    fn reason_to_wait(&self, name: &str) -> Option<Waiting> {
        if self.stage != Stage::Wanted {
            return None;
        }
        let planned = self.waiting.iter().find(|(waiting, _)| waiting == name).map(|(_, waiting)| waiting.clone());
        planned.or_else(|| self.memory.waiting.get(name).cloned())
    }

    fn not_run(&self, role: Role, container: &Container) -> ContainerState {
        if let Some(waiting) = self.reason_to_wait(&container.name) {
            return waits(waiting);
        }
        let initialized = self.spec.init_containers.as_ref().is_none_or(Vec::is_empty);
        let reason = if role == Role::Main && initialized { "ContainerCreating" } else { "PodInitializing" };
        waits(Waiting { reason: reason.into(), message: String::new() })
    }

    fn id(&self, status: &Status) -> String {
        format!("{}://{}", self.facts.runtime_name, status.id)
    }

    fn running(&self, status: &Status) -> ContainerState {
        let running = ContainerStateRunning { started_at: time(status.times.started_at) };
        ContainerState { running: Some(running), ..ContainerState::default() }
    }

    fn terminated(&self, status: &Status) -> ContainerState {
        let terminated = ContainerStateTerminated {
            container_id: Some(self.id(status)),
            exit_code: status.exit.exit_code,
            reason: Some(status.exit.reason.clone()).filter(|reason| !reason.is_empty()),
            message: Some(status.exit.message.clone()).filter(|message| !message.is_empty()),
            started_at: time(status.times.started_at),
            finished_at: time(status.times.finished_at),
            signal: None,
        };
        ContainerState { terminated: Some(terminated), ..ContainerState::default() }
    }
}

fn lost(message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code: LOST_CODE,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(message.into()),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

/// Makes everything of a pod that is over say how it ended: nobody knows that of what still waits.
fn end(statuses: &mut [ContainerStatus]) {
    for status in
        statuses.iter_mut().filter(|status| status.state.as_ref().is_none_or(|state| state.terminated.is_none()))
    {
        status.state = Some(lost(LOST_AT_END));
        status.ready = false;
        status.started = Some(false);
    }
}

fn waits(waiting: Waiting) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(waiting.reason),
        message: Some(waiting.message).filter(|message| !message.is_empty()),
    };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// Times in objects have whole seconds.
fn time(nanos: i64) -> Option<Time> {
    if nanos == 0 {
        return None;
    }
    Timestamp::from_second(nanos.div_euclid(1_000_000_000)).ok().map(Time)
}

/// Upstream: `getPhase`.
fn phase(spec: &PodSpec, stage: Stage, inits: &[ContainerStatus], mains: &[ContainerStatus]) -> &'static str {
    let exit = |status: &ContainerStatus| {
        let state = status.state.as_ref();
        let now = state.and_then(|state| state.terminated.as_ref());
        let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        now.or(last.filter(|_| state.is_some_and(|state| state.waiting.is_some())))
            .map(|terminated| terminated.exit_code)
    };
    let never = spec.restart_policy.as_deref() == Some("Never");
    let init_failed = never && inits.iter().any(|status| exit(status).is_some_and(|code| code != 0));
    if init_failed {
        return "Failed";
    }
    if !inits.iter().all(|status| status.ready) {
        return if stage == Stage::Wanted { "Pending" } else { ended_phase(spec, stage, mains, &exit) };
    }
    let running =
        mains.iter().filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some())).count();
    let waiting = mains.iter().filter(|status| exit(status).is_none()).count() - running;
    match (waiting, running) {
        (1.., _) => "Pending",
        (0, 1..) => "Running",
        _ => ended_phase(spec, stage, mains, &exit),
    }
}

fn ended_phase(
    spec: &PodSpec,
    stage: Stage,
    mains: &[ContainerStatus],
    exit: &impl Fn(&ContainerStatus) -> Option<i32>,
) -> &'static str {
    if mains.iter().any(|status| exit(status).is_none()) {
        return "Pending";
    }
    match spec.restart_policy.as_deref() {
        // It ends whatever its policy says. Upstream: `podIsTerminal`.
        _ if stage != Stage::Wanted => {
            if mains.iter().all(|status| exit(status) == Some(0)) {
                "Succeeded"
            } else {
                "Failed"
            }
        }
        Some("Never") | Some("OnFailure") if mains.iter().all(|status| exit(status) == Some(0)) => "Succeeded",
        Some("Never") => "Failed",
        _ => "Running",
    }
}

fn conditions(
    pod: &Pod,
    view: &View<'_>,
    phase: &str,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let ended = matches!(phase, "Succeeded" | "Failed");
    let names = |statuses: &[ContainerStatus]| {
        let names: Vec<&str> =
            statuses.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
        format!("[{}]", names.join(" "))
    };
    let initialized = match () {
        () if phase == "Succeeded" => ("True", "PodCompleted", String::new()),
        () if inits.iter().all(|status| status.ready) => ("True", "", String::new()),
        () => ("False", "ContainersNotInitialized", format!("containers with incomplete status: {}", names(inits))),
    };
    let ready = match () {
        () if phase == "Succeeded" => ("False", "PodCompleted", String::new()),
        () if phase == "Failed" => ("False", "PodFailed", String::new()),
        () if mains.iter().all(|status| status.ready) => ("True", "", String::new()),
        () => ("False", "ContainersNotReady", format!("containers with unready status: {}", names(mains))),
    };
    let sandbox = view.seen.ready_sandbox().is_some() && !ended;
    let wanted = [
        ("PodReadyToStartContainers", if sandbox { "True" } else { "False" }, "", String::new()),
        ("Initialized", initialized.0, initialized.1, initialized.2),
        ("Ready", ready.0, ready.1, ready.2.clone()),
        ("ContainersReady", ready.0, ready.1, ready.2),
        ("PodScheduled", "True", "", String::new()),
    ];
    let old = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut conditions: Vec<PodCondition> = wanted
        .into_iter()
        .map(|(type_, status, reason, message)| {
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
        })
        .collect();
    // Conditions of others stay as they are.
    conditions.extend(old.iter().filter(|condition| is_others(condition)).cloned());
    conditions
}

/// Whether a condition is not the node's to tell.
fn is_others(condition: &PodCondition) -> bool {
    !OWN_CONDITIONS.contains(&condition.type_.as_str())
}

/// The status that was told, with the conditions that others have told meanwhile.
pub fn with_others_conditions(told: &PodStatus, api: Option<&PodStatus>) -> PodStatus {
    let mut status = told.clone();
    let of_others = |status: Option<&PodStatus>| -> Vec<PodCondition> {
        let all = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        all.iter().filter(|condition| is_others(condition)).cloned().collect()
    };
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| !is_others(condition));
        conditions.extend(of_others(api));
    }
    status
}

#[cfg(test)]
mod tests;
