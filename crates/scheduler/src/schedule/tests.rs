//! Cases: which node is chosen, and what is said when there is none.

use std::sync::Arc;

use client::Object;

use super::*;
use crate::plugins::PLUGINS;
use crate::testing::{node, pod};

fn nodes(objects: impl IntoIterator<Item = Arc<Object>>) -> Nodes {
    let mut nodes = Nodes::default();
    objects.into_iter().for_each(|object| nodes.set_node(object));
    nodes
}

#[track_caller]
fn check(pod: &Object, nodes: &Nodes, expected: &str) {
    let decision = schedule(pod.project(), nodes, PLUGINS, 0);
    let text = match decision {
        Decision::Node(name) => name.into(),
        Decision::Nowhere(misfit) => misfit.message(),
    };
    assert_eq!(text, expected);
}

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
    two.assume(&pod("running", "2", "1Gi", ""), "a");
    check(&pod("p", "1", "1Gi", ""), &two, "b");
    let soft = r#""taints":[{"key":"k","value":"v","effect":"PreferNoSchedule"}]"#;
    let mut two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", soft)]);
    two.assume(&pod("running", "1", "1Gi", ""), "a");
    check(&pod("p", "1", "1Gi", ""), &two, "a");
}

#[test]
fn counts_pods_and_what_they_asked_for() {
    let mut one = nodes([node("a", "4", "4Gi", "")]);
    for name in ["x", "y", "z"] {
        check(&pod("p", "1", "1Gi", ""), &one, "a");
        one.assume(&pod(name, "1", "1Gi", ""), "a");
    }
    check(&pod("p", "0", "0", ""), &one, "0/1 nodes are available: 1 Too many pods.");
    one.remove_pod("x");
    check(&pod("p", "3", "1Gi", ""), &one, "0/1 nodes are available: 1 Insufficient cpu.");
    check(&pod("p", "2", "1Gi", ""), &one, "a");
}

#[test]
fn ties_are_broken_by_chance() {
    let two = nodes([node("a", "4", "4Gi", ""), node("b", "4", "4Gi", "")]);
    let chosen = |tie| schedule(pod("p", "1", "1Gi", "").project(), &two, PLUGINS, tie);
    assert_ne!(chosen(0), chosen(1));
}
