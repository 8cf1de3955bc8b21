//! Cases: a namespace goes when all it held is gone, and says what holds it up.

use client::Key;
use k8s_openapi::api::core::v1::Namespace;
use reconcile::plan::kinds::{CONFIG_MAPS, NAMESPACES, PODS, SECRETS};
use reconcile::{Outcomes, Propagation};

use super::NamespaceController;
use crate::testing::{World, resources_of};

fn world() -> World {
    let mut world = World::new();
    world.create(NAMESPACES, "", r#"{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}"#);
    world.create(CONFIG_MAPS, "n", r#"{"metadata":{"name":"c"}}"#);
    world.create(SECRETS, "n", r#"{"metadata":{"name":"s","finalizers":["example.com/wait"]}}"#);
    world.create(PODS, "n", r#"{"metadata":{"name":"p"},"spec":{"nodeName":"node"}}"#);
    world.create(CONFIG_MAPS, "other", r#"{"metadata":{"name":"stays"}}"#);
    world
}

fn work(world: &mut World) -> bool {
    world.work::<NamespaceController>(&Key::new("", "n"))
}

#[test]
fn empties_a_namespace_and_lets_it_go() {
    let mut world = world();
    assert!(!work(&mut world), "it is not being deleted");
    world.delete(NAMESPACES, "", "n", Propagation::Background);
    work(&mut world);
    assert!(world.find(CONFIG_MAPS, "n", "c").is_none());
    assert!(world.find(SECRETS, "n", "s").unwrap().meta().deletion.is_some());
    work(&mut world);
    let conditions = world.typed::<Namespace>(NAMESPACES, "", "n").status.unwrap().conditions.unwrap();
    let told: Vec<String> = conditions
        .iter()
        .filter(|condition| condition.status == "True")
        .map(|condition| format!("{} {}", condition.reason.as_ref().unwrap(), condition.message.as_ref().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            "SomeResourcesRemain Some resources are remaining: pods. has 1 resource instances, secrets. has 1 resource instances",
            "SomeFinalizersRemain Some content in the namespace has finalizers remaining: example.com/wait in 1 resource instances",
        ]
    );
    assert!(!work(&mut world), "waits");
    world.remove(PODS, &Key::new("n", "p"));
    world.edit(SECRETS, "n", "s", r#"{"metadata":{"finalizers":null}}"#);
    work(&mut world);
    assert!(world.find(NAMESPACES, "", "n").is_none());
    assert!(world.find(CONFIG_MAPS, "other", "stays").is_some());
}

#[test]
fn asks_the_api_itself_before_it_lets_go() {
    let mut world = world();
    world.delete(NAMESPACES, "", "n", Propagation::Background);
    // The caches know of the deletion and of nothing in the namespace; the API knows better.
    let mut empty = World::new();
    empty.create(NAMESPACES, "", r#"{"metadata":{"name":"n"},"spec":{"finalizers":["kubernetes"]}}"#);
    empty.delete(NAMESPACES, "", "n", Propagation::Background);
    let view = empty.view(&resources_of::<NamespaceController>());
    let plan = world.decide::<NamespaceController>(&Key::new("", "n"), &view, &Outcomes::default());
    assert!(plan.stages.is_empty(), "{plan:?}");
    let plan = empty.decide::<NamespaceController>(&Key::new("", "n"), &view, &Outcomes::default());
    assert_eq!(plan.stages.len(), 1);
}
