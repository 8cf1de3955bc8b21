//! Garbage collector: deletes what has lost its owners, orphans what is to stay, and lets foreground deletions end.
//!
//! Upstream: `pkg/controller/garbagecollector`. Its graph of owners is here the index of every cache by owner uid.

use std::sync::Arc;
use std::time::Duration;

use api::projection::Owner;
use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use reconcile::{
    Action, Change, Controller, Facts, Need, Now, Outcomes, Plan, Propagation, Reference, Resource, View, Watch,
};

use crate::kinds::{CLUSTER_SCOPED, IGNORED, NAMESPACED};
use crate::{owner, patch};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// No more dependents are changed in one decision; what they leave brings the next.
const DEPENDENTS_MAX: usize = 500;

/// A dependent that the caches do not show yet is looked for again after this time, should none of them announce it.
const UNSEEN: Duration = Duration::from_secs(1);

/// The controller of everything that has owners.
pub struct GarbageCollector;

/// One object, its dependents, and what the caches say of its owners.
pub struct Observed {
    object: Option<(Resource, Arc<Object>)>,
    dependents: Vec<(Resource, Arc<Object>)>,
    owners: Vec<(Owner, State)>,
}

/// What is known of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there.
    Solid,
    /// It is being deleted and waits for its dependents.
    Waiting,
    /// No cache has it; only the API knows for sure.
    Missing(Reference),
    /// Its kind is not one that is looked at: nobody can tell, so it counts as there.
    Unknown,
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "generic-garbage-collector";
    type Key = (Resource, Key);
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Self::Key>> {
        kinds().map(|resource| Watch::mapped(resource, move |view, object| concerned(view, resource, object))).collect()
    }

    fn observe(view: &View, (resource, key): &Self::Key) -> Observed {
        let Some(object) = view.get(*resource, key) else {
            return Observed { object: None, dependents: Vec::new(), owners: Vec::new() };
        };
        let dependents = match object.meta().deletion {
            Some(_) => dependents(view, object.uid()).collect(),
            None => Vec::new(),
        };
        let owners = object.meta().owners.iter().map(|owner| (owner.clone(), state(view, &object, owner))).collect();
        Observed { object: Some((*resource, object)), dependents, owners }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some((resource, object)) = &observed.object else { return Plan::nothing() };
        let meta = object.meta();
        if meta.deletion.is_some() {
            let has = |name: &str| meta.finalizers.iter().any(|finalizer| finalizer.as_ref() as &str == name);
            return match () {
                () if has(ORPHAN) => orphan(*resource, object, &observed.dependents, facts),
                () if has(FOREGROUND) => foreground(*resource, object, &observed.dependents),
                () => Plan::nothing(),
            };
        }
        if observed.owners.is_empty() || IGNORED.contains(resource) {
            Plan::nothing()
        } else {
            collect(observed, *resource, object, facts)
        }
    }
}

fn kinds() -> impl Iterator<Item = Resource> {
    NAMESPACED.iter().chain(CLUSTER_SCOPED).copied()
}

fn dependents<'v>(view: &'v View, uid: &'v str) -> impl Iterator<Item = (Resource, Arc<Object>)> + 'v {
    kinds().flat_map(move |resource| view.owned(resource, uid).map(move |object| (resource, object)))
}

/// A change concerns the object itself when it has owners or is being deleted, its dependents when it is or will be gone,
/// and its owners when they wait for it.
fn concerned(view: &View, resource: Resource, object: &Object) -> Vec<(Resource, Key)> {
    let meta = object.meta();
    let mut keys = Vec::new();
    let deleting = meta.deletion.is_some();
    if !meta.owners.is_empty() || deleting {
        keys.push((resource, object.key().clone()));
    }
    let current = view.get(resource, object.key());
    let gone = current.as_ref().is_none_or(|current| current.uid() != object.uid());
    if gone || deleting {
        keys.extend(dependents(view, object.uid()).map(|(resource, dependent)| (resource, dependent.key().clone())));
    }
    for owner in &meta.owners {
        let Some((resource, key)) = place(object, owner) else { continue };
        let waits = view.get(resource, &key).is_some_and(|owner| owner.meta().deletion.is_some());
        if waits {
            keys.push((resource, key));
        }
    }
    keys
}

/// Where an owner would be: in the dependent's namespace, or cluster-scoped. `None` for kinds that are not looked at.
fn place(object: &Object, owner: &Owner) -> Option<(Resource, Key)> {
    let of_kind = |resource: &&Resource| {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        resource.kind == owner.kind.as_ref() as &str && resource.group == group
    };
    match NAMESPACED.iter().find(of_kind) {
        // A cluster-scoped object cannot be owned by one in a namespace; upstream reports it and keeps the object.
        Some(_) if object.namespace().is_empty() => None,
        Some(resource) => Some((*resource, Key::new(object.namespace(), &owner.name))),
        None => CLUSTER_SCOPED.iter().find(of_kind).map(|resource| (*resource, Key::new("", &owner.name))),
    }
}

fn state(view: &View, object: &Object, owner: &Owner) -> State {
    let Some((resource, key)) = place(object, owner) else { return State::Unknown };
    match view.get(resource, &key).filter(|found| found.uid() == owner.uid.as_ref() as &str) {
        Some(found) => {
            let meta = found.meta();
            let waits = meta.finalizers.iter().any(|finalizer| finalizer.as_ref() as &str == FOREGROUND);
            if meta.deletion.is_some() && waits { State::Waiting } else { State::Solid }
        }
        None => State::Missing(Reference {
            resource,
            namespace: key.namespace().into(),
            name: key.name().into(),
            uid: owner.uid.to_string(),
        }),
    }
}

/// Decides about an object by its owners. Upstream: `attemptToDeleteItem`.
fn collect(observed: &Observed, resource: Resource, object: &Object, facts: &Facts) -> Plan {
    let missing = observed.owners.iter().filter_map(|(_, state)| match state {
        State::Missing(reference) => Some(Need::Exists(reference.clone())),
        _ => None,
    });
    let needs: Vec<Need> = missing.filter(|need| !facts.answers.contains_key(need)).collect();
    if !needs.is_empty() {
        return Plan { needs, ..Plan::default() };
    }
    let dangling = |state: &State| match state {
        State::Missing(reference) => facts.answers.get(&Need::Exists(reference.clone())) == Some(&false),
        _ => false,
    };
    let is_solid = |state: &State| !dangling(state) && *state != State::Waiting;
    let of = owner::reference_to(resource, object);
    let going: Vec<&Owner> =
        observed.owners.iter().filter(|(_, state)| !is_solid(state)).map(|(owner, _)| owner).collect();
    if going.is_empty() {
        return Plan::nothing();
    }
    if observed.owners.iter().any(|(_, state)| is_solid(state)) {
        let uids: Vec<&str> = going.iter().map(|owner| owner.uid.as_ref()).collect();
        return Plan::nothing().then(without_owners(of, object, &uids));
    }
    let waiting = observed.owners.iter().any(|(_, state)| *state == State::Waiting);
    let propagation = match object
        .meta()
        .finalizers
        .iter()
        .map(AsRef::<str>::as_ref)
        .find(|name| [ORPHAN, FOREGROUND].contains(name))
    {
        Some(ORPHAN) => Propagation::Orphan,
        Some(_) => Propagation::Foreground,
        // A waiting owner goes only after everything below it.
        None if waiting => Propagation::Foreground,
        None => Propagation::Background,
    };
    // By now it may have been taken off its owner, as orphans are: then it is not the caches' object any more.
    Plan::nothing().then([Change::Delete { of, propagation, revision: Some(object.revision()) }.into()])
}

/// Takes the owner off its dependents; once there are none any more, the finalizer off the owner.
///
/// What the caches do not show yet would be deleted as soon as the owner is gone, and the user has said that it is to stay: so
/// the API is asked. Upstream trusts its graph here.
fn orphan(resource: Resource, object: &Object, dependents: &[(Resource, Arc<Object>)], facts: &Facts) -> Plan {
    if !dependents.is_empty() {
        let released = dependents.iter().take(DEPENDENTS_MAX).filter_map(|(resource, dependent)| {
            without_owners(owner::reference_to(*resource, dependent), dependent, &[object.uid()])
        });
        return Plan::nothing().then(released);
    }
    let owned =
        |resource| Need::Owned { by: object.uid().to_owned(), resource, namespace: object.namespace().to_owned() };
    let clustered = if object.namespace().is_empty() { CLUSTER_SCOPED } else { &[] };
    let all = NAMESPACED.iter().chain(clustered).filter(|resource| !IGNORED.contains(resource));
    let all: Vec<Need> = all.copied().map(owned).collect();
    if all.iter().any(|need| !facts.answers.contains_key(need)) {
        return Plan { needs: all, ..Plan::default() };
    }
    if all.iter().any(|need| facts.answers.get(need) == Some(&true)) {
        // The caches will show it.
        return Plan::nothing().again_within(UNSEEN);
    }
    Plan::nothing().then(without_finalizer(resource, object, ORPHAN))
}

/// Lets the object go once nothing blocks it; the dependents are deleted by decisions of their own.
fn foreground(resource: Resource, object: &Object, dependents: &[(Resource, Arc<Object>)]) -> Plan {
    let blocks = |(_, dependent): &(Resource, Arc<Object>)| {
        let owners = &dependent.meta().owners;
        owners.iter().any(|owner| owner.uid.as_ref() as &str == object.uid() && owner.block_owner_deletion)
    };
    if dependents.iter().any(blocks) {
        return Plan::nothing();
    }
    Plan::nothing().then(without_finalizer(resource, object, FOREGROUND))
}

/// Takes owners off an object, on condition that nobody changed it meanwhile: the list is written whole.
fn without_owners(of: Reference, object: &Object, uids: &[&str]) -> Option<Action> {
    let tree = object.tree().ok()?;
    let owners: Vec<OwnerReference> =
        tree.at(&["metadata", "ownerReferences"]).and_then(|owners| api::value::from_value(owners).ok())?;
    let kept: Vec<OwnerReference> = owners.into_iter().filter(|owner| !uids.contains(&owner.uid.as_str())).collect();
    let kept = if kept.is_empty() { Value::Null } else { to_value(&kept).ok()? };
    let body = patch::object([("metadata", patch::object([("ownerReferences", kept)]))]);
    Some(Change::Patch { of, subresource: None, body, revision: Some(object.revision()) }.into())
}

fn without_finalizer(resource: Resource, object: &Object, finalizer: &str) -> Option<Action> {
    let kept = object.meta().finalizers.iter().map(AsRef::<str>::as_ref).filter(|name| *name != finalizer);
    let kept: Vec<Value> = kept.map(Value::from).collect();
    let kept = if kept.is_empty() { Value::Null } else { patch::list(kept) };
    let body = patch::object([("metadata", patch::object([("finalizers", kept)]))]);
    let of = owner::reference_to(resource, object);
    Some(Change::Patch { of, subresource: None, body, revision: Some(object.revision()) }.into())
}

#[cfg(test)]
mod tests;
