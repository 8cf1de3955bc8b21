//! Cases: skew, domains and policies.

use std::fmt::Write as _;

use crate::nodes::Nodes;
use crate::testing::{check, labelled, nodes, run, tagged};

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";

/// Two zones with a node each, and so many pods in each.
fn zones(first: usize, second: usize) -> Nodes {
    let mut nodes = nodes([labelled("a", "zone=1", ""), labelled("b", "zone=2", ""), labelled("c", "", "")]);
    for (node, count) in [("a", first), ("b", second)] {
        for number in 0..count {
            run(&mut nodes, [(tagged(&format!("{node}{number}"), "app=web", ""), node)]);
        }
    }
    nodes
}

fn spread(constraints: &[&str]) -> String {
    let mut text = String::from(r#","topologySpreadConstraints":["#);
    for (index, constraint) in constraints.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        write!(text, r#"{comma}{{"labelSelector":{{"matchLabels":{{"app":"web"}}}},{constraint}}}"#).unwrap();
    }
    text + "]"
}

const HARD: &str = r#""maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule""#;

#[test]
fn the_fuller_zone_is_refused() {
    let pod = tagged("p", "app=web", &spread(&[HARD]));
    check(&pod, &zones(2, 1), "b");
    check(&pod, &zones(1, 2), "a");
    let missing = "(missing required label)";
    let mut both = zones(2, 1);
    both.remove_node("b");
    check(&pod, &both, "a");
    both.remove_node("a");
    check(&pod, &both, &format!("0/1 nodes are available: 1 {UNEVEN} {missing}."));
}

#[test]
fn a_pod_that_is_not_selected_itself_may_go_to_the_edge() {
    check(&tagged("p", "app=other", &spread(&[HARD])), &zones(1, 0), "a");
    let at_most_one = zones(2, 0);
    check(&tagged("p", "app=other", &spread(&[HARD])), &at_most_one, "b");
}

#[test]
fn missing_domains_count_as_empty() {
    let three = format!(r#"{HARD},"minDomains":3"#);
    check(
        &tagged("p", "app=web", &spread(&[&three])),
        &zones(1, 1),
        &format!("0/3 nodes are available: 1 {UNEVEN} (missing required label), 2 {UNEVEN}."),
    );
    let two = format!(r#"{HARD},"minDomains":2"#);
    check(&tagged("p", "app=web", &spread(&[&two])), &zones(1, 1), "a");
}

#[test]
fn policies_say_which_nodes_count() {
    let taint = r#""taints":[{"key":"k","effect":"NoSchedule"}]"#;
    let mut tainted = nodes([labelled("a", "zone=1", ""), labelled("b", "zone=2", taint)]);
    run(&mut tainted, [(tagged("x", "app=web", ""), "a")]);
    let refused = format!("0/2 nodes are available: 1 {UNEVEN}, 1 node(s) had untolerated taint(s).");
    check(&tagged("p", "app=web", &spread(&[HARD])), &tainted, &refused);
    let honoured = format!(r#"{HARD},"nodeTaintsPolicy":"Honor""#);
    check(&tagged("p", "app=web", &spread(&[&honoured])), &tainted, "a");
    let first = r#","nodeSelector":{"zone":"1"}"#;
    let mut free = nodes([labelled("a", "zone=1", ""), labelled("b", "zone=2", "")]);
    run(&mut free, [(tagged("x", "app=web", ""), "a")]);
    check(&tagged("p", "app=web", &format!("{first}{}", spread(&[HARD]))), &free, "a");
    let ignored = format!(r#"{HARD},"nodeAffinityPolicy":"Ignore""#);
    let refused = format!("0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 {UNEVEN}.");
    check(&tagged("p", "app=web", &format!("{first}{}", spread(&[&ignored]))), &free, &refused);
}

#[test]
fn a_wish_orders_nodes_and_refuses_none() {
    let soft = r#""maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway""#;
    check(&tagged("p", "app=web", &spread(&[soft])), &zones(5, 1), "b");
    check(&tagged("p", "app=web", &spread(&[soft])), &zones(1, 5), "a");
    let host = r#""maxSkew":1,"topologyKey":"kubernetes.io/hostname","whenUnsatisfiable":"ScheduleAnyway""#;
    check(&tagged("p", "app=web", &spread(&[host])), &zones(1, 1), "c");
}
