//! NodeRestriction: an agent changes its own node, the pods on it and its own lease, and of those not everything.
//! Upstream: `plugin/pkg/admission/noderestriction`.

use api::meta;
use api::status::{Status, Target};
use api::value::{Value, from_value};
use client::Key;
use k8s_openapi::api::core::v1::Pod;

use super::service_account::MIRROR;
use super::{Asked, Operation};
use crate::authz::node::{Referred, references};
use crate::authz::{Attributes, Decision};
use crate::catalog::Served;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::target;

/// Labels that say something about isolation; agents may not set them.
const RESTRICTED_PREFIX: &str = "node-restriction.kubernetes.io/";
/// Labels of the `kubernetes.io` and `k8s.io` domains that an agent may set.
const OWN_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];

/// Decides about creates and updates of agents.
pub(crate) fn admit(asked: &Asked<'_>, new: &Value, old: Option<&Value>) -> Outcome<()> {
    let Some(node) = identified(asked)? else { return Ok(()) };
    match (asked.served.group, asked.served.facts().plural) {
        ("", "pods") => pod(asked, node, new, old),
        ("", "nodes") => own_node(asked, node, new, old),
        ("coordination.k8s.io", "leases") => lease(asked, node, meta::name(new)),
        ("storage.k8s.io", "csinodes") if meta::name(new) != node => {
            Err(asked.forbidden("can only access CSINode with the same name as the requesting node"))
        }
        _ => Ok(()),
    }
}

/// Decides about deletions of agents.
pub(crate) fn delete(asked: &Asked<'_>) -> Outcome<()> {
    let Some(node) = identified(asked)? else { return Ok(()) };
    match (asked.served.group, asked.served.facts().plural) {
        ("", "pods") => {
            let pod = asked.object("pods", &Key::new(&asked.namespace, &asked.name));
            let on =
                pod.map(|pod| pod.project::<api::projection::PodLite>().spec.node_name.to_string()).unwrap_or_default();
            if on == node {
                Ok(())
            } else {
                Err(asked.forbidden(&format!("node {node:?} can only delete pods with spec.nodeName set to itself")))
            }
        }
        ("", "nodes") if asked.name != node => {
            Err(asked.forbidden(&format!("node {node:?} is not allowed to delete node {:?}", asked.name)))
        }
        ("coordination.k8s.io", "leases") => lease(asked, node, &asked.name.clone()),
        _ => Ok(()),
    }
}

/// The node whose agent asks; an agent of no node may do nothing.
fn identified<'a>(asked: &'a Asked<'_>) -> Outcome<Option<&'a str>> {
    let user = &asked.call.user;
    match user.node_name() {
        None if user.is_agent() => Err(asked.forbidden(&format!("could not determine node from user {:?}", user.name))),
        node => Ok(node),
    }
}

fn pod(asked: &Asked<'_>, node: &str, new: &Value, old: Option<&Value>) -> Outcome<()> {
    // What an update says about the node counts for nothing: it is put back later.
    let assigned = old.unwrap_or(new).str_at(&["spec", "nodeName"]).unwrap_or_default();
    match (asked.operation, asked.subresource) {
        (Operation::Create, "") => {
            if meta::annotation(new, MIRROR).is_none() {
                return Err(asked.forbidden(&format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                )));
            }
            if assigned != node {
                return Err(
                    asked.forbidden(&format!("node {node:?} can only create pods with spec.nodeName set to itself"))
                );
            }
            mirror_owner(asked, node, new)?;
            mirror_references(asked, node, new)
        }
        (Operation::Update, "status") if assigned != node => Err(asked
            .forbidden(&format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"))),
        (Operation::Update, "status") => {
            if old.is_some_and(|old| meta::labels(old) != meta::labels(new)) {
                return Err(asked.forbidden(&format!("node {node:?} cannot update labels through pod status")));
            }
            let claims = |pod: &Value| {
                let claims = pod.at(&["status", "resourceClaimStatuses"]).and_then(Value::as_array).unwrap_or_default();
                claims.to_vec()
            };
            if old.is_some_and(|old| claims(old) != claims(new)) {
                return Err(asked.forbidden(&format!("node {node:?} cannot update resource claim statues")));
            }
            Ok(())
        }
        // An eviction marks the pod before it deletes it.
        (Operation::Update, "eviction") if assigned != node => {
            Err(asked.forbidden(&format!("node {node} can only evict pods with spec.nodeName set to itself")))
        }
        (Operation::Update, "eviction") => Ok(()),
        (_, subresource) => Err(asked.forbidden(&format!("unexpected operation on pod subresource {subresource:?}"))),
    }
}

/// A mirror pod refers to nothing: an agent could read by it what no pod on its node refers to.
fn mirror_references(asked: &Asked<'_>, node: &str, new: &Value) -> Outcome<()> {
    let pod: Pod = from_value(new).map_err(Refusal::internal)?;
    let mut found = None;
    references(&pod.spec.unwrap_or_default(), &mut |referred, _| found = found.or(Some(referred)));
    let what = match found {
        None | Some(Referred::Pod) => return Ok(()),
        Some(Referred::ServiceAccount) => "a service account",
        Some(Referred::Secret) => "secrets",
        Some(Referred::ConfigMap) => "configmaps",
        Some(Referred::Claim) => "persistentvolumeclaims",
    };
    Err(asked.forbidden(&format!("node {node:?} can not create pods that reference {what}")))
}

/// A mirror pod is owned by its node and nothing else.
fn mirror_owner(asked: &Asked<'_>, node: &str, new: &Value) -> Outcome<()> {
    let current = asked.object("minions", &Key::new("", node));
    match meta::owner_references(new) {
        [owner] => {
            let is = |key: &str, wanted: &str| owner.str_at(&[key]) == Some(wanted);
            let uid = current.as_ref().map_or("", |node| node.uid());
            let flag = |key: &str| owner.get(key).and_then(Value::as_bool) == Some(true);
            if is("apiVersion", "v1") && is("kind", "Node") && is("name", node) && is("uid", uid) {
                return match (flag("controller"), flag("blockOwnerDeletion")) {
                    (true, false) => Ok(()),
                    (false, _) => Err(asked.forbidden(&format!(
                        "node {node:?} can only create pods with a controller owner reference set to itself"
                    ))),
                    (true, true) => Err(asked
                        .forbidden(&format!("node {node:?} must not set blockOwnerDeletion on an owner reference"))),
                };
            }
            Err(asked.forbidden(&format!("node {node:?} can only create pods with an owner reference set to itself")))
        }
        _ => {
            Err(asked
                .forbidden(&format!("node {node:?} can only create pods with a single owner reference set to itself")))
        }
    }
}

fn own_node(asked: &Asked<'_>, node: &str, new: &Value, old: Option<&Value>) -> Outcome<()> {
    let name = meta::name(new);
    if name != node {
        return Err(asked.forbidden(&format!("node {node:?} is not allowed to modify node {name:?}")));
    }
    let forbidden: Vec<&str> = changed_labels(new, old).filter(|label| is_forbidden_label(label)).collect();
    if !forbidden.is_empty() {
        let list = forbidden.join(", ");
        return Err(asked.forbidden(&match old {
            None => format!("node {node:?} is not allowed to set the following labels: {list}"),
            Some(_) => format!("is not allowed to modify labels: {list}"),
        }));
    }
    if let Some(old) = old {
        let taints = |node: &Value| node.at(&["spec", "taints"]).cloned().unwrap_or_default();
        if taints(new) != taints(old) && asked.subresource.is_empty() {
            return Err(asked.forbidden(&format!("node {node:?} is not allowed to modify taints")));
        }
        if !meta::owner_references(new).is_empty() && meta::owner_references(new) != meta::owner_references(old) {
            return Err(asked.forbidden(&format!("node {node:?} is not allowed to modify ownerReferences")));
        }
    }
    Ok(())
}

fn changed_labels<'v>(new: &'v Value, old: Option<&'v Value>) -> impl Iterator<Item = &'v str> {
    let before = old.map(meta::labels);
    let after = meta::labels(new);
    let changed = after.iter().filter(move |(key, value)| before.and_then(|labels| labels.get(key)) != Some(value));
    let removed = before.into_iter().flat_map(|labels| labels.iter()).filter(move |(key, _)| !after.contains_key(key));
    changed.chain(removed).map(|(key, _)| key.as_str())
}

fn is_forbidden_label(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    if label.starts_with(RESTRICTED_PREFIX) || domain.ends_with(".node-restriction.kubernetes.io") {
        return true;
    }
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if !within("kubernetes.io") && !within("k8s.io") {
        return false;
    }
    let own_domain = ["kubelet.kubernetes.io", "node.kubernetes.io"].iter().any(|allowed| within(allowed));
    !OWN_LABELS.contains(&label) && !own_domain
}

/// Decides about tokens that agents ask for: only for pods on their node.
pub(crate) fn token(call: &Call<'_>, served: &Served, request: &Value) -> Outcome<()> {
    let Some(node) = call.user.node_name() else {
        if call.user.is_agent() {
            let why = format!("could not determine node from user {:?}", call.user.name);
            return Err(Status::forbidden(target(served, &call.info.name), &why).into());
        }
        return Ok(());
    };
    let forbidden = |why: &str| Err(Status::forbidden(target(served, &call.info.name), why).into());
    let text = |field: &str| request.str_at(&["spec", "boundObjectRef", field]).unwrap_or_default();
    if (text("apiVersion"), text("kind")) != ("v1", "Pod") || text("name").is_empty() {
        return forbidden("node requested token not bound to a pod");
    }
    if text("uid").is_empty() {
        return forbidden("node requested token with a pod binding without a uid");
    }
    let pods = call.server.cache.resource("pods").map(|pods| pods.snapshot());
    let pod = pods.and_then(|pods| pods.objects.get(&Key::new(&call.info.namespace, text("name"))).cloned());
    match pod {
        None => Err(Status::not_found(Target { group: "", resource: "pods", name: text("name") }).into()),
        Some(pod) if pod.uid() != text("uid") => forbidden(&format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
            text("uid")
        )),
        Some(pod) if *pod.project::<api::projection::PodLite>().spec.node_name != *node => {
            forbidden("node requested token bound to a pod scheduled on a different node")
        }
        Some(pod) => audience(call, request, &pod.tree().map_err(Refusal::internal)?).or_else(|why| forbidden(&why)),
    }
}

/// An agent asks only for audiences that the pod's volumes name, or that roles let it ask for: with a token for another
/// audience it could pass for the pod where the pod itself never goes.
fn audience(call: &Call<'_>, request: &Value, pod: &Value) -> Result<(), String> {
    let wanted = request.at(&["spec", "audiences"]).and_then(Value::as_array).unwrap_or_default();
    let wanted = match wanted {
        [] => "",
        [wanted] => wanted.as_str().unwrap_or_default(),
        _ => return Err("node may only request 0 or 1 audiences".to_owned()),
    };
    let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array).unwrap_or_default();
    let sources = volumes.iter().filter_map(|volume| volume.at(&["projected", "sources"])?.as_array()).flatten();
    let mut tokens = sources.filter_map(|source| source.get("serviceAccountToken"));
    if tokens.any(|token| token.str_at(&["audience"]).unwrap_or_default() == wanted) {
        return Ok(());
    }
    let asked = Attributes {
        verb: "request-serviceaccounts-token-audience",
        resource: wanted,
        namespace: &call.info.namespace,
        name: &call.info.name,
        is_resource: true,
        ..Attributes::default()
    };
    if call.server.policies.decide(&call.user, &asked, &call.server.cache) == Decision::Allowed {
        return Ok(());
    }
    let user = &call.user.name;
    Err(format!(
        "audience {wanted:?} not found in pod spec volume, {user} is not authorized to request tokens for this audience"
    ))
}

fn lease(asked: &Asked<'_>, node: &str, name: &str) -> Outcome<()> {
    if asked.namespace != "kube-node-lease" {
        return Err(asked.forbidden("can only access leases in the \"kube-node-lease\" system namespace"));
    }
    if name != node {
        return Err(asked.forbidden("can only access node lease with the same name as the requesting node"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_may_set_only_their_own_kind_of_labels() {
        for (label, forbidden) in [
            ("kubernetes.io/hostname", false),
            ("topology.kubernetes.io/zone", false),
            ("node.kubernetes.io/anything", false),
            ("acme.com/role", false),
            ("plain", false),
            ("node-role.kubernetes.io/control-plane", true),
            ("node-restriction.kubernetes.io/secure", true),
            ("kubernetes.io/other", true),
        ] {
            assert_eq!(is_forbidden_label(label), forbidden, "{label}");
        }
    }
}
