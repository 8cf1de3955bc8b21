//! Looks at every change of pods, ReplicaSets and Deployments as it happens, and checks what must hold at every moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use api::decide::pod::{is_pod_ready, is_pod_terminated};
use api::projection::PodLite;
use client::{Client, ClientError, ListOptions, Object, Target, WatchEvent, WatchOptions};
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use stdx::sim::Simulation;

use crate::cluster::Surroundings;
use crate::court::Court;
use crate::worker::PROCESSORS;

/// Starts looking.
pub fn start(simulation: &Simulation, around: &Surroundings) {
    let node = simulation.node("observer");
    let removed = Removed::default();
    let (client, court, gone) = (around.witness(), around.court.clone(), removed.clone());
    drop(node.run(async move {
        let mut pods = Pods { pods: BTreeMap::new(), removed: gone, court: court.clone() };
        watch(&client, &court, Target::new("", "v1", "pods"), &mut pods).await;
    }));
    let (client, court, gone) = (around.witness(), around.court.clone(), removed.clone());
    drop(node.run(async move {
        let mut sets = Sets { sets: BTreeMap::new(), removed: gone, court: court.clone() };
        watch(&client, &court, Target::of::<ReplicaSet>(), &mut sets).await;
    }));
    let (client, court) = (around.witness(), around.court.clone());
    drop(node.run(async move {
        let mut numbers = Numbers { highest: BTreeMap::new(), removed, court: court.clone() };
        watch(&client, &court, Target::of::<Deployment>(), &mut numbers).await;
    }));
}

/// While there is no server, it is looked for this often.
const AGAIN: Duration = Duration::from_millis(50);

/// Who looks at every change of the objects of a kind.
trait Eye: Send {
    /// These objects are there; what happened until now is not known.
    fn begin(&mut self, objects: Vec<Arc<Object>>);

    /// An object was made, changed or removed.
    fn see(&mut self, object: &Arc<Object>, exists: bool);
}

/// Shows `eye` every single change. A cache would leave out what is soon followed by something else.
async fn watch(client: &Client, court: &Court, target: Target, eye: &mut impl Eye) {
    let mut highest = 0;
    loop {
        if let Err(error) = follow(client, court, &target, eye, &mut highest).await {
            tracing::debug!(%error, "the observer looks again");
        }
        stdx::sleep(AGAIN).await;
    }
}

/// Looks until the server goes away. `highest` is the revision that was seen last: there is never an older one after it.
async fn follow(
    client: &Client,
    court: &Court,
    target: &Target,
    eye: &mut impl Eye,
    highest: &mut u64,
) -> Result<(), ClientError> {
    let mut reach = |revision: u64| {
        if revision < *highest {
            court.accuse("monotony", format!("revision {revision} of {} after {highest}", target.resource));
        }
        *highest = revision.max(*highest);
    };
    let list = client.list(target.clone(), ListOptions::default()).await?;
    reach(list.revision);
    eye.begin(list.items);
    let from = WatchOptions { resource_version: Some(list.revision.to_string()), ..WatchOptions::default() };
    let mut events = client.watch(target.clone(), from).await?;
    while let Some(event) = events.next().await {
        let (object, exists) = match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
            WatchEvent::Deleted(object) => (object, false),
            WatchEvent::Bookmark { .. } => continue,
        };
        reach(object.revision());
        eye.see(&object, exists);
    }
    Ok(())
}

/// The pods by uid.
struct Pods {
    pods: BTreeMap<String, Arc<Object>>,
    removed: Removed,
    court: Court,
}

/// The uids of what is removed. What is left of the pods of a ReplicaSet that went with its Deployment goes too, whoever
/// waits for that: a Deployment that is made anew does not own them, and a ceiling is about what a Deployment owns.
#[derive(Clone, Default)]
struct Removed(Arc<Mutex<Uids>>);

#[derive(Default)]
struct Uids {
    deployments: BTreeSet<String>,
    /// Each with its Deployment.
    sets: BTreeMap<String, String>,
}

impl Removed {
    fn uids(&self) -> MutexGuard<'_, Uids> {
        self.0.lock().expect("no holder of this lock panics")
    }

    fn add_deployment(&self, uid: &str) {
        self.uids().deployments.insert(uid.to_owned());
    }

    fn add_set(&self, set: &Object) {
        if let Some(deployment) = controller(set) {
            self.uids().sets.insert(set.uid().to_owned(), deployment);
        }
    }

    /// Whether the pod's ReplicaSet went with its Deployment. One that a living Deployment has removed counts on.
    fn took(&self, pod: &Object) -> bool {
        let Some(set) = controller(pod) else { return false };
        let uids = self.uids();
        uids.sets.get(&set).is_some_and(|deployment| uids.deployments.contains(deployment))
    }
}

fn is_live(pod: &Object) -> bool {
    pod.meta().deletion.is_none() && !is_pod_terminated(pod.project())
}

fn serves(pod: &Object) -> bool {
    is_live(pod) && is_pod_ready(pod.project())
}

impl Eye for Pods {
    fn begin(&mut self, objects: Vec<Arc<Object>>) {
        self.pods = objects.into_iter().map(|pod| (pod.uid().to_owned(), pod)).collect();
    }

    fn see(&mut self, pod: &Arc<Object>, exists: bool) {
        let before = (self.kept(), self.count(serves));
        let old = self.pods.remove(pod.uid());
        if exists {
            self.pods.insert(pod.uid().to_owned(), pod.clone());
        }
        let after = (self.kept(), self.count(serves));
        let bounds = self.court.bounds();
        // Be it made, or one that had ended and lives again.
        if after.0 > before.0 && after.0 > bounds.ceiling {
            self.court.accuse("ceiling", format!("{} pods, at most {}: {pod:?}", after.0, bounds.ceiling));
        }
        let deleted = !exists || pod.meta().deletion.is_some();
        if after.1 < before.1 && deleted && after.1 < bounds.floor {
            self.court.accuse("floor", format!("{} pods serve, at least {}: {pod:?}", after.1, bounds.floor));
        }
        if after.1 < before.1 && !deleted && !self.court.is_disturbed() {
            self.court.accuse("adoption", format!("a pod serves no more, and nobody touched it: {pod:?}"));
        }
        let controllers = [old.as_ref().and_then(|old| controller(old)), controller(pod)];
        if let [Some(was), Some(is)] = controllers
            && was != is
        {
            self.court.accuse("ownership", format!("passed from {was} to {is}: {pod:?}"));
        }
        self.check_capacity();
    }
}

impl Pods {
    fn check_capacity(&self) {
        let mut used: BTreeMap<&str, usize> = BTreeMap::new();
        for pod in self.pods.values() {
            let lite: &PodLite = pod.project();
            if !lite.spec.node_name.is_empty() && !is_pod_terminated(lite) {
                *used.entry(&lite.spec.node_name).or_default() += 1;
            }
        }
        if let Some((node, count)) = used.iter().find(|(_, count)| **count > PROCESSORS as usize) {
            self.court
                .accuse("capacity", format!("{node} has {PROCESSORS} processors and {count} pods that ask for one"));
        }
    }

    /// The pods that somebody wants.
    fn kept(&self) -> usize {
        self.pods.values().filter(|pod| is_live(pod) && !self.removed.took(pod)).count()
    }

    fn count(&self, which: fn(&Object) -> bool) -> usize {
        self.pods.values().filter(|pod| which(pod)).count()
    }
}

fn controller(object: &Object) -> Option<String> {
    object.meta().controller().map(|owner| owner.uid.to_string())
}

/// The ReplicaSets by uid.
struct Sets {
    sets: BTreeMap<String, Arc<Object>>,
    removed: Removed,
    court: Court,
}

impl Eye for Sets {
    fn begin(&mut self, objects: Vec<Arc<Object>>) {
        let known = objects.into_iter().map(|set| (set.uid().to_owned(), set)).collect();
        let before = std::mem::replace(&mut self.sets, known);
        let gone = before.values().filter(|set| !self.sets.contains_key(set.uid()));
        gone.for_each(|set| self.removed.add_set(set));
    }

    fn see(&mut self, set: &Arc<Object>, exists: bool) {
        let old = self.sets.remove(set.uid());
        if !exists {
            return self.removed.add_set(set);
        }
        let was = old.as_ref().and_then(|old| controller(old));
        let is = controller(set);
        if was.is_some() && is.is_some() && was != is {
            self.court.accuse("ownership", format!("passed from {was:?} to {is:?}: {set:?}"));
        }
        let twin =
            self.sets.values().find(|other| is.is_some() && controller(other) == is && image(other) == image(set));
        if let Some(twin) = twin {
            self.court.accuse("ownership", format!("two ReplicaSets of one template: {twin:?} and {set:?}"));
        }
        self.sets.insert(set.uid().to_owned(), set.clone());
    }
}

/// What the templates of this Deployment differ in.
fn image(set: &Object) -> Option<String> {
    let set: ReplicaSet = set.typed().ok()?;
    set.spec?.template?.spec?.containers.first()?.image.clone()
}

/// The numbers of the Deployments' revisions, by uid.
struct Numbers {
    highest: BTreeMap<String, u64>,
    removed: Removed,
    court: Court,
}

impl Eye for Numbers {
    fn begin(&mut self, objects: Vec<Arc<Object>>) {
        let gone = self.highest.keys().filter(|uid| objects.iter().all(|deployment| deployment.uid() != *uid));
        gone.for_each(|uid| self.removed.add_deployment(uid));
        objects.iter().for_each(|deployment| self.see(deployment, true));
    }

    fn see(&mut self, deployment: &Arc<Object>, exists: bool) {
        if !exists {
            self.removed.add_deployment(deployment.uid());
        }
        let annotations = &deployment.meta().annotations;
        let number = annotations.get("deployment.kubernetes.io/revision").and_then(|text| text.parse::<u64>().ok());
        let highest = self.highest.entry(deployment.uid().to_owned()).or_default();
        if number.unwrap_or(0) < *highest {
            self.court.accuse("monotony", format!("revision {number:?} after {highest}: {deployment:?}"));
        }
        *highest = number.unwrap_or(0).max(*highest);
    }
}
