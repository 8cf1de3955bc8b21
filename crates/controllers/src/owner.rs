//! Who controls what: references, selectors, claiming orphans and releasing what no longer matches.

use api::projection::{Meta, PodLite};
use api::selector::Selector;
use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use reconcile::plan::kinds::{DEPLOYMENTS, PODS, REPLICA_SETS};
use reconcile::{Action, Change, Facts, Need, Plan, Reference, Resource, View};
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

/// The Deployment behind a pod that has ended, through its ReplicaSet. Nothing else about pods matters to it.
pub(crate) fn deployment_of_pod(view: &View, pod: &Object) -> Vec<Key> {
    let current = view.get(PODS, pod.key()).filter(|current| current.uid() == pod.uid());
    if current.is_some_and(|current| !api::decide::pod::is_pod_terminated(current.project::<PodLite>())) {
        return Vec::new();
    }
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

/// Dependents that are to change hands.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    adopt: Vec<Action>,
    release: Vec<Action>,
}

impl Claims {
    /// Claims the dependent if the owner's selector matches the orphan, releases it if it no longer matches.
    pub(crate) fn look(&mut self, owner: (Resource, &ObjectMeta), dependent: &Dependent<'_>, matches: bool) {
        let uid = owner.1.uid.as_deref();
        match dependent.owners.iter().find(|owner| owner.controller == Some(true)) {
            None if matches && dependent.adoptable => self.adopt.extend(adopt(dependent, owner.0, owner.1)),
            Some(present) if Some(present.uid.as_str()) == uid && !matches => {
                self.release.extend(release(dependent, &present.uid));
            }
            _ => {}
        }
    }

    /// What to do about them before anything else; `None` when there is nothing to do.
    ///
    /// Only an owner that the API itself says to live may adopt: a cache that still shows one that was deleted with its
    /// dependents orphaned would take them back, and then they would be collected as garbage. Upstream: `canAdoptFunc`.
    pub(crate) fn plan(self, owner: Reference, facts: &Facts) -> Option<Plan> {
        let Claims { adopt, release } = self;
        if adopt.is_empty() {
            return (!release.is_empty()).then(|| Plan::nothing().then(release));
        }
        let need = Need::Lives(owner);
        match facts.answers.get(&need) {
            None => Some(Plan { needs: vec![need], ..Plan::default() }),
            Some(true) => Some(Plan::nothing().then(release.into_iter().chain(adopt))),
            // The caches are about to show that the owner ends.
            Some(false) => Some(Plan::nothing().then(release)),
        }
    }
}

/// What adoption and release depend on.
pub(crate) struct Dependent<'a> {
    pub of: Reference,
    pub owners: &'a [OwnerReference],
    /// The list of owners is written whole, so it must still be as it was seen.
    pub revision: Option<u64>,
    pub adoptable: bool,
}

/// The ReplicaSets that change hands.
pub(crate) fn claims_of_sets(deployment: &Deployment, sets: &[ReplicaSet], selector: &Selector) -> Claims {
    let mut claims = Claims::default();
    for set in sets {
        let meta = &set.metadata;
        let dependent = Dependent {
            of: reference(REPLICA_SETS, meta),
            owners: meta.owner_references.as_deref().unwrap_or_default(),
            revision: meta.resource_version.as_ref().and_then(|version| version.parse().ok()),
            adoptable: meta.deletion_timestamp.is_none(),
        };
        let matches = selector.matches(&meta.labels.clone().unwrap_or_default());
        claims.look((DEPLOYMENTS, &deployment.metadata), &dependent, matches);
    }
    claims
}

/// Makes `owner` the controller of an object, beside the owners it has.
fn adopt(dependent: &Dependent<'_>, kind: Resource, owner: &ObjectMeta) -> Option<Action> {
    let mut owners = dependent.owners.to_vec();
    owners.push(controller_reference(kind, owner));
    change_owners(dependent, &owners)
}

/// Takes the owner `uid` off an object.
fn release(dependent: &Dependent<'_>, uid: &str) -> Option<Action> {
    let owners: Vec<OwnerReference> = dependent.owners.iter().filter(|owner| owner.uid != uid).cloned().collect();
    change_owners(dependent, &owners)
}

fn change_owners(dependent: &Dependent<'_>, owners: &[OwnerReference]) -> Option<Action> {
    let owners = if owners.is_empty() { Value::Null } else { to_value(&owners).ok()? };
    let body = patch::object([("metadata", patch::object([("ownerReferences", owners)]))]);
    let (of, revision) = (dependent.of.clone(), dependent.revision);
    Some(Change::Patch { of, subresource: None, body, revision }.into())
}

/// Whether a pod counts for its controller: not ended and not being deleted. Upstream: `IsPodActive`.
pub(crate) fn is_active(pod: &Object) -> bool {
    api::decide::pod::is_pod_active(pod.project::<PodLite>())
}
