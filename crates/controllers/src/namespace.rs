//! Namespace: when one is being deleted, deletes what it holds and then lets it go.
//!
//! Upstream: `pkg/controller/namespace`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::value::to_value;
use client::{Key, Object};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reconcile::plan::kinds::NAMESPACES;
use reconcile::{Action, Change, Controller, Facts, Need, Now, Outcomes, Plan, Propagation, Resource, View, Watch};

use crate::kinds::NAMESPACED;
use crate::{owner, patch};

/// No more objects are deleted in one decision; what they leave brings the next.
const DELETES_MAX: usize = 500;
const FINALIZER: &str = "kubernetes";

/// The controller that empties namespaces.
pub struct NamespaceController;

/// Everything a decision about one namespace depends on.
pub struct Observed {
    namespace: Option<Namespace>,
    content: BTreeMap<Resource, Vec<Arc<Object>>>,
}

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        let mut watches = vec![Watch::primary(NAMESPACES)];
        watches.extend(NAMESPACED.iter().map(|resource| Watch::mapped(*resource, deleting_namespace)));
        watches
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let namespace: Option<Namespace> = view.get(NAMESPACES, key).and_then(|object| owner::typed(&object));
        let mut content = BTreeMap::new();
        if namespace.as_ref().is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
            for resource in NAMESPACED {
                let objects: Vec<Arc<Object>> = view.in_namespace(*resource, key.name()).collect();
                if !objects.is_empty() {
                    content.insert(*resource, objects);
                }
            }
        }
        Observed { namespace, content }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(namespace) = &observed.namespace else { return Plan::nothing() };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|name| name == FINALIZER) {
            return Plan::nothing();
        }
        if !observed.content.is_empty() {
            return Plan::nothing().then(deletes(&observed.content)).then(status(namespace, &observed.content, now));
        }
        finish(namespace, facts)
    }
}

/// Content matters only while its namespace is being deleted.
fn deleting_namespace(view: &View, object: &Object) -> Vec<Key> {
    let key = Key::new("", object.namespace());
    let deleting = view.get(NAMESPACES, &key).is_some_and(|namespace| namespace.meta().deletion.is_some());
    if deleting { vec![key] } else { Vec::new() }
}

fn deletes(content: &BTreeMap<Resource, Vec<Arc<Object>>>) -> Vec<Action> {
    content
        .iter()
        .flat_map(|(resource, objects)| objects.iter().map(move |object| (*resource, object)))
        .filter(|(_, object)| object.meta().deletion.is_none())
        .take(DELETES_MAX)
        .map(|(resource, object)| {
            let of = owner::reference_to(resource, object);
            Change::Delete { of, propagation: Propagation::Background, revision: None }.into()
        })
        .collect()
}

/// Lets the namespace go, once the API itself says of every kind that nothing is left: a cache may lag behind.
fn finish(namespace: &Namespace, facts: &Facts) -> Plan {
    let name = namespace.metadata.name.clone().unwrap_or_default();
    let need = |resource: &Resource| Need::Holds { resource: *resource, namespace: name.clone() };
    let needs: Vec<Need> = NAMESPACED.iter().map(need).filter(|need| !facts.answers.contains_key(need)).collect();
    if !needs.is_empty() {
        return Plan { needs, ..Plan::default() };
    }
    if NAMESPACED.iter().any(|resource| facts.answers.get(&need(resource)) == Some(&true)) {
        // The caches will show it, and that brings the next decision.
        return Plan::nothing();
    }
    let mut finalized = namespace.clone();
    if let Some(finalizers) = finalized.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|name| name != FINALIZER);
    }
    let of = owner::reference(NAMESPACES, &namespace.metadata);
    let replace =
        to_value(&finalized).ok().map(|object| Change::Replace { of, subresource: "finalize", object }.into());
    Plan::nothing().then(replace)
}

/// The conditions that tell what holds a namespace up.
fn status(namespace: &Namespace, content: &BTreeMap<Resource, Vec<Arc<Object>>>, now: Now) -> Option<Action> {
    let remaining = content
        .iter()
        .map(|(resource, objects)| {
            // The dot stays in the core group, too: upstream's text.
            format!("{}.{} has {} resource instances", resource.plural, resource.group, objects.len())
        })
        .collect::<Vec<_>>()
        .join(", ");
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for finalizer in content.values().flatten().flat_map(|object| &object.meta().finalizers) {
        *held.entry(finalizer.as_ref()).or_default() += 1;
    }
    let finalizers =
        held.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect::<Vec<_>>().join(", ");
    let wanted = [
        (
            "NamespaceDeletionDiscoveryFailure",
            false,
            "ResourcesDiscovered",
            "All resources successfully discovered".to_owned(),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed".to_owned(),
        ),
        (
            "NamespaceDeletionContentFailure",
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        ),
        (
            "NamespaceContentRemaining",
            true,
            "SomeResourcesRemain",
            format!("Some resources are remaining: {remaining}"),
        ),
        match finalizers.is_empty() {
            true => (
                "NamespaceFinalizersRemaining",
                false,
                "ContentHasNoFinalizers",
                "All content-preserving finalizers finished".to_owned(),
            ),
            false => (
                "NamespaceFinalizersRemaining",
                true,
                "SomeFinalizersRemain",
                format!("Some content in the namespace has finalizers remaining: {finalizers}"),
            ),
        },
    ];
    let present = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let conditions: Vec<NamespaceCondition> = wanted
        .into_iter()
        .map(|(type_, is_true, reason, message)| {
            let status = if is_true { "True" } else { "False" };
            let since = present.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            let since = since.and_then(|condition| condition.last_transition_time.clone());
            NamespaceCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_transition_time: Some(since.unwrap_or(Time(now.wall))),
            }
        })
        .collect();
    if present == conditions {
        return None;
    }
    let body = patch::object([("status", patch::object([("conditions", to_value(&conditions).ok()?)]))]);
    let of = owner::reference(NAMESPACES, &namespace.metadata);
    Some(Change::Patch { of, subresource: Some("status"), body, revision: None }.into())
}

#[cfg(test)]
mod tests;
