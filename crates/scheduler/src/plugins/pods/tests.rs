//! Cases: near and apart, required and preferred, by the pod's own word and by others'.

use crate::nodes::Nodes;
use crate::testing::{check, labelled, nodes, object, run, tagged};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn zones() -> Nodes {
    nodes([
        labelled("a", "zone=1", ""),
        labelled("b", "zone=1", ""),
        labelled("c", "zone=2", ""),
        labelled("d", "", ""),
    ])
}

fn term(app: &str, key: &str, more: &str) -> String {
    format!(r#"{{"labelSelector":{{"matchLabels":{{"app":"{app}"}}}},"topologyKey":"{key}"{more}}}"#)
}

fn required(kind: &str, term: &str) -> String {
    format!(r#","affinity":{{"{kind}":{{"{REQUIRED}":[{term}]}}}}"#)
}

fn preferred(kind: &str, term: &str) -> String {
    format!(r#","affinity":{{"{kind}":{{"{PREFERRED}":[{{"weight":10,"podAffinityTerm":{term}}}]}}}}"#)
}

#[test]
fn a_pod_goes_where_the_pods_it_wants_are() {
    let mut zones = zones();
    let near = required("podAffinity", &term("db", "zone", ""));
    check(
        &tagged("p", "app=web", &near),
        &zones,
        "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.",
    );
    run(&mut zones, [(tagged("db", "app=db", ""), "c")]);
    check(&tagged("p", "app=web", &near), &zones, "c");
}

#[test]
fn the_first_of_its_kind_may_be_anywhere_with_the_label() {
    let near = required("podAffinity", &term("web", "zone", ""));
    let mut zones = zones();
    check(&tagged("p", "app=web", &near), &zones, "a");
    run(&mut zones, [(tagged("p", "app=web", &near), "c")]);
    check(&tagged("q", "app=web", &near), &zones, "c");
}

#[test]
fn pods_keep_apart_by_their_own_word_and_by_others() {
    let apart = required("podAntiAffinity", &term("web", "zone", ""));
    let mut zones = zones();
    run(&mut zones, [(tagged("w", "app=web", &apart), "a")]);
    // A node without the label is in no domain, so that nobody is near.
    zones.remove_node("d");
    check(&tagged("p", "app=web", &apart), &zones, "c");
    check(&tagged("quiet", "app=web", ""), &zones, "c");
    check(&tagged("other", "app=other", ""), &zones, "a");
    zones.remove_node("c");
    check(
        &tagged("p", "app=web", &apart),
        &zones,
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
    );
    check(
        &tagged("quiet", "app=web", ""),
        &zones,
        "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.",
    );
}

#[test]
fn wishes_of_both_sides_order_nodes() {
    let mut zones = zones();
    run(&mut zones, [(tagged("db", "app=db", ""), "c")]);
    check(&tagged("p", "app=web", &preferred("podAffinity", &term("db", "zone", ""))), &zones, "c");
    let away = preferred("podAntiAffinity", &term("db", "zone", ""));
    zones.remove_node("d");
    check(&tagged("p", "app=web", &away), &zones, "a");
    // The pod itself says nothing; the one that runs does.
    run(&mut zones, [(tagged("fan", "app=fan", &preferred("podAffinity", &term("star", "zone", ""))), "c")]);
    check(&tagged("star", "app=star", ""), &zones, "c");
    run(&mut zones, [(tagged("shy", "app=shy", &preferred("podAntiAffinity", &term("noise", "zone", ""))), "a")]);
    check(&tagged("noise", "app=noise", ""), &zones, "c");
}

#[test]
fn namespaces_are_named_or_selected() {
    let mut zones = zones();
    let theirs = object(
        "Pod",
        r#"{"metadata":{"name":"db","namespace":"theirs","uid":"db","labels":{"app":"db"}},"spec":{"containers":[{"name":"c"}]}}"#,
    );
    run(&mut zones, [(theirs, "c")]);
    let nowhere = "0/4 nodes are available: 4 node(s) didn't match pod affinity rules.";
    let near = |more: &str| tagged("p", "app=web", &required("podAffinity", &term("db", "zone", more)));
    check(&near(""), &zones, nowhere);
    check(&near(r#","namespaces":["theirs"]"#), &zones, "c");
    check(&near(r#","namespaceSelector":{}"#), &zones, "c");
    let red = r#","namespaceSelector":{"matchLabels":{"team":"red"}}"#;
    check(&near(red), &zones, nowhere);
    let namespace = object("Namespace", r#"{"metadata":{"name":"theirs","labels":{"team":"red"}}}"#);
    zones.set_namespace(namespace.meta());
    check(&near(red), &zones, "c");
}
