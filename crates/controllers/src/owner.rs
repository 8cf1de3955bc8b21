//! Who controls what: references, selectors, claiming orphans and releasing what no longer matches.

use api::projection::{Meta, PodLite};
use api::selector::Selector;
use api::value::to_value;
use client::{Key, Object};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use reconcile::plan::kinds::{DEPLOYMENTS, REPLICA_SETS};
use reconcile::{Action, Change, Reference, Resource, View};
use serde::de::DeserializeOwned;

use crate::patch;

/// The object as its type; `None`, with a log line, for one that does not have the type's shape.
pub(crate) fn typed<T: DeserializeOwned>(object: &Object) -> Option<T> {
    match object.typed() {
        Ok(typed) => Some(typed),
        Err(error) => {
            tracing::error!(object = ?object, %error, "object does not have the shape of its kind");
            None
        }
    }
}

/// A reference for actions on an object of this metadata.
pub(crate) fn reference(resource: Resource, meta: &ObjectMeta) -> Reference {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Reference { resource, namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
}

/// A reference for actions on a cached object.
pub(crate) fn reference_to(resource: Resource, object: &Object) -> Reference {
    Reference { resource, namespace: object.namespace().into(), name: object.name().into(), uid: object.uid().into() }
}

/// The owner reference that marks a controller's dependents.
pub(crate) fn controller_reference(resource: Resource, meta: &ObjectMeta) -> OwnerReference {
    OwnerReference {
        api_version: resource.api_version(),
        kind: resource.kind.into(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The uid of the controlling owner.
pub(crate) fn controller_uid(meta: &ObjectMeta) -> Option<&str> {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

/// The selector of a Deployment's spec; `None` when it is malformed, which validation refuses.
pub(crate) fn selector(spec: &Option<DeploymentSpec>) -> Option<Selector> {
    Selector::from_object(Some(&spec.as_ref()?.selector)).ok()
}

/// Whether an object concerns the owner `uid`: controlled by it, or an orphan that it selects.
pub(crate) fn relevant(meta: &Meta, uid: &str, selector: Option<&Selector>) -> bool {
    match meta.controller().map(|owner| &*owner.uid) {
        Some(owner) => owner == uid,
        None => selector.is_some_and(|selector| selector.matches(&meta.labels)),
    }
}

/// The Deployments that a ReplicaSet concerns: its owner, or all that select the orphan.
pub(crate) fn keys_of_replica_set(view: &View, set: &Object) -> Vec<Key> {
    let meta = set.meta();
    if let Some(owner) = meta.controller() {
        return if &*owner.kind == "Deployment" { vec![Key::new(set.namespace(), &owner.name)] } else { Vec::new() };
    }
    view.in_namespace(DEPLOYMENTS, set.namespace())
        .filter(|object| {
            let deployment: Option<Deployment> = typed(object);
            let selector = deployment.and_then(|deployment| selector(&deployment.spec));
            selector.is_some_and(|selector| !selector.is_everything() && selector.matches(&meta.labels))
        })
        .map(|object| object.key().clone())
        .collect()
}

/// The Deployment behind a pod, through its ReplicaSet. Only the end of a pod matters to it.
pub(crate) fn deployment_of_pod(view: &View, pod: &Object) -> Vec<Key> {
    let Some(owner) = pod.meta().controller() else { return Vec::new() };
    if &*owner.kind != "ReplicaSet" {
        return Vec::new();
    }
    let set = view.get(REPLICA_SETS, &Key::new(pod.namespace(), &owner.name));
    let deployment = set.as_ref().and_then(|set| set.meta().controller());
    deployment.map(|deployment| Key::new(pod.namespace(), &deployment.name)).into_iter().collect()
}

/// The controlling owner's key, when it is of this kind.
pub(crate) fn owner_key(object: &Object, kind: &str) -> Option<Key> {
    let owner = object.meta().controller().filter(|owner| &*owner.kind == kind)?;
    Some(Key::new(object.namespace(), &owner.name))
}

/// Claims orphaned ReplicaSets that the selector matches, and releases controlled ones that it no longer matches.
pub(crate) fn claims(deployment: &Deployment, sets: &[ReplicaSet], selector: Option<&Selector>) -> Vec<Action> {
    let uid = deployment.metadata.uid.as_deref();
    let matches = |set: &ReplicaSet| {
        let labels = set.metadata.labels.clone().unwrap_or_default();
        selector.is_some_and(|selector| selector.matches(&labels))
    };
    let change = |set: &ReplicaSet| {
        let of = reference(REPLICA_SETS, &set.metadata);
        match controller_uid(&set.metadata) {
            None if matches(set) && set.metadata.deletion_timestamp.is_none() => {
                adopt(of, DEPLOYMENTS, &deployment.metadata, set.metadata.owner_references.as_deref())
            }
            owner if owner == uid && !matches(set) => {
                release(of, uid.unwrap_or_default(), set.metadata.owner_references.as_deref())
            }
            _ => None,
        }
    };
    sets.iter().filter_map(change).collect()
}

/// Makes `owner` the controller of an object, beside the owners it has.
pub(crate) fn adopt(
    of: Reference,
    kind: Resource,
    owner: &ObjectMeta,
    present: Option<&[OwnerReference]>,
) -> Option<Action> {
    let mut owners = present.unwrap_or_default().to_vec();
    owners.push(controller_reference(kind, owner));
    let owners = to_value(&owners).ok()?;
    let body = patch::object([("metadata", patch::object([("ownerReferences", owners)]))]);
    Some(Change::Patch { of, subresource: None, body, revision: None }.into())
}

/// Takes the owner `uid` off an object.
pub(crate) fn release(of: Reference, uid: &str, present: Option<&[OwnerReference]>) -> Option<Action> {
    let owners: Vec<OwnerReference> = present?.iter().filter(|owner| owner.uid != uid).cloned().collect();
    let owners = to_value(&owners).ok()?;
    let body = patch::object([("metadata", patch::object([("ownerReferences", owners)]))]);
    Some(Change::Patch { of, subresource: None, body, revision: None }.into())
}

/// Whether a pod counts for its controller: not ended and not being deleted. Upstream: `IsPodActive`.
pub(crate) fn is_active(pod: &Object) -> bool {
    api::decide::pod::is_pod_active(pod.project::<PodLite>())
}
