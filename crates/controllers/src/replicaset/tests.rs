//! Cases: how many pods are made or deleted, which ones, and what is told.

use client::Key;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use reconcile::plan::kinds::{PODS, REPLICA_SETS};
use reconcile::{Failure, Outcomes, Propagation, Verb};

use super::ReplicaSetController;
use crate::testing::{World, resources_of};

fn key() -> Key {
    Key::new("n", "web")
}

fn world(replicas: i32, min_ready: i32) -> World {
    let mut world = World::new();
    let json = format!(
        r#"{{"metadata":{{"name":"web"}},"spec":{{"replicas":{replicas},"minReadySeconds":{min_ready},"selector":{{"matchLabels":{{"app":"web"}}}},
            "template":{{"metadata":{{"labels":{{"app":"web"}},"annotations":{{"a":"b"}}}},"spec":{{"containers":[{{"name":"c","image":"v1"}}]}}}}}}}}"#
    );
    world.create(REPLICA_SETS, "n", &json);
    world
}

/// A pod of the set, with more metadata, a node and a status.
fn pod(world: &mut World, name: &str, meta: &str, node: &str, status: &str) {
    let uid = world.find(REPLICA_SETS, "n", "web").unwrap().uid().to_owned();
    let owner =
        format!(r#"[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web","uid":"{uid}","controller":true}}]"#);
    let spec = if node.is_empty() { "{}".to_owned() } else { format!(r#"{{"nodeName":"{node}"}}"#) };
    world.create(
        PODS,
        "n",
        &format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"app":"web"}},"ownerReferences":{owner}{meta}}},"spec":{spec},"status":{status}}}"#
        ),
    );
}

fn ready(world: &World, seconds_ago: i64) -> String {
    let since = world.now - jiff::SignedDuration::from_secs(seconds_ago);
    format!(r#"{{"phase":"Running","conditions":[{{"type":"Ready","status":"True","lastTransitionTime":"{since}"}}]}}"#)
}

fn names(world: &World) -> Vec<String> {
    let live = world.all(PODS).filter(|pod| pod.meta().deletion.is_none());
    live.map(|pod| pod.name().to_owned()).collect()
}

#[test]
fn makes_what_is_missing_from_the_template() {
    let mut world = world(2, 0);
    world.work::<ReplicaSetController>(&key());
    let pods: Vec<Pod> = world.all_typed(PODS);
    assert_eq!(pods.len(), 2);
    let meta = &pods[0].metadata;
    assert_eq!(meta.generate_name.as_deref(), Some("web-"));
    assert_eq!(meta.annotations.as_ref().unwrap()["a"], "b");
    let owner = &meta.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.controller, owner.block_owner_deletion),
        ("ReplicaSet", Some(true), Some(true))
    );
    assert_eq!(world.told()[0], format!("SuccessfulCreate Created pod: {}", meta.name.as_ref().unwrap()));
    assert!(world.work::<ReplicaSetController>(&key()), "the status");
    assert!(!world.work::<ReplicaSetController>(&key()), "nothing more to do");
    let status = world.typed::<ReplicaSet>(REPLICA_SETS, "n", "web").status.unwrap();
    assert_eq!((status.replicas, status.fully_labeled_replicas, status.ready_replicas), (2, Some(2), None));
    assert_eq!((status.observed_generation, status.terminating_replicas), (Some(1), Some(0)));
}

/// Two pods `a` and `b` (metadata, node, status); `a` is given up, whichever way round they are named.
#[track_caller]
fn gives_up(a: (&str, &str, &str), b: (&str, &str, &str)) {
    for (first, second) in [("x", "y"), ("y", "x")] {
        let mut world = world(1, 0);
        world.pass(3_600_000);
        pod(&mut world, first, a.0, a.1, a.2);
        pod(&mut world, second, b.0, b.1, b.2);
        world.work::<ReplicaSetController>(&key());
        assert_eq!(names(&world), [second], "keeps {b:?} before {a:?}");
    }
}

#[test]
fn deletes_the_least_useful_first() {
    let world = world(1, 0);
    let now = |seconds| {
        let mut later = World::new();
        later.now = world.now;
        later.pass(3_600_000);
        ready(&later, seconds)
    };
    let (long, short) = (now(3000), now(10));
    let running = r#"{"phase":"Running"}"#;
    let cost = |cost: &str| format!(r#","annotations":{{"controller.kubernetes.io/pod-deletion-cost":"{cost}"}}"#);
    let restarted = r#"{"phase":"Running","containerStatuses":[{"name":"c","image":"v1","imageID":"","ready":false,"restartCount":3}]}"#;
    gives_up(("", "", r#"{"phase":"Pending"}"#), ("", "n1", r#"{"phase":"Pending"}"#));
    gives_up(("", "n1", r#"{"phase":"Pending"}"#), ("", "n1", running));
    gives_up(("", "n1", running), ("", "n1", &short));
    gives_up((&cost("-5"), "n1", &long), ("", "n1", &short));
    gives_up(("", "n1", &long), (&cost("5"), "n1", &short));
    gives_up(("", "n1", &short), ("", "n1", &long));
    gives_up(("", "n1", restarted), ("", "n1", running));
}

#[test]
fn status_tells_of_deletions_as_soon_as_they_are_done() {
    let mut world = world(3, 0);
    for name in ["a", "b", "c"] {
        let status = ready(&world, 60);
        pod(&mut world, name, "", "n1", &status);
    }
    world.work::<ReplicaSetController>(&key());
    world.edit(REPLICA_SETS, "n", "web", r#"{"spec":{"replicas":1}}"#);
    world.work::<ReplicaSetController>(&key());
    let status = world.typed::<ReplicaSet>(REPLICA_SETS, "n", "web").status.unwrap();
    assert_eq!((status.replicas, status.available_replicas, status.terminating_replicas), (1, Some(1), Some(2)));
    assert_eq!(status.observed_generation, Some(2));
}

#[test]
fn a_ready_pod_becomes_available_after_its_minimum() {
    let mut world = world(1, 10);
    let status = ready(&world, 4);
    pod(&mut world, "a", "", "n1", &status);
    let view = world.view(&resources_of::<ReplicaSetController>());
    let plan = world.decide::<ReplicaSetController>(&key(), &view, &Outcomes::default());
    assert_eq!(plan.again_after.map(|again| again.as_secs()), Some(6));
    world.work::<ReplicaSetController>(&key());
    let status = |world: &World| world.typed::<ReplicaSet>(REPLICA_SETS, "n", "web").status.unwrap();
    assert_eq!((status(&world).ready_replicas, status(&world).available_replicas), (Some(1), None));
    world.pass(6000);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(status(&world).available_replicas, Some(1));
}

#[test]
fn ended_pods_are_replaced_and_stay() {
    let mut world = world(1, 0);
    pod(&mut world, "a", "", "n1", r#"{"phase":"Failed"}"#);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(names(&world).len(), 2);
}

#[test]
fn orphans_are_adopted_and_strays_released() {
    let mut world = world(2, 0);
    pod(&mut world, "mine", "", "n1", r#"{"phase":"Running"}"#);
    world.create(PODS, "n", r#"{"metadata":{"name":"orphan","labels":{"app":"web"}},"spec":{"nodeName":"n1"}}"#);
    world.work::<ReplicaSetController>(&key());
    let owners = |world: &World, name: &str| {
        world.typed::<Pod>(PODS, "n", name).metadata.owner_references.map_or(0, |owners| owners.len())
    };
    assert_eq!(owners(&world, "orphan"), 1);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(names(&world), ["mine", "orphan"]);
    world.edit(PODS, "n", "mine", r#"{"metadata":{"labels":{"app":"other"}}}"#);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(owners(&world, "mine"), 0);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(names(&world).len(), 3, "a replacement");
}

#[test]
fn a_set_that_is_deleted_touches_no_pods() {
    let mut world = world(2, 0);
    pod(&mut world, "a", "", "n1", r#"{"phase":"Running"}"#);
    world.delete(REPLICA_SETS, "n", "web", Propagation::Foreground);
    world.work::<ReplicaSetController>(&key());
    assert_eq!(names(&world), ["a"]);
}

#[test]
fn a_failed_create_is_told_before_the_next_try() {
    let world = world(1, 0);
    let view = world.view(&resources_of::<ReplicaSetController>());
    let message = "pods \"web-\" is forbidden: exceeded quota".to_owned();
    let failure = Failure { verb: Verb::Create, resource: PODS, reason: "Forbidden".into(), message: message.clone() };
    let plan = world.decide::<ReplicaSetController>(&key(), &view, &Outcomes { failures: vec![failure] });
    let reconcile::Change::Patch { body, subresource: Some("status"), .. } = &plan.stages[0][0].change else {
        panic!("the status goes first: {plan:?}")
    };
    let status: k8s_openapi::api::apps::v1::ReplicaSetStatus = crate::testing::typed(body.get("status").unwrap());
    let condition = &status.conditions.unwrap()[0];
    assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("ReplicaFailure", Some("FailedCreate")));
    assert_eq!(condition.message.as_ref(), Some(&message));
    assert!(matches!(plan.stages[1][0].change, reconcile::Change::Create { .. }));
    let event = plan.stages[1][0].on_failure.as_ref().unwrap();
    assert_eq!((event.reason, event.message.as_str()), ("FailedCreate", "Error creating: {error}"));
}
