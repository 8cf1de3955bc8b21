//! What this binary's controllers may do beyond upstream's roles for them: upstream's replace objects, ours patch them.

use anyhow::Context as _;
use client::{Client, PatchKind, Target};
use serde_json::{Value, json};

const NAME: &str = "isopod:controllers";
const GROUP: &str = "rbac.authorization.k8s.io";

/// An account, and the resources it may patch by group.
type Account = (&'static str, &'static [(&'static str, &'static [&'static str])]);

/// Every kind that upstream's role lets a controller replace, by its account: group and resources.
const PATCHES: [Account; 8] = [
    ("deployment-controller", &[("apps", &["deployments", "deployments/status", "replicasets"])]),
    ("replicaset-controller", &[("apps", &["replicasets/status"]), ("", &["pods"])]),
    ("endpointslice-controller", &[("discovery.k8s.io", &["endpointslices"])]),
    ("endpointslicemirroring-controller", &[("discovery.k8s.io", &["endpointslices"])]),
    ("endpoint-controller", &[("", &["endpoints"])]),
    ("root-ca-cert-publisher", &[("", &["configmaps"])]),
    ("namespace-controller", &[("", &["namespaces/status"])]),
    ("node-controller", &[("", &["nodes"])]),
];

/// What the part that feeds rules and names may read beyond upstream's role for rules: upstream's server for names has an
/// account of its own, which may read namespaces.
const NAMES: (&str, &str) = ("isopod:names", "system:kube-proxy");

/// Makes sure that the roles and their bindings are as this release needs them.
pub async fn ensure(client: &Client) -> anyhow::Result<()> {
    for (account, kinds) in &PATCHES {
        let name = format!("{NAME}:{account}");
        let rules: Vec<Value> = kinds
            .iter()
            .map(|(group, resources)| json!({"apiGroups": [group], "resources": resources, "verbs": ["patch"]}))
            .collect();
        let subject = json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": account});
        put_role(client, &name, &role(&name, &rules), &binding(&name, &subject)).await?;
    }
    let (name, user) = NAMES;
    let rules = [json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]})];
    let subject = json!({"apiGroup": GROUP, "kind": "User", "name": user});
    put_role(client, name, &role(name, &rules), &binding(name, &subject)).await
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

async fn put(client: &Client, plural: &'static str, name: &str, object: &Value) -> Result<(), client::ClientError> {
    let target = Target::new(GROUP, "v1", plural);
    if client.find(target.clone().name(name)).await?.is_none() {
        return client.create(target, object).await.map(drop);
    }
    let tree = api::value::to_value(object).unwrap_or_default();
    client.patch(target.name(name), PatchKind::Merge, &tree).await.map(drop)
}
