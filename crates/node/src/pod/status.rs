//! The status of a pod, from its specification, the runtime's view and what is remembered. Pure.
//!
//! Upstream: `generateAPIPodStatus`, `getPhase` and `pkg/kubelet/status/generate.go`, words and order included.

use cri::{ContainerState as State, ContainerStatus as Status};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodSpec, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::memory::{Memory, Waiting};
use super::plan::policy::starts_again;
use super::plan::restart_all::{self, Restart};
use super::plan::{LOST_CODE, Stage, told};
use super::seen::Seen;
use super::{Role, containers, init_role, ordinary_form, spec};

mod conditions;

use conditions::conditions;
pub use conditions::with_others_conditions;

/// What the node adds.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub host_ip: String,
    /// Prefix of container ids, `isopod`.
    pub runtime_name: String,
    /// Why the pod was not admitted to this node: nothing of it ever ran.
    pub refusal: Option<Waiting>,
    /// The pod is being deleted, and nothing of it is left on the node.
    pub over: bool,
}

/// What is told of a container that ran and of which nothing is left. Upstream: `convertToAPIContainerStatuses`, where
/// the pod goes on, and `TerminatePod`, where it does not.
const LOST: &str = "The container could not be located when the pod was deleted.  The container used to be Running";
const LOST_AT_END: &str = "The container could not be located when the pod was terminated";

/// As much as all containers of a pod may say last, together. Upstream: `MaxPodTerminationMessageLogLength`.
const MESSAGES_BYTES_MAX: usize = 12 * 1024;

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
    let ip = super::address(pod, seen, &facts.host_ip).map(|ip| ip.to_string());
    new.pod_ip = ip.or(old.pod_ip.clone());
    new.pod_ips = new.pod_ip.as_ref().map(|ip| vec![PodIP { ip: ip.clone() }]);
    let view = View { pod, spec: &spec, stage, seen, memory, waiting, facts };
    let mut told = Told::new(&view);
    if facts.over {
        [&mut told.inits, &mut told.mains, &mut told.ephemeral].into_iter().for_each(|list| end(list));
    }
    told.limit_messages();
    let found = phase(&view, &told);
    tell_phase(&mut new, &old, &view, &told, found);
    let phase = new.phase.clone().unwrap_or_default();
    new.conditions = Some(conditions(&view, &phase, &told, now));
    new.init_container_statuses = (!told.inits.is_empty()).then_some(told.inits);
    new.container_statuses = Some(told.mains);
    new.ephemeral_container_statuses = (!told.ephemeral.is_empty()).then_some(told.ephemeral);
    new
}

/// What is told of a pod's containers.
struct Told {
    inits: Vec<ContainerStatus>,
    mains: Vec<ContainerStatus>,
    ephemeral: Vec<ContainerStatus>,
}

impl Told {
    fn new(view: &View<'_>) -> Told {
        let ephemeral = view.spec.ephemeral_containers.iter().flatten().map(ordinary_form);
        Told {
            inits: view
                .spec
                .init_containers
                .iter()
                .flatten()
                .map(|container| view.container(init_role(container), container))
                .collect(),
            mains: view.spec.containers.iter().map(|container| view.container(Role::Main, container)).collect(),
            ephemeral: ephemeral.map(|container| view.container(Role::Ephemeral, &container)).collect(),
        }
    }

    /// Everything but ephemeral containers, with its place in the specification.
    fn ordinary<'a>(
        &'a self,
        spec: &'a PodSpec,
    ) -> impl Iterator<Item = (Role, &'a Container, &'a ContainerStatus)> + 'a {
        containers(spec)
            .zip(self.inits.iter().chain(&self.mains))
            .map(|((role, container), status)| (role, container, status))
    }

    /// Cuts last words so that those of all containers together stay within a bound. Upstream: `normalizeStatus`.
    fn limit_messages(&mut self) {
        let all = || [self.inits.len(), self.mains.len(), self.ephemeral.len()].iter().sum::<usize>();
        let each = MESSAGES_BYTES_MAX / all().max(1);
        let lists = [&mut self.inits, &mut self.mains, &mut self.ephemeral];
        let states = lists.into_iter().flatten().flat_map(|status| [&mut status.state, &mut status.last_state]);
        for terminated in states.flatten().filter_map(|state| state.terminated.as_mut()) {
            if let Some(message) = terminated.message.as_mut().filter(|message| message.len() > each) {
                let end = (0..=each).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
                message.truncate(end);
            }
        }
    }

    fn any_runs(&self) -> bool {
        self.inits.iter().chain(&self.mains).any(runs)
    }
}

fn runs(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Phase, with reason and message. A pod is not told to have ended while something of it may still run. Upstream:
/// `generateAPIPodStatus` and `mergePodStatus`.
fn tell_phase(new: &mut PodStatus, old: &PodStatus, view: &View<'_>, told: &Told, found: &'static str) {
    let has_ended = |phase: Option<&str>| matches!(phase, Some("Succeeded" | "Failed"));
    let (mut phase, mut why) = (Some(found.to_owned()), None);
    if let Some(verdict) = &view.memory.verdict {
        phase = Some("Failed".into());
        why = Some((verdict.reason.clone(), verdict.message.clone()));
    }
    let held = has_ended(phase.as_deref()) && told.any_runs();
    // An ended pod does not come back to life.
    if has_ended(old.phase.as_deref()) || held {
        phase = old.phase.clone().or(Some("Pending".into()));
        why = None;
    }
    if phase == old.phase && why.is_none() {
        new.reason.clone_from(&old.reason);
        new.message.clone_from(&old.message);
    }
    if let Some((reason, message)) = why {
        (new.reason, new.message) = (Some(reason), Some(message));
    }
    new.phase = phase;
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
            volume_mounts: mounts(container),
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
            status.state = Some(self.not_run(container));
            return status;
        }
        status.restart_count = i32::try_from(newest.metadata.attempt).unwrap_or(i32::MAX);
        status.container_id = Some(self.id(newest));
        // Older runtimes do not remember how it was written.
        let spec = &newest.image.spec;
        let written = !spec.user_specified_image.is_empty();
        status.image = if written { &spec.user_specified_image } else { &spec.image }.clone();
        status.image_id = newest.image.image_ref.clone();
        let before = self.seen.before(newest).filter(|before| before.state == State::Exited);
        status.last_state = before
            .map(|before| self.terminated(before))
            .or_else(|| old.and_then(|old| old.last_state.clone()).filter(|_| status.restart_count > 0));
        let running = newest.state == State::Running;
        let health = self.memory.health.get(&newest.id).copied().unwrap_or_default();
        status.started = (role != Role::Ephemeral).then_some(running && health.started);
        status.ready = match role {
            Role::Main | Role::Sidecar => running && health.started && health.ready,
            Role::Init => newest.state == State::Exited && newest.exit.exit_code == 0,
            Role::Ephemeral => false,
        };
        status.state = Some(if running { self.running(newest) } else { self.terminated(newest) });
        // What the container really has: what it was given, but while it is on the way there, what was told before.
        let on_the_way = running && crate::resize::change(container, newest, &self.seen.known).is_some();
        let told = old.filter(|_| on_the_way).and_then(|old| old.resources.clone());
        // Also where that is nothing: by this the API server knows a node that can resize what runs on it.
        let given = || (role != Role::Ephemeral).then(|| container.resources.clone().unwrap_or_default());
        status.resources = told.or_else(given);
        status.allocated_resources = container.resources.as_ref().and_then(|resources| resources.requests.clone());
        status.user = newest.linux.user.as_ref().map(user);
        status.stop_signal = Some(newest.linux.stop_signal.clone()).filter(|signal| !signal.is_empty());
        // A container about to be started again waits; how it ended is its last state. One that is not may have ended after it
        // could not be made: its runtime was still about to start it for an agent that was killed.
        let again = !running && starts_again(self.spec, role, container, self.seen.code(newest));
        if let Some(reason) = self.reason_to_wait(&container.name).filter(|_| again) {
            status.last_state = status.state.take();
            status.state = Some(waits(reason));
        }
        status
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
        let ran = |old: &&ContainerStatus| old.container_id.is_some() && self.restart() == Restart::Cleared;
        if let Some(old) = old.filter(ran) {
            return self.begun_anew(container, old, status);
        }
        if let Some(old) = old.filter(|_| state.is_some_and(|state| state.terminated.is_some())) {
            return ContainerStatus { ready: old.ready && role == Role::Init, started: Some(false), ..old.clone() };
        }
        status.restart_count = old.map_or(0, |old| old.restart_count);
        status.last_state = old.and_then(|old| old.last_state.clone());
        status.started = Some(false);
        let ran = state.is_some_and(|state| state.running.is_some());
        let goes_on = self.stage == Stage::Wanted && self.memory.verdict.is_none();
        let again = goes_on && starts_again(self.spec, role, container, LOST_CODE);
        match (ran, again) {
            (true, true) => {
                status.restart_count += 1;
                status.last_state = Some(lost(LOST));
                status.state = Some(self.not_run(container));
            }
            (true, false) => status.state = Some(lost(LOST_AT_END)),
            (false, _) => status.state = Some(self.not_run(container)),
        }
        status
    }

    /// A container that ran and was removed to start anew: what ended it is its last state.
    fn begun_anew(&self, container: &Container, old: &ContainerStatus, mut status: ContainerStatus) -> ContainerStatus {
        let ended = old.state.as_ref().filter(|state| state.terminated.is_some());
        let ended = if runs(old) { Some(lost(LOST)) } else { ended.or(old.last_state.as_ref()).cloned() };
        status.restart_count = old.restart_count + 1;
        status.last_state = ended;
        status.started = Some(false);
        status.state = Some(self.not_run(container));
        status
    }

    /// How far the pod is with starting everything anew.
    fn restart(&self) -> Restart {
        let goes_on = self.stage == Stage::Wanted && self.memory.verdict.is_none();
        if goes_on { restart_all::progress(self.pod, self.spec, self.seen) } else { Restart::No }
    }

    fn reason_to_wait(&self, name: &str) -> Option<Waiting> {
        if self.stage != Stage::Wanted {
            return None;
        }
        let planned = self.waiting.iter().find(|(waiting, _)| waiting == name).map(|(_, waiting)| waiting.clone());
        planned.or_else(|| self.memory.waiting.get(name).cloned())
    }

    fn not_run(&self, container: &Container) -> ContainerState {
        if let Some(waiting) = self.reason_to_wait(&container.name) {
            return waits(waiting);
        }
        let no_inits = self.spec.init_containers.as_ref().is_none_or(Vec::is_empty);
        let reason = if no_inits { "ContainerCreating" } else { "PodInitializing" };
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

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| {
            let read_only = mount.read_only.filter(|read_only| *read_only);
            VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only,
                recursive_read_only: read_only.map(|_| {
                    let recursive = crate::volume::recursive_read_only(mount);
                    if recursive { "Enabled".into() } else { "Disabled".into() }
                }),
                ..VolumeMountStatus::default()
            }
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn user(user: &cri::ContainerUser) -> ContainerUser {
    let groups = (!user.supplemental_groups.is_empty()).then(|| user.supplemental_groups.clone());
    ContainerUser { linux: Some(LinuxContainerUser { uid: user.uid, gid: user.gid, supplemental_groups: groups }) }
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

/// How many containers are how far. Upstream: the counters of `getPhase`.
#[derive(Default)]
struct Count {
    pending_inits: usize,
    pending_sidecars: usize,
    failed_inits: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    stopped_for_good: usize,
    succeeded: usize,
}

impl Count {
    fn new(view: &View<'_>, told: &Told) -> Count {
        let mut count = Count::default();
        for (role, container, status) in told.ordinary(view.spec) {
            let runs = runs(status);
            let newest = view.seen.newest(&container.name).filter(|newest| newest.state == State::Exited);
            let for_good = |code: i32| {
                !starts_again(view.spec, role, container, newest.map_or(code, |newest| view.seen.code(newest)))
            };
            // What waits since all were ended has not begun yet, whatever it was before.
            let forgotten = restart_all::is_possible(view.spec) && view.seen.newest(&container.name).is_none();
            let is_waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
            match (role, exit(status).filter(|_| !(forgotten && is_waiting))) {
                (Role::Init, Some(code)) => count.failed_inits += usize::from(code != 0 && for_good(code)),
                (Role::Init, None) => count.pending_inits += 1,
                (Role::Sidecar, _) if runs => {
                    count.pending_sidecars += usize::from(status.started != Some(true));
                    count.running += 1;
                }
                // Sidecars that have ended do not count.
                (Role::Sidecar, Some(_)) | (Role::Ephemeral, _) => {}
                (Role::Sidecar, None) => {
                    count.pending_sidecars += 1;
                    count.waiting += 1;
                }
                (Role::Main, _) if runs => count.running += 1,
                (Role::Main, None) => count.waiting += 1,
                (Role::Main, Some(code)) => {
                    count.stopped += 1;
                    count.stopped_for_good += usize::from(for_good(code));
                    count.succeeded += usize::from(code == 0);
                }
            }
        }
        count
    }
}

/// The code a container ended with, also the last time if it waits since.
fn exit(status: &ContainerStatus) -> Option<i32> {
    let state = status.state.as_ref();
    let now = state.and_then(|state| state.terminated.as_ref());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or(last.filter(|_| state.is_some_and(|state| state.waiting.is_some()))).map(|terminated| terminated.exit_code)
}

/// Upstream: `getPhase`.
fn phase(view: &View<'_>, told: &Told) -> &'static str {
    let count = Count::new(view, told);
    let begun = told.mains.iter().any(|status| runs(status) || exit(status).is_some());
    let all_succeeded = count.stopped == count.succeeded;
    match () {
        () if view.restart() == Restart::UnderWay => {
            if begun {
                "Running"
            } else {
                "Pending"
            }
        }
        () if count.failed_inits > 0 => "Failed",
        // It ends whatever its policy says. Upstream: `podIsTerminal`.
        () if view.facts.over => match all_succeeded && count.stopped == told.mains.len() {
            true => "Succeeded",
            false => "Failed",
        },
        () if count.pending_inits > 0 || (count.pending_sidecars > 0 && !begun) || count.waiting > 0 => "Pending",
        () if count.running > 0 => "Running",
        () if count.stopped == 0 => "Pending",
        () if view.stage != Stage::Wanted || count.stopped == count.stopped_for_good => match all_succeeded {
            true => "Succeeded",
            false => "Failed",
        },
        () => "Running",
    }
}

#[cfg(test)]
mod tests;
