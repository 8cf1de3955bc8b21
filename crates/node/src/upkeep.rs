//! What has to be sampled, on one timer: shortages, for which pods are ended, logs, what pods left, and images that nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::decide::resources::PodResources;
use cri::{ContainerFilter, ContainerStats, PodSandbox, PodSandboxFilter, PodSandboxState, Runtime};
use k8s_openapi::api::core::v1::Pod;
use reconcile::Severity;
use stdx::disk::Usage;
use stdx::{Mono, mono};

use crate::agent::{Agent, is_critical};
use crate::evict::{self, AT_ONCE_SECONDS, Candidate, Shortage, Side, Signal};
use crate::pod::memory::Verdict;
use crate::pod::{containers, create, spec, uid};
use crate::pressure::Room;
use crate::{collect, logs, storage};

/// How often shortages are looked for. Upstream: `evictionMonitoringPeriod`.
const EVERY: Duration = Duration::from_secs(10);
/// Every so many of these looks, logs are tended.
const LOGS_EVERY: u64 = 6;
/// And what pods left that nobody knows. It is looked for at the agent's start; later it is only what could not be removed then.
const HOUSE_EVERY: u64 = 6;
/// And pods judged that wait for other resources, should anything have left room unheard. Upstream: `retryDelay`, three minutes.
const RESIZES_EVERY: u64 = 18;
/// And images. Upstream: `ImageGCPeriod`, five minutes.
const IMAGES_EVERY: u64 = 30;
/// One pod is ended at a time, and so long waited for. Upstream: `podCleanupTimeout`.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How a node that runs short is helped.
#[derive(Default)]
struct Relief {
    images: collect::Collector,
    /// The pod that was ended last, and when.
    ending: Option<(String, Mono)>,
    /// It was told that there is nobody to end.
    helpless: bool,
}

/// Runs until the task is dropped.
pub async fn run(agent: Arc<Agent>) {
    let mut relief = Relief::default();
    let mut restrained = BTreeSet::new();
    for look in 1_u64.. {
        stdx::sleep(EVERY).await;
        // Upstream looks for shortages again only when nobody had to go for what they wrote.
        if restrain(&agent, &mut restrained).await == 0 {
            relieve(&agent, &mut relief).await;
        }
        if look % LOGS_EVERY == 0 {
            logs::rotate::all(&*agent.context().runtime).await;
        }
        if look % HOUSE_EVERY == 0 {
            agent.keep_house().await;
        }
        if look % RESIZES_EVERY == 0 {
            agent.judge_resizes_again();
        }
        if look % IMAGES_EVERY == 0 {
            relief.images.collect(&agent, collect::Want::Bounds).await;
        }
    }
}

/// Ends the pods that have written more to disk than they may; how many.
async fn restrain(agent: &Agent, restrained: &mut BTreeSet<String>) -> usize {
    let pods = agent.admitted();
    restrained.retain(|ended| pods.iter().any(|pod| uid(pod) == ended));
    let mut ended = 0;
    for pod in pods.iter().filter(|pod| storage::is_limited(pod) && !is_critical(pod)) {
        if restrained.contains(uid(pod)) {
            continue;
        }
        if let Some(message) = storage::excess(pod, &storage::written(agent, pod).await) {
            evict(agent, pod, message, AT_ONCE_SECONDS).await;
            restrained.insert(uid(pod).to_owned());
            ended += 1;
        }
    }
    ended
}

/// Ends a pod, which gets no more time for that than this. Upstream: `evictPod`.
async fn evict(agent: &Agent, pod: &Pod, message: String, grace_seconds_max: u64) {
    agent.context().tell(pod, "", Severity::Warning, "Evicted", message.clone());
    let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    let own = own.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(u64::MAX);
    let grace_seconds = Some(own.min(grace_seconds_max).max(AT_ONCE_SECONDS));
    let verdict = Verdict { reason: "Evicted".into(), message, grace_seconds, disrupted: true };
    agent.end(uid(pod), verdict).await;
}

/// Ends a pod where the node runs short of something.
async fn relieve(agent: &Agent, relief: &mut Relief) {
    let registration = agent.registration();
    let look = || {
        let mut watch = agent.context().pressure.lock().expect("no holder of this lock panics");
        watch.see(&registration.reserved.bounds, &Room::read(&registration.machine.disks), mono())
    };
    let Some(mut shortage) = look() else {
        relief.helpless = false;
        return;
    };
    let pods = agent.admitted();
    let still_ends =
        |(uid_of, since): &(String, Mono)| mono() - *since < END_LIMIT && pods.iter().any(|pod| uid(pod) == uid_of);
    if relief.ending.as_ref().is_some_and(still_ends) {
        return;
    }
    let resource = shortage.signal.resource();
    agent.tell_node(Severity::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
    let apart = registration.machine.disks.are_apart();
    // Removing images helps the file system that they lie on.
    if shortage.signal.side().is_some_and(|side| !apart || side == Side::Images) {
        relief.images.collect(agent, collect::Want::Everything).await;
        match look() {
            Some(left) => shortage = left,
            None => return,
        }
    }
    let candidates = candidates(agent, &shortage, apart, pods.iter().filter(|pod| !is_critical(pod))).await;
    let Some(first) = evict::ranked(candidates).into_iter().next() else {
        if !std::mem::replace(&mut relief.helpless, true) {
            tracing::warn!(resource, amounts = shortage.amounts(), "the node runs short, and there is no pod to end");
        }
        return;
    };
    relief.helpless = false;
    if let Some(pod) = pods.iter().find(|pod| uid(pod) == first.uid) {
        evict(agent, pod, shortage.message(&first), shortage.grace_seconds_max).await;
    }
    relief.ending = Some((first.uid, mono()));
}

/// What each pod uses of what is short; `apart` says whether images have a file system of their own.
async fn candidates(
    agent: &Agent,
    shortage: &Shortage,
    apart: bool,
    pods: impl Iterator<Item = &Pod>,
) -> Vec<Candidate> {
    let side = shortage.signal.side().filter(|_| apart);
    let runtime = &agent.context().runtime;
    let sandboxes = runtime.list_pod_sandbox(PodSandboxFilter::default()).await.unwrap_or_default();
    let stats = runtime.list_container_stats(ContainerFilter::default()).await.unwrap_or_default();
    let owner: BTreeMap<&str, &str> =
        sandboxes.iter().map(|sandbox| (sandbox.id.as_str(), sandbox.metadata.uid.as_str())).collect();
    let mut found = Vec::new();
    for pod in pods {
        let own: Vec<&ContainerStats> =
            stats.iter().filter(|stats| owner.get(stats.pod_sandbox_id.as_str()) == Some(&uid(pod))).collect();
        found.push(match shortage.signal {
            Signal::NodefsAvailable | Signal::ImagefsAvailable => on_disk(agent, pod, side, |used| used.bytes).await,
            Signal::NodefsInodesFree | Signal::ImagefsInodesFree => on_disk(agent, pod, side, |used| used.files).await,
            Signal::MemoryAvailable => in_memory(pod, &own),
            Signal::PidAvailable => {
                let own = sandboxes.iter().filter(|sandbox| sandbox.metadata.uid == uid(pod));
                candidate(pod, processes(&**runtime, own).await, 0, Vec::new())
            }
        });
    }
    found
}

/// The processes of a pod: other runtimes count them for whole pods only.
async fn processes(runtime: &dyn Runtime, sandboxes: impl Iterator<Item = &PodSandbox>) -> u64 {
    let mut count = 0;
    for sandbox in sandboxes.filter(|sandbox| sandbox.state == PodSandboxState::Ready) {
        match runtime.pod_sandbox_stats(&sandbox.id).await {
            Ok(stats) => count += stats.process_count,
            Err(error) => tracing::warn!(%error, sandbox = sandbox.id, "a pod's processes are not counted"),
        }
    }
    count
}

fn candidate(pod: &Pod, used: u64, requested: u64, containers: Vec<(String, u64, u64)>) -> Candidate {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    Candidate { uid: uid(pod).to_owned(), priority, used, requested, containers }
}

fn requested(pod: &Pod, resource: &str) -> u64 {
    let resources = PodResources::of(&spec(pod)).map(|resources| resources.requests()).unwrap_or_default();
    u64::try_from(resources.amount(resource).value()).unwrap_or(0)
}

fn in_memory(pod: &Pod, stats: &[&ContainerStats]) -> Candidate {
    let spec = spec(pod);
    let each = containers(&spec).filter_map(|(_, container)| {
        let own = stats.iter().find(|stats| stats.metadata.name == container.name)?;
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = create::amount(requests, "memory").map_or(0, |amount| amount.value());
        Some((container.name.clone(), own.memory.working_set_bytes, u64::try_from(asked).unwrap_or(0)))
    });
    let used = stats.iter().map(|stats| stats.memory.working_set_bytes).sum();
    candidate(pod, used, requested(pod, "memory"), each.collect())
}

/// Volumes, logs, and what containers write beside those; of one file system where there are two.
async fn on_disk(agent: &Agent, pod: &Pod, side: Option<Side>, which: fn(Usage) -> u64) -> Candidate {
    let mut written = storage::written(agent, pod).await;
    if let Some(side) = side {
        written = written.on(side);
    }
    let spec = spec(pod);
    let each = containers(&spec).filter_map(|(_, container)| {
        let used = which(*written.containers.get(&container.name)?);
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = create::amount(requests, "ephemeral-storage").map_or(0, |amount| amount.value());
        Some((container.name.clone(), used, u64::try_from(asked).unwrap_or(0)))
    });
    candidate(pod, which(written.whole), requested(pod, "ephemeral-storage"), each.collect())
}
