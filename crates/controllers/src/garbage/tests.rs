//! Cases: background, foreground and orphaned deletions, down to the last dependent.

use client::Key;
use reconcile::plan::kinds::{CONFIG_MAPS, DEPLOYMENTS, EVENTS, PODS, REPLICA_SETS};
use reconcile::{Outcomes, Propagation, Resource};

use super::GarbageCollector;
use crate::testing::World;

const N: &str = "n";

fn owner(world: &World, resource: Resource, name: &str, blocks: bool) -> String {
    let object = world.find(resource, N, name).unwrap();
    format!(
        r#"{{"apiVersion":"{}","kind":"{}","name":"{name}","uid":"{}","controller":true,"blockOwnerDeletion":{blocks}}}"#,
        resource.api_version(),
        resource.kind,
        object.uid()
    )
}

fn create(world: &mut World, resource: Resource, name: &str, owners: &[String]) {
    let json = format!(r#"{{"metadata":{{"name":"{name}","ownerReferences":[{}]}}}}"#, owners.join(","));
    world.create(resource, N, &json);
}

/// A Deployment, its ReplicaSet, its pods.
fn chain() -> World {
    let mut world = World::new();
    create(&mut world, DEPLOYMENTS, "d", &[]);
    let owners = [owner(&world, DEPLOYMENTS, "d", true)];
    create(&mut world, REPLICA_SETS, "r", &owners);
    let owners = [owner(&world, REPLICA_SETS, "r", true)];
    create(&mut world, PODS, "p", &owners);
    world
}

/// Decides about every object until nothing changes.
fn collect(world: &mut World) {
    for _ in 0..100 {
        let mut keys: Vec<(Resource, Key)> = Vec::new();
        for resource in super::kinds() {
            keys.extend(world.all(resource).map(|object| (resource, object.key().clone())));
        }
        let changed = keys.iter().filter(|key| world.work::<GarbageCollector>(key)).count() > 0;
        if !changed {
            return;
        }
    }
    panic!("never comes to rest");
}

fn left(world: &World) -> Vec<&str> {
    [DEPLOYMENTS, REPLICA_SETS, PODS, CONFIG_MAPS, EVENTS]
        .into_iter()
        .flat_map(|resource| world.all(resource).map(|object| object.name()))
        .collect()
}

#[test]
fn what_has_lost_its_owner_goes() {
    let mut world = chain();
    collect(&mut world);
    assert_eq!(left(&world), ["d", "r", "p"], "nothing to do while the owners are there");
    world.delete(DEPLOYMENTS, N, "d", Propagation::Background);
    collect(&mut world);
    assert!(left(&world).is_empty(), "{:?}", left(&world));
}

#[test]
fn a_foreground_deletion_ends_from_below() {
    let mut world = chain();
    world.delete(DEPLOYMENTS, N, "d", Propagation::Foreground);
    assert_eq!(left(&world), ["d", "r", "p"]);
    world.work::<GarbageCollector>(&(DEPLOYMENTS, Key::new(N, "d")));
    assert_eq!(left(&world), ["d", "r", "p"], "dependents block it");
    world.work::<GarbageCollector>(&(REPLICA_SETS, Key::new(N, "r")));
    assert_eq!(left(&world), ["d", "r", "p"], "it is deleted in the foreground, too");
    world.work::<GarbageCollector>(&(PODS, Key::new(N, "p")));
    collect(&mut world);
    assert!(left(&world).is_empty(), "{:?}", left(&world));
}

#[test]
fn dependents_that_do_not_block_hold_nothing_up() {
    let mut world = World::new();
    create(&mut world, DEPLOYMENTS, "d", &[]);
    let owners = [owner(&world, DEPLOYMENTS, "d", false)];
    create(&mut world, CONFIG_MAPS, "c", &owners);
    world.delete(DEPLOYMENTS, N, "d", Propagation::Foreground);
    world.work::<GarbageCollector>(&(DEPLOYMENTS, Key::new(N, "d")));
    assert_eq!(left(&world), ["c"]);
    collect(&mut world);
    assert!(left(&world).is_empty());
}

#[test]
fn orphans_stay_without_the_owner() {
    let mut world = chain();
    world.delete(DEPLOYMENTS, N, "d", Propagation::Orphan);
    collect(&mut world);
    assert_eq!(left(&world), ["r", "p"]);
    assert!(world.find(REPLICA_SETS, N, "r").unwrap().meta().owners.is_empty());
}

#[test]
fn an_orphan_that_the_caches_do_not_show_yet_stays_as_well() {
    let mut world = World::new();
    create(&mut world, DEPLOYMENTS, "d", &[]);
    let owners = [owner(&world, DEPLOYMENTS, "d", true)];
    world.delete(DEPLOYMENTS, N, "d", Propagation::Orphan);
    let late = world.view(&super::kinds().collect::<Vec<_>>());
    create(&mut world, REPLICA_SETS, "r", &owners);
    let plan = world.decide::<GarbageCollector>(&(DEPLOYMENTS, Key::new(N, "d")), &late, &Outcomes::default());
    assert_eq!((plan.stages.len(), plan.again_after.is_some()), (0, true), "the API knows better");
    collect(&mut world);
    assert_eq!(left(&world), ["r"]);
}

#[test]
fn one_owner_that_stays_is_enough() {
    let mut world = World::new();
    create(&mut world, CONFIG_MAPS, "a", &[]);
    create(&mut world, CONFIG_MAPS, "b", &[]);
    let owners = [owner(&world, CONFIG_MAPS, "a", true), owner(&world, CONFIG_MAPS, "b", true)];
    create(&mut world, CONFIG_MAPS, "c", &owners);
    world.delete(CONFIG_MAPS, N, "a", Propagation::Background);
    collect(&mut world);
    assert_eq!(left(&world), ["b", "c"]);
    let owners = &world.find(CONFIG_MAPS, N, "c").unwrap().meta().owners;
    assert_eq!(owners.iter().map(|owner| owner.name.to_string()).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn owners_of_unknown_kinds_and_events_are_left_alone() {
    let mut world = World::new();
    let unknown = r#"{"apiVersion":"example.com/v1","kind":"Thing","name":"x","uid":"x"}"#.to_owned();
    create(&mut world, CONFIG_MAPS, "c", &[unknown]);
    let gone = r#"{"apiVersion":"v1","kind":"Pod","name":"x","uid":"x"}"#.to_owned();
    create(&mut world, EVENTS, "e", &[gone]);
    collect(&mut world);
    assert_eq!(left(&world), ["c", "e"]);
}

#[test]
fn a_successor_of_the_same_name_is_not_the_owner() {
    let mut world = chain();
    world.remove(DEPLOYMENTS, &Key::new(N, "d"));
    create(&mut world, DEPLOYMENTS, "d", &[]);
    collect(&mut world);
    assert_eq!(left(&world), ["d"]);
}

#[test]
fn an_orphan_that_the_caches_still_show_as_owned_is_kept() {
    let mut world = chain();
    world.remove(DEPLOYMENTS, &Key::new(N, "d"));
    let key = (REPLICA_SETS, Key::new(N, "r"));
    let plan =
        world.decide::<GarbageCollector>(&key, &world.view(&super::kinds().collect::<Vec<_>>()), &Outcomes::default());
    assert_eq!(plan.stages.len(), 1);
    // Meanwhile it was taken off its owner.
    world.edit(REPLICA_SETS, N, "r", r#"{"metadata":{"ownerReferences":null}}"#);
    world.carry(plan, usize::MAX);
    assert_eq!(left(&world), ["r", "p"]);
}
