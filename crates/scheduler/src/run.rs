//! The loop: changes in, one decision after the other, bindings and conditions out.

use std::sync::Arc;

use api::decide::conditions::{NewCondition, set_condition};
use api::decide::pod::is_pod_schedulable;
use api::projection::{NodeLite, PodLite};
use api::value::{Map, Value, to_value};
use client::{Cache, Change, Client, ClientError, Object, PatchKind, Target};
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::plan::kinds::PODS;
use reconcile::{Note, Recorder, Reference, Severity};
use stdx::{TaskTree, mono, wall};
use tokio::sync::mpsc;

use crate::nodes::Nodes;
use crate::plugins::PLUGINS;
use crate::queue::{Hint, Queue, UNSUPPORTED};
use crate::schedule::{Decision, schedule};
use crate::unhonoured;

/// The name that pods ask for this scheduler by.
pub const NAME: &str = "default-scheduler";
/// Bindings under way at once; decisions wait when there are more.
const BINDINGS_MAX: usize = 64;

/// What a scheduler works with.
pub struct Options {
    pub client: Client,
    pub pods: Cache,
    pub nodes: Cache,
    pub tasks: TaskTree,
}

/// What the loop waits for.
enum Arrival {
    Nodes(Vec<Change>),
    Pods(Vec<Change>),
    /// A pod, and the node it was bound to.
    Bound(Arc<Object>, Result<String, ClientError>),
    Due,
}

struct Scheduler {
    client: Client,
    recorder: Recorder,
    nodes: Nodes,
    queue: Queue,
    binding: usize,
    bound: mpsc::Sender<(Arc<Object>, Result<String, ClientError>)>,
}

/// Runs until the task tree is cancelled.
pub async fn run(options: Options) {
    let mut node_changes = options.nodes.subscribe();
    let mut pod_changes = options.pods.subscribe();
    options.nodes.synced().await;
    options.pods.synced().await;
    let (bound, mut outcomes) = mpsc::channel(BINDINGS_MAX);
    let recorder = Recorder::start(options.client.clone(), NAME, "", &options.tasks);
    let mut scheduler = Scheduler {
        client: options.client,
        recorder,
        nodes: Nodes::default(),
        queue: Queue::default(),
        binding: 0,
        bound,
    };
    loop {
        let due = scheduler.queue.next_due();
        let arrival = tokio::select! {
            // Nodes first: a pod that comes with its node is not tried in vain.
            biased;
            changes = node_changes.next() => Arrival::Nodes(changes),
            changes = pod_changes.next() => Arrival::Pods(changes),
            Some((pod, outcome)) = outcomes.recv() => Arrival::Bound(pod, outcome),
            () = due_at(due) => Arrival::Due,
        };
        scheduler.apply(arrival);
        while scheduler.binding < BINDINGS_MAX {
            let Some(pod) = scheduler.queue.take(mono()) else { break };
            scheduler.place(&pod);
        }
    }
}

/// Whether a change of a node may make room for a pod: heartbeats do not.
fn may_help(change: &Change) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return change.new.is_some() };
    let (old, new): (&NodeLite, &NodeLite) = (old.project(), new.project());
    (&old.allocatable, &old.taints, old.unschedulable, &old.meta.labels)
        != (&new.allocatable, &new.taints, new.unschedulable, &new.meta.labels)
}

async fn due_at(due: Option<stdx::Mono>) {
    match due {
        Some(due) => stdx::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Scheduler {
    fn apply(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Due => {}
            Arrival::Nodes(changes) => {
                let mut helps = false;
                for change in changes {
                    helps |= may_help(&change);
                    match (change.new, change.old) {
                        (Some(node), _) => self.nodes.set_node(node),
                        (None, Some(node)) => self.nodes.remove_node(node.name()),
                        (None, None) => {}
                    }
                }
                if helps {
                    self.queue.hint(Hint::Node, mono());
                }
            }
            Arrival::Pods(changes) => changes.into_iter().for_each(|change| self.pod_changed(change)),
            Arrival::Bound(pod, outcome) => self.bound(&pod, outcome),
        }
    }

    fn pod_changed(&mut self, change: Change) {
        let replaced = match (&change.old, &change.new) {
            (Some(old), Some(new)) => old.uid() != new.uid(),
            (Some(_), None) => true,
            _ => false,
        };
        if let Some(old) = change.old.filter(|_| replaced) {
            self.forget(&old);
        }
        let Some(pod) = change.new else { return };
        let lite: &PodLite = pod.project();
        let counted = self.nodes.has_pod(pod.uid());
        self.nodes.set_pod(&pod);
        if counted && !self.nodes.has_pod(pod.uid()) {
            self.queue.hint(Hint::Room, mono());
        }
        // Pods of other schedulers, placed ones and gated ones are not this queue's.
        if &*lite.spec.scheduler_name == NAME && is_pod_schedulable(lite) && lite.spec.scheduling_gates.is_empty() {
            if !self.nodes.has_pod(pod.uid()) {
                self.queue.set(pod, mono());
            }
        } else {
            self.queue.remove(pod.uid());
        }
    }

    fn forget(&mut self, pod: &Object) {
        self.queue.remove(pod.uid());
        if self.nodes.has_pod(pod.uid()) {
            self.nodes.remove_pod(pod.uid());
            self.queue.hint(Hint::Room, mono());
        }
    }

    /// Decides about one pod and starts what follows.
    fn place(&mut self, pod: &Arc<Object>) {
        let unhonoured = pod.tree().map(|tree| unhonoured::used(&tree)).unwrap_or_default();
        if !unhonoured.is_empty() {
            let message = format!("not supported by this scheduler: {}", unhonoured.join(", "));
            self.queue.failed(pod.uid(), vec![UNSUPPORTED], mono());
            return self.refuse(pod, "UnsupportedField", message);
        }
        // It may be bound already, and the answer got lost: asking for the same node again does no harm.
        if let Some(node) = self.nodes.assumed_on(pod.uid()) {
            let node = node.into();
            return self.bind(pod, node);
        }
        match schedule(pod.project(), &self.nodes, PLUGINS, stdx::random_u64()) {
            Decision::Node(node) => {
                self.nodes.assume(pod, &node);
                self.bind(pod, node);
            }
            Decision::Nowhere(misfit) => {
                self.queue.failed(pod.uid(), misfit.plugins().collect(), mono());
                self.refuse(pod, "FailedScheduling", misfit.message());
            }
        }
    }

    fn bind(&mut self, pod: &Arc<Object>, node: Box<str>) {
        self.binding += 1;
        let (client, bound, pod) = (self.client.clone(), self.bound.clone(), pod.clone());
        drop(stdx::spawn(async move {
            let outcome = bind(&client, &pod, &node).await.map(|()| node.to_string());
            // The loop is gone when the scheduler was stopped.
            drop(bound.send((pod, outcome)).await);
        }));
    }

    fn bound(&mut self, pod: &Arc<Object>, outcome: Result<String, ClientError>) {
        self.binding -= 1;
        match outcome {
            Ok(node) => {
                self.queue.remove(pod.uid());
                let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
                self.note(pod, Severity::Normal, "Scheduled", message);
            }
            // It is gone, or bound, perhaps by an earlier try whose answer got lost: it counts until the cache tells.
            Err(error) if error.is_not_found() || error.is_conflict() || error.is_unknown() => {
                self.queue.retry(pod.uid(), mono());
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key(), %error, "pod not bound");
                self.nodes.forget(pod.uid());
                self.queue.retry(pod.uid(), mono());
            }
        }
    }

    fn note(&self, pod: &Object, severity: Severity, reason: &'static str, message: String) {
        let regarding = Reference {
            resource: PODS,
            namespace: pod.namespace().into(),
            name: pod.name().into(),
            uid: pod.uid().into(),
        };
        self.recorder.record(Note { regarding, field: String::new(), severity, reason, message });
    }

    /// Tells why the pod has no node, as an event and in its condition.
    fn refuse(&self, pod: &Arc<Object>, reason: &'static str, message: String) {
        self.note(pod, Severity::Warning, reason, message.clone());
        let (client, pod) = (self.client.clone(), pod.clone());
        drop(stdx::spawn(async move {
            if let Err(error) = tell(&client, &pod, &message).await {
                tracing::warn!(pod = %pod.key(), %error, "condition not written");
            }
        }));
    }
}

async fn bind(client: &Client, pod: &Object, node: &str) -> Result<(), ClientError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name().into()),
            namespace: Some(pod.namespace().into()),
            uid: Some(pod.uid().into()),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..ObjectReference::default() },
    };
    let target = Target::new("", "v1", "pods").namespace(pod.namespace()).name(pod.name());
    client.create_subresource(target, "binding", &binding).await.map(drop)
}

/// Writes the condition `PodScheduled` = False, unless it says that already.
async fn tell(client: &Client, pod: &Object, message: &str) -> Result<(), ClientError> {
    let tree = pod.tree()?;
    let mut conditions: Vec<Value> =
        tree.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default().to_vec();
    let condition = NewCondition { kind: "PodScheduled", status: "False", reason: "Unschedulable", message };
    if !set_condition(&mut conditions, condition, wall()) {
        return Ok(());
    }
    let mut status = Map::default();
    status.insert("conditions", to_value(&conditions).unwrap_or_default());
    let mut metadata = Map::default();
    metadata.insert("uid", pod.uid());
    let mut body = Map::default();
    body.insert("metadata", Value::Object(metadata));
    body.insert("status", Value::Object(status));
    let target = Target::new("", "v1", "pods").namespace(pod.namespace()).name(pod.name());
    match client.patch_status(target, PatchKind::Merge, &Value::Object(body)).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}
