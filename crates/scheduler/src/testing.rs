//! Nodes and pods for tests.

use std::sync::Arc;

use client::{Gvk, Object};

use crate::nodes::Nodes;
use crate::plugins::PLUGINS;
use crate::schedule::{Decision, schedule};
use crate::subject::{Counted, Subject};

pub(crate) fn object(kind: &'static str, json: &str) -> Arc<Object> {
    Arc::new(Object::from_body(Arc::new(Gvk::new("", "v1", kind)), 1, json.to_owned().into()).unwrap())
}

/// A node with so much allocatable, and more of its spec.
pub(crate) fn node(name: &str, cpu: &str, memory: &str, more: &str) -> Arc<Object> {
    object(
        "Node",
        &format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{"kubernetes.io/hostname":"{name}"}}}},"spec":{{{more}}},
                "status":{{"allocatable":{{"cpu":"{cpu}","memory":"{memory}","pods":"3"}}}}}}"#
        ),
    )
}

/// A roomy node with these labels besides its name's, and more of its spec.
pub(crate) fn labelled(name: &str, labels: &str, more: &str) -> Arc<Object> {
    object(
        "Node",
        &format!(
            r#"{{"metadata":{{"name":"{name}","uid":"{name}","labels":{{{}"kubernetes.io/hostname":"{name}"}}}},"spec":{{{more}}},
                "status":{{"allocatable":{{"cpu":"64","memory":"64Gi","pods":"110"}}}}}}"#,
            json_labels(labels),
        ),
    )
}

/// `a=b,c=d` as members of an object, each with a comma behind it.
fn json_labels(labels: &str) -> String {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| format!(r#""{key}":"{value}","#)).collect()
}

/// A pod that asks for so much, and more of its spec.
pub(crate) fn pod(name: &str, cpu: &str, memory: &str, more: &str) -> Arc<Object> {
    object(
        "Pod",
        &format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}"}},
                "spec":{{"schedulerName":"default-scheduler"{more},"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}","memory":"{memory}"}}}}}}]}}}}"#
        ),
    )
}

/// A pod that asks for nothing, with labels.
pub(crate) fn tagged(name: &str, labels: &str, more: &str) -> Arc<Object> {
    let labels = json_labels(labels);
    object(
        "Pod",
        &format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}","labels":{{{}}}}},
                "spec":{{"schedulerName":"default-scheduler"{more},"containers":[{{"name":"c"}}]}}}}"#,
            labels.trim_end_matches(','),
        ),
    )
}

pub(crate) fn nodes(objects: impl IntoIterator<Item = Arc<Object>>) -> Nodes {
    let mut nodes = Nodes::default();
    for object in objects {
        nodes.set_node(object);
    }
    nodes
}

/// Counts pods on nodes.
pub(crate) fn run(nodes: &mut Nodes, pods: impl IntoIterator<Item = (Arc<Object>, &'static str)>) {
    pods.into_iter().for_each(|(pod, node)| nodes.assume(&Arc::new(Counted::new(pod)), node));
}

/// Where the pod goes, or what is said.
pub(crate) fn placed(pod: &Arc<Object>, nodes: &Nodes) -> String {
    match schedule(&Subject::new(pod.clone()), nodes, PLUGINS, 0) {
        Decision::Node(name) => name.into(),
        Decision::Nowhere(misfit) => misfit.message(),
    }
}

#[track_caller]
pub(crate) fn check(pod: &Arc<Object>, nodes: &Nodes, expected: &str) {
    assert_eq!(placed(pod, nodes), expected);
}
