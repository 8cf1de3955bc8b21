//! The pods of this node, as the API says and as the runtime has them.

use cri::{ContainerFilter, ContainerState, PodSandboxFilter, PodSandboxState};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use wire::Body;

use crate::agent::Agent;
use crate::pod::seen::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};

fn answered(items: Vec<Value>) -> Response<Body> {
    super::json(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// Every pod that the API gives this node.
pub(super) fn list(agent: &Agent) -> Response<Body> {
    let pods = agent.pods();
    let trees = pods.iter().filter_map(|pod| pod.tree().ok());
    answered(trees.filter_map(|tree| serde_json::to_value(&tree).ok()).collect())
}

/// Every pod that runs, by the runtime's labels.
pub(super) async fn running(agent: &Agent) -> Response<Body> {
    let runtime = &agent.context().runtime;
    let filter = PodSandboxFilter { state: Some(PodSandboxState::Ready), ..PodSandboxFilter::default() };
    let asked = async {
        let sandboxes = runtime.list_pod_sandbox(filter).await?;
        Ok::<_, cri::Error>((sandboxes, runtime.list_containers(ContainerFilter::default()).await?))
    };
    let (sandboxes, containers) = match asked.await {
        Ok(found) => found,
        Err(error) => return super::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let items = sandboxes.iter().map(|sandbox| {
        let label = |name: &str| sandbox.labels.get(name).cloned().unwrap_or_default();
        let of_it = containers
            .iter()
            .filter(|container| container.pod_sandbox_id == sandbox.id && container.state == ContainerState::Running);
        let containers: Vec<Value> = of_it
            .map(|container| {
                let name = container.labels.get(CONTAINER_NAME).unwrap_or(&container.metadata.name);
                json!({"name": name, "image": container.image.spec.image, "resources": {}})
            })
            .collect();
        json!({
            "metadata": {"name": label(POD_NAME), "namespace": label(POD_NAMESPACE), "uid": label(POD_UID)},
            "spec": {"containers": containers},
            "status": {},
        })
    });
    answered(items.collect())
}
