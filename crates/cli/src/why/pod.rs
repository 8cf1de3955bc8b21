//! Why a pod waits, is not ready, was ended or does not go.

use api::decide::trouble::{condition, container_statuses};
use api::meta;
use api::value::Value;

use super::{
    Evidence, Finding, World, container, evidence, is, kubectl, last_event, list, name, number, of_event, reference,
    text, told,
};

/// Events that tell why nothing of a pod starts on its node.
const MOUNT: &[&str] = &["FailedMount", "FailedAttachVolume"];
const SANDBOX: &[&str] = &["FailedCreatePodSandBox", "FailedCreatePodContainer"];

/// Everything that is wrong with a pod.
pub(super) fn findings(pod: &Value, world: &World) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        [going(pod, world), unplaced(pod, world), ended(pod, world)].into_iter().flatten().collect();
    if meta::is_terminating(pod) || text(pod, &["status", "phase"]) == "Succeeded" {
        return found;
    }
    for (list, status) in container_statuses(pod) {
        found.extend(container::findings(pod, list, status, world));
    }
    found.extend(not_begun(pod, world));
    found.extend(gates(pod));
    found.extend(lost_node(pod, world));
    found
}

/// How a pod is of which nothing is wrong.
pub(super) fn well(pod: &Value) -> String {
    let phase = text(pod, &["status", "phase"]);
    match phase {
        "Running" if is(pod, "Ready", "True") => "it runs and is ready".to_owned(),
        "Succeeded" => "it is done: all containers ended well".to_owned(),
        "" | "Pending" => "it is on its way: nothing has gone wrong so far".to_owned(),
        phase => format!("nothing is known to be wrong; its phase is {phase}"),
    }
}

/// What a change has to be made to for the pod to become another: what made it, or the pod itself.
pub fn owner(pod: &Value, world: &World) -> Option<String> {
    let of = meta::controller(pod)?;
    let (kind, owner) = (text(of, &["kind"]), text(of, &["name"]));
    let set = world.replica_sets.iter().find(|set| kind == "ReplicaSet" && name(set) == owner);
    let above = set.and_then(meta::controller);
    let (kind, owner) = above.map_or((kind, owner), |above| (text(above, &["kind"]), text(above, &["name"])));
    Some(format!("{}/{owner}", kind.to_ascii_lowercase()))
}

fn going(pod: &Value, world: &World) -> Option<Finding> {
    let since = meta::deletion_timestamp(pod)?;
    let finalizers = meta::finalizers(pod);
    let deleted = Evidence {
        at: Some(meta::rfc3339(since)),
        ..evidence(pod, "metadata.deletionTimestamp", "it is to be gone by this time")
    };
    if !finalizers.is_empty() {
        let command = format!(
            "{} patch pod {} --type merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'",
            kubectl(pod),
            name(pod)
        );
        let finding = Finding::new(
            "Terminating",
            "The pod is deleted, and finalizers keep it: whoever set them has to be done first.",
        )
        .seen([deleted, evidence(pod, "metadata.finalizers", finalizers.join(", "))])
        .helped_by(
            "Let those who set the finalizers finish; if they no longer exist, take the finalizers away.",
            command,
        );
        return Some(finding);
    }
    let node = text(pod, &["spec", "nodeName"]);
    let silent = world.nodes.iter().find(|found| name(found) == node).filter(|node| !is(node, "Ready", "True"));
    let finding = Finding::new("Terminating", "The pod is being deleted, and its containers have until then to end.")
        .seen([deleted]);
    Some(match silent {
        Some(node) => finding.seen(told(node, "Ready")).helped_by(
            "Its node does not answer: bring the node back, or say that the pod is no more.",
            format!("{} delete pod {} --grace-period=0 --force", kubectl(pod), name(pod)),
        ),
        None => finding,
    })
}

/// Why no node takes it.
fn unplaced(pod: &Value, world: &World) -> Option<Finding> {
    let scheduled = condition(pod, "PodScheduled").filter(|condition| text(condition, &["status"]) == "False");
    let placement = world.placements.get(name(pod));
    if !text(pod, &["spec", "nodeName"]).is_empty() {
        return None;
    }
    let gates: Vec<&str> = list(pod, &["spec", "schedulingGates"]).iter().map(|gate| text(gate, &["name"])).collect();
    if !gates.is_empty() {
        let what = "The pod is held back by scheduling gates, which whoever set them takes away.";
        return Some(Finding::new("SchedulingGated", what).seen([evidence(
            pod,
            "spec.schedulingGates",
            gates.join(", "),
        )]));
    }
    let scheduler = text(pod, &["spec", "schedulerName"]);
    if scheduled.is_none() && !matches!(scheduler, "" | "default-scheduler") {
        let what = format!("The pod waits for a scheduler of its own, {scheduler:?}, which has not answered.");
        return Some(Finding::new("NoScheduler", what).seen([evidence(pod, "spec.schedulerName", scheduler)]));
    }
    let message = scheduled.map(|scheduled| text(scheduled, &["message"])).unwrap_or_default();
    if scheduled.is_none() && placement.is_none() {
        return None;
    }
    let mut finding = Finding::new("Unschedulable", "No node takes the pod.").seen(told(pod, "PodScheduled"));
    let refusals = placement.map(|placement| placement.refusals.as_slice()).unwrap_or_default();
    finding = finding.seen(refusals.iter().map(|refusal| Evidence {
        object: format!("node/{}", refusal.node),
        path: refusal.plugin.clone(),
        value: refusal.reasons.join(", "),
        at: None,
    }));
    if refusals.is_empty() && placement.is_some() && !message.contains("no nodes available") {
        return Some(finding.advised("By now a node would do: the pod is tried again within moments."));
    }
    match placement.and_then(|placement| placement.nearest.clone()) {
        Some(nearest) => {
            let commands = placement.map(|placement| placement.commands.join("\n")).filter(|text| !text.is_empty());
            finding = finding.helped_by(nearest, commands);
        }
        None if message.starts_with("no nodes available") => {
            finding = finding.helped_by("Bring a node, or one that is there back.", "kubectl get nodes".to_owned());
        }
        None => {}
    }
    Some(finding)
}

/// Why the pod as a whole ended.
fn ended(pod: &Value, world: &World) -> Option<Finding> {
    if text(pod, &["status", "phase"]) != "Failed" {
        return None;
    }
    let (reason, message) = (text(pod, &["status", "reason"]), text(pod, &["status", "message"]).trim());
    let seen = evidence(pod, "status.message", message);
    let what = |text: &str| Finding::new(if reason.is_empty() { "Failed" } else { reason }, text).seen([seen.clone()]);
    let again = "A pod that ended does not come back; whatever made it makes another.";
    Some(match reason {
        "Evicted" => evicted(pod, message, world).seen(told(pod, "DisruptionTarget")),
        "DeadlineExceeded" => what("The pod was ended because it was active longer than it may be.").advised(format!(
            "Give it more time than spec.activeDeadlineSeconds, {}.",
            number(pod, &["spec", "activeDeadlineSeconds"])
        )),
        "" if message.is_empty() => {
            Finding::new("Failed", "The pod failed: a container of it ended badly and is not started again.")
                .seen([evidence(pod, "spec.restartPolicy", text(pod, &["spec", "restartPolicy"]))])
        }
        _ if reason.starts_with("OutOf") || is_refusal(reason) => {
            what("The node refused the pod that was bound to it.").advised(again)
        }
        _ => what("The pod was ended."),
    })
}

fn is_refusal(reason: &str) -> bool {
    const REFUSALS: &[&str] =
        &["NodeAffinity", "NodeName", "TaintToleration", "UnexpectedAdmissionError", "NodePorts", "UnsupportedField"];
    REFUSALS.contains(&reason)
}

/// `The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 2Mi, request is 0, …`
fn evicted(pod: &Value, message: &str, world: &World) -> Finding {
    let between = |before: &str, after: &str| {
        let rest = message.split_once(before)?.1;
        Some(rest.split_once(after).map_or(rest, |(found, _)| found).to_owned())
    };
    let resource = between("low on resource: ", ". ").unwrap_or_else(|| "something".to_owned());
    let mut finding =
        Finding::new("Evicted", format!("The node ran short of {resource} and ended the pod to get some back."))
            .seen([evidence(pod, "status.message", message)]);
    let (threshold, available) = (between("Threshold quantity: ", ","), between("available: ", ". "));
    if let (Some(threshold), Some(available)) = (threshold, available) {
        finding.what = format!(
            "The node had {available} of {resource} left, less than the {threshold} that it keeps, and ended the pod to get some back."
        );
    }
    let used = between("was using ", ",").zip(between("request is ", ","));
    match (used, between("Container ", " was using"), resource.as_str()) {
        (Some((used, requested)), Some(container), "memory" | "ephemeral-storage") => finding.helped_by(
            format!(
                "Container {container:?} used {used} and asked for {requested}: ask for what it needs, then nodes without that much do not get it, and those that stay within what they asked for are ended last."
            ),
            format!(
                "{} set resources {} -c {container} --requests={resource}={used}",
                kubectl(pod),
                owner(pod, world).unwrap_or_else(|| reference(pod))
            ),
        ),
        _ => finding,
    }
}

/// A pod with a node of which no container was made.
fn not_begun(pod: &Value, world: &World) -> Option<Finding> {
    let begins = |(_, status): &(&str, &Value)| {
        matches!(text(status, &["state", "waiting", "reason"]), "ContainerCreating" | "PodInitializing")
    };
    let waits = container_statuses(pod).any(|status| begins(&status));
    if !waits || text(pod, &["spec", "nodeName"]).is_empty() {
        return None;
    }
    if let Some(event) = last_event(world, pod, None, MOUNT) {
        let what = "A volume of the pod cannot be put in place, and no container starts before that.";
        let finding = Finding::new(text(event, &["reason"]), what).seen([of_event(event)]);
        return Some(match container::missing(text(event, &["message"]), pod, world) {
            Some((evidence, change)) => {
                let mut finding = finding.seen(evidence);
                finding.changes.push(change);
                finding
            }
            None => finding,
        });
    }
    let event = last_event(world, pod, None, SANDBOX)?;
    Some(
        Finding::new(text(event, &["reason"]), "The pod's sandbox cannot be made on its node.").seen([of_event(event)]),
    )
}

/// Readiness gates that are closed while all containers are ready.
fn gates(pod: &Value) -> Option<Finding> {
    if !is(pod, "ContainersReady", "True") || is(pod, "Ready", "True") {
        return None;
    }
    let gates: Vec<&str> =
        list(pod, &["spec", "readinessGates"]).iter().map(|gate| text(gate, &["conditionType"])).collect();
    let closed: Vec<&str> = gates.into_iter().filter(|gate| !is(pod, gate, "True")).collect();
    if closed.is_empty() {
        return None;
    }
    let what = format!("All containers are ready, but {} is not told to be True.", closed.join(", "));
    let each: Vec<Evidence> = closed.iter().filter_map(|gate| told(pod, gate)).collect();
    Some(Finding::new("ReadinessGatesNotReady", what).seen(told(pod, "Ready")).seen(each).advised(format!(
            "Whoever sets the condition {0} has to; look whether it runs. By hand for once, on {1}: set status.conditions[{0}].status to True.",
            closed[0],
            reference(pod)
        )))
}

fn lost_node(pod: &Value, world: &World) -> Option<Finding> {
    let node = world.nodes.iter().find(|node| name(node) == text(pod, &["spec", "nodeName"]))?;
    if is(node, "Ready", "True") {
        return None;
    }
    Some(
        Finding::new(
            "NodeNotReady",
            format!("The pod's node {:?} is not ready, so nothing new is known of the pod.", name(node)),
        )
        .seen(told(node, "Ready"))
        .helped_by("See what is wrong with the node.", format!("isopod why node/{}", name(node))),
    )
}
