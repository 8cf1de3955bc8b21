//! How far what was applied has come, and why it is no further. Pure.

use std::sync::Arc;

use api::decide::pod::{is_pod_ready, pod_condition};
use api::projection::{ContainerState, PodLite, ServiceLite, SliceLite};
use client::{Object, Snapshot};

/// How one object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready(String),
    Waiting(String),
}

/// What progress is read from.
pub struct World {
    pub deployments: Arc<Snapshot>,
    pub replica_sets: Arc<Snapshot>,
    pub pods: Arc<Snapshot>,
    pub services: Arc<Snapshot>,
    pub slices: Arc<Snapshot>,
}

/// The state of an applied object.
pub fn state(object: &Object, world: &World) -> State {
    match (&*object.kind().group, &*object.kind().kind) {
        ("apps", "Deployment") => {
            world.deployments.get_key(object.key()).map_or_else(gone, |deployment| deployment_state(deployment, world))
        }
        ("", "Pod") => world.pods.get_key(object.key()).map_or_else(gone, |pod| pod_state(pod)),
        ("", "Service") => {
            world.services.get_key(object.key()).map_or_else(gone, |service| service_state(service, world))
        }
        _ => State::Ready("applied".into()),
    }
}

fn gone() -> State {
    State::Waiting("not there any more".into())
}

fn deployment_state(deployment: &Object, world: &World) -> State {
    let Ok(tree) = deployment.tree() else { return State::Waiting("cannot be read".into()) };
    let number = |path: &[&str]| tree.at(path).and_then(api::value::Value::as_i64).unwrap_or(0);
    let wanted = tree.at(&["spec", "replicas"]).and_then(api::value::Value::as_i64).unwrap_or(1);
    let (updated, available) = (number(&["status", "updatedReplicas"]), number(&["status", "availableReplicas"]));
    let seen = number(&["status", "observedGeneration"]) >= number(&["metadata", "generation"]);
    let total = number(&["status", "replicas"]);
    if seen && updated >= wanted && available >= wanted && total == updated {
        return State::Ready(format!("{available}/{wanted} pods available"));
    }
    let why = pods_of(deployment, world).find_map(|pod| match pod_state(&pod) {
        State::Waiting(why) => Some(format!(": pod {}: {why}", pod.name())),
        State::Ready(_) => None,
    });
    let failure = replica_failure(&tree).map(|failure| format!(": {failure}"));
    State::Waiting(format!("{available}/{wanted} pods available{}", failure.or(why).unwrap_or_default()))
}

fn replica_failure(deployment: &api::value::Value) -> Option<String> {
    let conditions = deployment.at(&["status", "conditions"])?.as_array()?;
    let failed = conditions.iter().find(|condition| condition.str_at(&["type"]) == Some("ReplicaFailure"))?;
    failed.str_at(&["message"]).map(str::to_owned)
}

fn pods_of<'w>(deployment: &'w Object, world: &'w World) -> impl Iterator<Item = Arc<Object>> + 'w {
    let owned = |object: &Object, uid: &str| object.meta().is_controlled_by(uid);
    let sets: Vec<Arc<Object>> = world
        .replica_sets
        .by_namespace(deployment.namespace())
        .filter(|set| owned(set, deployment.uid()))
        .cloned()
        .collect();
    world
        .pods
        .by_namespace(deployment.namespace())
        .filter(move |pod| sets.iter().any(|set| owned(pod, set.uid())))
        .cloned()
}

fn pod_state(pod: &Object) -> State {
    let lite: &PodLite = pod.project();
    if is_pod_ready(lite) || &*lite.status.phase == "Succeeded" {
        return State::Ready("ready".into());
    }
    if let Some(condition) = pod_condition(lite, "PodScheduled").filter(|condition| &*condition.status == "False") {
        return State::Waiting(format!("unschedulable: {}", condition.message));
    }
    let tree = pod.tree().unwrap_or_default();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in tree.at(&["status", list]).and_then(api::value::Value::as_array).into_iter().flatten() {
            if let Some(reason) = status.str_at(&["state", "waiting", "reason"]) {
                let message = status.str_at(&["state", "waiting", "message"]).unwrap_or_default();
                let name = status.str_at(&["name"]).unwrap_or_default();
                let detail = if message.is_empty() { String::new() } else { format!(": {message}") };
                return State::Waiting(format!("container {name} is waiting: {reason}{detail}"));
            }
        }
    }
    let ended = lite.status.containers.iter().find_map(|container| match &container.state {
        ContainerState::Terminated { exit_code, reason, .. } => {
            Some(format!("container {} ended with {exit_code} ({reason})", container.name))
        }
        _ => None,
    });
    State::Waiting(ended.unwrap_or_else(|| match &*lite.status.phase {
        "" | "Pending" => "pending".into(),
        _ => "running, not ready".into(),
    }))
}

/// Where an applied Service answers.
pub fn address(service: &Object, world: &World) -> Option<String> {
    let current = world.services.get_key(service.key())?;
    address_of(current.project(), &format!("{}.{}.svc", service.name(), service.namespace()))
}

/// Where a Service of that name answers; a web page's address where its port says that it is one.
fn address_of(service: &ServiceLite, name: &str) -> Option<String> {
    let port = service.ports.first()?;
    let host = match service.cluster_ips.first() {
        Some(address) if **address != *"None" => &**address,
        _ if *service.kind == *"ExternalName" => &*service.external_name,
        _ => name,
    };
    let is = |scheme: &str, usual: i32| {
        let named = port.name.strip_prefix(scheme).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        *port.app_protocol == *scheme || port.app_protocol.is_empty() && (named || port.port == usual)
    };
    let scheme = [("http", 80), ("https", 443)].into_iter().find(|(scheme, usual)| is(scheme, *usual));
    let scheme = scheme.map_or_else(String::new, |(scheme, _)| format!("{scheme}://"));
    Some(format!("{scheme}{host}:{}", port.port))
}

fn service_state(service: &Object, world: &World) -> State {
    let lite: &ServiceLite = service.project();
    if &*lite.kind == "ExternalName" || lite.selector.is_none() {
        return State::Ready("applied".into());
    }
    let slices = world.slices.by_namespace(service.namespace()).filter(|slice| {
        let slice: &SliceLite = slice.project();
        slice.service() == Some(service.name())
    });
    let ready =
        slices.flat_map(|slice| &slice.project::<SliceLite>().endpoints).filter(|endpoint| endpoint.is_ready()).count();
    if ready > 0 {
        return State::Ready(if ready == 1 { "1 endpoint".into() } else { format!("{ready} endpoints") });
    }
    let matches = |pod: &&Arc<Object>| {
        let labels = &pod.meta().labels;
        lite.selector
            .as_ref()
            .is_some_and(|selector| selector.iter().all(|(name, value)| labels.get(name) == Some(value)))
    };
    let here = world.pods.by_namespace(service.namespace()).filter(matches).count();
    if here > 0 {
        return State::Waiting(format!("no endpoints: none of {here} matching pods is ready"));
    }
    let elsewhere = world.pods.iter().find(matches).map(|pod| pod.namespace().to_owned());
    let hint = elsewhere
        .map(|namespace| format!("; matching pods are in namespace {namespace}: did you mean -n {namespace}?"));
    State::Waiting(format!(
        "no endpoints: no pod in namespace {} matches its selector{}",
        service.namespace(),
        hint.unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use api::projection::ServicePort;

    use super::*;

    fn check(cluster_ip: &str, name: &str, app_protocol: &str, port: i32, expected: &str) {
        let port = ServicePort { name: name.into(), app_protocol: app_protocol.into(), port, ..ServicePort::default() };
        let service = ServiceLite { cluster_ips: vec![cluster_ip.into()], ports: vec![port], ..ServiceLite::default() };
        assert_eq!(address_of(&service, "web.shop.svc").as_deref(), Some(expected));
    }

    #[test]
    fn a_service_answers_where_its_first_port_says() {
        check("10.96.0.7", "", "", 80, "http://10.96.0.7:80");
        check("10.96.0.7", "http-admin", "", 9000, "http://10.96.0.7:9000");
        check("10.96.0.7", "httpx", "", 9000, "10.96.0.7:9000");
        check("10.96.0.7", "", "https", 80, "https://10.96.0.7:80");
        check("None", "redis", "", 6379, "web.shop.svc:6379");
        assert_eq!(address_of(&ServiceLite::default(), "web.shop.svc"), None);
    }
}
