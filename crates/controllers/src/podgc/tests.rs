//! Tests of the pod garbage collector.

use std::sync::Arc;
use std::time::Duration;

use api::projection::PodLite;
use client::Key;
use reconcile::plan::kinds::{NODES, PODS};
use reconcile::{Change, Controller, Facts, Need, Now, Outcomes, Plan, Propagation};
use stdx::Mono;

use super::{Memory, Observed, PodGarbageCollector, Subject, TERMINATED_MAX, thin_out};
use crate::testing::{World, resources_of};

fn world(node: &str) -> World {
    let mut world = World::new();
    world.create(NODES, "", r#"{"metadata":{"name":"n"},"spec":{}}"#);
    let spec = if node.is_empty() { "{}".to_owned() } else { format!(r#"{{"nodeName":"{node}"}}"#) };
    let pod = format!(
        r#"{{"metadata":{{"name":"web","finalizers":["example.com/held"]}},"spec":{spec},"status":{{"phase":"Running"}}}}"#
    );
    world.create(PODS, "default", &pod);
    world
}

fn decide(world: &World, seconds: u64, facts: &Facts, memory: &mut Memory) -> Plan {
    let view = world.view(&resources_of::<PodGarbageCollector>());
    let observed: Observed = PodGarbageCollector::observe(&view, &Subject::Pod(Key::new("default", "web")));
    let now = Now { wall: world.now, mono: Mono(Duration::from_secs(seconds)) };
    PodGarbageCollector::reconcile(&observed, now, &Outcomes::default(), facts, memory)
}

/// Whether the plan takes the pod away, and the phase and reason it leaves behind.
fn taken(world: &mut World, plan: Plan) -> Option<String> {
    let removes = plan.stages.iter().flatten().any(|action| matches!(action.change, Change::Remove { .. }));
    world.carry(plan, usize::MAX);
    let pod = world.find(PODS, "default", "web").expect("its finalizer holds it").project::<PodLite>().clone();
    let reason = pod.status.conditions.first().map(|found| found.reason.to_string()).unwrap_or_default();
    removes.then(|| format!("{} {reason}", pod.status.phase))
}

#[test]
fn pods_of_a_node_that_stays_away_are_taken_away() {
    let mut world = world("gone");
    let mut memory = Memory::default();
    assert_eq!(decide(&world, 0, &Facts::default(), &mut memory).again_after, Some(Duration::from_secs(40)));
    assert_eq!(decide(&world, 39, &Facts::default(), &mut memory).again_after, Some(Duration::from_secs(1)));
    let needs = decide(&world, 40, &Facts::default(), &mut memory).needs;
    let [need] = &needs[..] else { panic!("one need: {needs:?}") };
    assert!(matches!(need, Need::Present { name, .. } if name == "gone"));
    let answered = |yes| Facts { answers: [(need.clone(), yes)].into(), ..Facts::default() };
    assert_eq!(decide(&world, 40, &answered(true), &mut Memory::default()).stages, Vec::<Vec<_>>::new());
    let plan = decide(&world, 40, &answered(false), &mut Memory::default());
    assert_eq!(taken(&mut world, plan).as_deref(), Some("Failed DeletionByPodGC"));
}

#[test]
fn an_ending_pod_without_a_node_is_taken_away() {
    let mut world = world("");
    let plan = decide(&world, 0, &Facts::default(), &mut Memory::default());
    assert_eq!(taken(&mut world, plan), None);
    world.delete(PODS, "default", "web", Propagation::Default);
    let plan = decide(&world, 0, &Facts::default(), &mut Memory::default());
    assert_eq!(taken(&mut world, plan).as_deref(), Some("Failed "));
}

#[test]
fn an_ending_pod_is_taken_off_a_node_that_is_out_of_service() {
    let mut world = world("n");
    world.delete(PODS, "default", "web", Propagation::Default);
    let plan = decide(&world, 0, &Facts::default(), &mut Memory::default());
    assert_eq!(taken(&mut world, plan), None, "its node sees to it");
    let taint = r#"{"spec":{"taints":[{"key":"node.kubernetes.io/out-of-service","effect":"NoExecute"}]}}"#;
    world.edit(NODES, "", "n", taint);
    let plan = decide(&world, 0, &Facts::default(), &mut Memory::default());
    assert_eq!(taken(&mut world, plan).as_deref(), Some("Failed "));
}

#[test]
fn the_evicted_and_the_oldest_of_very_many_go_first() {
    let mut world = World::new();
    let mut pod = |name: &str, status: &str| {
        world.pass(1000);
        world.create(PODS, "default", &format!(r#"{{"metadata":{{"name":"{name}"}},"status":{status}}}"#))
    };
    let old = pod("old", r#"{"phase":"Succeeded"}"#);
    let evicted = pod("evicted", r#"{"phase":"Failed","reason":"Evicted"}"#);
    let young = pod("young", r#"{"phase":"Failed"}"#);
    let mut pods = vec![young.clone(); TERMINATED_MAX - 1];
    let now = Now { wall: world.now, mono: Mono::default() };
    assert_eq!(thin_out(&pods, now), Plan::nothing());
    pods.extend([old, evicted, young].map(Arc::from));
    let plan = thin_out(&pods, now);
    let names: Vec<&str> = plan.stages[0]
        .iter()
        .map(|action| match &action.change {
            Change::Remove { of } => of.name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["evicted", "old"]);
}
