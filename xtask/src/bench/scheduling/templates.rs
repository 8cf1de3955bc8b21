//! The nodes and pods of upstream's `scheduler_perf`, in stored form.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use client::{Gvk, Object};
use scheduler::Subject;
use serde_json::{Value, json};

/// A kind of pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    Default,
    /// Required anti-affinity to its like, by node.
    Apart,
    /// Required affinity to its like, by zone.
    Near,
    /// The same two as preferences, by node.
    RatherApart,
    RatherNear,
    /// Required node affinity to two zones.
    Zone,
    /// Spread over zones, required and preferred.
    Spread,
    RatherSpread,
    /// Selected by a service.
    Served,
    /// Asks for more than any node has.
    Huge,
    Low,
    High,
    /// Names its node, as pods of daemon sets do.
    Named,
}

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn stored(gvk: &Arc<Gvk>, tree: &Value) -> Result<Arc<Object>> {
    let schema = api::schema::kind("", "v1", &gvk.kind).context("a built-in kind")?;
    let tree: api::value::Value = serde_json::from_value(tree.clone())?;
    let body = api::codec::protobuf::encode(&tree, schema)?;
    Ok(Arc::new(Object::from_body(gvk.clone(), 1, body.into())?))
}

/// One of upstream's nodes, in one of three zones.
pub fn node(gvk: &Arc<Gvk>, number: usize) -> Result<Arc<Object>> {
    let name = format!("node-{number}");
    let zone = format!("zone{}", number % 3 + 1);
    let amounts = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    stored(
        gvk,
        &json!({
            "metadata": {"name": name, "uid": name, "labels": {HOST: name, ZONE: zone}},
            "status": {"capacity": amounts, "allocatable": amounts,
                       "conditions": [{"type": "Ready", "status": "True"}]},
        }),
    )
}

/// One of upstream's pods.
pub fn pod(gvk: &Arc<Gvk>, number: usize, template: Template, namespace: &str) -> Result<Arc<Object>> {
    let (label, spec) = spec(template);
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let (cpu, memory) = match template {
        Template::Low => ("900m", "500Mi"),
        Template::High => ("3000m", "500Mi"),
        Template::Huge => ("9", "500Mi"),
        // So many go to one node that none could ask for much.
        Template::Named => ("0", "0"),
        _ => ("100m", "500Mi"),
    };
    let priority = if matches!(template, Template::High | Template::Huge) { 10 } else { 0 };
    let mut tree = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": namespace, "uid": format!("pod-{number}"),
                     "labels": {key: value}},
        "spec": {"schedulerName": "default-scheduler", "priority": priority, "restartPolicy": "Always",
                 "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst", "serviceAccountName": "default",
                 "containers": [{"name": "pause", "image": "registry.k8s.io/pause:3.10.1",
                                 "ports": [{"containerPort": 80}], "imagePullPolicy": "IfNotPresent",
                                 "resources": {"requests": {"cpu": cpu, "memory": memory}}}]},
        "status": {"phase": "Pending"},
    });
    let extra = if template == Template::Named { named(number) } else { spec };
    if let (Some(all), Some(extra)) = (tree["spec"].as_object_mut(), extra.as_object()) {
        all.extend(extra.clone());
    }
    stored(gvk, &tree)
}

/// The pod's label and what its spec says besides.
fn spec(template: Template) -> (&'static str, Value) {
    let term = |color: &str, key: &str| json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key, "namespaces": ["sched-1", "sched-0"]});
    let weighted = |color: &str| json!([{"weight": 1, "podAffinityTerm": term(color, HOST)}]);
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
                                              "labelSelector": {"matchLabels": {"foo": ""}}}]})
    };
    match template {
        Template::Apart => ("color=green", json!({"affinity": {"podAntiAffinity": {REQUIRED: [term("green", HOST)]}}})),
        Template::Near => ("color=blue", json!({"affinity": {"podAffinity": {REQUIRED: [term("blue", ZONE)]}}})),
        Template::RatherNear => ("color=red", json!({"affinity": {"podAffinity": {PREFERRED: weighted("red")}}})),
        Template::RatherApart => {
            ("color=yellow", json!({"affinity": {"podAntiAffinity": {PREFERRED: weighted("yellow")}}}))
        }
        Template::Zone => {
            let expression = json!({"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]});
            let terms = json!([{"matchExpressions": [expression]}]);
            ("app=zone", json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}}))
        }
        Template::Spread => ("foo=", spread("DoNotSchedule")),
        Template::RatherSpread => ("foo=", spread("ScheduleAnyway")),
        Template::Served => ("app=served", json!({})),
        _ => ("app=scheduler-perf", json!({})),
    }
}

/// A pod for each node and again, as one daemon set after the other makes them.
fn named(number: usize) -> Value {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [format!("node-{}", number % 15_000)]});
    let terms = json!([{"matchFields": [field]}]);
    json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}})
}

/// The pod with the siblings that a service gives it, if it is one that a service selects.
pub fn with_siblings(mut subject: Subject) -> Subject {
    let pod = subject.pod();
    if &*pod.meta.namespace == "sched-1" && pod.meta.labels.get("app") == Some("served") {
        subject.siblings = Some(api::selector::Selector::from_labels([("app", "served")]));
    }
    subject
}
