//! The pods that benches make.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::load::{Ask, Connection};
use super::server::{Server, USER};

/// The namespace of all of them.
pub const NAMESPACE: &str = "bench";
/// Where they are.
pub const PODS: &str = "/api/v1/namespaces/bench/pods";

/// Content types by the name that tables call them.
pub const JSON: &str = "application/json";
pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A pod of usual size that no scheduler is asked to place, so that only the API server has work.
///
/// It mounts no token: without its controller manager the peer has none to give.
pub fn unscheduled(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app": "web", "pod-template-hash": "6f9f5f9bff", "tier": "front"},
            "annotations": {"example.com/config-digest": "8b1a9953c4611296a827abf8c47804d7e6c49c6b97d4e4d6c1c7a6c2f0d1e2a3"},
        },
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "web",
                "image": "registry.example/web:v1.2.3",
                "args": ["--listen=:8080", "--log-level=info"],
                "env": [
                    {"name": "REGION", "value": "north"},
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 5},
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
            }],
            "tolerations": [{"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}],
        },
    })
}

/// A pod that starts from the example's image and ends at once when told to.
pub fn startable(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "web", "image": crate::example::IMAGE}],
        },
    })
}

/// The request that creates a pod.
pub fn create(pod: &Value, content_type: &'static str) -> Result<Ask> {
    let json = serde_json::to_vec(pod)?;
    if content_type == JSON {
        return Ok(Ask::post(PODS, JSON, json));
    }
    let message = api::schema::kind("", "v1", "Pod").context("the schema has pods")?;
    let mut tree = api::codec::json::parse(&json, &api::codec::Limits::default())?.value;
    let conformed = api::codec::conform(&mut tree, message)?;
    anyhow::ensure!(conformed.unknown.is_empty(), "a bench's pod has unknown fields: {:?}", conformed.unknown);
    let raw = api::codec::protobuf::encode(&tree, message)?;
    Ok(Ask::post(PODS, PROTOBUF, api::codec::envelope::wrap("v1", "Pod", &raw)))
}

/// Makes the namespace, the service account that a controller would make, and the role of the user who bears the load;
/// returns a connection of that user.
pub async fn prepare(server: &Server) -> Result<Connection> {
    let connection = Connection::open(&server.config)?;
    let named =
        |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}).to_string();
    connection.must(&Ask::post("/api/v1/namespaces", JSON, named("Namespace", NAMESPACE))).await?;
    for (path, object) in permission() {
        connection.must(&Ask::post(path, JSON, object.to_string())).await?;
    }
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let answer = connection.ask(&Ask::post(accounts, JSON, named("ServiceAccount", "default"))).await?;
    // Where the controller runs it may have been quicker.
    anyhow::ensure!(matches!(answer.status, 201 | 409), "create the service account: {}", answer.status);
    let user = Connection::open(&server.user)?;
    // The peer's authorizer learns of roles by a watch.
    for _ in 0..500 {
        if user.get(PODS, JSON).await?.status == 200 {
            return Ok(user);
        }
        stdx::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("the role allows nothing")
}

/// What lets the user who bears the load do what it does, and nothing else.
fn permission() -> [(&'static str, Value); 2] {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let metadata = json!({"name": USER});
    let role = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRole",
        "metadata": metadata,
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "create", "delete"]}],
    });
    let binding = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": USER},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": USER}],
    });
    [
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", role),
        ("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding),
    ]
}
