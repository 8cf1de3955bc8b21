//! Looks at every change of every pod as it happens, and checks what must hold at every moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::decide::pod::{is_pod_ready, is_pod_terminated};
use api::projection::PodLite;
use client::{Cache, Client, ClientError, ListOptions, Object, Target, WatchEvent, WatchOptions, Watched};
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use stdx::TaskTree;
use stdx::sim::Simulation;

use crate::cluster::Surroundings;
use crate::court::Court;
use crate::scenario::{NAME, NAMESPACE};
use crate::worker::PROCESSORS;

/// Starts looking.
pub fn start(simulation: &Simulation, around: &Surroundings) {
    let (client, court) = (around.witness(), around.court.clone());
    drop(simulation.node("observer").run(async move {
        let tasks = TaskTree::default();
        let deployments = Cache::start(&tasks, client.clone(), Watched::of::<Deployment>());
        let mut observer = Observer { pods: BTreeMap::new(), deployments, court };
        loop {
            if let Err(error) = observer.follow(&client).await {
                tracing::debug!(%error, "the observer looks again");
            }
            stdx::sleep(AGAIN).await;
        }
    }));
}

/// While there is no server, it is looked for this often.
const AGAIN: Duration = Duration::from_millis(50);

struct Observer {
    /// Pods by uid.
    pods: BTreeMap<String, Arc<Object>>,
    deployments: Cache,
    court: Court,
}

fn is_live(pod: &Object) -> bool {
    pod.meta().deletion.is_none() && !is_pod_terminated(pod.project())
}

fn serves(pod: &Object) -> bool {
    is_live(pod) && is_pod_ready(pod.project())
}

impl Observer {
    /// Sees every single change until the server goes away. A cache would leave out what is soon followed by something else.
    async fn follow(&mut self, client: &Client) -> Result<(), ClientError> {
        let target = Target::new("", "v1", "pods");
        let list = client.list(target.clone(), ListOptions::default()).await?;
        self.pods = list.items.into_iter().map(|pod| (pod.uid().to_owned(), pod)).collect();
        let from = WatchOptions { resource_version: Some(list.revision.to_string()), ..WatchOptions::default() };
        let mut events = client.watch(target, from).await?;
        while let Some(event) = events.next().await {
            match event? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.see(&pod, true),
                WatchEvent::Deleted(pod) => self.see(&pod, false),
                WatchEvent::Bookmark { .. } => {}
            }
        }
        Ok(())
    }

    fn see(&mut self, pod: &Arc<Object>, exists: bool) {
        let before = (self.count(is_live), self.count(serves));
        let old = self.pods.remove(pod.uid());
        if exists {
            self.pods.insert(pod.uid().to_owned(), pod.clone());
        }
        let after = (self.count(is_live), self.count(serves));
        let bounds = self.court.bounds();
        if after.0 > before.0 && after.0 > bounds.ceiling && old.is_none() {
            self.court.accuse("ceiling", format!("{} pods, at most {}: {pod:?}", after.0, bounds.ceiling));
        }
        let deleted = !exists || pod.meta().deletion.is_some();
        if after.1 < before.1 && deleted && after.1 < bounds.floor && self.is_judged() {
            self.court.accuse("floor", format!("{} pods serve, at least {}: {pod:?}", after.1, bounds.floor));
        }
        if after.1 < before.1 && !deleted && !self.court.is_disturbed() {
            self.court.accuse("adoption", format!("a pod serves no more, and nobody touched it: {pod:?}"));
        }
        self.check_capacity();
    }

    /// The floor holds from when the Deployment has said that there are enough, and but for losses of power.
    fn is_judged(&self) -> bool {
        if self.court.is_disturbed() {
            return false;
        }
        let snapshot = self.deployments.snapshot();
        let deployment = snapshot.get(NAMESPACE, NAME).and_then(|object| object.typed::<Deployment>().ok());
        let conditions = deployment.and_then(|deployment| deployment.status?.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Available" && condition.status == "True")
    }

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

    fn count(&self, which: fn(&Object) -> bool) -> usize {
        self.pods.values().filter(|pod| which(pod)).count()
    }
}
