//! Why a namespace does not go.

use std::collections::BTreeMap;

use api::meta;
use api::value::Value;

use super::{Evidence, Finding, World, evidence, list, name, text, told};

/// Conditions that tell what holds a deletion up.
const CONDITIONS: [&str; 5] = [
    "NamespaceDeletionDiscoveryFailure",
    "NamespaceDeletionGroupVersionParsingFailure",
    "NamespaceDeletionContentFailure",
    "NamespaceContentRemaining",
    "NamespaceFinalizersRemaining",
];

/// Everything that keeps a namespace that is being deleted.
pub(super) fn findings(namespace: &Value, world: &World) -> Vec<Finding> {
    let Some(since) = meta::deletion_timestamp(namespace) else { return Vec::new() };
    let deleted = Evidence {
        at: Some(meta::rfc3339(since)),
        ..evidence(namespace, "metadata.deletionTimestamp", "it is being deleted since then")
    };
    let held: Vec<&Value> = world.left.iter().filter(|object| meta::has_finalizers(object)).collect();
    let mut found = Vec::new();
    let conditions: Vec<Evidence> = CONDITIONS
        .iter()
        .filter(|kind| super::is(namespace, kind, "True"))
        .filter_map(|kind| told(namespace, kind))
        .collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for object in &world.left {
        *counts.entry(text(object, &["kind"])).or_default() += 1;
    }
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if !world.left.is_empty() {
        let what = format!("The namespace is being deleted, and holds objects still: {}.", counts.join(", "));
        found.push(Finding::new("Terminating", what).seen([deleted.clone()]).seen(conditions.clone()));
    }
    found.extend(held.iter().take(5).map(|object| finalized(object)));
    let others: Vec<&str> = meta::finalizers(namespace)
        .into_iter()
        .chain(list(namespace, &["spec", "finalizers"]).iter().filter_map(Value::as_str))
        .filter(|finalizer| *finalizer != "kubernetes")
        .collect();
    if !others.is_empty() {
        let what = format!("Finalizers keep the namespace itself: {}.", others.join(", "));
        found.push(
            Finding::new("Finalizers", what)
                .seen([deleted.clone(), evidence(namespace, "spec.finalizers", others.join(", "))])
                .helped_by(
                    "Let those who set them finish. If they are gone for ever, take them away.",
                    format!(
                        "kubectl get namespace {0} -o json | jq '.spec.finalizers=[]|.metadata.finalizers=[]' | kubectl replace --raw /api/v1/namespaces/{0}/finalize -f -",
                        name(namespace)
                    ),
                ),
        );
    }
    if found.is_empty() {
        found.push(
            Finding::new(
                "Terminating",
                "The namespace is being deleted, and nothing is left in it: it goes in a moment.",
            )
            .seen([deleted])
            .seen(conditions),
        );
    }
    found
}

/// An object that finalizers keep.
fn finalized(object: &Value) -> Finding {
    let finalizers = meta::finalizers(object).join(", ");
    let what = format!("{} {:?} is kept by finalizers: {finalizers}.", text(object, &["kind"]), name(object));
    Finding::new("Finalizers", what).seen([evidence(object, "metadata.finalizers", finalizers)]).helped_by(
        "Let those who set them finish. If they are gone for ever, take them away.",
        format!(
            "{} patch {} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'",
            super::kubectl(object),
            super::reference(object)
        ),
    )
}
