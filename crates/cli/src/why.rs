//! `isopod why`: what is wrong with an object, with the evidence and the smallest change that would help. Pure.
//!
//! A [`World`] holds what was read of the cluster; [`findings`] judges it. Every finding stands by itself: what is so, where
//! that can be seen, and what to do, as commands that can be run once the words in capitals are filled in.

pub mod access;
mod container;
mod namespace;
mod node;
mod pod;
mod service;
mod text;
mod workload;

use std::collections::BTreeMap;

use api::value::Value;
use jiff::Timestamp;
use serde::Serialize;

pub use pod::owner;
pub use text::report;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Pod,
    Deployment,
    ReplicaSet,
    Service,
    Node,
    Namespace,
}

/// Every word for a kind that kubectl knows, too; its group, and its plural.
const KINDS: [(Kind, &[&str], &str, &str); 6] = [
    (Kind::Pod, &["pod", "pods", "po"], "", "pods"),
    (
        Kind::Deployment,
        &["deployment", "deployments", "deploy", "deployment.apps", "deployments.apps"],
        "apps",
        "deployments",
    ),
    (
        Kind::ReplicaSet,
        &["replicaset", "replicasets", "rs", "replicaset.apps", "replicasets.apps"],
        "apps",
        "replicasets",
    ),
    (Kind::Service, &["service", "services", "svc"], "", "services"),
    (Kind::Node, &["node", "nodes", "no"], "", "nodes"),
    (Kind::Namespace, &["namespace", "namespaces", "ns"], "", "namespaces"),
];

impl Kind {
    /// The kind of that name.
    pub fn parse(word: &str) -> Option<Kind> {
        let word = word.to_ascii_lowercase();
        KINDS.iter().find(|(_, words, ..)| words.contains(&word.as_str())).map(|(kind, ..)| *kind)
    }

    /// The word that is printed.
    pub fn word(self) -> &'static str {
        self.facts().1[0]
    }

    /// Group and plural; the version is `v1`.
    pub fn resource(self) -> (&'static str, &'static str) {
        let (.., group, plural) = self.facts();
        (group, plural)
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Kind::Node | Kind::Namespace)
    }

    fn facts(self) -> &'static (Kind, &'static [&'static str], &'static str, &'static str) {
        KINDS.iter().find(|(kind, ..)| *kind == self).expect("every kind is in the table")
    }
}

/// What was read of the cluster. Lists hold what concerns the object; what may not be read is left out.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub now: Timestamp,
    /// Of the object and of its pods, in the order in which they came.
    pub events: Vec<Value>,
    /// Those of the namespace, or of a node.
    pub pods: Vec<Value>,
    pub replica_sets: Vec<Value>,
    pub nodes: Vec<Value>,
    pub slices: Vec<Value>,
    pub budgets: Vec<Value>,
    /// The keys of ConfigMaps and Secrets that were asked for, by `configmap/NAME` or `secret/NAME`.
    pub keys: BTreeMap<String, Vec<String>>,
    /// The last lines of containers, by `POD/CONTAINER`.
    pub logs: BTreeMap<String, Vec<String>>,
    /// What the scheduler decides about pods without a node, by name.
    pub placements: BTreeMap<String, Placement>,
    /// What is left in a namespace.
    pub left: Vec<Value>,
    /// What could not be read, in words.
    pub unread: Vec<String>,
}

/// The scheduler's decision, made again on what is there now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Placement {
    /// Nodes with what keeps the pod off, in upstream's words.
    pub refusals: Vec<Refusal>,
    /// The smallest change, as a sentence.
    pub nearest: Option<String>,
    /// The commands that bring it about, where there are such.
    pub commands: Vec<String>,
}

/// A node, and what keeps a pod off it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub node: String,
    pub plugin: String,
    pub reasons: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Upstream's word where it has one, such as `CrashLoopBackOff`.
    pub reason: String,
    /// What is so, as a sentence.
    pub what: String,
    pub evidence: Vec<Evidence>,
    /// What would help, the smallest change first.
    pub changes: Vec<Change>,
}

/// Where something can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Such as `pod/web-1`.
    pub object: String,
    /// The field, such as `status.phase`; lists by the names of their items.
    pub path: String,
    pub value: String,
    /// Since when, or when last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
}

/// What would help.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Change {
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl Finding {
    fn new(reason: &str, what: impl Into<String>) -> Finding {
        Finding { reason: reason.to_owned(), what: what.into(), ..Finding::default() }
    }

    fn seen(mut self, evidence: impl IntoIterator<Item = Evidence>) -> Finding {
        self.evidence.extend(evidence);
        self
    }

    /// Helped by something for which there is no command.
    fn advised(self, what: impl Into<String>) -> Finding {
        self.helped_by(what, None::<String>)
    }

    fn helped_by(mut self, what: impl Into<String>, command: impl Into<Option<String>>) -> Finding {
        self.changes.push(Change { what: what.into(), command: command.into() });
        self
    }
}

/// Everything that is wrong with an object.
pub fn findings(kind: Kind, object: &Value, world: &World) -> Vec<Finding> {
    match kind {
        Kind::Pod => pod::findings(object, world),
        Kind::Deployment => workload::of_deployment(object, world),
        Kind::ReplicaSet => workload::of_replica_set(object, world),
        Kind::Service => service::findings(object, world),
        Kind::Node => node::findings(object, world),
        Kind::Namespace => namespace::findings(object, world),
    }
}

/// How an object is of which nothing is wrong.
pub fn well(kind: Kind, object: &Value, world: &World) -> String {
    match kind {
        Kind::Pod => pod::well(object),
        Kind::Deployment => workload::well(object),
        Kind::Service => service::well(object, world),
        Kind::Node => "it is ready, and nothing keeps pods off it".to_owned(),
        Kind::ReplicaSet => "nothing is wrong; all its pods are available".to_owned(),
        Kind::Namespace => "nothing is wrong; it is not being deleted".to_owned(),
    }
}

/// The text at a path; empty where there is none.
fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    value.str_at(path).unwrap_or_default()
}

fn number(value: &Value, path: &[&str]) -> i64 {
    value.at(path).and_then(Value::as_i64).unwrap_or(0)
}

fn list<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    value.at(path).and_then(Value::as_array).unwrap_or_default()
}

fn name(object: &Value) -> &str {
    api::meta::name(object)
}

/// `kind/name`
fn reference(object: &Value) -> String {
    format!("{}/{}", text(object, &["kind"]).to_ascii_lowercase(), name(object))
}

/// `kubectl`, with the object's namespace.
fn kubectl(object: &Value) -> String {
    match api::meta::namespace(object) {
        "" => "kubectl".to_owned(),
        namespace => format!("kubectl -n {namespace}"),
    }
}

fn evidence(object: &Value, path: impl Into<String>, value: impl Into<String>) -> Evidence {
    Evidence { object: reference(object), path: path.into(), value: value.into(), at: None }
}

/// A condition as evidence.
fn told(object: &Value, kind: &str) -> Option<Evidence> {
    let condition = api::decide::trouble::condition(object, kind)?;
    let words = [text(condition, &["reason"]), text(condition, &["message"])];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    Some(Evidence {
        at: Some(text(condition, &["lastTransitionTime"]).to_owned()).filter(|at| !at.is_empty()),
        ..evidence(
            object,
            format!("status.conditions[{kind}]"),
            format!("{}, {}", text(condition, &["status"]), words.join(": ")),
        )
    })
}

/// Whether a condition has this status.
fn is(object: &Value, kind: &str, status: &str) -> bool {
    api::decide::trouble::condition(object, kind).is_some_and(|condition| text(condition, &["status"]) == status)
}

/// The last event of these reasons about an object; about a part of it, where `field` is given.
fn last_event<'w>(world: &'w World, object: &Value, field: Option<&str>, reasons: &[&str]) -> Option<&'w Value> {
    let uid = api::meta::uid(object);
    world.events.iter().rev().find(|event| {
        text(event, &["involvedObject", "uid"]) == uid
            && reasons.contains(&text(event, &["reason"]))
            && field.is_none_or(|field| text(event, &["involvedObject", "fieldPath"]) == field)
    })
}

/// An event as evidence.
fn of_event(event: &Value) -> Evidence {
    let at = [&["lastTimestamp"][..], &["series", "lastObservedTime"], &["eventTime"], &["firstTimestamp"]];
    let at = at.into_iter().map(|path| text(event, path)).find(|at| !at.is_empty());
    let kind = text(event, &["involvedObject", "kind"]).to_ascii_lowercase();
    Evidence {
        object: format!("{kind}/{}", text(event, &["involvedObject", "name"])),
        path: format!("event {}", text(event, &["reason"])),
        value: text(event, &["message"]).trim().to_owned(),
        at: at.map(ToOwned::to_owned),
    }
}

/// Whether the object is controlled by the one of this uid.
fn is_controlled_by(object: &Value, uid: &str) -> bool {
    list(object, &["metadata", "ownerReferences"]).iter().any(|owner| text(owner, &["uid"]) == uid)
}

/// Whether an object's labels meet a selector of `matchLabels` and `matchExpressions`.
fn selects(selector: Option<&Value>, object: &Value) -> bool {
    api::selector::Selector::from_tree(selector).is_ok_and(|selector| selector.matches(api::meta::labels(object)))
}

#[cfg(test)]
mod tests;
