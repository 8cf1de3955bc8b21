//! Cases: ready and other addresses, the limit of a thousand, and whose Endpoints are touched.

use client::Key;
use k8s_openapi::api::core::v1::Endpoints;
use reconcile::plan::kinds::{ENDPOINTS, PODS, SERVICES};

use super::EndpointsController;
use crate::testing::World;

fn world(spec: &str) -> World {
    let mut world = World::new();
    world.create(
        SERVICES,
        "n",
        &format!(r#"{{"metadata":{{"name":"web"}},"spec":{{{spec}"ports":[{{"port":80}}]}}}}"#),
    );
    world
}

fn pod(world: &mut World, name: &str, ip: &str, ready: &str) {
    world.create(
        PODS,
        "n",
        &format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"app":"web"}}}},"spec":{{"nodeName":"node","containers":[{{"name":"c"}}]}},
                "status":{{"phase":"Running","podIPs":[{{"ip":"{ip}"}}],"conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
        ),
    );
}

fn work(world: &mut World) -> bool {
    world.work::<EndpointsController>(&Key::new("n", "web"))
}

fn endpoints(world: &World) -> Endpoints {
    world.typed(ENDPOINTS, "n", "web")
}

const SELECTED: &str = r#""selector":{"app":"web"},"#;

#[test]
fn ready_pods_serve_others_wait_and_ending_ones_are_left_out() {
    let mut world = world(SELECTED);
    pod(&mut world, "b", "10.1.0.2", "True");
    pod(&mut world, "a", "10.1.0.1", "True");
    pod(&mut world, "c", "10.1.0.3", "False");
    pod(&mut world, "d", "10.1.0.4", "True");
    world.delete(PODS, "n", "d", reconcile::Propagation::Default);
    work(&mut world);
    let subset = &endpoints(&world).subsets.unwrap()[0];
    let ips = |list: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| -> Vec<String> {
        list.iter().flatten().map(|address| address.ip.clone()).collect()
    };
    assert_eq!(ips(&subset.addresses), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(ips(&subset.not_ready_addresses), ["10.1.0.3"]);
    assert_eq!(subset.ports.as_ref().unwrap()[0].port, 80);
    assert!(!work(&mut world), "at rest");
}

#[test]
fn beyond_a_thousand_addresses_it_says_so() {
    let mut world = world(SELECTED);
    for number in 0..1001 {
        pod(&mut world, &format!("p{number}"), &format!("10.1.{}.{}", number / 250, number % 250), "True");
    }
    work(&mut world);
    let found = endpoints(&world);
    assert_eq!(found.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
    assert_eq!(found.metadata.annotations.unwrap()["endpoints.kubernetes.io/over-capacity"], "truncated");
}

#[test]
fn a_service_without_selector_is_left_to_its_user() {
    let mut world = world("");
    world.create(ENDPOINTS, "n", r#"{"metadata":{"name":"web"},"subsets":[{"addresses":[{"ip":"192.0.2.1"}]}]}"#);
    assert!(!work(&mut world));
    world.remove(SERVICES, &Key::new("n", "web"));
    assert!(!work(&mut world), "it is not this controller's, so it stays");
}

#[test]
fn own_endpoints_go_with_their_service() {
    let mut world = world(SELECTED);
    work(&mut world);
    assert!(endpoints(&world).subsets.is_none());
    world.remove(SERVICES, &Key::new("n", "web"));
    work(&mut world);
    assert!(world.find(ENDPOINTS, "n", "web").is_none());
}
