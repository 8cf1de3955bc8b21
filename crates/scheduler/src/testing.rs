//! Nodes and pods for tests.

use std::sync::Arc;

use client::{Gvk, Object};

fn object(kind: &'static str, json: &str) -> Arc<Object> {
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
