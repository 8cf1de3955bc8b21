//! What this binary's controllers may do beyond upstream's roles for them: upstream's replace objects, ours patch them.

use anyhow::Context as _;
use client::{Client, PatchKind, Target};
use serde_json::{Value, json};

/// The group of those who administer a cluster by certificates that kubeadm's like make; bound as kubeadm binds it, so that
/// it can be unbound, other than `system:masters`.
pub const ADMINS: &str = "kubeadm:cluster-admins";

const NAME: &str = "isopod:controllers";
const GROUP: &str = "rbac.authorization.k8s.io";

/// The group of machines that come with a token to become nodes. Upstream: kubeadm's `NodeBootstrapTokenAuthGroup`.
pub const BOOTSTRAPPERS: &str = "system:bootstrappers:kubeadm:default-node-token";

/// The group of node agents.
pub const NODES: &str = "system:nodes";

/// An account, and the resources it may patch by group.
type Account = (&'static str, &'static [(&'static str, &'static [&'static str])]);

/// Every kind that upstream's role lets a controller replace, by its account: group and resources.
const PATCHES: [Account; 10] = [
    ("deployment-controller", &[("apps", &["deployments", "deployments/status", "replicasets"])]),
    ("replicaset-controller", &[("apps", &["replicasets/status"]), ("", &["pods"])]),
    ("disruption-controller", &[("policy", &["poddisruptionbudgets/status"])]),
    ("endpointslice-controller", &[("discovery.k8s.io", &["endpointslices"])]),
    ("endpointslicemirroring-controller", &[("discovery.k8s.io", &["endpointslices"])]),
    ("endpoint-controller", &[("", &["endpoints"])]),
    ("root-ca-cert-publisher", &[("", &["configmaps"])]),
    ("namespace-controller", &[("", &["namespaces/status"])]),
    ("node-controller", &[("", &["nodes"])]),
    (
        "certificate-controller",
        &[("certificates.k8s.io", &["certificatesigningrequests/approval", "certificatesigningrequests/status"])],
    ),
];

/// What the part that feeds rules and names may read beyond upstream's role for rules: upstream's server for names has an
/// account of its own, which may read namespaces.
const NAMES: (&str, &str) = ("isopod:names", "system:kube-proxy");

/// Makes sure that the roles and their bindings are as this release needs them.
pub async fn ensure(client: &Client) -> anyhow::Result<()> {
    for (account, kinds) in &PATCHES {
        let name = format!("{NAME}:{account}");
        let patched = kinds
            .iter()
            .map(|(group, resources)| json!({"apiGroups": [group], "resources": resources, "verbs": ["patch"]}));
        let copied = json!({"apiGroups": [""], "resources": ["configmaps", "secrets"], "verbs": ["create", "delete"]});
        let leases = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get"]});
        let more = match *account {
            // Copies of configuration that are pinned to revisions, which upstream's controller does not make.
            "deployment-controller" => Some(copied),
            // Before a node is called silent, the API itself is asked, which upstream's controller does not do.
            "node-controller" => Some(leases),
            // Agents' certificates as servers, which upstream's controller leaves to others.
            "certificate-controller" => Some(json!({
                "apiGroups": ["certificates.k8s.io"], "resources": ["signers"],
                "resourceNames": ["kubernetes.io/kubelet-serving"], "verbs": ["approve"],
            })),
            _ => None,
        };
        let rules: Vec<Value> = patched.chain(more).collect();
        let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": account});
        put_role(client, &name, &role(&name, &rules), &binding(&name, &subject)).await?;
    }
    let (name, user) = NAMES;
    let rules = [json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]})];
    let subject = json!({"apiGroup": GROUP, "kind": "User", "name": user});
    put_role(client, name, &role(name, &rules), &binding(name, &subject)).await?;
    ensure_nodes(client, name).await
}

/// What agents elsewhere may do beyond upstream's rules for them: the part that feeds rules and names is one with them, and
/// has no account of its own; and they ask for their servers' certificates.
async fn ensure_nodes(client: &Client, names: &str) -> anyhow::Result<()> {
    let group = json!({"apiGroup": GROUP, "kind": "Group", "name": NODES});
    for (name, of) in [("isopod:node-proxier", "system:node-proxier"), ("isopod:node-names", names)] {
        let mut binding = binding(name, &group);
        binding["roleRef"]["name"] = of.into();
        put(client, "clusterrolebindings", name, &binding).await.with_context(|| format!("bind the role {of}"))?;
    }
    let resources = ["certificatesigningrequests/selfnodeserver"];
    let rules = [json!({"apiGroups": ["certificates.k8s.io"], "resources": resources, "verbs": ["create"]})];
    let name = "isopod:selfnodeserver";
    put_role(client, name, &role(name, &rules), &binding(name, &group)).await
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules})
}

fn binding(name: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        "subjects": [subject],
    })
}

async fn put_role(client: &Client, name: &str, role: &Value, binding: &Value) -> anyhow::Result<()> {
    put(client, "clusterroles", name, role).await.with_context(|| format!("make the role {name}"))?;
    put(client, "clusterrolebindings", name, binding).await.with_context(|| format!("bind the role {name}"))
}

/// What lets machines with a bootstrap token become nodes. Upstream: kubeadm's `bootstrap-token` phase.
pub async fn ensure_bootstrap(client: &Client) -> anyhow::Result<()> {
    let group = |name: &str| json!({"apiGroup": GROUP, "kind": "Group", "name": name});
    let bindings = [
        ("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", BOOTSTRAPPERS),
        (
            "kubeadm:node-autoapprove-bootstrap",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            BOOTSTRAPPERS,
        ),
        (
            "kubeadm:node-autoapprove-certificate-rotation",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            NODES,
        ),
        ("kubeadm:get-nodes", "kubeadm:get-nodes", BOOTSTRAPPERS),
    ];
    let get_nodes = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": {"name": "kubeadm:get-nodes"},
        "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
    });
    put(client, "clusterroles", "kubeadm:get-nodes", &get_nodes).await?;
    for (name, role, subject) in bindings {
        let binding = json!({
            "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}, "subjects": [group(subject)],
        });
        put(client, "clusterrolebindings", name, &binding).await.with_context(|| format!("bind the role {name}"))?;
    }
    let anonymous = json!({"apiGroup": GROUP, "kind": "User", "name": "system:anonymous"});
    let signer = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": "bootstrap-signer"});
    for (name, verb, subject) in
        [("kubeadm:bootstrap-signer-clusterinfo", "get", anonymous), ("isopod:bootstrap-signer", "patch", signer)]
    {
        let map = ("kube-public", "cluster-info");
        config_map(client, name, map, verb, &subject).await.with_context(|| format!("make the role {name}"))?;
    }
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": ADMINS},
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "Group", "apiGroup": GROUP, "name": ADMINS}],
    });
    put(client, "clusterrolebindings", ADMINS, &binding).await.context("bind the administrators")
}

/// Lets agents read what they have to know of the cluster before they can run.
pub async fn ensure_membership(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let group = json!({"apiGroup": GROUP, "kind": "Group", "name": NODES});
    config_map(client, "isopod:membership", (namespace, name), "get", &group).await.context("make a role")
}

/// Lets somebody do something with one ConfigMap, by a role of that name beside it.
async fn config_map(
    client: &Client,
    name: &str,
    (namespace, map): (&str, &str),
    verb: &str,
    subject: &Value,
) -> Result<(), client::ClientError> {
    let metadata = json!({"name": name, "namespace": namespace});
    let role = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": metadata,
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [map], "verbs": [verb]}],
    });
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": name}, "subjects": [subject],
    });
    put_in(client, Target::new(GROUP, "v1", "roles").namespace(namespace), name, &role).await?;
    put_in(client, Target::new(GROUP, "v1", "rolebindings").namespace(namespace), name, &binding).await
}

async fn put(client: &Client, plural: &'static str, name: &str, object: &Value) -> Result<(), client::ClientError> {
    put_in(client, Target::new(GROUP, "v1", plural), name, object).await
}

/// Makes an object as it should be.
pub async fn put_in(client: &Client, target: Target, name: &str, object: &Value) -> Result<(), client::ClientError> {
    if client.find(target.clone().name(name)).await?.is_none() {
        return client.create(target, object).await.map(drop);
    }
    let tree = api::value::to_value(object).unwrap_or_default();
    client.patch(target.name(name), PatchKind::Merge, &tree).await.map(drop)
}
