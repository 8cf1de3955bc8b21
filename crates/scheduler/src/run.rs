//! The loop: changes in, one decision after the other, bindings and conditions out.

mod effects;

use std::sync::Arc;
use std::time::Duration;

use api::decide::pod::{is_pod_schedulable, is_pod_terminating};
use api::projection::{BudgetLite, NodeLite, PodLite, ReplicationControllerLite, SelectingLite, ServiceLite};
use client::{Cache, Client, ClientError, ListOptions, Object, Snapshot, Target};
use reconcile::plan::Resource;
use reconcile::plan::kinds::{NAMESPACES, NODES, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, SERVICES};
use reconcile::{Caches, Note, Recorder, Reference, Severity};
use stdx::{TaskTree, mono};
use tokio::sync::mpsc;

use crate::board::Board;
use crate::plugin::Change;
use crate::plugins::PLUGINS;
use crate::preempt::{Candidate, Preemption};
use crate::queue::{Queue, UNSUPPORTED};
use crate::schedule::{Decision, Misfit};
use crate::siblings::{Managed, siblings};
use crate::subject::{Counted, Subject};
use crate::unhonoured;
use effects::Nominated;

/// The name that pods ask for this scheduler by.
pub const NAME: &str = "default-scheduler";
/// Bindings and preemptions under way at once; decisions wait when there are more.
const EFFECTS_MAX: usize = 64;
/// A message of an event is cut after so many bytes. Upstream: `validation.NoteLengthLimit`.
const NOTE_MAX: usize = 1024;
/// How long the question rests which kinds are served, when nobody answers it.
const UNANSWERED: Duration = Duration::from_secs(1);

const STATEFUL_SETS: Resource = Resource { group: "apps", version: "v1", plural: "statefulsets", kind: "StatefulSet" };
const CONTROLLERS: Resource =
    Resource { group: "", version: "v1", plural: "replicationcontrollers", kind: "ReplicationController" };

/// What a scheduler works with.
pub struct Options {
    pub client: Client,
    pub caches: Caches,
    pub tasks: TaskTree,
}

/// What is looked up when a pod is decided about. Kinds that this cluster does not serve are `None`.
struct Around {
    services: Cache,
    replica_sets: Cache,
    stateful_sets: Option<Cache>,
    controllers: Option<Cache>,
    budgets: Option<Cache>,
}

/// What the loop waits for.
enum Arrival {
    Nodes(Vec<client::Change>),
    Pods(Vec<client::Change>),
    Namespaces(Vec<client::Change>),
    Done(Effect),
    Due,
}

/// What became of a decision.
enum Effect {
    /// A pod, and the node it was bound to.
    Bound(Arc<Object>, Result<String, ClientError>),
    /// A pod for which others were pushed out, the plugins that refused it before, and whether all went well.
    Cleared(Arc<Object>, Vec<&'static str>, bool),
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    around: Around,
    board: Board,
    queue: Queue,
    /// How many effects are under way.
    busy: usize,
    done: mpsc::Sender<Effect>,
}

/// Runs until the task tree is cancelled.
pub async fn run(options: Options) {
    let around = Around::find(&options).await;
    let [nodes, pods, namespaces] = [NODES, PODS, NAMESPACES].map(|kind| options.caches.of(kind));
    let (mut node_changes, mut pod_changes) = (nodes.subscribe(), pods.subscribe());
    let mut namespace_changes = namespaces.subscribe();
    for cache in [&nodes, &pods, &namespaces] {
        cache.synced().await;
    }
    let (done, mut effects) = mpsc::channel(EFFECTS_MAX);
    let recorder = Recorder::start(options.client.clone(), NAME, "", &options.tasks);
    let mut scheduler = Scheduler {
        client: options.client,
        recorder,
        around,
        board: Board::new(PLUGINS),
        queue: Queue::default(),
        busy: 0,
        done,
    };
    loop {
        let due = scheduler.queue.next_due();
        let arrival = tokio::select! {
            // Nodes first: a pod that comes with its node is not tried in vain.
            biased;
            changes = namespace_changes.next() => Arrival::Namespaces(changes),
            changes = node_changes.next() => Arrival::Nodes(changes),
            changes = pod_changes.next() => Arrival::Pods(changes),
            Some(effect) = effects.recv() => Arrival::Done(effect),
            () = due_at(due) => Arrival::Due,
        };
        scheduler.apply(arrival);
        while scheduler.busy < EFFECTS_MAX {
            let Some(pod) = scheduler.queue.take(mono()) else { break };
            scheduler.place(&pod);
        }
    }
}

async fn due_at(due: Option<stdx::Mono>) {
    match due {
        Some(due) => stdx::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Around {
    async fn find(options: &Options) -> Around {
        let maybe = async |kind: Resource| match is_served(&options.client, kind).await {
            true => Some(options.caches.of(kind)),
            false => None,
        };
        Around {
            services: options.caches.of(SERVICES),
            replica_sets: options.caches.of(REPLICA_SETS),
            stateful_sets: maybe(STATEFUL_SETS).await,
            controllers: maybe(CONTROLLERS).await,
            budgets: maybe(POD_DISRUPTION_BUDGETS).await,
        }
    }

    /// The pod with the pods that it is spread among when it does not say.
    fn subject(&self, pod: &Arc<Object>) -> Subject {
        let mut subject = Subject::new(pod.clone());
        let lite: &PodLite = pod.project();
        if lite.spec.spread.is_empty() {
            let services = self.services.snapshot();
            let lites = services.by_namespace(pod.namespace()).map(|service| service.project::<ServiceLite>());
            subject.siblings = siblings(lite, lites, &self.managed(lite));
        }
        subject
    }

    fn managed(&self, pod: &PodLite) -> Managed {
        let Some(owner) = pod.meta.controller() else { return Managed::None };
        let found = |cache: &Cache| cache.snapshot().get(&pod.meta.namespace, &owner.name).cloned();
        let by_selector = |cache: &Cache| match found(cache) {
            None => Managed::None,
            Some(object) => Managed::Selector(object.project::<SelectingLite>().selector.clone()),
        };
        match (&*owner.kind, &*owner.api_version) {
            ("ReplicaSet", "apps/v1") => by_selector(&self.replica_sets),
            ("StatefulSet", "apps/v1") => self.stateful_sets.as_ref().map_or(Managed::None, by_selector),
            ("ReplicationController", "v1") => match self.controllers.as_ref().and_then(found) {
                None => Managed::None,
                Some(object) => Managed::Labels(object.project::<ReplicationControllerLite>().selector.clone()),
            },
            _ => Managed::None,
        }
    }

    fn budgets(&self) -> Option<Arc<Snapshot>> {
        self.budgets.as_ref().map(Cache::snapshot)
    }
}

/// Whether the cluster serves a kind; asked until there is an answer.
async fn is_served(client: &Client, kind: Resource) -> bool {
    loop {
        let target = Target::new(kind.group, kind.version, kind.plural);
        match client.list(target, ListOptions { limit: Some(1), ..ListOptions::default() }).await {
            Ok(_) => return true,
            Err(error) if error.is_not_found() => return false,
            Err(error) if error.is_forbidden() => {
                tracing::warn!(kind = kind.kind, %error, "the kind is left out of decisions");
                return false;
            }
            Err(error) => tracing::debug!(kind = kind.kind, %error, "not known whether the kind is served"),
        }
        stdx::sleep(UNANSWERED).await;
    }
}

impl Scheduler {
    fn apply(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Due => {}
            Arrival::Nodes(changes) => changes.into_iter().for_each(|change| self.node_changed(change)),
            Arrival::Pods(changes) => changes.into_iter().for_each(|change| self.pod_changed(change)),
            Arrival::Namespaces(changes) => changes.into_iter().for_each(|change| self.namespace_changed(&change)),
            Arrival::Done(effect) => {
                self.busy -= 1;
                match effect {
                    Effect::Bound(pod, outcome) => self.bound(&pod, outcome),
                    Effect::Cleared(pod, plugins, well) => {
                        self.queue.failed(pod.uid(), plugins, mono());
                        if !well {
                            self.queue.wake(pod.uid(), mono());
                        }
                    }
                }
            }
        }
    }

    fn hint(&mut self, change: Change<'_>) {
        self.queue.hint(&change, &self.board.nodes, mono());
    }

    fn node_changed(&mut self, change: client::Change) {
        let old = change.old.as_ref().map(|old| old.project::<NodeLite>());
        match (&change.new, old) {
            (Some(new), old) => {
                if self.board.nodes.set_node(new.clone()) {
                    self.hint(Change::Node { old, new: new.project() });
                }
            }
            (None, Some(old)) => {
                self.board.nodes.remove_node(&old.meta.name);
                self.hint(Change::NodeGone(old));
            }
            (None, None) => {}
        }
    }

    fn namespace_changed(&mut self, change: &client::Change) {
        match &change.new {
            Some(namespace) => {
                if self.board.nodes.set_namespace(namespace.meta()) {
                    self.hint(Change::Namespace);
                }
            }
            None => self.board.nodes.remove_namespace(change.key.name()),
        }
    }

    fn pod_changed(&mut self, change: client::Change) {
        let replaced = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.uid() != new.uid(),
            (Some(_), None) => true,
            _ => false,
        };
        let old = match change.old {
            Some(old) if replaced => {
                self.forget(&old);
                None
            }
            old => old,
        };
        let Some(pod) = change.new else { return };
        self.count(old.as_ref(), &pod);
        let lite: &PodLite = pod.project();
        if !is_pod_schedulable(lite) {
            return self.queue.remove(pod.uid());
        }
        // Room is made for a pod of any scheduler.
        self.follow_nomination(old.as_ref(), &pod);
        if &*lite.spec.scheduler_name == NAME && !self.board.nodes.has_pod(pod.uid()) {
            self.queue.set(pod, mono());
        }
    }

    /// Counts the pod where it is, and tells pods without hope.
    fn count(&mut self, old: Option<&Arc<Object>>, pod: &Arc<Object>) {
        let nodes = &mut self.board.nodes;
        let counted = nodes.has_pod(pod.uid());
        nodes.set_pod(pod);
        let new: &PodLite = pod.project();
        let old: Option<&PodLite> = old.map(|old| old.project());
        match (counted, self.board.nodes.has_pod(pod.uid())) {
            (true, false) => self.hint(Change::PodGone(old.unwrap_or(new))),
            (false, true) => self.hint(Change::PodPlaced { old: None, new }),
            (true, true) if old.is_some_and(|old| differs(old, new)) => self.hint(Change::PodPlaced { old, new }),
            _ => {}
        }
    }

    fn follow_nomination(&mut self, old: Option<&Arc<Object>>, pod: &Arc<Object>) {
        let nominated = |pod: &Arc<Object>| pod.project::<PodLite>().status.nominated_node.clone();
        let (was, is) = (old.map(nominated).unwrap_or_default(), nominated(pod));
        let nodes = &mut self.board.nodes;
        if !is.is_empty() && nodes.nomination(pod.uid()).is_none() && !nodes.has_pod(pod.uid()) {
            nodes.nominate(&Arc::new(Counted::new(pod.clone())), &is);
        } else if is.is_empty() && !was.is_empty() {
            nodes.withdraw(pod.uid());
        }
    }

    fn forget(&mut self, pod: &Object) {
        self.queue.remove(pod.uid());
        self.board.nodes.withdraw(pod.uid());
        if self.board.nodes.has_pod(pod.uid()) {
            self.board.nodes.remove_pod(pod.uid());
            self.hint(Change::PodGone(pod.project()));
        }
    }

    /// Decides about one pod and starts what follows.
    fn place(&mut self, pod: &Arc<Object>) {
        let unhonoured = pod.tree().map(|tree| unhonoured::used(&tree)).unwrap_or_default();
        if !unhonoured.is_empty() {
            let message = format!("not supported by this scheduler: {}", unhonoured.join(", "));
            self.queue.failed(pod.uid(), vec![UNSUPPORTED], mono());
            return self.refuse(pod, "UnsupportedField", message, Nominated::AsItIs);
        }
        // It may be bound already, and the answer got lost: asking for the same node again does no harm.
        if let Some(node) = self.board.nodes.assumed_on(pod.uid()) {
            let node = node.into();
            return self.bind(pod, node);
        }
        let subject = self.around.subject(pod);
        match self.board.decide(&subject, stdx::random_u64()) {
            Decision::Node(node) => {
                self.board.nodes.assume(&subject.counted, &node);
                self.hint(Change::PodPlaced { old: None, new: subject.pod() });
                self.bind(pod, node);
            }
            Decision::Nowhere(misfit) => self.make_room(pod, &subject, &misfit),
        }
    }

    /// No node will do: less important pods may have to go.
    fn make_room(&mut self, pod: &Arc<Object>, subject: &Subject, misfit: &Misfit) {
        let budgets = self.around.budgets();
        let budgets: Vec<&BudgetLite> = budgets.iter().flat_map(|all| all.iter()).map(|one| one.project()).collect();
        let preemption = match misfit.total {
            0 => None,
            _ => Some(self.board.preempt(subject, misfit, &budgets, stdx::random_u64())),
        };
        let more = preemption.as_ref().and_then(Preemption::message);
        // Upstream's words come first, since clients look for them. Who pushes others out waits for nothing else.
        let makes_room = matches!(preemption, Some(Preemption::Victims(_)));
        let nearest = if makes_room { None } else { self.board.nearest(subject) };
        let plain = nearest.and_then(|node| node.words());
        let message = [Some(misfit.message()), more, plain].into_iter().flatten().collect::<Vec<_>>().join(" ");
        let nominated = match preemption {
            Some(Preemption::Victims(candidate)) => {
                let node = candidate.node.clone();
                self.board.nodes.nominate(&subject.counted, &node);
                self.push_out(pod, candidate, misfit.plugins());
                Nominated::Node(node)
            }
            Some(Preemption::Useless(_)) => {
                self.board.nodes.withdraw(pod.uid());
                self.queue.failed(pod.uid(), misfit.plugins(), mono());
                Nominated::Node(Box::default())
            }
            Some(Preemption::Ineligible(_)) | None => {
                self.queue.failed(pod.uid(), misfit.plugins(), mono());
                Nominated::AsItIs
            }
        };
        self.refuse(pod, "FailedScheduling", message, nominated);
    }

    /// Pushes pods out. Until that is done the pod counts as being tried, so that it does not push out others as well.
    fn push_out(&mut self, pod: &Arc<Object>, candidate: Candidate, plugins: Vec<&'static str>) {
        self.busy += 1;
        for other in &candidate.displaced {
            self.board.nodes.withdraw(other.object.uid());
            self.queue.wake(other.object.uid(), mono());
        }
        let (client, done, recorder, pod) =
            (self.client.clone(), self.done.clone(), self.recorder.clone(), pod.clone());
        drop(stdx::spawn(async move {
            let well = clear(&client, &recorder, &pod, &candidate).await;
            // The loop is gone when the scheduler was stopped.
            drop(done.send(Effect::Cleared(pod, plugins, well)).await);
        }));
    }

    fn bind(&mut self, pod: &Arc<Object>, node: Box<str>) {
        self.busy += 1;
        let (client, done, pod) = (self.client.clone(), self.done.clone(), pod.clone());
        drop(stdx::spawn(async move {
            let outcome = effects::bind(&client, &pod, &node).await.map(|()| node.to_string());
            drop(done.send(Effect::Bound(pod, outcome)).await);
        }));
    }

    fn bound(&mut self, pod: &Arc<Object>, outcome: Result<String, ClientError>) {
        match outcome {
            Ok(node) => {
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                note(&self.recorder, pod, Severity::Normal, "Scheduled", message);
            }
            // It is gone, or bound, perhaps by an earlier try whose answer got lost: it counts until the cache tells.
            Err(error) if error.is_not_found() || error.is_conflict() || error.is_unknown() => {
                self.queue.retry(pod.uid(), mono());
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key(), %error, "pod not bound");
                self.board.nodes.forget(pod.uid());
                self.queue.retry(pod.uid(), mono());
                self.hint(Change::PodGone(pod.project()));
            }
        }
    }

    /// Tells why the pod has no node, as an event and in its status.
    fn refuse(&self, pod: &Arc<Object>, reason: &'static str, message: String, nominated: Nominated) {
        note(&self.recorder, pod, Severity::Warning, reason, cut(&message));
        let (client, pod) = (self.client.clone(), pod.clone());
        drop(stdx::spawn(async move {
            effects::log_untold(&pod, effects::tell(&client, &pod, &message, &nominated).await);
        }));
    }
}

/// Whether a pod that stays on its node changed in something that may help others.
fn differs(old: &PodLite, new: &PodLite) -> bool {
    old.meta.labels != new.meta.labels
        || old.spec.resources != new.spec.resources
        || is_pod_terminating(old) != is_pod_terminating(new)
}

fn note(recorder: &Recorder, pod: &Object, severity: Severity, reason: &'static str, message: String) {
    let regarding =
        Reference { resource: PODS, namespace: pod.namespace().into(), name: pod.name().into(), uid: pod.uid().into() };
    recorder.record(Note { regarding, field: String::new(), severity, reason, message });
}

/// The message as long as an event may have it.
fn cut(message: &str) -> String {
    const MORE: &str = " ...";
    if message.len() <= NOTE_MAX {
        return message.to_owned();
    }
    let mut end = NOTE_MAX - MORE.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{MORE}", &message[..end])
}

/// Pushes the victims out and takes room from less important pods; whether all went well.
async fn clear(client: &Client, recorder: &Recorder, pod: &Object, candidate: &Candidate) -> bool {
    for other in &candidate.displaced {
        effects::log_untold(&other.object, effects::withdraw(client, &other.object).await);
    }
    let mut well = true;
    for victim in candidate.victims.iter().filter(|victim| !is_pod_terminating(victim.pod())) {
        match effects::push_out(client, &victim.object).await {
            Ok(true) => {
                let message = format!("Preempted by pod {} on node {}", pod.uid(), candidate.node);
                note(recorder, &victim.object, Severity::Normal, "Preempted", message);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(victim = %victim.object.key(), %error, "pod not pushed out");
                well = false;
            }
        }
    }
    well
}
