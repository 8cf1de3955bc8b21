//! Cases: what counts on which node, assumed and seen.

use super::*;
use crate::testing::{node, pod};

fn used(nodes: &Nodes) -> Vec<(String, usize, i64)> {
    let used = |node: &NodeInfo| (node.name.to_string(), node.pods.len(), node.requested.cpu_milli);
    nodes.iter().map(used).collect()
}

fn two() -> Nodes {
    let mut nodes = Nodes::default();
    nodes.set_node(node("a", "4", "4Gi", ""));
    nodes.set_node(node("b", "4", "4Gi", ""));
    nodes
}

#[test]
fn an_assumed_pod_counts_until_it_is_seen_or_forgotten() {
    let mut nodes = two();
    let waiting = pod("p", "1", "1Gi", "");
    nodes.assume(&Arc::new(Counted::new(waiting.clone())), "a");
    nodes.set_pod(&waiting);
    assert_eq!(used(&nodes), [("a".into(), 1, 1000), ("b".into(), 0, 0)], "an older sight changes nothing");
    nodes.forget("p");
    assert_eq!(used(&nodes), [("a".into(), 0, 0), ("b".into(), 0, 0)]);
}

#[test]
fn a_pod_seen_on_a_node_is_not_forgotten_by_a_late_refusal() {
    let mut nodes = two();
    nodes.assume(&Arc::new(Counted::new(pod("p", "1", "1Gi", ""))), "a");
    nodes.set_pod(&pod("p", "1", "1Gi", r#","nodeName":"b""#));
    nodes.forget("p");
    assert_eq!(used(&nodes), [("a".into(), 0, 0), ("b".into(), 1, 1000)]);
}

#[test]
fn pods_of_a_node_that_comes_later_count() {
    let mut nodes = Nodes::default();
    nodes.set_pod(&pod("p", "1", "1Gi", r#","nodeName":"late""#));
    assert!(nodes.is_empty());
    nodes.set_node(node("late", "4", "4Gi", ""));
    assert_eq!(used(&nodes), [("late".into(), 1, 1000)]);
    nodes.remove_node("late");
    assert!(nodes.is_empty());
    nodes.remove_pod("p");
    nodes.set_node(node("late", "4", "4Gi", ""));
    assert_eq!(used(&nodes), [("late".into(), 0, 0)]);
}

#[test]
fn only_what_decisions_go_by_is_logged() {
    let mut nodes = two();
    let start = nodes.now();
    assert!(!nodes.set_node(node("a", "4", "4Gi", "")), "a heartbeat");
    nodes.set_pod(&pod("p", "1", "1Gi", r#","nodeName":"a""#));
    nodes.set_pod(&pod("p", "1", "1Gi", r#","nodeName":"a","restartPolicy":"Never""#));
    assert_eq!(nodes.since(start).map(Iterator::count), Some(1), "the pod came once");
    assert!(nodes.set_node(node("a", "8", "4Gi", "")), "more room");
    assert_eq!(nodes.since(start).map(Iterator::count), Some(2));
    for _ in 0..LOG_MAX {
        nodes.set_pod(&pod("q", "1", "1Gi", r#","nodeName":"b""#));
        nodes.remove_pod("q");
    }
    assert!(nodes.since(start).is_none(), "who is too far behind starts afresh");
}
