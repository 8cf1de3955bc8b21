//! Whether a pod that was bound to this node can run on it. Pure.
//!
//! Upstream: `lifecycle.predicateAdmitHandler` and the scheduler's general predicates, reasons and words included.

pub mod machine;

use std::collections::BTreeMap;

use api::decide::resources::{PodResources, Resources};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, Toleration};

use crate::pod::{name, uid};

/// What a pod has to fit.
#[derive(Clone, Debug, Default)]
pub struct Node {
    pub name: String,
    pub allocatable: Resources,
    pub labels: BTreeMap<String, String>,
    /// Key, value and effect.
    pub taints: Vec<(String, String, String)>,
}

/// Why a pod is refused: for its status and an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// Resources that can run out here; others are no node's to give, and not asked about as upstream does not either.
const RUN_OUT: [(&str, &str); 5] = [
    ("cpu", "OutOfcpu"),
    ("memory", "OutOfmemory"),
    ("ephemeral-storage", "OutOfephemeral-storage"),
    ("hugepages-1Gi", "OutOfhugepages-1Gi"),
    ("hugepages-2Mi", "OutOfhugepages-2Mi"),
];

/// Decides, given the other pods that have a place on the node.
///
/// # Errors
/// Why the pod is refused; the first reason, as upstream tells one.
pub fn admit<'p>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'p Pod>) -> Result<(), Refusal> {
    room(pod, &node.allocatable, others)?;
    if !selects(pod, node) {
        return Err(predicate("NodeAffinity"));
    }
    let spec = pod.spec.as_ref();
    let bound = spec.and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    if !bound.is_empty() && bound != node.name {
        return Err(predicate("NodeName"));
    }
    let tolerations = spec.and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let driven_out = |(key, value, effect): &(String, String, String)| {
        effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, key, value, effect))
    };
    if node.taints.iter().any(driven_out) {
        return Err(predicate("TaintToleration"));
    }
    Ok(())
}

/// Whether there is room for a pod beside the others.
///
/// # Errors
/// What there is too little of.
pub fn room<'p>(pod: &Pod, allocatable: &Resources, others: impl Iterator<Item = &'p Pod>) -> Result<(), Refusal> {
    let unexpected = |error: &dyn std::fmt::Display| Refusal {
        reason: "UnexpectedAdmissionError",
        message: format!("Unexpected error while attempting to recover from admission failure: {error}"),
    };
    let asked = requests(pod).map_err(|error| unexpected(&error))?;
    let (mut used, mut count) = (Resources::default(), 0_i64);
    for other in others.filter(|other| uid(other) != uid(pod)) {
        used.add(&requests(other).map_err(|error| unexpected(&error))?);
        count += 1;
    }
    fits_number(count, allocatable)?;
    RUN_OUT.into_iter().try_for_each(|(resource, reason)| fits(resource, reason, &asked, &used, allocatable))
}

/// Of what a pod asks for more than the whole node has: memory or processors.
pub fn exceeds(pod: &Pod, allocatable: &Resources) -> Option<String> {
    let asked = requests(pod).ok()?;
    ["memory", "cpu"].into_iter().find_map(|resource| {
        let (asked, most) = (asked.amount(resource), allocatable.amount(resource));
        let (requested, capacity) = (number(resource, asked), number(resource, most));
        (asked > most).then(|| format!("{resource}, requested: {requested}, capacity: {capacity}"))
    })
}

/// As messages have it: processors in thousandths.
fn number(resource: &str, amount: Quantity) -> i64 {
    if resource == "cpu" { amount.milli_value() } else { amount.value() }
}

fn predicate(name: &'static str) -> Refusal {
    Refusal { reason: name, message: format!("Predicate {name} failed") }
}

fn requests(pod: &Pod) -> Result<Resources, api::quantity::QuantityError> {
    PodResources::of(&crate::pod::spec(pod)).map(|resources| resources.requests())
}

fn out_of(resource: &str, [requested, used, capacity]: [i64; 3]) -> String {
    format!("Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}")
}

fn fits_number(count: i64, allocatable: &Resources) -> Result<(), Refusal> {
    let Some(most) = allocatable.get("pods").map(|most| most.value()) else { return Ok(()) };
    match count < most {
        true => Ok(()),
        false => Err(Refusal { reason: "OutOfpods", message: out_of("pods", [1, count, most]) }),
    }
}

fn fits(
    resource: &str,
    reason: &'static str,
    asked: &Resources,
    used: &Resources,
    allocatable: &Resources,
) -> Result<(), Refusal> {
    let of = |amounts: &Resources| amounts.amount(resource);
    let (asked, used, most) = (of(asked), of(used), of(allocatable));
    if asked.is_zero() || asked + used <= most {
        return Ok(());
    }
    Err(Refusal { reason, message: out_of(resource, [asked, used, most].map(|amount| number(resource, amount))) })
}

/// `nodeSelector` and required node affinity.
fn selects(pod: &Pod, node: &Node) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labelled = spec.node_selector.iter().flatten().all(|(key, value)| node.labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    labelled && required.is_none_or(|required| required.node_selector_terms.iter().any(|term| matches(term, node)))
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
    let (labels, fields) = (labels.unwrap_or_default(), fields.unwrap_or_default());
    let label = |need: &NodeSelectorRequirement| holds(need, node.labels.get(&need.key).map(String::as_str));
    let field = |need: &NodeSelectorRequirement| need.key == "metadata.name" && holds(need, Some(&node.name));
    !(labels.is_empty() && fields.is_empty()) && labels.iter().all(label) && fields.iter().all(field)
}

fn holds(need: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = need.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|one| one == value));
    let number = |text: &str| text.parse::<i64>().ok();
    let compared = || Some((number(value?)?, number(values.first()?)?));
    match need.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared().is_some_and(|(value, bound)| value > bound),
        "Lt" => compared().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

fn tolerates(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let wanted = |field: &Option<String>| field.clone().unwrap_or_default();
    let (own_key, own_effect) = (wanted(&toleration.key), wanted(&toleration.effect));
    let same_value = match toleration.operator.as_deref() {
        Some("Exists") => true,
        _ => wanted(&toleration.value) == value,
    };
    (own_effect.is_empty() || own_effect == effect) && (own_key.is_empty() || own_key == key) && same_value
}

/// Whether a pod has a place on its node: it has not ended. Upstream: `filterOutInactivePods`.
pub fn has_place(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The message of a refusal in a pod's status.
pub fn told(refusal: &Refusal, pod: &Pod) -> String {
    tracing::info!(pod = name(pod), reason = refusal.reason, message = refusal.message, "pod refused");
    format!("Pod was rejected: {}", refusal.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str, more: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","uid":"{uid}"}},"spec":{{"containers":[{{"name":"c","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]{more}}}}}"#
        ))
        .unwrap()
    }

    fn node() -> Node {
        let amounts = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3")];
        Node {
            name: "n".into(),
            allocatable: amounts.into_iter().map(|(name, text)| (name, Quantity::parse(text).unwrap())).collect(),
            labels: [("disk".to_owned(), "ssd".to_owned())].into(),
            taints: vec![("gone".into(), String::new(), "NoExecute".into())],
        }
    }

    const TOLERANT: &str = r#","tolerations":[{"operator":"Exists"}]"#;

    #[track_caller]
    fn check(pod: &Pod, others: &[Pod], expected: Option<(&str, &str)>) {
        let found = admit(pod, &node(), others.iter()).err();
        let found = found.as_ref().map(|refusal| (refusal.reason, refusal.message.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_asked_for_must_be_left() {
        let other = pod("1", "1500m", TOLERANT);
        check(&pod("2", "500m", TOLERANT), std::slice::from_ref(&other), None);
        let message = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
        check(&pod("2", "600m", TOLERANT), std::slice::from_ref(&other), Some(("OutOfcpu", message)));
        check(&pod("1", "2", TOLERANT), &[other], None);
        let many = ["1", "2", "3"].map(|uid| pod(uid, "0", TOLERANT));
        let message = "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3";
        check(&pod("4", "0", TOLERANT), &many, Some(("OutOfpods", message)));
    }

    #[test]
    fn the_node_must_be_one_that_the_pod_asks_for() {
        let affinity = |operator: &str, values: &str| {
            format!(
                r#"{TOLERANT},"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"disk","operator":"{operator}","values":[{values}]}}]}}]}}}}}}"#
            )
        };
        let refused = Some(("NodeAffinity", "Predicate NodeAffinity failed"));
        check(&pod("1", "0", &format!(r#"{TOLERANT},"nodeSelector":{{"disk":"ssd"}}"#)), &[], None);
        check(&pod("1", "0", &format!(r#"{TOLERANT},"nodeSelector":{{"disk":"tape"}}"#)), &[], refused);
        check(&pod("1", "0", &affinity("In", r#""ssd""#)), &[], None);
        check(&pod("1", "0", &affinity("NotIn", r#""ssd""#)), &[], refused);
        check(&pod("1", "0", &affinity("DoesNotExist", "")), &[], refused);
        let elsewhere = pod("1", "0", &format!(r#"{TOLERANT},"nodeName":"m""#));
        check(&elsewhere, &[], Some(("NodeName", "Predicate NodeName failed")));
        check(&pod("1", "0", ""), &[], Some(("TaintToleration", "Predicate TaintToleration failed")));
    }
}
