//! Pods that are given other resources while they run: what each was given, whether it can have what it asks for now, and what
//! that means for a container that runs. Pure.
//!
//! Upstream: `pkg/kubelet/allocation`, `computePodResizeAction`, reasons and words included.

use std::collections::BTreeMap;

use api::decide::resources::PodResources;
use cri::ContainerStatus;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::Serialize;

use crate::admit::{self, Node};
use crate::pod::seen::{Known, Seen};
use crate::pod::{Role, containers, create, spec};

/// Conditions of pods that ask for, or get, other resources.
pub const PENDING: &str = "PodResizePending";
pub const IN_PROGRESS: &str = "PodResizeInProgress";

/// What each container of a pod was given, by its name.
pub type Given = BTreeMap<String, ResourceRequirements>;

/// What the containers ask for that may be resized: those that run on.
pub fn asked(pod: &Pod) -> Given {
    let spec = spec(pod);
    let resizable = containers(&spec).filter(|(role, _)| matches!(role, Role::Main | Role::Sidecar));
    resizable.map(|(_, container)| (container.name.clone(), container.resources.clone().unwrap_or_default())).collect()
}

/// The pod as it is while it is given this, whatever it asks for.
#[must_use]
pub fn with(mut pod: Pod, given: &Given) -> Pod {
    let Some(spec) = &mut pod.spec else { return pod };
    let inits = spec.init_containers.iter_mut().flatten();
    for container in inits.chain(&mut spec.containers) {
        let Some(given) = given.get(&container.name) else { continue };
        if container.resources.clone().unwrap_or_default() != *given {
            container.resources = Some(given.clone());
        }
    }
    pod
}

/// What becomes of a resize.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Granted,
    /// Not now, and why.
    Deferred(String),
    /// Never on this node, and why.
    Infeasible(String),
}

/// Whether a pod can have what it asks for, given what the others on the node were given.
pub fn judge<'p>(pod: &Pod, node: &Node, others: impl Iterator<Item = &'p Pod>) -> Answer {
    if let Some(why) = admit::exceeds(pod, &node.allocatable) {
        return Answer::Infeasible(format!("Node didn't have enough capacity: {why}"));
    }
    match admit::room(pod, &node.allocatable, others) {
        Ok(()) => Answer::Granted,
        Err(refusal) => Answer::Deferred(refusal.message),
    }
}

/// Whether a pod asks for more than it was given.
pub fn grows(pod: &Pod, given: &Given) -> bool {
    let requests = |pod: &Pod| PodResources::of(&spec(pod)).map(|resources| resources.requests()).unwrap_or_default();
    let (after, before) = (requests(pod), requests(&with(pod.clone(), given)));
    ["cpu", "memory"].into_iter().any(|resource| after.amount(resource) > before.amount(resource))
}

/// How a container that runs gets to what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By other limits of its control group.
    Update,
    /// By starting it anew, as its policy says.
    Restart,
}

/// What is to be done with a running container whose limits are not those that it was given; nothing where the runtime
/// does not tell them. What it requests of memory is no limit, but may have it started anew.
pub fn change(container: &Container, status: &ContainerStatus, known: &Known) -> Option<Change> {
    let (found, wanted) = (&status.linux.resources, create::limits(container));
    if *found == cri::LinuxContainerResources::default() {
        return None;
    }
    let cpu = (found.cpu_shares, found.cpu_quota) != (wanted.cpu_shares, wanted.cpu_quota);
    let memory = found.memory_limit_in_bytes != wanted.memory_limit_in_bytes;
    let restarts = |resource: &str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
    };
    let started_with = known.memory_requests.get(&container.name);
    let request = restarts("memory") && started_with.is_some_and(|bytes| *bytes != memory_request(container));
    match () {
        () if request => Some(Change::Restart),
        () if !cpu && !memory => None,
        () if cpu && restarts("cpu") || memory && restarts("memory") => Some(Change::Restart),
        () => Some(Change::Update),
    }
}

/// Whether the pod's status tells that it is getting to what it was granted.
pub fn is_told(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == IN_PROGRESS && condition.status == "True")
}

/// Bytes of memory that a container requests.
pub fn memory_request(container: &Container) -> i64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    create::amount(requests, "memory").map_or(0, |amount| amount.value())
}

/// Whether some container of a pod, but for one by id, still has to get to what it was given.
pub fn is_under_way(spec: &PodSpec, seen: &Seen, but: &str) -> bool {
    let is_over = |status: &ContainerStatus| {
        let found = containers(spec).find(|(_, container)| container.name == status.metadata.name);
        found.is_none_or(|(role, container)| {
            !matches!(role, Role::Main | Role::Sidecar) || change(container, status, &seen.known).is_none()
        })
    };
    let ended_for_it = |status: &&ContainerStatus| seen.known.again.contains(&status.id);
    let restarts =
        containers(spec).filter_map(|(_, container)| seen.newest(&container.name)).any(|one| ended_for_it(&one));
    restarts || seen.running().any(|status| status.id != but && !is_over(status))
}

/// What events say of a resize, in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<OfContainer<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<OfContainer<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct OfContainer<'a> {
    name: &'a str,
    resources: ResourceRequirements,
}

/// The same as text: what the pod has, by the object's generation. Upstream: `pkg/kubelet/events/resize.go`.
pub fn details(pod: &Pod, why: Option<&str>) -> String {
    let spec = spec(pod);
    let details = Details {
        init_containers: spec.init_containers.iter().flatten().map(of_container).collect(),
        containers: spec.containers.iter().map(of_container).collect(),
        generation: pod.metadata.generation.unwrap_or(0),
        error: why,
    };
    serde_json::to_string(&details).expect("names and amounts are text")
}

fn of_container(container: &Container) -> OfContainer<'_> {
    OfContainer { name: &container.name, resources: container.resources.clone().unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use api::decide::resources::Resources;
    use api::quantity::Quantity;

    use super::*;

    fn pod(uid: &str, cpu: &str, policy: &str) -> Pod {
        serde_json::from_str(&format!(
            r#"{{"metadata":{{"uid":"{uid}"}},"spec":{{"containers":[{{"name":"c","resizePolicy":[
            {{"resourceName":"cpu","restartPolicy":"{policy}"}}],"resources":{{"requests":{{"cpu":"{cpu}","memory":"64Mi"}},
            "limits":{{"cpu":"{cpu}"}}}}}}]}}}}"#
        ))
        .unwrap()
    }

    #[test]
    fn a_resize_is_granted_or_waits_for_others_or_is_more_than_the_node_has() {
        let amount = |text| Quantity::parse(text).unwrap();
        let allocatable: Resources =
            [("cpu", amount("2")), ("memory", amount("1Gi")), ("pods", amount("10"))].into_iter().collect();
        let node = Node { allocatable, ..Node::default() };
        let other = pod("other", "1500m", "NotRequired");
        let check =
            |cpu, expected| assert_eq!(judge(&pod("one", cpu, "NotRequired"), &node, [&other].into_iter()), expected);
        check("500m", Answer::Granted);
        let deferred = "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000";
        check("501m", Answer::Deferred(deferred.into()));
        let infeasible = "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000";
        check("2001m", Answer::Infeasible(infeasible.into()));
    }

    #[test]
    fn a_container_changes_where_it_runs_or_starts_anew() {
        let check = |policy, given: &str, expected| {
            let (now, then) = (pod("one", given, policy), pod("one", "100m", policy));
            let container = |pod: &Pod| pod.spec.as_ref().unwrap().containers[0].clone();
            let mut status = ContainerStatus::default();
            status.linux.resources = create::limits(&container(&then));
            assert_eq!(change(&container(&now), &status, &Known::default()), expected, "{policy} {given}");
        };
        check("NotRequired", "100m", None);
        check("NotRequired", "200m", Some(Change::Update));
        check("RestartContainer", "200m", Some(Change::Restart));
        let unlike = &pod("one", "1", "NotRequired").spec.unwrap().containers[0];
        assert_eq!(change(unlike, &ContainerStatus::default(), &Known::default()), None);
    }

    #[test]
    fn events_tell_of_init_containers_first_in_the_order_of_the_specification() {
        let pod: Pod = serde_json::from_str(
            r#"{"metadata":{"generation":2},"spec":{"initContainers":[{"name":"s"}],"containers":[{"name":"b"},{"name":"a"}]}}"#,
        )
        .unwrap();
        let of = |name: &str| format!(r#"{{"name":"{name}","resources":{{}}}}"#);
        let expected =
            format!(r#"{{"initContainers":[{}],"containers":[{},{}],"generation":2}}"#, of("s"), of("b"), of("a"));
        assert_eq!(details(&pod, None), expected);
    }

    #[test]
    fn a_pod_is_what_it_was_given_whatever_it_asks_for() {
        let given = asked(&pod("one", "100m", "NotRequired"));
        let seen = with(pod("one", "2", "NotRequired"), &given);
        assert_eq!(asked(&seen), given);
        assert_eq!(
            details(&seen, Some("no")),
            r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"100m"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":0,"error":"no"}"#
        );
    }
}
