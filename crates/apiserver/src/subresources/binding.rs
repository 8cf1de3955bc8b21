//! `pods/binding` (and `bindings`): a scheduler's word that a pod belongs to a node.

use api::meta;
use api::status::Status;
use api::value::Value;
use bytes::Bytes;
use client::Key;
use resources::Writer;

use crate::answer::Answer;
use crate::catalog::Served;
use crate::options::WriteOptions;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::attempt::Write;
use crate::verbs::create::{decoded, place};
use crate::verbs::target;

/// Binds the pod that the path (or, at `bindings`, the body) names.
pub(crate) async fn answer(call: &Call<'_>, body: Bytes) -> Outcome<Answer> {
    let catalog = &call.server.catalog;
    let find = |plural| catalog.find("", "v1", plural).ok_or_else(Refusal::no_such_path);
    let (pods, bindings) = (find("pods")?, find("bindings")?);
    let options = WriteOptions::read(&call.query, "CreateOptions")?;
    let mut binding = decoded(call, &bindings, &body, &options)?;
    place(call, &bindings, &mut binding)?;
    let named = meta::name(&binding).to_owned();
    let in_path = call.info.resource == "pods";
    if in_path && !named.is_empty() && named != call.info.name {
        return Err(Refusal::bad_request("name in URL does not match name in Binding object"));
    }
    let name = if in_path { call.info.name.clone() } else { named };
    let faults = {
        let rules = resources::Rules { now: stdx::wall(), user: &call.user.name, dry_run: options.dry_run };
        meta::set_name(&mut binding, &name);
        bindings.def.prepare(&mut binding, None, Writer::Create, &rules).map_err(Refusal::internal)?
    };
    if let Some(status) = faults.into_status("", "Binding", &name) {
        return Err(status.into());
    }
    let key = Key::new(&call.info.namespace, &name);
    let write = Write { call, served: &pods, options: &options, writer: Writer::Binding, key };
    let node = binding.str_at(&["target", "name"]).unwrap_or_default().to_owned();
    write.update(|pod| bound(&pods, pod, &binding, &node)).await?;
    let status = Status { status: "Success".to_owned(), code: 201, ..Status::default() };
    Ok(Answer::Status { code: 201, status: Box::new(status) })
}

/// The pod with its node. Upstream: `pkg/registry/core/pod/storage/storage.go`.
fn bound(pods: &Served, pod: &Value, binding: &Value, node: &str) -> Outcome<Value> {
    let name = meta::name(pod);
    let conflict = |why: String| Err(Refusal::from(Status::conflict(target(pods, name), &why)));
    let uid = meta::uid(binding);
    if !uid.is_empty() && uid != meta::uid(pod) {
        return conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            meta::uid(pod)
        ));
    }
    if meta::is_terminating(pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let assigned = pod.str_at(&["spec", "nodeName"]).unwrap_or_default();
    if !assigned.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {assigned:?}"));
    }
    let gates = pod.at(&["spec", "schedulingGates"]).and_then(Value::as_array).unwrap_or_default();
    if !gates.is_empty() {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    for (key, value) in meta::annotations(binding) {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    let Some(members) = pod.as_object_mut() else { return Ok(pod) };
    members.get_or_insert_object("spec").insert("nodeName", node);
    let status = members.get_or_insert_object("status");
    // Room that was made is taken now, here or elsewhere. Upstream: `ClearingNominatedNodeNameAfterBinding`.
    status.remove("nominatedNodeName");
    set_scheduled(status.get_or_insert_array("conditions"));
    Ok(pod)
}

fn set_scheduled(conditions: &mut Vec<Value>) {
    let mut condition = Value::from([("type", "PodScheduled"), ("status", "True")]);
    let now = meta::rfc3339(stdx::wall());
    let present = conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == Some("PodScheduled"));
    if let Some(members) = condition.as_object_mut() {
        members.insert("lastTransitionTime", now);
    }
    match present {
        Some(present) if present.str_at(&["status"]) == Some("True") => {}
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}
