//! Cases: who is in the slices, as what, and how few slices change.

use client::Key;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use reconcile::plan::kinds::{ENDPOINT_SLICES, PODS, SERVICES};
use reconcile::{Change, Outcomes};

use super::EndpointSliceController;
use crate::testing::{World, resources_of};

fn world(spec: &str) -> World {
    let mut world = World::new();
    let json = format!(
        r#"{{"metadata":{{"name":"web","labels":{{"team":"a"}}}},"spec":{{"selector":{{"app":"web"}},"clusterIP":"10.0.0.1",{spec}}}}}"#
    );
    world.create(SERVICES, "n", &json);
    world
}

const HTTP: &str = r#""ports":[{"name":"http","port":80,"targetPort":"http"}]"#;

fn pod(world: &mut World, name: &str, ip: &str, port: i32, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let ips = if ip.is_empty() { String::new() } else { format!(r#""podIPs":[{{"ip":"{ip}"}}],"#) };
    world.create(
        PODS,
        "n",
        &format!(
            r#"{{"metadata":{{"name":"{name}","labels":{{"app":"web"}}}},
                "spec":{{"nodeName":"node","containers":[{{"name":"c","ports":[{{"name":"http","containerPort":{port}}}]}}]}},
                "status":{{"phase":"Running",{ips}"conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
        ),
    );
}

fn work(world: &mut World) -> bool {
    world.work::<EndpointSliceController>(&Key::new("n", "web"))
}

/// Each slice as `port: address ready/serving/terminating, …`.
fn shown(world: &World) -> Vec<String> {
    let slices: Vec<EndpointSlice> = world.all_typed(ENDPOINT_SLICES);
    let shown = |slice: &EndpointSlice| {
        let ports: Vec<String> =
            slice.ports.iter().flatten().map(|port| port.port.unwrap_or_default().to_string()).collect();
        let mut endpoints: Vec<String> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|endpoint| {
                let flag = |flag: Option<bool>| if flag == Some(true) { 'y' } else { 'n' };
                let conditions = endpoint.conditions.clone().unwrap();
                let flags = [conditions.ready, conditions.serving, conditions.terminating].map(flag);
                format!("{} {}", endpoint.addresses[0], flags.iter().collect::<String>())
            })
            .collect();
        endpoints.sort();
        format!("{}: {}", ports.join("+"), endpoints.join(", "))
    };
    let mut all: Vec<String> = slices.iter().map(shown).collect();
    all.sort();
    all
}

#[test]
fn tells_ready_serving_and_terminating_apart() {
    let mut world = world(HTTP);
    pod(&mut world, "ready", "10.1.0.1", 8080, true);
    pod(&mut world, "unready", "10.1.0.2", 8080, false);
    pod(&mut world, "ending", "10.1.0.3", 8080, true);
    pod(&mut world, "no-address", "", 8080, true);
    pod(&mut world, "ended", "10.1.0.5", 8080, true);
    world.tell(PODS, "n", "ended", r#"{"status":{"phase":"Failed"}}"#);
    world.delete(PODS, "n", "ending", reconcile::Propagation::Default);
    work(&mut world);
    assert_eq!(shown(&world), ["8080: 10.1.0.1 yyn, 10.1.0.2 nnn, 10.1.0.3 nyy"]);
    assert!(!work(&mut world), "at rest");
}

#[test]
fn publishes_pods_that_are_not_ready_when_asked() {
    let mut world = world(r#""publishNotReadyAddresses":true,"ports":[{"port":80}]"#);
    pod(&mut world, "unready", "10.1.0.2", 8080, false);
    work(&mut world);
    assert_eq!(shown(&world), ["80: 10.1.0.2 ynn"]);
}

#[test]
fn pods_that_serve_a_named_port_at_other_numbers_have_slices_of_their_own() {
    let mut world = world(HTTP);
    pod(&mut world, "a", "10.1.0.1", 8080, true);
    pod(&mut world, "b", "10.1.0.2", 9090, true);
    work(&mut world);
    assert_eq!(shown(&world), ["8080: 10.1.0.1 yyn", "9090: 10.1.0.2 yyn"]);
}

#[test]
fn a_service_without_pods_has_one_empty_slice() {
    let mut world = world(HTTP);
    work(&mut world);
    assert_eq!(shown(&world), [": "]);
    assert!(!work(&mut world));
    pod(&mut world, "a", "10.1.0.1", 8080, true);
    work(&mut world);
    assert_eq!(shown(&world), ["8080: 10.1.0.1 yyn"]);
    world.remove(PODS, &Key::new("n", "a"));
    work(&mut world);
    assert_eq!(shown(&world), [": "]);
}

#[test]
fn a_slice_holds_a_hundred_and_only_the_one_concerned_changes() {
    let mut world = world(HTTP);
    for number in 0..150 {
        pod(&mut world, &format!("p{number:03}"), &format!("10.1.0.{number}"), 8080, true);
    }
    work(&mut world);
    let sizes = |world: &World| {
        let slices: Vec<EndpointSlice> = world.all_typed(ENDPOINT_SLICES);
        let mut sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect();
        sizes.sort_unstable();
        sizes
    };
    assert_eq!(sizes(&world), [50, 100]);
    world.tell(PODS, "n", "p007", r#"{"status":{"conditions":[{"type":"Ready","status":"False"}]}}"#);
    let view = world.view(&resources_of::<EndpointSliceController>());
    let plan = world.decide::<EndpointSliceController>(&Key::new("n", "web"), &view, &Outcomes::default());
    assert_eq!(plan.stages.iter().map(Vec::len).sum::<usize>(), 1);
}

#[test]
fn an_endpoint_that_moves_is_never_in_no_slice() {
    let mut world = world(HTTP);
    pod(&mut world, "a", "10.1.0.1", 8080, true);
    work(&mut world);
    world.edit(SERVICES, "n", "web", r#"{"spec":{"ports":[{"name":"http","port":80,"targetPort":9000}]}}"#);
    let view = world.view(&resources_of::<EndpointSliceController>());
    let plan = world.decide::<EndpointSliceController>(&Key::new("n", "web"), &view, &Outcomes::default());
    let kinds: Vec<bool> = plan.stages.iter().map(|stage| matches!(stage[0].change, Change::Create { .. })).collect();
    assert_eq!(kinds, [true, false], "made before the other is deleted");
    world.carry(plan, usize::MAX);
    assert_eq!(shown(&world), ["9000: 10.1.0.1 yyn"]);
}

#[test]
fn labels_follow_the_service() {
    let mut world = world(r#""ports":[{"port":80}],"clusterIP":"None""#);
    work(&mut world);
    let labels = |world: &World| world.all_typed::<EndpointSlice>(ENDPOINT_SLICES)[0].metadata.labels.clone().unwrap();
    let pairs: Vec<String> = labels(&world).iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(
        pairs,
        [
            "endpointslice.kubernetes.io/managed-by=endpointslice-controller.k8s.io",
            "kubernetes.io/service-name=web",
            "service.kubernetes.io/headless=",
            "team=a",
        ]
    );
    world.edit(SERVICES, "n", "web", r#"{"metadata":{"labels":{"team":null,"tier":"x"}}}"#);
    work(&mut world);
    assert!(!labels(&world).contains_key("team") && labels(&world).contains_key("tier"));
}

#[test]
fn slices_go_with_their_service_and_others_stay() {
    let mut world = world(HTTP);
    work(&mut world);
    world.create(
        ENDPOINT_SLICES,
        "n",
        r#"{"metadata":{"name":"own","labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4","endpoints":[]}"#,
    );
    world.remove(SERVICES, &Key::new("n", "web"));
    work(&mut world);
    let names: Vec<String> = world.all(ENDPOINT_SLICES).map(|slice| slice.name().to_owned()).collect();
    assert_eq!(names, ["own"]);
}

#[test]
fn endpoints_tell_their_zone_and_who_should_use_them() {
    for (distribution, hints) in [
        ("null", "none"),
        (r#""PreferClose""#, "zones [z] nodes []"),
        (r#""PreferSameZone""#, "zones [z] nodes []"),
        (r#""PreferSameNode""#, "zones [z] nodes [node]"),
    ] {
        let mut world = world(&format!(r#""ports":[{{"port":80}}],"trafficDistribution":{distribution}"#));
        let node = r#"{"metadata":{"name":"node","labels":{"topology.kubernetes.io/zone":"z"}}}"#;
        world.create(reconcile::plan::kinds::NODES, "", node);
        pod(&mut world, "a", "10.1.0.1", 80, true);
        work(&mut world);
        let slice = &world.all_typed::<EndpointSlice>(ENDPOINT_SLICES)[0];
        let endpoint = &slice.endpoints.as_ref().unwrap()[0];
        assert_eq!(endpoint.zone.as_deref(), Some("z"));
        let names = endpoint.hints.as_ref().map_or("none".to_owned(), |hints| {
            let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str()).collect();
            let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str()).collect();
            format!("zones [{}] nodes [{}]", zones.join(","), nodes.join(","))
        });
        assert_eq!(names, hints, "{distribution}");
        assert!(slice.metadata.annotations.as_ref().unwrap().contains_key(super::TRIGGER_TIME));
        assert!(!work(&mut world), "at rest");
    }
}
