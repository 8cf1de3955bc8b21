//! What a decision does to the cluster: a binding, a condition, pods pushed out.

use std::sync::Arc;

use api::decide::conditions::{NewCondition, set_condition};
use api::projection::PodLite;
use api::value::{Map, Value};
use client::{Client, ClientError, DeleteOptions, Object, PatchKind, Target};
use k8s_openapi::api::core::v1::{Binding, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use stdx::wall;

use super::NAME;
use crate::preempt::{BY_SCHEDULER, DISRUPTION_TARGET};

fn target(pod: &Object) -> Target {
    Target::new("", "v1", "pods").namespace(pod.namespace()).name(pod.name())
}

/// Binds the pod to a node.
pub(super) async fn bind(client: &Client, pod: &Object, node: &str) -> Result<(), ClientError> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name().into()),
            namespace: Some(pod.namespace().into()),
            uid: Some(pod.uid().into()),
            ..ObjectMeta::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..ObjectReference::default() },
    };
    client.create_subresource(target(pod), "binding", &binding).await.map(drop)
}

/// What becomes of `status.nominatedNodeName`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Nominated {
    AsItIs,
    /// Empty: no node any more.
    Node(Box<str>),
}

/// Writes the condition `PodScheduled` = False and the node where room is made, unless the pod says that already.
pub(super) async fn tell(client: &Client, pod: &Object, message: &str, node: &Nominated) -> Result<(), ClientError> {
    let condition = NewCondition { kind: "PodScheduled", status: "False", reason: "Unschedulable", message };
    write_status(client, pod, Some(condition), node).await
}

/// Says that no room is made for the pod any more.
pub(super) async fn withdraw(client: &Client, pod: &Object) -> Result<(), ClientError> {
    write_status(client, pod, None, &Nominated::Node(Box::default())).await
}

/// Pushes one pod out: first it is told why, then it is deleted with its own grace period. False when it is gone already.
pub(super) async fn push_out(client: &Client, victim: &Object) -> Result<bool, ClientError> {
    let message = format!("{NAME}: preempting to accommodate a higher priority pod");
    let condition = NewCondition { kind: DISRUPTION_TARGET, status: "True", reason: BY_SCHEDULER, message: &message };
    write_status(client, victim, Some(condition), &Nominated::AsItIs).await?;
    match client.delete(target(victim), DeleteOptions::of_uid(victim.uid())).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(false),
        result => result.map(|_| true),
    }
}

async fn write_status(
    client: &Client,
    pod: &Object,
    condition: Option<NewCondition<'_>>,
    node: &Nominated,
) -> Result<(), ClientError> {
    let mut status = Map::default();
    if let Some(condition) = condition
        && let Some(changed) = changed(pod, condition)?
    {
        status.insert("conditions", Value::Array(vec![changed]));
    }
    let present: &str = &pod.project::<PodLite>().status.nominated_node;
    if let Nominated::Node(node) = node
        && **node != *present
    {
        status.insert("nominatedNodeName", if node.is_empty() { Value::Null } else { Value::from(&**node) });
    }
    if status.is_empty() {
        return Ok(());
    }
    let mut metadata = Map::default();
    metadata.insert("uid", pod.uid());
    let mut body = Map::default();
    body.insert("metadata", Value::Object(metadata));
    body.insert("status", Value::Object(status));
    // Strategic: conditions that others write meanwhile stay as they are.
    match client.patch_status(target(pod), PatchKind::Strategic, &Value::Object(body)).await {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map(drop),
    }
}

/// The condition as it has to be written; `None` when the pod has it already.
fn changed(pod: &Object, condition: NewCondition<'_>) -> Result<Option<Value>, ClientError> {
    let tree = pod.tree()?;
    let mut conditions: Vec<Value> =
        tree.at(&["status", "conditions"]).and_then(Value::as_array).unwrap_or_default().to_vec();
    if !set_condition(&mut conditions, condition, wall()) {
        return Ok(None);
    }
    let written = conditions.into_iter().find(|written| written.str_at(&["type"]) == Some(condition.kind));
    Ok(written)
}

/// Logs that a condition was not written: the next try writes it again.
pub(super) fn log_untold(pod: &Arc<Object>, result: Result<(), ClientError>) {
    if let Err(error) = result {
        tracing::warn!(pod = %pod.key(), %error, "condition not written");
    }
}
