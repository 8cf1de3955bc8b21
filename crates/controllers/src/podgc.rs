//! Pod garbage collector: takes away pods that nobody else will: of nodes that are gone or out of service, those that end
//! before they were ever placed, and the oldest of very many that have ended.
//!
//! Upstream: `pkg/controller/podgc`.

use std::sync::Arc;
use std::time::Duration;

use api::decide::conditions::{NewCondition, is_node_ready};
use api::decide::pod::is_pod_terminated;
use api::projection::{NodeLite, PodLite};
use client::{Key, Object};
use reconcile::plan::kinds::{NODES, PODS};
use reconcile::{Action, Change, Controller, Facts, Need, Now, Outcomes, Plan, View, Watch};
use stdx::Mono;

use crate::{condition, owner};

/// So many ended pods are kept. Upstream: `--terminated-pod-gc-threshold`.
const TERMINATED_MAX: usize = 12_500;
/// No more are deleted in one decision; what they leave brings the next.
const BATCH_MAX: usize = 500;
/// How long a node must be missing before its pods are taken for orphans. Upstream: `quarantineTime`.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The controller that takes pods away.
pub struct PodGarbageCollector;

/// What is decided about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    Pod(Key),
    /// All that have ended.
    Terminated,
}

/// A pod and its node, or the pods that have ended.
pub enum Observed {
    Pod(Arc<Object>, Place),
    Terminated(Vec<Arc<Object>>),
    Nothing,
}

/// Where a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Nowhere,
    /// On a node that looks after it.
    Served,
    OutOfService,
    Missing,
}

/// Since when the pod's node has been missing.
#[derive(Clone, Default)]
pub struct Memory {
    missing: Option<Mono>,
}

impl Controller for PodGarbageCollector {
    const NAME: &'static str = "pod-garbage-collector";
    const COMPONENT: &'static str = "pod-garbage-collector";
    type Key = Subject;
    type Observed<'c> = Observed;
    type Memory = Memory;

    fn watches() -> Vec<Watch<Subject>> {
        vec![Watch::mapped(PODS, subjects_of_pod), Watch::mapped(NODES, subjects_of_node)]
    }

    fn observe(view: &View, subject: &Subject) -> Observed {
        match subject {
            Subject::Pod(key) => match view.get(PODS, key) {
                Some(pod) => Observed::Pod(pod.clone(), place(view, &pod)),
                None => Observed::Nothing,
            },
            Subject::Terminated => {
                let ended = |pod: &Arc<Object>| is_pod_terminated(pod.project::<PodLite>());
                Observed::Terminated(view.all(PODS).filter(ended).collect())
            }
        }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, facts: &Facts, memory: &mut Memory) -> Plan {
        match observed {
            Observed::Nothing => Plan::nothing(),
            Observed::Terminated(pods) => thin_out(pods, now),
            Observed::Pod(pod, place) => {
                let ending = pod.meta().deletion.is_some();
                match place {
                    Place::Nowhere | Place::OutOfService if ending => remove(pod, None, now),
                    Place::Missing => orphan(pod, now, facts, memory),
                    _ => Plan::nothing(),
                }
            }
        }
    }
}

fn subjects_of_pod(view: &View, pod: &Object) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let lite = pod.project::<PodLite>();
    if pod.meta().deletion.is_some() || place(view, pod) == Place::Missing {
        subjects.push(Subject::Pod(pod.key().clone()));
    }
    if is_pod_terminated(lite) && view.count(PODS) > TERMINATED_MAX {
        subjects.push(Subject::Terminated);
    }
    subjects
}

/// The pods of a node that is gone, or that is said to be out of service.
fn subjects_of_node(view: &View, node: &Object) -> Vec<Subject> {
    if view.get(NODES, node.key()).is_some() && !is_out_of_service(node) {
        return Vec::new();
    }
    view.pods_on(node.name()).map(|pod| Subject::Pod(pod.key().clone())).collect()
}

fn is_out_of_service(node: &Object) -> bool {
    let lite: &NodeLite = node.project();
    !is_node_ready(lite) && lite.taints.iter().any(|taint| &*taint.key == OUT_OF_SERVICE)
}

fn place(view: &View, pod: &Object) -> Place {
    let name = &pod.project::<PodLite>().spec.node_name;
    if name.is_empty() {
        return Place::Nowhere;
    }
    match view.get(NODES, &Key::new("", name)) {
        None => Place::Missing,
        Some(node) if is_out_of_service(&node) => Place::OutOfService,
        Some(_) => Place::Served,
    }
}

/// Waits whether the node comes back, and then asks the API itself.
fn orphan(pod: &Object, now: Now, facts: &Facts, memory: &mut Memory) -> Plan {
    let name = pod.project::<PodLite>().spec.node_name.to_string();
    let need = Need::Present { resource: NODES, namespace: String::new(), name };
    match facts.answers.get(&need) {
        // The caches are about to show it.
        Some(true) => return Plan::nothing().again_within(QUARANTINE),
        Some(false) => {
            let gone = NewCondition {
                kind: condition::DISRUPTION_TARGET,
                status: "True",
                reason: "DeletionByPodGC",
                message: "PodGC: node no longer exists",
            };
            return remove(pod, Some(gone), now);
        }
        None => {}
    }
    let missing = now.mono - *memory.missing.get_or_insert(now.mono);
    if missing < QUARANTINE {
        return Plan::nothing().again_within(QUARANTINE - missing);
    }
    Plan { needs: vec![need], ..Plan::default() }
}

/// Marks the pod as failed, since nobody is left to say how it ended, and deletes it at once.
fn remove(pod: &Object, told: Option<NewCondition<'_>>, now: Now) -> Plan {
    let conditions = told.as_slice();
    let mark = if is_pod_terminated(pod.project::<PodLite>()) {
        None
    } else {
        condition::of_pod(PODS, pod, conditions, [("phase", "Failed".into())], now.wall)
    };
    let delete = Change::Remove { of: owner::reference_to(PODS, pod) };
    Plan::nothing().then(mark.map(Action::from)).then([delete.into()])
}

/// Deletes the oldest of too many; those first that their nodes evicted.
fn thin_out(pods: &[Arc<Object>], now: Now) -> Plan {
    let surplus = pods.len().saturating_sub(TERMINATED_MAX).min(BATCH_MAX);
    let mut order: Vec<&Arc<Object>> = pods.iter().collect();
    order.sort_by_cached_key(|pod| {
        let status = &pod.project::<PodLite>().status;
        let evicted = &*status.phase == "Failed" && &*status.reason == "Evicted";
        (!evicted, pod.meta().creation, pod.name().to_owned())
    });
    let removals = order[..surplus].iter().flat_map(|pod| remove(pod, None, now).stages).flatten();
    Plan::nothing().then(removals)
}

#[cfg(test)]
mod tests;
