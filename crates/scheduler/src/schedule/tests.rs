//! Cases: which node is chosen, and what is said when there is none.

use super::*;
use crate::plugins::PLUGINS;
use crate::testing::{check, labelled, node, nodes, object, placed, pod, run, tagged};

#[test]
fn says_by_count_why_no_node_will_do() {
    check(&pod("p", "1", "1Gi", ""), &nodes([]), "no nodes available to schedule pods");
    let taint = r#""taints":[{"key":"k","value":"v","effect":"NoSchedule"}]"#;
    let all = nodes([
        node("small-1", "500m", "4Gi", ""),
        node("small-2", "500m", "512Mi", ""),
        node("cordoned", "4", "4Gi", r#""unschedulable":true"#),
        node("tainted", "4", "4Gi", taint),
    ]);
    check(
        &pod("p", "1", "1Gi", ""),
        &all,
        "0/4 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu.",
    );
    check(
        &pod("p", "1", "1Gi", r#","nodeSelector":{"disk":"ssd"}"#),
        &nodes([node("a", "4", "4Gi", "")]),
        "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
    );
}

#[test]
fn tolerations_and_selectors_open_nodes() {
    let taint = r#""taints":[{"key":"k","value":"v","effect":"NoSchedule"}]"#;
    let tainted = nodes([node("tainted", "4", "4Gi", taint)]);
    check(&pod("p", "1", "1Gi", r#","tolerations":[{"key":"k","operator":"Exists"}]"#), &tainted, "tainted");
    let cordoned = nodes([node("cordoned", "4", "4Gi", r#""unschedulable":true"#)]);
    check(&pod("p", "1", "1Gi", r#","tolerations":[{"operator":"Exists"}]"#), &cordoned, "cordoned");
    let two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
    check(&pod("p", "1", "1Gi", r#","nodeSelector":{"kubernetes.io/hostname":"b"}"#), &two, "b");
}

#[test]
fn prefers_the_emptier_node_and_avoids_soft_taints() {
    let mut two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
    run(&mut two, [(pod("running", "2", "1Gi", ""), "a")]);
    check(&pod("p", "1", "1Gi", ""), &two, "b");
    let soft = r#""taints":[{"key":"k","value":"v","effect":"PreferNoSchedule"}]"#;
    let mut two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", soft)]);
    run(&mut two, [(pod("running", "1", "1Gi", ""), "a")]);
    check(&pod("p", "1", "1Gi", ""), &two, "a");
}

#[test]
fn counts_pods_and_what_they_asked_for() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    for name in ["x", "y", "z"] {
        check(&pod("p", "1", "1Gi", ""), &one, "a");
        run(&mut one, [(pod(name, "1", "1Gi", ""), "a")]);
    }
    check(&pod("p", "0", "0", ""), &one, "0/1 nodes are available: 1 Too many pods.");
    one.remove_pod("x");
    check(&pod("p", "3", "1Gi", ""), &one, "0/1 nodes are available: 1 Insufficient cpu.");
    check(&pod("p", "2", "1Gi", ""), &one, "a");
    check(
        &pod("p", "2", "1Gi", r#","overhead":{"cpu":"1m","example.com/dongle":"1"}"#),
        &one,
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/dongle.",
    );
}

#[test]
fn ties_are_broken_by_chance() {
    let two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
    let subject = Subject::new(pod("p", "1", "1Gi", ""));
    let chosen = |tie| schedule(&subject, &two, PLUGINS, tie);
    assert_ne!(chosen(0), chosen(1));
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn node_affinity(terms: &str) -> String {
    format!(r#","affinity":{{"nodeAffinity":{{"{REQUIRED}":{{"nodeSelectorTerms":[{terms}]}}}}}}"#)
}

#[test]
fn node_affinity_restricts_names_and_prefers() {
    let three = nodes([labelled("a", "disk=hdd", ""), labelled("b", "disk=ssd", ""), labelled("c", "", "")]);
    let ssd = node_affinity(r#"{"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]}"#);
    check(&pod("p", "1", "1Gi", &ssd), &three, "b");
    let none = node_affinity(r#"{"matchExpressions":[{"key":"disk","operator":"In","values":["tape"]}]}"#);
    check(
        &pod("p", "1", "1Gi", &none),
        &three,
        "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
    );
    let name = |name: &str| format!(r#"{{"key":"metadata.name","operator":"In","values":["{name}"]}}"#);
    let by_name = |more: &str| node_affinity(&format!(r#"{{"matchFields":[{}{more}]}}"#, name("c")));
    check(&pod("p", "1", "1Gi", &by_name("")), &three, "c");
    check(
        &pod("p", "100", "1Gi", &by_name("")),
        &three,
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
    );
    check(
        &pod("p", "1", "1Gi", &by_name(&format!(",{}", name("a")))),
        &three,
        "0/3 nodes are available: pod affinity terms conflict.",
    );
    let prefers = format!(
        r#","affinity":{{"nodeAffinity":{{"{PREFERRED}":[{{"weight":1,"preference":{{"matchExpressions":[{{"key":"disk","operator":"Exists"}}]}}}},
        {{"weight":5,"preference":{{"matchExpressions":[{{"key":"disk","operator":"In","values":["hdd"]}}]}}}}]}}}}"#
    );
    check(&pod("p", "1", "1Gi", &prefers), &three, "a");
}

#[test]
fn host_ports_are_taken_once_per_address_and_protocol() {
    let holding = |name: &str, port: &str| {
        object(
            "Pod",
            &format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}"}},"spec":{{"containers":[{{"name":"c","ports":[{port}]}}]}}}}"#
            ),
        )
    };
    let mut one = nodes([labelled("a", "", "")]);
    run(&mut one, [(holding("first", r#"{"hostPort":80,"hostIP":"10.0.0.1"}"#), "a")]);
    let busy = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    for (port, expected) in [
        (r#"{"hostPort":80}"#, busy),
        (r#"{"hostPort":80,"hostIP":"10.0.0.1","protocol":"TCP"}"#, busy),
        (r#"{"hostPort":80,"hostIP":"10.0.0.2"}"#, "a"),
        (r#"{"hostPort":80,"protocol":"UDP"}"#, "a"),
        (r#"{"hostPort":81}"#, "a"),
        (r#"{"containerPort":80}"#, "a"),
    ] {
        check(&holding("p", port), &one, expected);
    }
    one.remove_pod("first");
    check(&holding("p", r#"{"hostPort":80}"#), &one, "a");
}

#[test]
fn balance_and_images_break_ties() {
    // As much is left of both together, but not in the same proportion.
    let mut two = nodes([node("a", "10", "10Gi", ""), node("b", "10", "10Gi", "")]);
    run(&mut two, [(pod("x", "4", "2Gi", ""), "a"), (pod("y", "2", "4Gi", ""), "b")]);
    check(&pod("p", "1", "3Gi", ""), &two, "a");
    check(&pod("p", "3", "1Gi", ""), &two, "b");
    let holder = |name: &str, images: &str| {
        object(
            "Node",
            &format!(
                r#"{{"metadata":{{"name":"{name}","uid":"{name}"}},"status":{{"allocatable":{{"cpu":"4","memory":"4Gi","pods":"9"}},"images":[{images}]}}}}"#
            ),
        )
    };
    let image = r#"{"names":["r/web:latest"],"sizeBytes":900000000}"#;
    let two = nodes([holder("a", ""), holder("b", image)]);
    let with = |image: &str| {
        object(
            "Pod",
            &format!(
                r#"{{"metadata":{{"name":"p","namespace":"n","uid":"p"}},"spec":{{"containers":[{{"name":"c","image":"{image}"}}]}}}}"#
            ),
        )
    };
    check(&with("r/web"), &two, "b");
    check(&with("r/other"), &two, "a");
}

#[test]
fn a_nominated_pod_keeps_its_room_from_less_important_ones() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    let urgent = Subject::new(pod("urgent", "3", "1Gi", r#","priority":10"#));
    one.nominate(&urgent.counted, "a");
    check(&pod("p", "2", "1Gi", ""), &one, "0/1 nodes are available: 1 Insufficient cpu.");
    check(&pod("p", "1", "1Gi", ""), &one, "a");
    check(&pod("p", "2", "1Gi", r#","priority":11"#), &one, "a");
    let mut two = nodes([node("a", "4", "4Gi", ""), node("b", "40", "40Gi", "")]);
    two.nominate(&urgent.counted, "a");
    assert_eq!(schedule(&urgent, &two, PLUGINS, 0), Decision::Node("a".into()), "room was made for it there");
    two.withdraw("urgent");
    assert_eq!(schedule(&urgent, &two, PLUGINS, 0), Decision::Node("b".into()));
}

#[test]
fn siblings_are_spread_without_a_word() {
    let mut two = nodes([labelled("a", "", ""), labelled("b", "", "")]);
    run(&mut two, [(tagged("x", "app=web", ""), "a"), (tagged("y", "app=other", ""), "b")]);
    let mut subject = Subject::new(tagged("p", "app=web", ""));
    let chosen = |subject: &Subject| match schedule(subject, &two, PLUGINS, 0) {
        Decision::Node(node) => node.to_string(),
        Decision::Nowhere(misfit) => misfit.message(),
    };
    assert_eq!(chosen(&subject), "a", "both are as empty");
    subject.siblings = Some(api::selector::Selector::parse("app=web").unwrap());
    assert_eq!(chosen(&subject), "b");
    assert_eq!(placed(&tagged("p", "app=web", ""), &two), "a");
}
