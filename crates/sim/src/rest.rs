//! What must be true of a cluster that has come to rest, and waiting until it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::decide::pod::is_pod_ready;
use api::projection::PodLite;
use client::{Client, ClientError, ListOptions, Object, Target};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::court::Court;
use crate::scenario::{NAME, NAMESPACE};
use crate::worker::Worker;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Bookmarks of quiet kinds come each minute, backoffs end at five: what takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// What is not as it should be: an invariant's name and why.
pub type Complaint = (&'static str, String);

/// Everything in the API that matters here.
pub struct Sight {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    pods: Vec<Arc<Object>>,
    slices: Vec<EndpointSlice>,
    endpoints: Vec<Endpoints>,
}

async fn list(client: &Client, target: Target) -> Result<Vec<Arc<Object>>, ClientError> {
    Ok(client.list(target.namespace(NAMESPACE), ListOptions::default()).await?.items)
}

fn typed<T: serde::de::DeserializeOwned>(objects: &[Arc<Object>]) -> Result<Vec<T>, ClientError> {
    objects.iter().map(|object| object.typed()).collect()
}

impl Sight {
    /// Looks at the cluster as it is.
    pub async fn of(client: &Client) -> Result<Sight, ClientError> {
        let deployment = client.get(Target::of::<Deployment>().namespace(NAMESPACE).name(NAME)).await?.typed()?;
        Ok(Sight {
            deployment,
            sets: typed(&list(client, Target::of::<ReplicaSet>()).await?)?,
            pods: list(client, Target::new("", "v1", "pods")).await?,
            slices: typed(&list(client, Target::of::<EndpointSlice>()).await?)?,
            endpoints: typed(&list(client, Target::of::<Endpoints>()).await?)?,
        })
    }

    /// Whether the roll-out has come to its end.
    pub fn converged(&self) -> Result<(), Complaint> {
        let no = |text: String| Err(("convergence", text));
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let status = self.deployment.status.clone().unwrap_or_default();
        let desired = spec.replicas.unwrap_or(1);
        let counts =
            [status.replicas, status.updated_replicas, status.available_replicas].map(|count| count.unwrap_or(0));
        if counts != [desired; 3] || status.observed_generation != self.deployment.metadata.generation {
            let sets: Vec<String> = self.sets.iter().map(shown).collect();
            let sets = sets.join(", ");
            return no(format!(
                "{desired} desired, and the status says {counts:?} (replicas, updated, available): {sets}"
            ));
        }
        let live: Vec<&Arc<Object>> = self.pods.iter().filter(|pod| pod.meta().deletion.is_none()).collect();
        if live.len() != self.pods.len() || i32::try_from(live.len()) != Ok(desired) {
            return no(format!("{desired} desired, {} there, {} of them to stay", self.pods.len(), live.len()));
        }
        let image =
            |spec: Option<&k8s_openapi::api::core::v1::PodSpec>| spec.and_then(|spec| spec.containers[0].image.clone());
        let wanted = image(spec.template.spec.as_ref());
        for pod in live {
            let lite: &PodLite = pod.project();
            if !is_pod_ready(lite) || Some(&*lite.spec.containers[0].image) != wanted.as_deref() {
                return no(format!("{} is not ready or not new", pod.name()));
            }
        }
        let uid = self.deployment.metadata.uid.as_deref();
        let stray = |set: &&ReplicaSet| {
            set.metadata.owner_references.iter().flatten().all(|owner| Some(owner.uid.as_str()) != uid)
        };
        match self.sets.iter().find(stray) {
            Some(set) => no(format!("{:?} has no owner", set.metadata.name)),
            None => Ok(()),
        }
    }

    fn ready(&self) -> BTreeSet<String> {
        let ready = self.pods.iter().filter(|pod| pod.meta().deletion.is_none() && is_pod_ready(pod.project()));
        ready.map(|pod| pod.uid().to_owned()).collect()
    }

    /// Whether slices and Endpoints name exactly the ready pods.
    pub fn endpoints(&self) -> Result<(), Complaint> {
        let ready = self.ready();
        let mut sliced = BTreeSet::new();
        for endpoint in self.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()) {
            let is_ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true);
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
            sliced.extend(uid.filter(|_| is_ready));
        }
        let subsets = self.endpoints.iter().flat_map(|endpoints| endpoints.subsets.iter().flatten());
        let addresses = subsets.flat_map(|subset| subset.addresses.iter().flatten());
        let older: BTreeSet<String> =
            addresses.filter_map(|address| address.target_ref.as_ref()?.uid.clone()).collect();
        if sliced != ready || older != ready {
            let text =
                format!("{} pods are ready, slices name {}, Endpoints {}", ready.len(), sliced.len(), older.len());
            return Err(("endpoints", text));
        }
        Ok(())
    }

    /// Whether each machine runs exactly what the API has for it.
    pub async fn machines(&self, workers: &[Worker]) -> Result<(), Complaint> {
        for worker in workers {
            let of_worker = |pod: &&Arc<Object>| *pod.project::<PodLite>().spec.node_name == *worker.name;
            let known: BTreeSet<&str> = self.pods.iter().filter(of_worker).map(|pod| pod.uid()).collect();
            let running = worker.running().await;
            if let Some(uid) = running.iter().find(|uid| !known.contains(uid.as_str())) {
                return Err(("orphans", format!("{} runs pod {uid}, which the API does not have", worker.name)));
            }
        }
        Ok(())
    }
}

/// A ReplicaSet's size, its pods, those that are available, and how much of it its controller has seen.
fn shown(set: &ReplicaSet) -> String {
    let (spec, status) = (set.spec.clone().unwrap_or_default(), set.status.clone().unwrap_or_default());
    format!(
        "{} wants {} has {} available {} seen {}/{}",
        set.metadata.name.as_deref().unwrap_or_default(),
        spec.replicas.unwrap_or(1),
        status.replicas,
        status.available_replicas.unwrap_or(0),
        status.observed_generation.unwrap_or(0),
        set.metadata.generation.unwrap_or(0),
    )
}

/// What is wrong with a cluster that is to be at rest, its roll-out at its end if that was `good`.
async fn complaint(client: &Client, workers: &[Worker], good: bool) -> Result<(), Complaint> {
    let sight = Sight::of(client).await;
    let sight = sight.map_err(|error| ("progress", format!("the API server does not answer: {error}")))?;
    if good {
        sight.converged()?;
    }
    sight.endpoints()?;
    sight.machines(workers).await
}

/// Waits until there is nothing to complain about, or nothing more to find out.
///
/// # Errors
/// The last complaint, when that takes too long.
pub async fn wait(client: &Client, court: &Court, workers: &[Worker], good: bool) -> Result<(), Complaint> {
    let end = stdx::mono() + PATIENCE;
    loop {
        let complaint = match complaint(client, workers, good).await {
            Ok(()) => return Ok(()),
            Err(complaint) => complaint,
        };
        if court.is_decided() {
            return Ok(());
        }
        if stdx::mono() >= end {
            tell(client).await;
            return Err(complaint);
        }
        stdx::sleep(LOOK).await;
    }
}

/// Logs the pods as they are, for whoever looks into it.
async fn tell(client: &Client) {
    let pods = list(client, Target::new("", "v1", "pods")).await.unwrap_or_default();
    for pod in pods {
        let tree = pod.tree().unwrap_or_default();
        let status = tree.get("status").and_then(|status| serde_json::to_string(status).ok());
        let node = &pod.project::<PodLite>().spec.node_name;
        tracing::info!(?pod, %node, deleting = pod.meta().deletion.is_some(), status, "pod");
    }
}
