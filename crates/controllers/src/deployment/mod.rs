//! Deployment: keeps one ReplicaSet per revision of the template and moves replicas from old to new.
//!
//! Upstream: `pkg/controller/deployment`. A decision makes one step (create, scale or clean up) and writes the status that
//! follows from what was observed; the step's effect brings the next decision.

mod condition;
mod pins;
mod revision;
mod rollback;
mod rolling;
mod scaling;
mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::projection::PodLite;
use api::selector::Selector;
use client::{Key, Object};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use reconcile::plan::kinds::{CONFIG_MAPS, DEPLOYMENTS, PODS, REPLICA_SETS, SECRETS};
use reconcile::{Action, Controller, Facts, Need, Note, Now, Outcomes, Plan, Reference, Severity, View, Watch};

use crate::owner;

/// How soon to look again when the caches are behind.
const LAG: Duration = Duration::from_secs(1);
/// So many ReplicaSets of earlier Deployments are asked about at most.
const PREDECESSORS_MAX: usize = 32;

/// The controller of Deployments.
pub struct DeploymentController;

/// Everything a decision about one Deployment depends on.
pub struct Observed {
    deployment: Option<Deployment>,
    /// ReplicaSets that this Deployment controls, and orphans that its selector matches.
    sets: Vec<ReplicaSet>,
    /// Pods by the uid of their ReplicaSet: one strategy waits for them, and who missed a deadline is told of them.
    pods: BTreeMap<String, Vec<Arc<Object>>>,
    /// Another ReplicaSet has the name that the new one would get.
    taken: bool,
    /// What its pods are configured by; only for those that ask for it to be pinned.
    config: pins::Config,
    /// ReplicaSets that it would select, were they not shown as those of an earlier Deployment of its name.
    predecessors: Vec<Need>,
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![
            Watch::primary(DEPLOYMENTS),
            Watch::mapped(REPLICA_SETS, owner::keys_of_replica_set),
            Watch::mapped(PODS, owner::deployment_of_pod),
            Watch::mapped(CONFIG_MAPS, pins::keys_of_source),
            Watch::mapped(SECRETS, pins::keys_of_source),
        ]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let deployment: Option<Deployment> = view.get(DEPLOYMENTS, key).and_then(|object| owner::typed(&object));
        let Some(deployment) = deployment else {
            return Observed {
                deployment: None,
                sets: Vec::new(),
                pods: BTreeMap::new(),
                taken: false,
                config: pins::Config::default(),
                predecessors: Vec::new(),
            };
        };
        let selector = owner::selector(&deployment.spec);
        let uid = deployment.metadata.uid.clone().unwrap_or_default();
        let sets: Vec<ReplicaSet> = view
            .in_namespace(REPLICA_SETS, key.namespace())
            .filter(|object| owner::relevant(object.meta(), &uid, selector.as_ref()))
            .filter_map(|object| owner::typed(&object))
            .collect();
        let mut pods = BTreeMap::new();
        for set in &sets {
            let uid = set.metadata.uid.clone().unwrap_or_default();
            pods.insert(uid.clone(), view.owned(PODS, &uid).collect());
        }
        let name = revision::name_of_new(&deployment);
        let mine = |object: &Object| object.meta().is_controlled_by(&uid);
        let taken = match view.get(REPLICA_SETS, &Key::new(key.namespace(), &name)) {
            // Ours of this name has another template: two templates share a hash.
            Some(object) if mine(&object) => sets
                .iter()
                .find(|set| set.metadata.name.as_ref() == Some(&name))
                .is_some_and(|set| revision::new_set(&deployment, &[set]).is_none()),
            Some(_) => true,
            None => false,
        };
        let config = pins::observe(view, &deployment);
        let predecessors = predecessors(view, key, &uid, selector.as_ref());
        Observed { deployment: Some(deployment), sets, pods, taken, config, predecessors }
    }

    fn reconcile(observed: &Observed, now: Now, last: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(deployment) = &observed.deployment else { return Plan::nothing() };
        let Some(selector) = owner::selector(&deployment.spec).filter(|selector| !selector.is_everything()) else {
            return selects_everything(deployment);
        };
        let case = Case::new(deployment, observed, now, last);
        if deployment.metadata.deletion_timestamp.is_some() {
            return case.finish(Vec::new());
        }
        if let Some(plan) = await_orphans(&observed.predecessors, facts) {
            return plan;
        }
        let claims = owner::claims_of_sets(deployment, &observed.sets, &selector);
        claims.plan(case.reference(), facts).unwrap_or_else(|| decide(&case))
    }
}

/// Whether the API still shows what the caches show of the ReplicaSets of earlier Deployments of this name.
fn predecessors(view: &View, key: &Key, uid: &str, selector: Option<&Selector>) -> Vec<Need> {
    let earlier = |set: &Arc<Object>| {
        let meta = set.meta();
        let owned = meta
            .controller()
            .is_some_and(|owner| &*owner.kind == "Deployment" && &*owner.name == key.name() && &*owner.uid != uid);
        owned && meta.deletion.is_none() && selector.is_some_and(|selector| selector.matches(&meta.labels))
    };
    let sets = view.in_namespace(REPLICA_SETS, key.namespace()).filter(earlier).take(PREDECESSORS_MAX);
    sets.map(|set| Need::Unchanged { of: owner::reference_to(REPLICA_SETS, &set), revision: set.revision() }).collect()
}

/// Waits for the caches when an earlier Deployment of this name left its ReplicaSets behind and they do not show it yet: their
/// pods count, and whoever does not know of them makes too many. Those that go with their owner are left to it.
fn await_orphans(predecessors: &[Need], facts: &Facts) -> Option<Plan> {
    let unanswered: Vec<Need> = predecessors.iter().filter(|need| !facts.answers.contains_key(need)).cloned().collect();
    if !unanswered.is_empty() {
        return Some(Plan { needs: unanswered, ..Plan::default() });
    }
    let behind = predecessors.iter().any(|need| facts.answers.get(need) == Some(&false));
    behind.then(|| Plan::nothing().again_within(LAG))
}

fn selects_everything(deployment: &Deployment) -> Plan {
    let note = Note {
        regarding: owner::reference(DEPLOYMENTS, &deployment.metadata),
        field: String::new(),
        severity: Severity::Warning,
        reason: "SelectingAll",
        message: "This deployment is selecting all pods. A non-empty selector is required.".into(),
    };
    let mut plan = status::observed_generation(deployment);
    plan.notes.push(note);
    plan
}

fn decide(case: &Case<'_>) -> Plan {
    if let Some(stages) = pins::step(case).filter(|_| !case.paused()) {
        return stages.into_iter().fold(Plan::nothing(), Plan::then);
    }
    if case.taken && !case.paused() {
        return case.finish(Vec::new());
    }
    let steps = rollback::step(case)
        .or_else(|| case.new_set.and_then(|set| revision::annotate(case, set)))
        .or_else(|| step(case));
    case.finish(steps.unwrap_or_default())
}

/// The one thing to do now.
fn step(case: &Case<'_>) -> Option<Vec<Action>> {
    if case.paused() {
        return scaling::proportional(case).or_else(|| revision::clean_up(case));
    }
    if scaling::wanted(case) {
        return scaling::proportional(case);
    }
    let steps = if strategy_is_recreate(case.deployment) { recreate(case) } else { rolling::step(case) };
    steps.or_else(|| {
        let done = || {
            let steps = rollback::remember(case).or_else(|| rollback::forget(case));
            steps.or_else(|| revision::clean_up(case)).or_else(|| pins::clean_up(case))
        };
        status::complete(case).then(done).flatten()
    })
}

/// Scales everything old to zero, waits until its pods are gone, then makes the new ReplicaSet and scales it up.
fn recreate(case: &Case<'_>) -> Option<Vec<Action>> {
    let downs: Vec<Action> =
        case.old().filter(|set| replicas(set) > 0).map(|set| scaling::scale(case, set, 0)).collect();
    if !downs.is_empty() {
        return Some(downs);
    }
    if !case.settled() || old_pods_run(case) {
        return None;
    }
    match case.new_set {
        None => Some(revision::create(case)),
        Some(set) => (replicas(set) != case.desired()).then(|| vec![scaling::scale(case, set, case.desired())]),
    }
}

/// Whether pods of another revision are still there; ended ones do not count, unless nothing says they are gone for good.
fn old_pods_run(case: &Case<'_>) -> bool {
    let new_uid = case.new_set.and_then(|set| set.metadata.uid.as_deref());
    case.pods
        .iter()
        .filter(|(uid, _)| Some(uid.as_str()) != new_uid)
        .flat_map(|(_, pods)| pods)
        .any(|pod| !matches!(&*pod.project::<PodLite>().status.phase, "Failed" | "Succeeded"))
}

fn strategy_is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

/// `spec.replicas` of a ReplicaSet.
fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The pods that a ReplicaSet may have: those it is to have, and those it was to delete and still has.
fn pods_at_most(set: &ReplicaSet) -> i32 {
    replicas(set).max(set.status.as_ref().map_or(0, |status| status.replicas))
}

/// The available pods that a ReplicaSet keeps: it may be about to delete some that its status counts.
fn available_at_least(set: &ReplicaSet) -> i32 {
    available(set).min(replicas(set))
}

/// `status.availableReplicas` of a ReplicaSet.
fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// One Deployment with its ReplicaSets sorted into the new one and the old ones.
struct Case<'a> {
    deployment: &'a Deployment,
    /// Controlled by the Deployment, oldest first.
    sets: Vec<&'a ReplicaSet>,
    new_set: Option<&'a ReplicaSet>,
    /// The new one cannot be made under its name: the hash has to change.
    taken: bool,
    pods: &'a BTreeMap<String, Vec<Arc<Object>>>,
    config: &'a pins::Config,
    now: Now,
    last: &'a Outcomes,
}

impl<'a> Case<'a> {
    fn new(deployment: &'a Deployment, observed: &'a Observed, now: Now, last: &'a Outcomes) -> Case<'a> {
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut sets: Vec<&ReplicaSet> =
            observed.sets.iter().filter(|set| owner::controller_uid(&set.metadata) == Some(uid)).collect();
        sets.sort_by_key(|set| (set.metadata.creation_timestamp.clone().map(|time| time.0), set.metadata.name.clone()));
        let new_set = revision::new_set(deployment, &sets);
        let taken = new_set.is_none() && observed.taken;
        Case { deployment, sets, new_set, taken, pods: &observed.pods, config: &observed.config, now, last }
    }

    /// Every controlled ReplicaSet but the new one.
    fn old(&self) -> impl Iterator<Item = &'a ReplicaSet> + '_ {
        let new_uid = self.new_set.and_then(|set| set.metadata.uid.as_ref());
        self.sets.iter().copied().filter(move |set| new_uid.is_none() || set.metadata.uid.as_ref() != new_uid)
    }

    fn desired(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    fn paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
    }

    fn name(&self) -> &str {
        self.deployment.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.deployment.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn reference(&self) -> Reference {
        owner::reference(DEPLOYMENTS, &self.deployment.metadata)
    }

    /// Whether every ReplicaSet's status tells what its controller did about its present size.
    ///
    /// Before that nobody knows how many pods there are: one that was grown and shrunk again may have made pods that it
    /// is still to delete, and one that was shrunk and grown again may count pods that are gone. Upstream does not wait,
    /// and passes ceiling and floor for a moment when a ReplicaSet's controller is slow.
    fn settled(&self) -> bool {
        let seen = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.observed_generation);
        self.sets.iter().all(|set| seen(set) >= set.metadata.generation)
    }

    /// The step, and the status that follows from what was observed.
    fn finish(&self, steps: Vec<Action>) -> Plan {
        // After a failed create the status goes first, or it would never be told.
        if status::create_failure(self).is_some() {
            return status::write(self, Plan::nothing()).then(steps);
        }
        status::write(self, Plan::nothing().then(steps))
    }
}

#[cfg(test)]
mod tests;
