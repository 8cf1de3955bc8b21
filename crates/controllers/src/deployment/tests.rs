//! Roll-outs in a world of ReplicaSets and pods, step by step and in any order, on views that lag.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::projection::PodLite;
use client::{Key, Object};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use reconcile::freshness::Awaited;
use reconcile::plan::kinds::{CONFIG_MAPS, DEPLOYMENTS, PODS, REPLICA_SETS};
use reconcile::{Outcomes, Propagation};
use stdx::sim::Random;

use super::DeploymentController;
use super::condition;
use super::revision::{REVISION, REVISION_HISTORY, annotation};
use crate::replicaset::ReplicaSetController;
use crate::testing::{World, resources_of};

const NAMESPACE: &str = "default";
const BROKEN: &str = "broken";

/// A Deployment `web` in a world whose pods come up by hand.
struct Rollout {
    world: World,
    key: Key,
}

impl Rollout {
    fn new(spec: &str) -> Rollout {
        let mut world = World::new();
        let json = format!(
            r#"{{"metadata":{{"name":"web"}},"spec":{{{spec},"selector":{{"matchLabels":{{"app":"web"}}}},
                "template":{{"metadata":{{"labels":{{"app":"web"}}}},"spec":{{"containers":[{{"name":"c","image":"v1"}}]}}}}}}}}"#
        );
        world.create(DEPLOYMENTS, NAMESPACE, &json);
        Rollout { world, key: Key::new(NAMESPACE, "web") }
    }

    fn edit(&mut self, change: &str) {
        self.world.edit(DEPLOYMENTS, NAMESPACE, "web", change);
    }

    fn image(&mut self, image: &str) {
        self.edit(&format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}}}}}"#
        ));
    }

    fn deployment(&self) -> Deployment {
        self.world.typed(DEPLOYMENTS, NAMESPACE, "web")
    }

    /// Sizes of the ReplicaSets by image.
    fn sizes(&self) -> Vec<(String, i32)> {
        let mut sets: Vec<ReplicaSet> = self.world.all_typed(REPLICA_SETS);
        sets.sort_by_key(image_of);
        sets.iter().map(|set| (image_of(set), super::replicas(set))).collect()
    }

    fn set(&self, image: &str) -> ReplicaSet {
        let sets: Vec<ReplicaSet> = self.world.all_typed(REPLICA_SETS);
        sets.into_iter().find(|set| image_of(set) == image).unwrap_or_else(|| panic!("no ReplicaSet of {image}"))
    }

    fn work_deployment(&mut self) -> bool {
        self.world.work::<DeploymentController>(&self.key)
    }

    fn work_sets(&mut self) -> bool {
        let keys: Vec<Key> = self.world.all(REPLICA_SETS).map(|set| set.key().clone()).collect();
        keys.iter().filter(|key| self.world.work::<ReplicaSetController>(key)).count() > 0
    }

    /// Pods are placed and, unless their image is broken, ready; pods that end are gone.
    fn work_pods(&mut self) -> bool {
        let pods: Vec<Key> = self.world.all(PODS).map(|pod| pod.key().clone()).collect();
        pods.iter().filter(|pod| bring_up(&mut self.world, pod)).count() > 0
    }

    /// Until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let changed = [self.work_deployment(), self.work_sets(), self.work_pods()].contains(&true);
            if !changed {
                return;
            }
            self.world.pass(1000);
        }
        panic!("never comes to rest: {:?}", self.sizes());
    }

    /// Whether the Deployment's condition says that enough pods serve.
    fn is_available(&self) -> bool {
        let status = self.deployment().status.unwrap_or_default();
        let available = condition::get(status.conditions.as_deref().unwrap_or_default(), condition::AVAILABLE);
        available.is_some_and(|available| available.status == "True")
    }

    fn pods(&self) -> Counts {
        count(&self.world)
    }

    /// Type, status and reason of the conditions.
    fn conditions(&self) -> Vec<String> {
        let status = self.deployment().status.unwrap();
        let mut conditions: Vec<String> = status
            .conditions
            .into_iter()
            .flatten()
            .map(|condition| format!("{}={} {}", condition.type_, condition.status, condition.reason.unwrap()))
            .collect();
        conditions.sort();
        conditions
    }
}

fn image_of(set: &ReplicaSet) -> String {
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref()).unwrap();
    template.spec.as_ref().unwrap().containers[0].image.clone().unwrap()
}

/// One step of a pod's life; whether there was one.
fn bring_up(world: &mut World, key: &Key) -> bool {
    let Some(pod) = world.find(PODS, key.namespace(), key.name()).cloned() else { return false };
    let lite: &PodLite = pod.project();
    if pod.meta().deletion.is_some() {
        world.remove(PODS, key);
    } else if lite.spec.node_name.is_empty() {
        world.edit(PODS, key.namespace(), key.name(), r#"{"spec":{"nodeName":"n"}}"#);
    } else if lite.status.phase.is_empty() && &*lite.spec.containers[0].image != BROKEN {
        let now = world.now;
        let status = format!(
            r#"{{"status":{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"{now}"}}]}}}}"#
        );
        world.tell(PODS, key.namespace(), key.name(), &status);
    } else {
        return false;
    }
    true
}

/// Pods that are there to stay, and those of them that serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    live: i32,
    available: i32,
}

fn count(world: &World) -> Counts {
    let mut counts = Counts::default();
    for pod in world.all(PODS).filter(|pod| pod.meta().deletion.is_none()) {
        counts.live += 1;
        counts.available += i32::from(api::decide::pod::is_pod_ready(pod.project()));
    }
    counts
}

fn rolling(replicas: i32, surge: &str, unavailable: &str) -> String {
    format!(
        r#""replicas":{replicas},"progressDeadlineSeconds":600,"revisionHistoryLimit":10,"strategy":{{"type":"RollingUpdate",
           "rollingUpdate":{{"maxSurge":{surge},"maxUnavailable":{unavailable}}}}}"#
    )
}

fn set_names(set: &ReplicaSet) -> (String, String) {
    let name = set.metadata.name.clone().unwrap();
    let hash = set.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    (name, hash)
}

#[test]
fn a_new_deployment_gets_one_set_with_hash_revision_and_condition() {
    let mut rollout = Rollout::new(&rolling(3, "1", "0"));
    rollout.settle();
    let set = rollout.set("v1");
    let (name, hash) = set_names(&set);
    assert_eq!(name, format!("web-{hash}"));
    let selector = set.spec.as_ref().unwrap().selector.match_labels.clone().unwrap();
    assert_eq!(selector["pod-template-hash"], hash);
    assert_eq!(annotation(&set.metadata, REVISION), Some("1"));
    let deployment = rollout.deployment();
    assert_eq!(annotation(&deployment.metadata, REVISION), Some("1"));
    assert_eq!(deployment.metadata.generation, Some(1), "the number on the Deployment is no new generation");
    let status = deployment.status.unwrap();
    assert_eq!((status.observed_generation, status.replicas, status.updated_replicas), (Some(1), Some(3), Some(3)));
    assert_eq!((status.available_replicas, status.unavailable_replicas), (Some(3), None));
    assert_eq!(
        rollout.conditions(),
        ["Available=True MinimumReplicasAvailable", "Progressing=True NewReplicaSetAvailable"]
    );
    assert_eq!(rollout.world.told()[0], format!("ScalingReplicaSet Scaled up replica set {name} from 0 to 3"));
}

#[test]
fn a_new_template_moves_pod_by_pod_and_a_rollback_uses_the_old_set_again() {
    let mut rollout = Rollout::new(&rolling(2, "1", "0"));
    rollout.settle();
    let (old, _) = set_names(&rollout.set("v1"));
    rollout.world.told();
    rollout.image("v2");
    rollout.settle();
    let (new, _) = set_names(&rollout.set("v2"));
    let told: Vec<String> =
        rollout.world.told().into_iter().filter(|told| told.starts_with("ScalingReplicaSet")).collect();
    assert_eq!(
        told,
        [
            format!("ScalingReplicaSet Scaled up replica set {new} from 0 to 1"),
            format!("ScalingReplicaSet Scaled down replica set {old} from 2 to 1"),
            format!("ScalingReplicaSet Scaled up replica set {new} from 1 to 2"),
            format!("ScalingReplicaSet Scaled down replica set {old} from 1 to 0"),
        ]
    );
    rollout.image("v1");
    rollout.settle();
    assert_eq!(rollout.sizes(), [("v1".into(), 2), ("v2".into(), 0)]);
    let set = rollout.set("v1");
    assert_eq!(set_names(&set).0, old, "the set of before is used again");
    assert_eq!(annotation(&set.metadata, REVISION), Some("3"));
    assert_eq!(annotation(&set.metadata, REVISION_HISTORY), Some("1"));
    assert_eq!(annotation(&rollout.deployment().metadata, REVISION), Some("3"));
}

#[test]
fn a_broken_image_stops_at_the_ceiling_and_misses_its_deadline() {
    let mut rollout = Rollout::new(&rolling(4, "\"25%\"", "\"25%\""));
    rollout.settle();
    rollout.image(BROKEN);
    rollout.settle();
    assert_eq!(rollout.sizes(), [(BROKEN.into(), 2), ("v1".into(), 3)]);
    assert_eq!(rollout.pods(), Counts { live: 5, available: 3 });
    assert_eq!(rollout.conditions(), ["Available=True MinimumReplicasAvailable", "Progressing=True ReplicaSetUpdated"]);
    let view = rollout.world.view(&resources_of::<DeploymentController>());
    let plan = rollout.world.decide::<DeploymentController>(&rollout.key, &view, &Outcomes::default());
    let again = plan.again_after.expect("looks again at the deadline").as_secs();
    assert!((590..=601).contains(&again), "{again}");
    rollout.world.pass(700_000);
    rollout.settle();
    assert_eq!(
        rollout.conditions(),
        ["Available=True MinimumReplicasAvailable", "Progressing=False ProgressDeadlineExceeded"]
    );
    rollout.image("v1");
    rollout.settle();
    assert_eq!(rollout.sizes(), [(BROKEN.into(), 0), ("v1".into(), 4)]);
    assert_eq!(
        rollout.conditions(),
        ["Available=True MinimumReplicasAvailable", "Progressing=True NewReplicaSetAvailable"]
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut rollout = Rollout::new(&rolling(2, "1", "0"));
    rollout.settle();
    rollout.edit(r#"{"spec":{"paused":true}}"#);
    rollout.image("v2");
    rollout.edit(r#"{"spec":{"replicas":4}}"#);
    rollout.settle();
    assert_eq!(rollout.sizes(), [("v1".into(), 4)]);
    assert_eq!(rollout.conditions()[1], "Progressing=Unknown DeploymentPaused");
    rollout.edit(r#"{"spec":{"paused":false}}"#);
    rollout.settle();
    assert_eq!(rollout.sizes(), [("v1".into(), 0), ("v2".into(), 4)]);
    assert_eq!(rollout.conditions()[1], "Progressing=True NewReplicaSetAvailable");
}

#[test]
fn a_change_of_size_amid_a_rollout_is_spread_in_proportion() {
    // Upstream's own example: 10 replicas, surge 3, unavailable 2, a rollout that is stuck at 8 + 5; then 15 replicas.
    let mut rollout = Rollout::new(&rolling(10, "3", "2"));
    rollout.settle();
    rollout.image(BROKEN);
    rollout.settle();
    assert_eq!(rollout.sizes(), [(BROKEN.into(), 5), ("v1".into(), 8)]);
    rollout.edit(r#"{"spec":{"replicas":15}}"#);
    rollout.work_deployment();
    assert_eq!(rollout.sizes(), [(BROKEN.into(), 7), ("v1".into(), 11)]);
    rollout.edit(r#"{"spec":{"replicas":0}}"#);
    rollout.settle();
    assert_eq!(rollout.sizes(), [(BROKEN.into(), 0), ("v1".into(), 0)]);
    assert_eq!(rollout.pods(), Counts::default());
}

#[test]
fn recreate_ends_all_old_pods_before_it_makes_new_ones() {
    let mut rollout = Rollout::new(r#""replicas":3,"progressDeadlineSeconds":600,"strategy":{"type":"Recreate"}"#);
    rollout.settle();
    rollout.image("v2");
    while [rollout.work_deployment(), rollout.work_sets()].contains(&true) {}
    assert_eq!(rollout.sizes(), [("v1".into(), 0)], "old pods are still ending");
    rollout.settle();
    assert_eq!(rollout.sizes(), [("v1".into(), 0), ("v2".into(), 3)]);
}

#[test]
fn a_taken_name_changes_the_hash() {
    let mut rollout = Rollout::new(&rolling(1, "1", "0"));
    rollout.settle();
    let set = rollout.set("v1");
    let (name, _) = set_names(&set);
    // Somebody else's object of this name, and ours is gone.
    rollout.world.remove(REPLICA_SETS, &Key::new(NAMESPACE, &name));
    let owner = r#"[{"apiVersion":"v1","kind":"Other","name":"o","uid":"o","controller":true}]"#;
    let foreign = format!(
        r#"{{"metadata":{{"name":"{name}","ownerReferences":{owner}}},"spec":{{"replicas":0,"selector":{{"matchLabels":{{"app":"x"}}}}}}}}"#
    );
    rollout.world.create(REPLICA_SETS, NAMESPACE, &foreign);
    rollout.work_deployment();
    assert_eq!(rollout.deployment().status.unwrap().collision_count, Some(1));
    rollout.work_deployment();
    let mine = rollout.world.all_typed::<ReplicaSet>(REPLICA_SETS);
    let mine: Vec<String> = mine.iter().map(set_names_or_name).filter(|other| *other != name).collect();
    assert_eq!(mine.len(), 1, "{mine:?}");
}

fn set_names_or_name(set: &ReplicaSet) -> String {
    set.metadata.name.clone().unwrap()
}

#[test]
fn an_orphan_of_the_same_template_is_adopted_and_not_a_collision() {
    let mut rollout = Rollout::new(&rolling(2, "1", "0"));
    rollout.settle();
    let (name, _) = set_names(&rollout.set("v1"));
    let orphan = r#"{"metadata":{"ownerReferences":null}}"#;
    rollout.world.edit(REPLICA_SETS, NAMESPACE, &name, orphan);
    rollout.settle();
    let set = rollout.set("v1");
    assert_eq!(set.metadata.owner_references.map(|owners| owners.len()), Some(1));
    assert_eq!(rollout.deployment().status.unwrap().collision_count, None);
    assert_eq!(rollout.pods(), Counts { live: 2, available: 2 });
}

#[test]
fn a_deployment_made_anew_waits_until_it_sees_what_the_earlier_one_left_behind() {
    let mut rollout = Rollout::new(r#""replicas":3"#);
    rollout.work_deployment();
    let name = rollout.set("v1").metadata.name.unwrap();
    rollout.world.remove(DEPLOYMENTS, &rollout.key);
    let mut anew = Rollout::new(r#""replicas":3"#);
    let json = serde_json::to_string(&anew.deployment().spec).unwrap();
    anew.world = rollout.world;
    anew.world.create(DEPLOYMENTS, NAMESPACE, &format!(r#"{{"metadata":{{"name":"web"}},"spec":{json}}}"#));
    anew.image("v2");
    let view = anew.world.view(&resources_of::<DeploymentController>());
    let decide = |world: &World| world.decide::<DeploymentController>(&anew.key, &view, &Outcomes::default());
    assert_eq!(decide(&anew.world).stages.len(), 2, "what goes with its owner is none of its business");
    anew.world.edit(REPLICA_SETS, NAMESPACE, &name, r#"{"metadata":{"ownerReferences":null}}"#);
    let plan = decide(&anew.world);
    assert_eq!((plan.stages.len(), plan.again_after), (0, Some(std::time::Duration::from_secs(1))));
}

#[test]
fn a_deployment_that_ends_keeps_its_number_while_its_sets_leave_it() {
    let mut rollout = Rollout::new(&rolling(2, "1", "0"));
    rollout.settle();
    rollout.image("v2");
    rollout.settle();
    rollout.image("v1");
    let (newest, _) = set_names(&rollout.set("v2"));
    rollout.world.delete(DEPLOYMENTS, NAMESPACE, "web", Propagation::Orphan);
    rollout.world.edit(REPLICA_SETS, NAMESPACE, &newest, r#"{"metadata":{"ownerReferences":null}}"#);
    rollout.work_deployment();
    assert_eq!(annotation(&rollout.deployment().metadata, REVISION), Some("2"));
}

#[test]
fn a_deployment_that_ends_adopts_nothing_even_if_the_cache_lags() {
    let mut rollout = Rollout::new(&rolling(1, "1", "0"));
    rollout.settle();
    let (name, _) = set_names(&rollout.set("v1"));
    let before = rollout.world.view(&[DEPLOYMENTS]);
    rollout.world.delete(DEPLOYMENTS, NAMESPACE, "web", Propagation::Orphan);
    rollout.world.edit(REPLICA_SETS, NAMESPACE, &name, r#"{"metadata":{"ownerReferences":null}}"#);
    let seen = before.get(DEPLOYMENTS, &rollout.key).unwrap();
    assert!(seen.meta().deletion.is_none());
    let stale = {
        let mut random = Random::new(0);
        let resources = resources_of::<DeploymentController>();
        (0..64)
            .map(|_| rollout.world.lagging_view(&resources, &Awaited::default(), &mut random))
            .find(|view| {
                let alive = view.get(DEPLOYMENTS, &rollout.key).is_some_and(|seen| seen.meta().deletion.is_none());
                let set = view.get(REPLICA_SETS, &Key::new(NAMESPACE, &name));
                alive && set.is_some_and(|set| set.meta().owners.is_empty())
            })
            .expect("some view shows the orphan, but not yet the deletion")
    };
    let plan = rollout.world.decide::<DeploymentController>(&rollout.key, &stale, &Outcomes::default());
    assert!(plan.stages.is_empty(), "{plan:?}");
}

#[test]
fn old_sets_beyond_the_limit_go_oldest_first() {
    let mut rollout = Rollout::new(&rolling(1, "1", "0"));
    rollout.edit(r#"{"spec":{"revisionHistoryLimit":2}}"#);
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        rollout.image(image);
        rollout.settle();
    }
    assert_eq!(rollout.sizes(), [("v3".into(), 0), ("v4".into(), 0), ("v5".into(), 1)]);
}

#[test]
fn a_refused_set_is_told_in_condition_and_event() {
    let rollout = Rollout::new(&rolling(1, "1", "0"));
    let view = rollout.world.view(&resources_of::<DeploymentController>());
    let failure = reconcile::Failure {
        verb: reconcile::Verb::Create,
        resource: REPLICA_SETS,
        reason: "Forbidden".into(),
        message: "exceeded quota".into(),
    };
    let last = Outcomes { failures: vec![failure] };
    let plan = rollout.world.decide::<DeploymentController>(&rollout.key, &view, &last);
    let reconcile::Change::Patch { body, .. } = &plan.stages[0][0].change else { panic!("the status goes first") };
    let status: k8s_openapi::api::apps::v1::DeploymentStatus = crate::testing::typed(body.get("status").unwrap());
    let told = condition::get(status.conditions.as_deref().unwrap(), "Progressing").unwrap().clone();
    assert_eq!((told.status.as_str(), told.reason.as_deref()), ("False", Some("ReplicaSetCreateError")));
    let message = told.message.unwrap();
    assert!(message.starts_with("Failed to create new replica set \"web-"), "{message}");
    assert!(message.ends_with(": exceeded quota"), "{message}");
    let event = plan.stages[1][0].on_failure.clone().unwrap();
    assert_eq!(event.reason, "ReplicaSetCreateError");
}

/// A rollout in which everything happens in any order and every view may lag.
struct Chaos {
    rollout: Rollout,
    random: Random,
    /// What each decider has to see before it decides again.
    awaited: BTreeMap<Key, Awaited>,
    /// The largest ceiling and the smallest floor since the last rest.
    ceiling: i32,
    floor: i32,
    surge: i32,
    unavailable: i32,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut random = Random::new(seed);
        let replicas = 2 + random.below(5) as i32;
        let (surge, unavailable) = [(1, 0), (0, 1), (2, 1), (3, 2)][random.below(4) as usize];
        let rollout = Rollout::new(&rolling(replicas, &surge.to_string(), &unavailable.to_string()));
        let (ceiling, floor) = (replicas + surge, replicas - unavailable);
        Chaos { rollout, random, awaited: BTreeMap::new(), ceiling, floor, surge, unavailable }
    }

    fn step(&mut self) {
        let before = self.rollout.pods();
        let millis = 1 + self.random.below(2000) as i64;
        self.rollout.world.pass(millis);
        let mut by = String::new();
        let told_available = self.rollout.is_available();
        match self.random.below(100) {
            0..5 => self.user(),
            5..40 => {
                let key = self.rollout.key.clone();
                self.decide::<DeploymentController>(&key);
            }
            40..70 => {
                let keys: Vec<Key> = self.rollout.world.all(REPLICA_SETS).map(|set| set.key().clone()).collect();
                if !keys.is_empty() {
                    let key = keys[self.random.below(keys.len() as u64) as usize].clone();
                    self.decide::<ReplicaSetController>(&key);
                    by = key.to_string();
                }
            }
            _ => {
                let pods: Vec<Key> = self.rollout.world.all(PODS).map(|pod| pod.key().clone()).collect();
                if !pods.is_empty() {
                    bring_up(&mut self.rollout.world, &pods[self.random.below(pods.len() as u64) as usize]);
                }
            }
        }
        let after = self.rollout.pods();
        let sizes = self.rollout.sizes();
        if after.live > before.live {
            assert!(after.live <= self.ceiling, "{by} passes ceiling {}: {before:?} {after:?} {sizes:?}", self.ceiling);
        }
        // Before the controllers know that there are enough, they may take pods for broken that are just coming up.
        if after.available < before.available && !by.is_empty() && told_available {
            assert!(after.available >= self.floor, "{by} passes floor {}: {before:?} {after:?} {sizes:?}", self.floor);
        }
    }

    fn decide<C: reconcile::Controller<Key = Key>>(&mut self, key: &Key) {
        let awaited = self.awaited.get(key).cloned().unwrap_or_default();
        let world = &mut self.rollout.world;
        let view = world.lagging_view(&resources_of::<C>(), &awaited, &mut self.random);
        let plan = world.decide::<C>(key, &view, &Outcomes::default());
        // One plan in ten is cut short, as by the end of the process; the next one then begins with whole lists.
        let cut = self.random.one_in(10);
        let actions_max = if cut { self.random.below(3) as usize } else { usize::MAX };
        let mut awaited = world.carry(plan, actions_max).awaited;
        if cut {
            for resource in resources_of::<C>() {
                awaited.wrote(resource, world.revision);
            }
        }
        let known = self.awaited.entry(key.clone()).or_default();
        for (resource, revision) in awaited.iter() {
            known.wrote(resource, revision);
        }
    }

    fn user(&mut self) {
        let images = ["v1", "v2", "v3", BROKEN];
        match self.random.below(12) {
            0 => {
                let replicas = self.random.below(7) as i32;
                self.rollout.edit(&format!(r#"{{"spec":{{"replicas":{replicas}}}}}"#));
                self.ceiling = self.ceiling.max(replicas + self.surge);
                self.floor = self.floor.min((replicas - self.unavailable).max(0));
            }
            1 => {
                let paused = self.random.one_in(2);
                self.rollout.edit(&format!(r#"{{"spec":{{"paused":{paused}}}}}"#));
            }
            _ => self.rollout.image(images[self.random.below(4) as usize]),
        }
    }

    /// Lets everything come to rest on a good template, and checks that it does.
    fn rest(&mut self) {
        self.rollout.edit(r#"{"spec":{"paused":false}}"#);
        self.rollout.image("v1");
        self.rollout.settle();
        let deployment = self.rollout.deployment();
        let desired = deployment.spec.as_ref().unwrap().replicas.unwrap();
        assert_eq!(self.rollout.pods(), Counts { live: desired, available: desired });
        assert!(self.rollout.sizes().iter().all(|(image, size)| image == "v1" || *size == 0));
        let status = deployment.status.unwrap();
        assert_eq!(status.observed_generation, deployment.metadata.generation);
        assert_eq!(status.updated_replicas.unwrap_or(0), desired);
        self.ceiling = desired + self.surge;
        self.floor = (desired - self.unavailable).max(0);
        // Whoever acted while coming to rest has seen what came of it.
        let revision = self.rollout.world.revision;
        let deciders: Vec<Key> = self.rollout.world.all(REPLICA_SETS).map(|set| set.key().clone()).collect();
        for key in deciders.into_iter().chain([self.rollout.key.clone()]) {
            let awaited = self.awaited.entry(key).or_default();
            [DEPLOYMENTS, REPLICA_SETS, PODS].into_iter().for_each(|resource| awaited.wrote(resource, revision));
        }
    }
}

#[test]
fn no_order_and_no_lag_passes_ceiling_or_floor() {
    for seed in 0..30 {
        let run = std::panic::AssertUnwindSafe(|| {
            let mut chaos = Chaos::new(seed);
            for _ in 0..3 {
                for _ in 0..150 {
                    chaos.step();
                }
                chaos.rest();
            }
        });
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn the_deadline_begins_anew_with_each_rollout() {
    let mut rollout = Rollout::new(&rolling(1, "1", "0"));
    rollout.settle();
    let begun: Timestamp = rollout.world.now;
    rollout.world.pass(3_600_000);
    rollout.image("v2");
    rollout.work_deployment();
    let status = rollout.deployment().status.unwrap();
    let progressing = condition::get(status.conditions.as_deref().unwrap(), "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("NewReplicaSetCreated"));
    assert!(progressing.last_update_time.as_ref().unwrap().0 > begun);
}

/// The events of one reason.
fn told_of(rollout: &mut Rollout, reason: &str) -> Vec<String> {
    let all = rollout.world.told();
    all.into_iter().filter(|text| text.starts_with(reason)).collect()
}

const ROLLS_BACK: &str = r#"{"metadata":{"annotations":{"isopod.dev/auto-rollback":"true"}}}"#;

#[test]
fn a_revision_that_misses_its_deadline_is_rolled_back() {
    let mut rollout = Rollout::new(r#""replicas":2,"progressDeadlineSeconds":60,"minReadySeconds":1"#);
    rollout.edit(ROLLS_BACK);
    rollout.settle();
    rollout.image(BROKEN);
    rollout.settle();
    assert_eq!(image_now(&rollout), BROKEN, "the deadline has not passed");
    rollout.world.told();
    rollout.world.pass(90_000);
    rollout.settle();
    assert_eq!(image_now(&rollout), "v1");
    assert_eq!(rollout.sizes(), [(BROKEN.to_owned(), 0), ("v1".to_owned(), 2)]);
    let conditions = rollout.conditions();
    assert!(conditions.contains(&"RolledBack=True ProgressDeadlineExceeded".to_owned()), "{conditions:?}");
    let (from, to) = (rollout.set(BROKEN).metadata.name.unwrap(), rollout.set("v1").metadata.name.unwrap());
    let expected = format!(
        "RolledBack Rolled back from replica set {from:?}, which made no progress within 60 seconds, to {to:?}"
    );
    assert_eq!(told_of(&mut rollout, "RolledBack"), [expected]);
    // It is over with the next good revision, also for the annotations.
    rollout.image("v2");
    rollout.settle();
    assert!(!rollout.conditions().iter().any(|condition| condition.starts_with("RolledBack")));
    assert_eq!(annotation(&rollout.deployment().metadata, super::rollback::TO), None);
}

#[test]
fn a_rollback_tells_which_pod_was_to_blame() {
    let mut rollout = Rollout::new(r#""replicas":1,"progressDeadlineSeconds":60,"minReadySeconds":1"#);
    rollout.edit(ROLLS_BACK);
    rollout.settle();
    rollout.image(BROKEN);
    rollout.settle();
    let broken = |pod: &&Arc<Object>| &*pod.project::<PodLite>().spec.containers[0].image == BROKEN;
    let pod = rollout.world.all(PODS).find(broken).unwrap().name().to_owned();
    let crash = r#"{"status":{"phase":"Running","containerStatuses":[{"name":"c","ready":false,"restartCount":2,
        "state":{"waiting":{"reason":"CrashLoopBackOff"}},"lastState":{"terminated":{"exitCode":3,"reason":"Error"}}}]}}"#;
    rollout.world.tell(PODS, NAMESPACE, &pod, crash);
    rollout.settle();
    rollout.world.told();
    rollout.world.pass(90_000);
    rollout.settle();
    let blame = format!("Pod {pod:?}: container \"c\" ends again and again: it ended with exit code 3.");
    let told = rollout.world.told();
    for reason in ["ProgressDeadlineExceeded", "RolledBack"] {
        let of_it: Vec<&String> = told.iter().filter(|text| text.starts_with(reason)).collect();
        assert!(of_it.len() == 1 && of_it[0].ends_with(&blame), "{told:?}");
    }
    let status = rollout.deployment().status.unwrap();
    let condition = condition::get(status.conditions.as_deref().unwrap(), "RolledBack").unwrap();
    assert!(condition.message.as_deref().unwrap().ends_with(&blame), "{condition:?}");
}

fn image_now(rollout: &Rollout) -> String {
    let template = rollout.deployment().spec.unwrap().template;
    template.spec.unwrap().containers[0].image.clone().unwrap()
}

#[test]
fn nothing_is_rolled_back_unasked_or_without_a_good_revision() {
    let mut rollout = Rollout::new(r#""replicas":2,"progressDeadlineSeconds":60"#);
    rollout.settle();
    rollout.image(BROKEN);
    rollout.settle();
    rollout.world.pass(90_000);
    rollout.settle();
    assert_eq!(image_now(&rollout), BROKEN);
    // What was never seen to be good while asked is not taken for it.
    rollout.edit(ROLLS_BACK);
    rollout.settle();
    assert_eq!(image_now(&rollout), BROKEN);
}

/// A Deployment whose pods read the ConfigMap `c`.
fn configured() -> Rollout {
    let mut rollout =
        Rollout::new(r#""replicas":1,"progressDeadlineSeconds":60,"minReadySeconds":1,"revisionHistoryLimit":1"#);
    rollout.world.create(CONFIG_MAPS, NAMESPACE, r#"{"metadata":{"name":"c"},"data":{"greeting":"one"}}"#);
    rollout.edit(
        r#"{"metadata":{"annotations":{"isopod.dev/restart-on-config-change":"true","isopod.dev/auto-rollback":"true"}},
            "spec":{"template":{"spec":{"containers":[{"name":"c","image":"v1","envFrom":[{"configMapRef":{"name":"c"}}]}]}}}}"#,
    );
    rollout.settle();
    rollout
}

/// What the running pods read.
fn read(rollout: &Rollout) -> Vec<String> {
    let pods: Vec<k8s_openapi::api::core::v1::Pod> = rollout.world.all_typed(PODS);
    let source = |pod: k8s_openapi::api::core::v1::Pod| {
        let sources = pod.spec.unwrap().containers[0].env_from.clone().unwrap();
        let name = sources[0].config_map_ref.as_ref().unwrap().name.clone();
        let map: k8s_openapi::api::core::v1::ConfigMap = rollout.world.typed(CONFIG_MAPS, NAMESPACE, &name);
        assert_eq!(map.immutable, Some(true), "pods read copies that nobody changes");
        map.data.unwrap()["greeting"].clone()
    };
    pods.into_iter().map(source).collect()
}

#[test]
fn pods_are_replaced_when_their_configuration_changes() {
    let mut rollout = configured();
    assert_eq!(read(&rollout), ["one"]);
    rollout.world.edit(CONFIG_MAPS, NAMESPACE, "c", r#"{"metadata":{"labels":{"a":"b"}}}"#);
    let sets = rollout.sizes().len();
    rollout.settle();
    assert_eq!(rollout.sizes().len(), sets, "only what pods read matters");
    rollout.world.edit(CONFIG_MAPS, NAMESPACE, "c", r#"{"data":{"greeting":"two"}}"#);
    rollout.settle();
    assert_eq!(read(&rollout), ["two"]);
    // Going back to the older revision, as kubectl does it, brings the older configuration.
    let older = rollout.world.all_typed::<ReplicaSet>(REPLICA_SETS);
    let older = older.into_iter().find(|set| super::replicas(set) == 0).unwrap();
    let mut template = older.spec.unwrap().template.unwrap();
    template.metadata.as_mut().unwrap().labels.as_mut().unwrap().remove("pod-template-hash");
    let template = serde_json::to_string(&template).unwrap();
    rollout.edit(&format!(r#"{{"spec":{{"template":{template}}}}}"#));
    rollout.settle();
    assert_eq!(read(&rollout), ["one"]);
}

#[test]
fn copies_go_with_the_revisions_that_read_them() {
    let mut rollout = configured();
    for greeting in ["two", "three", "four"] {
        let change = format!(r#"{{"data":{{"greeting":"{greeting}"}}}}"#);
        rollout.world.edit(CONFIG_MAPS, NAMESPACE, "c", &change);
        rollout.settle();
        assert_eq!(read(&rollout), [greeting]);
    }
    // The source, and a copy for the present revision and for the one that is kept.
    assert_eq!(rollout.world.all(CONFIG_MAPS).count(), 3);
}

#[test]
fn a_configuration_that_breaks_pods_is_rolled_back_and_not_tried_again() {
    let mut rollout = configured();
    // Pods do not come up with it: their image is told to be broken as soon as they read it.
    rollout.world.edit(CONFIG_MAPS, NAMESPACE, "c", r#"{"data":{"greeting":"bad"}}"#);
    rollout.work_deployment();
    for _ in 0..20 {
        // Nothing of the new revision becomes ready, since nobody works its pods.
        let changed = [rollout.work_deployment(), rollout.work_sets()].contains(&true);
        if !changed {
            break;
        }
    }
    rollout.world.pass(90_000);
    rollout.work_deployment();
    rollout.work_deployment();
    rollout.settle();
    assert_eq!(read(&rollout), ["one"]);
    assert_eq!(told_of(&mut rollout, "RolledBack").len(), 1);
    rollout.world.edit(CONFIG_MAPS, NAMESPACE, "c", r#"{"data":{"greeting":"good"}}"#);
    rollout.settle();
    assert_eq!(read(&rollout), ["good"], "a mended configuration is tried");
}
