//! One task a pod: it takes in what happened, plans, starts steps, and tells the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Object, PatchKind, Target};
use cri::ContainerState;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus, Probe};
use reconcile::Severity;
use stdx::{Cancel, mono, wall};
use tokio::sync::{mpsc, watch};

use super::memory::{Health, Memory, Tries, Verdict, Waiting};
use super::plan::{Moment, Plan, Stage, Step, Why, deadline, ended, plan};
use super::seen::Seen;
use super::status::{Facts, status, with_others_conditions};
use super::steps::{self, Effect, Subject, Went, field_of};
use super::{containers, find_container, name, namespace, spec, uid, unhonoured};
use crate::agent::Context;
use crate::checkpoint::Checkpoint;
use crate::probe::{Asked, Found, Purpose, Tally, ask};
use crate::resize::{self, Given};
use crate::static_pods::is_static;

/// Messages to a worker that wait; senders wait when there are more.
const QUEUE: usize = 64;
/// A runtime that does not answer is asked again after this.
const RUNTIME_RETRY: Duration = Duration::from_secs(1);

/// What a worker is told.
#[derive(Clone, Debug)]
pub enum Message {
    /// The pod as the API has it now.
    Pod(Arc<Object>),
    /// The API has it no more.
    Gone,
    /// Something of it changed in the runtime.
    Runtime,
    /// The node ends the pod, for this reason.
    Verdict(Verdict),
    /// The node gives it these resources; and why it does not give what is asked for, if it does not.
    Given(Given, Option<Waiting>),
    /// The uid by which the API knows a static pod's mirror.
    Mirror(String),
    /// Something that it refers to changed in the API.
    Referred,
    /// A step ended.
    Step(Step, Went),
    /// A probe came to a verdict, or failed once.
    Probe { container_id: String, purpose: Purpose, verdict: Option<bool>, failure: Option<String> },
}

/// A running worker.
#[derive(Clone)]
pub struct Handle {
    queue: mpsc::Sender<Message>,
}

impl Handle {
    /// Starts a worker for a pod, with what an earlier agent left about it, or why the node refuses it.
    pub fn start(context: Arc<Context>, pod: Pod, accepted: Option<Checkpoint>, refusal: Option<Waiting>) -> Handle {
        let (queue, messages) = mpsc::channel(QUEUE);
        let identity = (!is_static(&pod)).then(|| uid(&pod).to_owned());
        let (desired, wanted) = watch::channel(Desired { identity, ..Desired::default() });
        let cancel = context.tasks.cancel().clone();
        let writer = Writer { context: context.clone(), pod: Arc::new(pod.clone()) };
        // What an earlier agent left says what it wanted to tell. Whether it got as far as telling it, nobody knows.
        let told = if accepted.is_some() { None } else { pod.status.clone() };
        context.tasks.spawn("pod status", writer.run(wanted, told));
        let worker = Worker {
            adopted: pod.status.clone(),
            given: resize::asked(&pod),
            heard: accepted.is_none() || is_static(&pod),
            pod: Arc::new(pod),
            gone: false,
            refusal,
            seen: Arc::default(),
            memory: accepted.map_or_else(Memory::default, |accepted| Memory {
                prepared: accepted.prepared,
                environments: accepted.variables(),
                resizing: resize::is_told(&accepted.pod),
                known: accepted.known,
                ..Memory::default()
            }),
            running: Running::default(),
            queue: queue.clone(),
            desired,
            saved: None,
            context: context.clone(),
            cancel,
        };
        context.tasks.spawn("pod", worker.run(messages));
        Handle { queue }
    }

    /// Whether the worker has ended.
    pub fn is_over(&self) -> bool {
        self.queue.is_closed()
    }

    /// Tells the worker; false when it has ended.
    pub async fn tell(&self, message: Message) -> bool {
        self.queue.send(message).await.is_ok()
    }
}

struct Worker {
    context: Arc<Context>,
    /// With the status as last told, which is newer than the API's, and with the resources that it was given.
    pod: Arc<Pod>,
    given: Given,
    /// The status when this worker began: what was ready before the agent restarted still is.
    adopted: Option<PodStatus>,
    /// Whether the API's version of the pod has come in. Before that nothing is told: it might undo what others wrote there
    /// while no agent ran.
    heard: bool,
    gone: bool,
    /// Why it was not admitted.
    refusal: Option<Waiting>,
    seen: Arc<Seen>,
    memory: Memory,
    running: Running,
    queue: mpsc::Sender<Message>,
    desired: watch::Sender<Desired>,
    /// The checkpoint as it was written last.
    saved: Option<Checkpoint>,
    cancel: Cancel,
}

/// What a worker has under way; dropping ends it.
#[derive(Default)]
struct Running {
    /// Probers by container id and purpose.
    probes: BTreeMap<(String, Purpose), Stop>,
    /// Starts of containers, by name. A pod that is to end waits for no image.
    starts: BTreeMap<String, Stop>,
    /// Ends of containers, by name. A shorter grace period begins them anew.
    kills: BTreeMap<String, Stop>,
    /// The grace period that the former go by.
    grace_seconds: Option<u64>,
}

/// Ends a task when dropped.
struct Stop(Cancel);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Worker {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut again = Some(Duration::ZERO);
        loop {
            let message = tokio::select! {
                biased;
                message = messages.recv() => message,
                () = after(again) => Some(Message::Runtime),
            };
            let Some(message) = message else { return };
            self.apply(message);
            while let Ok(message) = messages.try_recv() {
                self.apply(message);
            }
            match Seen::ask(&*self.context.runtime, uid(&self.pod)).await {
                Ok(seen) => self.see(seen),
                Err(error) => {
                    tracing::warn!(pod = name(&self.pod), %error, "runtime does not answer");
                    again = Some(RUNTIME_RETRY);
                    continue;
                }
            }
            self.mind_the_end();
            self.mind_the_resize();
            let plan = self.plan();
            again = plan.again_within;
            self.tell_status(&plan);
            self.save();
            if plan.finished && self.stage() != Stage::Wanted {
                return;
            }
            for step in plan.steps {
                self.start(step);
            }
        }
    }

    fn stage(&self) -> Stage {
        let meta = &self.pod.metadata;
        if meta.deletion_timestamp.is_none() && !self.gone {
            return Stage::Wanted;
        }
        let asked = meta.deletion_grace_period_seconds.or(spec(&self.pod).termination_grace_period_seconds);
        Stage::Ending { grace_seconds: asked.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(30) }
    }

    /// Notes when the pod began to end, gives up what a pod that ends has no use for, and ends that take too long by now.
    fn mind_the_end(&mut self) {
        if self.memory.verdict.is_none()
            && self.stage() == Stage::Wanted
            && let Some(Err(verdict)) = deadline(&self.pod, wall())
            && !ended(&self.pod, &spec(&self.pod), &self.seen)
        {
            self.context.tell(&self.pod, "", Severity::Normal, "DeadlineExceeded", verdict.message.clone());
            self.memory.verdict = Some(verdict);
        }
        let grace_seconds = match self.stage() {
            Stage::Ending { grace_seconds } => Some(grace_seconds),
            Stage::Wanted => None,
        };
        if grace_seconds.is_some() || self.memory.verdict.is_some() {
            self.running.starts.clear();
        }
        let over = || self.memory.verdict.is_some() || ended(&self.pod, &spec(&self.pod), &self.seen);
        if self.running.grace_seconds != grace_seconds {
            if grace_seconds < self.running.grace_seconds || self.running.grace_seconds.is_none() {
                self.running.kills.clear();
                self.memory.ending_since = Some(mono());
            }
            self.running.grace_seconds = grace_seconds;
        } else if self.memory.ending_since.is_none() && over() {
            self.memory.ending_since = Some(mono());
        }
    }

    fn apply(&mut self, message: Message) {
        match message {
            Message::Runtime => {}
            Message::Gone => {
                self.gone = true;
                self.heard = true;
            }
            Message::Mirror(uid) => {
                self.desired.send_if_modified(|desired| {
                    let fresh = desired.identity.as_ref() != Some(&uid);
                    desired.identity = Some(uid);
                    fresh
                });
            }
            Message::Given(given, pending) => {
                self.memory.resizing |= given != self.given;
                self.memory.resize_pending = pending;
                self.memory.resize_failed = None;
                self.memory.retry_at.retain(|subject, _| !subject.starts_with("resize "));
                self.pod = Arc::new(resize::with((*self.pod).clone(), &given));
                self.given = given;
            }
            Message::Verdict(verdict) => drop(self.memory.verdict.get_or_insert(verdict)),
            Message::Referred => self.refresh(),
            Message::Pod(object) => match object.typed::<Pod>() {
                Ok(mut pod) => {
                    // What this worker told last is newer than what comes back, and so is what an earlier agent left.
                    let told = if self.heard { self.desired.borrow().status.clone() } else { self.pod.status.clone() };
                    if let Some(told) = told {
                        let present = pod.status.take();
                        if readiness(&told) != present.as_ref().and_then(readiness) {
                            self.desired.send_modify(|desired| desired.contradicted = object.revision());
                        }
                        pod.status = Some(with_others_conditions(&told, present.as_ref()));
                    }
                    self.heard = true;
                    let pod = resize::with(pod, &self.given);
                    let told = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                    let told_otherwise = told(&self.pod) != told(&pod);
                    self.pod = Arc::new(pod);
                    if told_otherwise {
                        // Files may tell of them.
                        self.refresh();
                    }
                }
                Err(error) => tracing::error!(object = ?object, %error, "pod does not have its kind's shape"),
            },
            Message::Step(step, went) => self.ended(&step, went),
            Message::Probe { container_id, purpose, verdict, failure } => {
                self.probed(&container_id, purpose, verdict, failure);
            }
        }
    }

    /// What volumes show is compared with what they are of, and what waited for it is tried at once.
    fn refresh(&mut self) {
        let memory = &mut self.memory;
        memory.volumes_outdated = memory.under_way.contains(&Step::PrepareVolumes.subject());
        if memory.volumes_ready {
            memory.refresh_at = Some(mono());
        }
        let waits =
            |name: &str| memory.waiting.get(name).is_some_and(|waiting| waiting.reason == "CreateContainerConfigError");
        let volumes_ready = memory.volumes_ready;
        memory.retry_at.retain(|subject, _| match subject.strip_prefix("container ") {
            Some(name) => !waits(name),
            None => volumes_ready || subject != "pod",
        });
    }

    fn ended(&mut self, step: &Step, went: Went) {
        self.memory.under_way.remove(&step.subject());
        let subject = step.retried();
        self.memory.retry_at.remove(&subject);
        match step {
            Step::Start { name, .. } => drop(self.running.starts.remove(name)),
            Step::Kill { name, .. } => drop(self.running.kills.remove(name)),
            _ => {}
        }
        match went {
            Went::Cancelled => {}
            Went::Well(effect) => self.remember(effect),
            Went::Waits(waiting, left) => {
                match step {
                    Step::Start { name, .. } => drop(self.memory.waiting.insert(name.clone(), waiting)),
                    Step::Resize { .. } => self.resize_failed(waiting.message),
                    _ => {}
                }
                self.memory.retry_at.insert(subject, mono() + left);
            }
            Went::Failed(left) => drop(self.memory.retry_at.insert(subject, mono() + left)),
        }
    }

    fn resize_failed(&mut self, message: String) {
        if self.memory.resize_failed.as_ref() != Some(&message) {
            let text = format!("Pod resize error: {}", resize::details(&self.pod, Some(&message)));
            self.context.tell(&self.pod, "", Severity::Warning, "ResizeError", text);
        }
        self.memory.resize_failed = Some(message);
    }

    /// Says when everything of the pod has got to what it was given.
    fn mind_the_resize(&mut self) {
        if !self.memory.resizing || resize::is_under_way(&spec(&self.pod), &self.seen, "") {
            return;
        }
        (self.memory.resizing, self.memory.resize_failed) = (false, None);
        let text = format!("Pod resize completed: {}", resize::details(&self.pod, None));
        self.context.tell(&self.pod, "", Severity::Normal, "ResizeCompleted", text);
    }

    fn remember(&mut self, effect: Effect) {
        let memory = &mut self.memory;
        match effect {
            Effect::Nothing => {}
            Effect::Volumes(refresh) => {
                (memory.volumes_ready, memory.prepared) = (true, true);
                let outdated = std::mem::take(&mut memory.volumes_outdated);
                memory.refresh_at = if outdated { Some(mono()) } else { refresh.map(|refresh| mono() + refresh) };
            }
            Effect::Started { name, again, environment, memory_request } => {
                memory.waiting.remove(&name);
                memory.known.memory_requests.insert(name.clone(), memory_request);
                memory.environments.insert(name.clone(), environment);
                let tries = memory.restarts.get(&name).copied();
                if again {
                    memory.restarts.insert(name, Tries::again(tries, wall()));
                }
            }
            Effect::Hooked { id } => drop(memory.hooks_run.insert(id)),
            Effect::AllRestart { cause } => {
                let tries = Tries::again(memory.restarts.get(&cause).copied(), wall());
                memory.restarts.insert(cause, tries);
            }
            Effect::Withdrawn => drop(memory.stopping.insert("rules".into())),
            Effect::Emptied => drop(memory.stopping.insert("volumes".into())),
            Effect::Cleaned => drop(memory.stopping.insert("pod".into())),
            Effect::PullFailed { image, why } => {
                let now = wall();
                let tries = Tries::again(memory.pulls.get(&image).map(|(tries, _, _)| *tries), now);
                let spec = spec(&self.pod);
                for (_, container) in containers(&spec).filter(|(_, container)| needs_image(&spec, container, &image)) {
                    memory.waiting.insert(container.name.clone(), why.clone());
                }
                // The next look says that it backs off, a moment after saying why.
                memory.pulls.insert(image, (tries, now, why));
                for (_, container) in containers(&spec) {
                    memory
                        .retry_at
                        .entry(format!("container {}", container.name))
                        .or_insert(mono() + Duration::from_secs(1));
                }
            }
        }
    }

    /// Takes in the runtime's view: last words of what ended, probers for what runs.
    fn see(&mut self, mut seen: Seen) {
        for status in seen.containers.iter_mut().filter(|status| status.state == ContainerState::Exited) {
            let words = steps::last_words(&self.context, &self.pod, status);
            match status.exit.message.is_empty() {
                _ if words.is_empty() => {}
                true => status.exit.message = words,
                false => status.exit.message = format!("{}: {words}", status.exit.message),
            }
        }
        let known = &mut self.memory.known;
        known.again.retain(|id| seen.containers.iter().any(|status| status.id == *id));
        seen.known = known.clone();
        self.seen = Arc::new(seen);
        let running: Vec<(String, String)> =
            self.seen.running().map(|status| (status.id.clone(), status.metadata.name.clone())).collect();
        self.running.probes.retain(|(id, _), _| running.iter().any(|(running, _)| running == id));
        self.memory.health.retain(|id, _| running.iter().any(|(running, _)| running == id));
        self.memory.condemned.retain(|id, _| running.iter().any(|(running, _)| running == id));
        let spec = spec(&self.pod);
        for (id, name) in running {
            let Some((_, container)) = find_container(&spec, &name) else { continue };
            let has_hook = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
            // A container whose postStart hook runs has not started yet.
            if !(has_hook && self.running.starts.contains_key(&name)) {
                self.watch_over(&id, &container);
            }
        }
    }

    /// Starts the probers that a running container should have now.
    fn watch_over(&mut self, id: &str, container: &Container) {
        let before = self.adopted_health(id);
        let health = *self.memory.health.entry(id.to_owned()).or_insert(Health {
            started: container.startup_probe.is_none() || before.started,
            ready: container.readiness_probe.is_none() || before.ready,
        });
        let wanted = [
            (Purpose::Startup, container.startup_probe.as_ref().filter(|_| !health.started)),
            (Purpose::Readiness, container.readiness_probe.as_ref().filter(|_| health.started)),
            (Purpose::Liveness, container.liveness_probe.as_ref().filter(|_| health.started)),
        ];
        for (purpose, probe) in wanted {
            let key = (id.to_owned(), purpose);
            match probe {
                Some(probe) if self.stage() == Stage::Wanted || purpose == Purpose::Readiness => {
                    if !self.running.probes.contains_key(&key) {
                        let stop = self.start_prober(id, container, purpose, probe);
                        self.running.probes.insert(key, stop);
                    }
                }
                _ => drop(self.running.probes.remove(&key)),
            }
        }
    }

    /// What the status from before this agent says of this very container.
    fn adopted_health(&self, id: &str) -> Health {
        let lists = self.adopted.as_ref().map(|status| [&status.container_statuses, &status.init_container_statuses]);
        let mut statuses = lists.into_iter().flatten().flatten().flatten();
        let told = statuses
            .find(|status| status.container_id.as_deref().is_some_and(|told| told.ends_with(&format!("//{id}"))));
        told.map_or_else(Health::default, |told| Health { started: told.started == Some(true), ready: told.ready })
    }

    fn start_prober(&self, id: &str, container: &Container, purpose: Purpose, probe: &Probe) -> Stop {
        let cancel = Cancel::default();
        let started =
            self.seen.containers.iter().find(|status| status.id == id).map_or(0, |status| status.times.started_at);
        let prober = Prober {
            context: self.context.clone(),
            id: id.to_owned(),
            container: container.clone(),
            purpose,
            probe: probe.clone(),
            pod_ip: super::address(&self.pod, &self.seen, &self.context.host_ip),
            started_at: started,
            pod: self.pod.clone(),
            queue: self.queue.clone(),
        };
        let (whole, own) = (self.cancel.clone(), cancel.clone());
        drop(stdx::spawn(async move {
            // Ended either way, nobody asks for the outcome.
            whole.run(own.run(prober.run())).await;
        }));
        Stop(cancel)
    }

    fn probed(&mut self, id: &str, purpose: Purpose, verdict: Option<bool>, failure: Option<String>) {
        let Some(status) = self.seen.containers.iter().find(|status| status.id == id) else { return };
        let container = status.metadata.name.clone();
        if let Some(failure) = &failure {
            let message = format!("{} probe failed: {failure}", purpose.word());
            self.context.tell(&self.pod, &field_of(&self.pod, &container), Severity::Warning, "Unhealthy", message);
        }
        let Some(health) = self.memory.health.get_mut(id) else { return };
        match (purpose, verdict) {
            (Purpose::Readiness, Some(good)) => health.ready = good,
            (Purpose::Startup, Some(true)) => health.started = true,
            (Purpose::Startup | Purpose::Liveness, Some(false)) => {
                self.memory.condemned.insert(id.to_owned(), purpose.word().to_lowercase());
            }
            _ => {}
        }
    }

    fn plan(&mut self) -> Plan {
        let stage = self.stage();
        if self.refusal.is_some() && stage == Stage::Wanted {
            return Plan { finished: true, ..Plan::default() };
        }
        let refused = unhonoured::used(&self.pod);
        if !refused.is_empty() && stage == Stage::Wanted {
            return self.refuse(&refused);
        }
        let now = Moment { wall: wall(), mono: mono() };
        let mut plan = plan(&self.pod, stage, &self.seen, &self.memory, now);
        self.refuse_ephemeral(&mut plan);
        if stage == Stage::Wanted
            && let Some(Ok(left)) = deadline(&self.pod, now.wall)
        {
            plan.again_within = Some(plan.again_within.map_or(left, |other| other.min(left)));
        }
        plan
    }

    /// Keeps ephemeral containers waiting that use what is not honoured; the pod itself goes on.
    fn refuse_ephemeral(&self, plan: &mut Plan) {
        for (container, fields) in unhonoured::used_by_ephemeral(&self.pod) {
            plan.steps.retain(|step| !matches!(step, Step::Start { name, .. } if *name == container));
            let message = format!("not supported on this node: {}", fields.join(", "));
            plan.waiting.push((container, Waiting { reason: "UnsupportedField".into(), message }));
        }
    }

    /// Keeps the pod waiting, with the names of the fields in its status and an event.
    fn refuse(&self, fields: &[String]) -> Plan {
        let message = format!("not supported on this node: {}", fields.join(", "));
        self.context.tell(&self.pod, "", Severity::Warning, "UnsupportedField", message.clone());
        let spec = spec(&self.pod);
        let waiting = Waiting { reason: "UnsupportedField".into(), message };
        Plan {
            waiting: containers(&spec).map(|(_, container)| (container.name.clone(), waiting.clone())).collect(),
            ..Plan::default()
        }
    }

    fn start(&mut self, step: Step) {
        self.memory.under_way.insert(step.subject());
        if matches!(step, Step::CreateSandbox { .. }) {
            // A new sandbox starts everything anew.
            self.memory.waiting.clear();
        }
        if let Step::Kill { id, why: Why::Resized, .. } = &step {
            self.memory.known.again.insert(id.clone());
        }
        let subject = Subject { pod: self.pod.clone(), seen: self.seen.clone(), memory: Arc::new(self.memory.clone()) };
        let (context, queue, cancel) = (self.context.clone(), self.queue.clone(), self.cancel.clone());
        let given_up = Cancel::default();
        match &step {
            Step::Start { name, .. } => drop(self.running.starts.insert(name.clone(), Stop(given_up.clone()))),
            Step::Kill { name, .. } => drop(self.running.kills.insert(name.clone(), Stop(given_up.clone()))),
            _ => {}
        }
        drop(stdx::spawn(async move {
            let run = given_up.run(steps::run(&context, &subject, &step));
            // A cancelled step is done again by the next agent: each is idempotent.
            if let Some(went) = cancel.run(run).await {
                let went = went.unwrap_or(Went::Cancelled);
                // A worker that ended wants no answers.
                drop(queue.send(Message::Step(step, went)).await);
            }
        }));
    }

    fn tell_status(&mut self, plan: &Plan) {
        let facts = Facts {
            host_ip: self.context.host_ip.clone(),
            runtime_name: self.context.runtime_name.clone(),
            refusal: self.refusal.clone(),
            over: plan.finished && self.stage() != Stage::Wanted,
        };
        let new = status(&self.pod, self.stage(), &self.seen, &self.memory, &plan.waiting, &facts, wall());
        for (container, waiting) in plan.waiting.iter().filter(|(_, waiting)| waiting.reason == "CrashLoopBackOff") {
            let told = self.pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            let said = told.into_iter().flatten().any(|status| {
                status.name == *container
                    && status
                        .state
                        .as_ref()
                        .and_then(|state| state.waiting.as_ref())
                        .is_some_and(|told| told.message.as_ref() == Some(&waiting.message))
            });
            if !said {
                let message =
                    format!("Back-off restarting failed container {container} in pod {}", super::full_name(&self.pod));
                self.context.tell(&self.pod, &field_of(&self.pod, container), Severity::Warning, "BackOff", message);
            }
        }
        let gone = plan.finished && self.stage() != Stage::Wanted;
        let mut pod = (*self.pod).clone();
        pod.status = Some(new.clone());
        self.pod = Arc::new(pod);
        if !self.heard {
            return;
        }
        let known = self.gone;
        self.desired.send_if_modified(|desired| {
            let changed = desired.status.as_ref() != Some(&new) || desired.delete != gone || desired.gone != known;
            let (identity, contradicted) = (desired.identity.take(), desired.contradicted);
            *desired = Desired { status: Some(new), delete: gone, gone: known, identity, contradicted };
            changed
        });
    }
}

impl Worker {
    /// Keeps what the next agent needs to go on without an API. A pod that ends needs none.
    fn save(&mut self) {
        if self.stage() != Stage::Wanted || self.refusal.is_some() {
            return;
        }
        let checkpoint = Checkpoint::new((*self.pod).clone(), &self.memory);
        if self.saved.as_ref() == Some(&checkpoint) {
            return;
        }
        match checkpoint.write(&self.context.roots.memory) {
            Ok(()) => self.saved = Some(checkpoint),
            Err(error) => tracing::warn!(pod = name(&self.pod), %error, "checkpoint not written"),
        }
    }
}

/// Whether a container runs an image, or has it as a volume.
fn needs_image(spec: &PodSpec, container: &Container, image: &str) -> bool {
    let volume = |name: &str| spec.volumes.iter().flatten().find(|volume| volume.name == name);
    let is_volume = |name: &str| {
        volume(name)
            .and_then(|volume| volume.image.as_ref())
            .is_some_and(|source| source.reference.as_deref() == Some(image))
    };
    container.image.as_deref() == Some(image)
        || container.volume_mounts.iter().flatten().any(|mount| is_volume(&mount.name))
}

async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => stdx::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// What the API should say of the pod.
#[derive(Clone, Debug, Default)]
struct Desired {
    status: Option<PodStatus>,
    /// Nothing is left of it: it may go.
    delete: bool,
    /// The API has it no more.
    gone: bool,
    /// The uid by which the API knows it; of a static pod its mirror's, once there is one.
    identity: Option<String>,
    /// The revision at which the API last said something else of the readiness: of a node that is cut off, the control plane
    /// says that its pods are not ready, and only the node takes that back.
    contradicted: u64,
}

/// What became of the pod by a write.
enum Wrote {
    Gone,
    /// The revision of the status, if it had to be written.
    At(Option<u64>),
}

/// Whether the pod is ready, as the status says.
fn readiness(status: &PodStatus) -> Option<&str> {
    let ready = status.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")?;
    Some(&ready.status)
}

/// Brings the API up to what is desired, the newest first, one request at a time.
struct Writer {
    context: Arc<Context>,
    pod: Arc<Pod>,
}

impl Writer {
    /// `told` is what the API says already.
    async fn run(self, mut wanted: watch::Receiver<Desired>, mut told: Option<PodStatus>) {
        let mut known: Option<String> = None;
        let mut written = 0;
        let mut backoff = stdx::Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let desired = wanted.borrow_and_update().clone();
            if desired.gone {
                if desired.delete {
                    return;
                }
            } else if let (Some(status), Some(identity)) = (desired.status.clone(), desired.identity) {
                // Another mirror has been told nothing yet.
                if known.as_ref().is_some_and(|known| *known != identity) {
                    told = None;
                }
                known = Some(identity.clone());
                // What is older than the last write is only what it replaced.
                let told_now = told.as_ref().filter(|_| desired.contradicted <= written);
                let result = self.write(&identity, told_now, &status, desired.delete).await;
                match result {
                    Ok(Wrote::Gone) if is_static(&self.pod) => told = None,
                    Ok(Wrote::Gone) => return,
                    Ok(Wrote::At(revision)) => {
                        written = revision.unwrap_or(written).max(desired.contradicted);
                        told = Some(status);
                        backoff.succeed();
                    }
                    Err(error) => {
                        tracing::warn!(pod = name(&self.pod), %error, "pod status not written");
                        // An older status must not come after a newer one, for then it would stay.
                        let under_way = if error.is_unknown() { reconcile::ON_THE_WAY } else { Duration::ZERO };
                        stdx::sleep(backoff.fail().max(under_way)).await;
                        continue;
                    }
                }
            }
            if wanted.changed().await.is_err() {
                return;
            }
        }
    }

    /// Writes the status if it differs, and lets the pod go when nothing is left of it.
    async fn write(
        &self,
        identity: &str,
        told: Option<&PodStatus>,
        status: &PodStatus,
        delete: bool,
    ) -> Result<Wrote, client::ClientError> {
        let mut revision = None;
        let target = Target::new("", "v1", "pods").namespace(namespace(&self.pod)).name(name(&self.pod));
        if told != Some(status) {
            let body = status_patch(identity, status);
            let target = target.clone().subresource("status");
            match self.context.client.patch(target, PatchKind::Merge, &body).await {
                Err(error) if error.is_not_found() => return Ok(Wrote::Gone),
                // Another pod has the name by now.
                Err(error) if error.is_conflict() || error.is_invalid() => {
                    tracing::info!(pod = name(&self.pod), %error, "status refused");
                }
                result => revision = Some(result?.revision()),
            }
        }
        if !delete {
            return Ok(Wrote::At(revision));
        }
        let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(identity) };
        match self.context.client.delete(target, options).await {
            Ok(_) => Ok(Wrote::Gone),
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Wrote::Gone),
            Err(error) => Err(error),
        }
    }
}

/// The whole status as a merge patch, pinned to this very pod.
fn status_patch(identity: &str, status: &PodStatus) -> api::value::Value {
    use api::value::{Map, Value, to_value};
    let mut tree = to_value(status).unwrap_or_default();
    if let Value::Object(fields) = &mut tree {
        for field in ["reason", "message", "podIP", "podIPs", "initContainerStatuses", "ephemeralContainerStatuses"] {
            if fields.get(field).is_none() {
                fields.insert(field, Value::Null);
            }
        }
    }
    let mut metadata = Map::default();
    metadata.insert("uid", identity);
    let mut body = Map::default();
    body.insert("metadata", Value::Object(metadata));
    body.insert("status", tree);
    Value::Object(body)
}

/// Asks one probe of one container again and again.
struct Prober {
    context: Arc<Context>,
    id: String,
    container: Container,
    purpose: Purpose,
    probe: Probe,
    pod_ip: Option<std::net::IpAddr>,
    started_at: i64,
    pod: Arc<Pod>,
    queue: mpsc::Sender<Message>,
}

impl Prober {
    async fn run(self) {
        let seconds = |seconds: Option<i32>, default: u64| {
            Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(default))
        };
        let running_for = wall().as_nanosecond() - i128::from(self.started_at);
        let running_for = Duration::from_nanos(u64::try_from(running_for).unwrap_or(0));
        stdx::sleep(seconds(self.probe.initial_delay_seconds, 0).saturating_sub(running_for)).await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let mut tally = Tally::new(self.purpose);
        let mut told = None;
        loop {
            let next = mono() + period;
            let asked = Asked {
                runtime: &*self.context.runtime,
                container_id: &self.id,
                container: &self.container,
                pod_ip: self.pod_ip,
            };
            let found = ask(&asked, &self.probe).await;
            self.context.probed.count(&self.pod, &self.container.name, self.purpose, found == Found::Good);
            let verdict = tally.count(found == Found::Good, &self.probe);
            let failure = match found {
                Found::Good => None,
                Found::Bad(why) => Some(why),
            };
            // A verdict that stays the same is no news.
            let verdict = verdict.filter(|verdict| told != Some(*verdict));
            told = verdict.or(told);
            if verdict.is_some() || failure.is_some() {
                let message = Message::Probe { container_id: self.id.clone(), purpose: self.purpose, verdict, failure };
                if self.queue.send(message).await.is_err() {
                    return;
                }
                // A condemned container is asked no more.
                if verdict == Some(false) && self.purpose != Purpose::Readiness {
                    return;
                }
            }
            stdx::sleep_until(next).await;
        }
    }
}
