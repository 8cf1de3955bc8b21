//! What a node's agent may do: what its pods refer to, its own node and lease, and the rules that hold for all agents.
//! Upstream: `plugin/pkg/auth/authorizer/node`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use api::selector::FieldSelector;
use k8s_openapi::api::core::v1::{Pod, PodSpec, VolumeProjection};

use super::Attributes;
use super::rbac::Rule;

/// What a pod refers to: kind and name, in the pod's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Referred {
    Secret,
    ConfigMap,
    Claim,
    ServiceAccount,
    Pod,
}

impl Referred {
    /// What a resource is to pods that refer to it, of those that a node watch carries.
    pub(crate) fn of(group: &str, plural: &str) -> Option<Referred> {
        match (group, plural) {
            ("", "secrets") => Some(Referred::Secret),
            ("", "configmaps") => Some(Referred::ConfigMap),
            _ => None,
        }
    }
}

/// The field that makes a watch (or list) of Secrets or ConfigMaps a node watch: of everything, in whatever namespace,
/// that the pods of the node refer to, and of nothing else. Agents of upstream watch each object by itself instead.
pub(crate) const REFERRED_BY_NODE: &str = "isopod.referredByNode";

/// What the pods on each node refer to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    nodes: BTreeMap<String, BTreeMap<Vertex, usize>>,
}

type Vertex = (Referred, String, String);

impl Graph {
    /// Takes a pod in.
    pub(crate) fn add(&mut self, pod: &Pod) {
        let Some((node, vertices)) = edges(pod) else { return };
        let counts = self.nodes.entry(node).or_default();
        for vertex in vertices {
            *counts.entry(vertex).or_default() += 1;
        }
    }

    /// Forgets a pod that was taken in, in the same state.
    pub(crate) fn remove(&mut self, pod: &Pod) {
        let Some((node, vertices)) = edges(pod) else { return };
        let Some(counts) = self.nodes.get_mut(&node) else { return };
        for vertex in vertices {
            if let Some(count) = counts.get_mut(&vertex) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&vertex);
                }
            }
        }
        if counts.is_empty() {
            self.nodes.remove(&node);
        }
    }

    pub(crate) fn holds(&self, node: &str, referred: Referred, namespace: &str, name: &str) -> bool {
        let counts = self.nodes.get(node);
        counts.is_some_and(|counts| counts.contains_key(&(referred, namespace.to_owned(), name.to_owned())))
    }
}

fn edges(pod: &Pod) -> Option<(String, Vec<Vertex>)> {
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone().filter(|name| !name.is_empty())?;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let mut vertices = vec![(Referred::Pod, namespace.clone(), name)];
    // A mirror pod shows what runs anyway; it must not open anything to its node.
    let mirror = "kubernetes.io/config.mirror";
    if !pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(mirror)) {
        references(spec, &mut |referred, name| vertices.push((referred, namespace.clone(), name.to_owned())));
    }
    Some((node, vertices))
}

/// Tells everything that a pod refers to.
pub(crate) fn references(spec: &PodSpec, found: &mut dyn FnMut(Referred, &str)) {
    if let Some(account) = spec.service_account_name.as_deref().filter(|name| !name.is_empty()) {
        found(Referred::ServiceAccount, account);
    }
    for secret in spec.image_pull_secrets.iter().flatten() {
        found(Referred::Secret, &secret.name);
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    for container in containers {
        for source in container.env_from.iter().flatten() {
            source.config_map_ref.iter().for_each(|reference| found(Referred::ConfigMap, &reference.name));
            source.secret_ref.iter().for_each(|reference| found(Referred::Secret, &reference.name));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            source.config_map_key_ref.iter().for_each(|reference| found(Referred::ConfigMap, &reference.name));
            source.secret_key_ref.iter().for_each(|reference| found(Referred::Secret, &reference.name));
        }
    }
    for volume in spec.volumes.iter().flatten() {
        volume.config_map.iter().for_each(|source| found(Referred::ConfigMap, &source.name));
        volume
            .secret
            .iter()
            .filter_map(|source| source.secret_name.as_deref())
            .for_each(|n| found(Referred::Secret, n));
        volume.persistent_volume_claim.iter().for_each(|source| found(Referred::Claim, &source.claim_name));
        let sources = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        sources.for_each(|source| projection_references(source, found));
    }
}

fn projection_references(source: &VolumeProjection, found: &mut dyn FnMut(Referred, &str)) {
    source.config_map.iter().for_each(|source| found(Referred::ConfigMap, &source.name));
    source.secret.iter().for_each(|source| found(Referred::Secret, &source.name));
}

/// Whether the agent of `node` may; if not, why.
pub(crate) fn allows(node: &str, asked: &Attributes<'_>, graph: &Graph) -> Result<(), String> {
    if asked.is_resource {
        match (asked.group, asked.resource) {
            ("", "secrets") => return read_referred(node, asked, graph, Referred::Secret),
            ("", "configmaps") => return read_referred(node, asked, graph, Referred::ConfigMap),
            ("", "persistentvolumeclaims") => return claim(node, asked, graph),
            ("", "serviceaccounts") => return token(node, asked, graph),
            ("coordination.k8s.io", "leases") => return lease(node, asked),
            ("", "pods") if asked.subresource.is_empty() => return pod(node, asked, graph),
            ("", "nodes") if asked.subresource.is_empty() => return own_node(node, asked),
            ("storage.k8s.io", "csinodes") => return csi_node(node, asked),
            _ => {}
        }
    }
    if NODE_RULES.iter().any(|rule| rule.allows(asked)) { Ok(()) } else { Err(String::new()) }
}

fn related(node: &str, asked: &Attributes<'_>, graph: &Graph, referred: Referred) -> Result<(), String> {
    if graph.holds(node, referred, asked.namespace, asked.name) {
        return Ok(());
    }
    Err(format!("no relationship found between node '{node}' and this object"))
}

fn read_referred(node: &str, asked: &Attributes<'_>, graph: &Graph, referred: Referred) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "list" | "watch") {
        return Err("can only read resources of this type".to_owned());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot read subresource".to_owned());
    }
    // It shows nothing that could not be read object by object.
    if matches!(asked.verb, "list" | "watch") && selects(asked, REFERRED_BY_NODE, node) {
        return Ok(());
    }
    if asked.namespace.is_empty() {
        return Err("can only read namespaced object of this type".to_owned());
    }
    if asked.name.is_empty() {
        return Err("No Object name found".to_owned());
    }
    related(node, asked, graph, referred)
}

fn claim(node: &str, asked: &Attributes<'_>, graph: &Graph) -> Result<(), String> {
    match (asked.subresource, asked.verb) {
        ("", "get") | ("status", "get" | "update" | "patch") => related(node, asked, graph, Referred::Claim),
        ("", _) => Err("can only get individual resources of this type".to_owned()),
        _ => Err("can only get/update/patch this type".to_owned()),
    }
}

fn token(node: &str, asked: &Attributes<'_>, graph: &Graph) -> Result<(), String> {
    if asked.verb != "create" || asked.subresource != "token" {
        return Err("can only create tokens for individual service accounts".to_owned());
    }
    related(node, asked, graph, Referred::ServiceAccount)
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if asked.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".to_owned());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access node lease with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn csi_node(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    if !matches!(asked.verb, "get" | "create" | "update" | "patch" | "delete") {
        return Err("can only get, create, update, patch, or delete a CSINode".to_owned());
    }
    if !asked.subresource.is_empty() {
        return Err("cannot authorize CSINode subresources".to_owned());
    }
    if asked.verb != "create" && asked.name != node {
        return Err("can only access CSINode with the same name as the requesting node".to_owned());
    }
    Ok(())
}

fn selects(asked: &Attributes<'_>, field: &str, value: &str) -> bool {
    FieldSelector::parse(asked.field_selector).is_ok_and(|selector| selector.exact(field) == Some(value))
}

fn pod(node: &str, asked: &Attributes<'_>, graph: &Graph) -> Result<(), String> {
    match asked.verb {
        "get" => related(node, asked, graph, Referred::Pod),
        "list" | "watch" if selects(asked, "spec.nodeName", node) => Ok(()),
        // A watch of one pod, as upstream's agent opens none but allows.
        "list" | "watch" if !asked.name.is_empty() => related(node, asked, graph, Referred::Pod),
        "list" | "watch" => Err("can only list/watch pods with spec.nodeName field selector".to_owned()),
        // Admission decides which.
        "create" | "delete" => Ok(()),
        _ => Err(String::new()),
    }
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    match asked.verb {
        "create" => Ok(()),
        "get" | "list" | "watch" if asked.name == node => Ok(()),
        "get" | "list" | "watch" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
        "update" | "patch" | "delete" => Ok(()),
        _ => Err(String::new()),
    }
}

static NODE_RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |verbs: &[&str], group: &str, resources: &[&str]| {
        let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
        Rule { verbs: owned(verbs), groups: vec![group.to_owned()], resources: owned(resources), ..Rule::default() }
    };
    vec![
        rule(&["create"], "authentication.k8s.io", &["tokenreviews", "selfsubjectreviews"]),
        rule(&["create"], "authorization.k8s.io", &["localsubjectaccessreviews", "subjectaccessreviews"]),
        rule(&["get", "list", "watch"], "", &["services"]),
        rule(&["update", "patch"], "", &["nodes/status", "pods/status"]),
        rule(&["create", "update", "patch"], "", &["events"]),
        rule(&["create"], "", &["pods/eviction"]),
        // Volumes come with a way from a node's pods to them; until then an agent reads none.
        rule(&["get"], "", &["endpoints"]),
        rule(&["create", "get", "list", "watch"], "certificates.k8s.io", &["certificatesigningrequests"]),
        rule(&["get", "list", "watch"], "storage.k8s.io", &["csidrivers"]),
        rule(&["get", "list", "watch"], "node.k8s.io", &["runtimeclasses"]),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    fn pod_of(node: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "a", "name": "p"},
            "spec": {
                "nodeName": node, "serviceAccountName": "sa", "imagePullSecrets": [{"name": "pull"}],
                "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "env"}}],
                    "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}}]}],
                "volumes": [{"name": "v", "projected": {"sources": [{"configMap": {"name": "root"}}]}},
                    {"name": "w", "secret": {"secretName": "mounted"}}],
            },
        }))
        .expect("a pod")
    }

    fn check(graph: &Graph, verb: &str, resource: &str, name: &str, expected: bool) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let asked = Attributes {
            verb,
            resource,
            subresource,
            namespace: "a",
            name,
            is_resource: true,
            ..Attributes::default()
        };
        assert_eq!(allows("n", &asked, graph).is_ok(), expected, "{verb} {resource} {name}");
    }

    #[test]
    fn an_agent_reads_what_its_pods_refer_to_and_no_more() {
        let mut graph = Graph::default();
        graph.add(&pod_of("n"));
        graph.add(&pod_of("other"));
        for name in ["pull", "key", "mounted"] {
            check(&graph, "get", "secrets", name, true);
        }
        check(&graph, "get", "secrets", "foreign", false);
        check(&graph, "list", "secrets", "", false);
        check(&graph, "update", "secrets", "pull", false);
        check(&graph, "watch", "configmaps", "root", true);
        check(&graph, "get", "configmaps", "env", true);
        let node_watch = |field_selector: &str| {
            let asked = Attributes {
                verb: "watch",
                resource: "secrets",
                is_resource: true,
                field_selector,
                ..Attributes::default()
            };
            allows("n", &asked, &graph).is_ok()
        };
        assert!(node_watch("isopod.referredByNode=n"));
        assert!(!node_watch("isopod.referredByNode=other"));
        assert!(!node_watch("isopod.referredByNode!=n"));
        check(&graph, "create", "serviceaccounts/token", "sa", true);
        check(&graph, "create", "serviceaccounts/token", "default", false);
        check(&graph, "get", "pods", "p", true);
        check(&graph, "get", "pods", "q", false);
        check(&graph, "patch", "pods/status", "p", true);
        check(&graph, "get", "nodes", "n", true);
        check(&graph, "get", "nodes", "m", false);
        graph.remove(&pod_of("n"));
        check(&graph, "get", "secrets", "pull", false);
    }
}
