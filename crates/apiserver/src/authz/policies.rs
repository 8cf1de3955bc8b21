//! Roles, bindings and the node graph as decisions need them, kept in step with the cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use client::Object;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde::de::DeserializeOwned;

use super::node::{Graph, Referred};
use super::rbac::{Binding, Rbac, RoleRules};
use super::{Attributes, Decision, decide};
use crate::cache::{Cache, Event, ResourceCache};
use crate::user::{MASTERS, User};

/// Decides by what the cache holds at the moment of the question.
#[derive(Default)]
pub(crate) struct Policies {
    rbac: Mutex<(BTreeMap<&'static str, u64>, Arc<Rbac>)>,
    graph: Mutex<(Option<u64>, Graph)>,
}

const RBAC_PREFIXES: [&str; 4] = ["clusterroles", "roles", "clusterrolebindings", "rolebindings"];

impl Policies {
    /// Whether the user may.
    pub(crate) fn decide(&self, user: &User, asked: &Attributes<'_>, cache: &Cache) -> Decision {
        if user.is_in(MASTERS) {
            return Decision::Allowed;
        }
        let rbac = self.rbac(cache);
        if user.node_name().is_none() {
            return decide(user, asked, &Graph::default(), &rbac);
        }
        decide(user, asked, &self.graph(cache).1, &rbac)
    }

    /// What the pods on each node refer to now.
    fn graph(&self, cache: &Cache) -> MutexGuard<'_, (Option<u64>, Graph)> {
        let mut graph = self.graph.lock().expect("no holder of this lock panics");
        if let Some(pods) = cache.resource("pods") {
            follow_pods(&mut graph, pods);
        }
        graph
    }

    /// Whether a pod on the node refers to the object.
    pub(crate) fn refers(&self, node: &str, referred: Referred, object: &Object, cache: &Cache) -> bool {
        self.graph(cache).1.holds(node, referred, object.namespace(), object.name())
    }

    /// Roles and bindings as they are now.
    pub(crate) fn rbac(&self, cache: &Cache) -> Arc<Rbac> {
        let mut state = self.rbac.lock().expect("no holder of this lock panics");
        let (seen, rbac) = &mut *state;
        for prefix in RBAC_PREFIXES {
            let Some(resource) = cache.resource(prefix) else { continue };
            let current = resource.snapshot().revision;
            if seen.get(prefix) == Some(&current) {
                continue;
            }
            let reached = follow(seen.get(prefix).copied(), resource, Arc::make_mut(rbac), prefix);
            seen.insert(prefix, reached);
        }
        rbac.clone()
    }
}

/// Brings one kind's part of `rbac` up to date; gives the revision that it shows.
fn follow(seen: Option<u64>, resource: &ResourceCache, rbac: &mut Rbac, prefix: &'static str) -> u64 {
    if let Some(Ok(events)) = seen.map(|seen| resource.events_since(seen)) {
        let mut reached = seen.unwrap_or_default();
        for event in events {
            reached = event.revision;
            match (&event.object, &event.previous) {
                (Some(object), _) => put(rbac, prefix, object),
                (None, Some(previous)) => remove(rbac, prefix, previous),
                (None, None) => {}
            }
        }
        return reached;
    }
    match prefix {
        "clusterroles" => rbac.cluster_roles.clear(),
        "roles" => rbac.roles.clear(),
        "clusterrolebindings" => rbac.cluster_bindings.clear(),
        _ => rbac.bindings.clear(),
    }
    let snapshot = resource.snapshot();
    snapshot.objects.values().for_each(|object| put(rbac, prefix, object));
    snapshot.revision
}

fn put(rbac: &mut Rbac, prefix: &str, object: &Object) {
    let (namespace, name) = (object.namespace().to_owned(), object.name().to_owned());
    match prefix {
        "clusterroles" => typed(object)
            .map(|role: ClusterRole| rbac.cluster_roles.insert(name, RoleRules::of_cluster_role(&role)))
            .map(drop),
        "roles" => {
            typed(object).map(|role: Role| rbac.roles.insert((namespace, name), RoleRules::of_role(&role))).map(drop)
        }
        "clusterrolebindings" => typed(object)
            .map(|binding: ClusterRoleBinding| {
                rbac.cluster_bindings.insert(name, Binding::of_cluster_binding(&binding))
            })
            .map(drop),
        _ => typed(object)
            .map(|binding: RoleBinding| {
                rbac.bindings.entry(namespace).or_default().insert(name, Binding::of_binding(&binding))
            })
            .map(drop),
    }
    .unwrap_or_else(|| remove(rbac, prefix, object));
}

fn remove(rbac: &mut Rbac, prefix: &str, object: &Object) {
    match prefix {
        "clusterroles" => drop(rbac.cluster_roles.remove(object.name())),
        "roles" => drop(rbac.roles.remove(&(object.namespace().to_owned(), object.name().to_owned()))),
        "clusterrolebindings" => drop(rbac.cluster_bindings.remove(object.name())),
        _ => {
            if let Some(bindings) = rbac.bindings.get_mut(object.namespace()) {
                bindings.remove(object.name());
            }
        }
    }
}

/// The typed object; what cannot be read allows nothing.
fn typed<T: DeserializeOwned>(object: &Object) -> Option<T> {
    object.typed().inspect_err(|error| tracing::error!(?object, %error, "undecodable policy")).ok()
}

fn follow_pods((seen, graph): &mut (Option<u64>, Graph), pods: &ResourceCache) {
    if let Some(Ok(events)) = seen.map(|seen| pods.events_since(seen)) {
        for event in events {
            *seen = Some(event.revision);
            follow_pod(graph, &event);
        }
        return;
    }
    *graph = Graph::default();
    let snapshot = pods.snapshot();
    snapshot.objects.values().filter_map(|object| typed::<Pod>(object)).for_each(|pod| graph.add(&pod));
    *seen = Some(snapshot.revision);
}

fn follow_pod(graph: &mut Graph, event: &Event) {
    let (old, new) = (event.previous.as_deref(), event.object.as_deref());
    // Everything a pod refers to is fixed once it has a node, so most events change nothing here.
    let lite = |object: &Object| object.project::<api::projection::PodLite>().spec.node_name.clone();
    if let (Some(old), Some(new)) = (old, new)
        && lite(old) == lite(new)
    {
        return;
    }
    if let Some(pod) = old.and_then(typed::<Pod>) {
        graph.remove(&pod);
    }
    if let Some(pod) = new.and_then(typed::<Pod>) {
        graph.add(&pod);
    }
}
