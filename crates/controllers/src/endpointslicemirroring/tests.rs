//! Cases: what is mirrored, as what, and until when.

use client::Key;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use reconcile::plan::kinds::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};

use super::EndpointSliceMirroringController;
use crate::testing::World;

const SUBSETS: &str = r#""subsets":[
    {"addresses":[{"ip":"192.0.2.1","nodeName":"n"}],"notReadyAddresses":[{"ip":"192.0.2.2"}],"ports":[{"name":"a","port":80}]},
    {"addresses":[{"ip":"fd00::1"}],"ports":[{"name":"a","port":80}]}]"#;

fn world(spec: &str, metadata: &str) -> World {
    let mut world = World::new();
    world.create(SERVICES, "n", &format!(r#"{{"metadata":{{"name":"web"}},"spec":{{{spec}}}}}"#));
    world.create(ENDPOINTS, "n", &format!(r#"{{"metadata":{{"name":"web"{metadata}}},{SUBSETS}}}"#));
    world
}

fn work(world: &mut World) -> bool {
    world.work::<EndpointSliceMirroringController>(&Key::new("n", "web"))
}

/// Each slice as `family port: address ready, …`.
fn shown(world: &World) -> Vec<String> {
    let slices: Vec<EndpointSlice> = world.all_typed(ENDPOINT_SLICES);
    let shown = |slice: &EndpointSlice| {
        let endpoints: Vec<String> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| {
                format!("{} {:?}", endpoint.addresses[0], endpoint.conditions.as_ref().unwrap().ready.unwrap())
            })
            .collect();
        let port = slice.ports.as_ref().and_then(|ports| ports[0].port).unwrap_or_default();
        format!("{} {port}: {}", slice.address_type, endpoints.join(", "))
    };
    let mut all: Vec<String> = slices.iter().map(shown).collect();
    all.sort();
    all
}

#[test]
fn endpoints_of_a_service_without_selector_become_a_slice_for_each_family() {
    let mut world = world(
        "",
        r#","labels":{"team":"a"},"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"x","own":"y"}"#,
    );
    work(&mut world);
    assert_eq!(shown(&world), ["IPv4 80: 192.0.2.1 true, 192.0.2.2 false", "IPv6 80: fd00::1 true"]);
    let slices: Vec<EndpointSlice> = world.all_typed(ENDPOINT_SLICES);
    let metadata = &slices[0].metadata;
    let labels: Vec<String> = metadata.labels.iter().flatten().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        labels,
        [
            "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io",
            "kubernetes.io/service-name=web",
            "team=a"
        ]
    );
    assert_eq!(metadata.annotations.as_ref().unwrap().keys().collect::<Vec<_>>(), ["own"]);
    let owner = &metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.controller), ("Endpoints", "web", Some(true)));
    assert!(!work(&mut world), "at rest");
}

#[test]
fn a_slice_follows_its_endpoints_and_goes_with_them() {
    let mut world = world("", "");
    work(&mut world);
    world.edit(
        ENDPOINTS,
        "n",
        "web",
        r#"{"subsets":[{"addresses":[{"ip":"192.0.2.3"}],"ports":[{"name":"a","port":80}]}]}"#,
    );
    work(&mut world);
    assert_eq!(shown(&world), ["IPv4 80: 192.0.2.3 true"]);
    world.remove(ENDPOINTS, &Key::new("n", "web"));
    work(&mut world);
    assert!(shown(&world).is_empty());
}

#[test]
fn what_others_keep_or_nobody_wants_mirrored_is_not() {
    for (spec, metadata) in [
        (r#""selector":{"app":"web"}"#, ""),
        ("", r#","labels":{"endpointslice.kubernetes.io/skip-mirror":"true"}"#),
        ("", r#","annotations":{"control-plane.alpha.kubernetes.io/leader":"{}"}"#),
    ] {
        let mut world = world(spec, metadata);
        assert!(!work(&mut world), "{spec}{metadata}");
    }
    let mut mirrored = world("", "");
    work(&mut mirrored);
    mirrored.edit(SERVICES, "n", "web", r#"{"spec":{"selector":{"app":"web"}}}"#);
    work(&mut mirrored);
    assert!(shown(&mirrored).is_empty(), "the Service has a selector by now");
}

#[test]
fn addresses_that_are_none_are_told() {
    let mut world = world("", "");
    world.edit(ENDPOINTS, "n", "web", r#"{"subsets":[{"addresses":[{"ip":"x"},{"ip":"192.0.2.3"}]}]}"#);
    work(&mut world);
    assert_eq!(shown(&world), ["IPv4 0: 192.0.2.3 true"]);
    assert_eq!(world.told(), ["InvalidIPAddress Skipped 1 invalid IP addresses when mirroring to EndpointSlices"]);
}
