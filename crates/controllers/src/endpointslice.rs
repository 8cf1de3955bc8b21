//! EndpointSlice: the addresses behind each Service that has a selector, a hundred to a slice.
//!
//! Upstream: `pkg/controller/endpointslice` with `staging/src/k8s.io/endpointslice`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::decide::pod::is_pod_ready;
use api::projection::{PodLite, ServiceLite};
use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reconcile::plan::kinds::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use reconcile::{Action, Change, Controller, Facts, Now, Outcomes, Plan, Propagation, View, Watch};

use crate::{owner, patch};

/// Addresses in a slice. Upstream: `--max-endpoints-per-slice`.
const SLICE_ENDPOINTS_MAX: usize = 100;
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const ME: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// When what a slice says came to be, for those who measure how long it takes until it is in force.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label that says in which zone a node is.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The controller of the slices of Services with a selector.
pub struct EndpointSliceController;

/// Everything a decision about one Service's slices depends on.
pub struct Observed {
    key: Key,
    service: Option<Service>,
    pods: Vec<Arc<Object>>,
    /// The zones of the pods' nodes, of those that are in any.
    zones: BTreeMap<Box<str>, Box<str>>,
    /// The slices that this controller made for a Service of this name.
    slices: Vec<EndpointSlice>,
}

impl Controller for EndpointSliceController {
    const NAME: &'static str = "endpointslice";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![
            Watch::primary(SERVICES),
            Watch::mapped(PODS, services_of_pod),
            Watch::mapped(ENDPOINT_SLICES, service_of_slice),
            // As upstream: where a node is counts when an endpoint is written, and is no reason to write one.
            Watch::mapped(NODES, |_, _| Vec::new()),
        ]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let service: Option<Service> = view.get(SERVICES, key).and_then(|object| owner::typed(&object));
        let selector = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.clone()).unwrap_or_default();
        let pods = match selector.is_empty() {
            true => Vec::new(),
            false => view.in_namespace(PODS, key.namespace()).filter(|pod| selects(&selector, pod)).collect(),
        };
        let mine = |slice: &Arc<Object>| {
            let labels = &slice.meta().labels;
            labels.get(SERVICE_NAME).is_some_and(|name| name == key.name())
                && labels.get(MANAGED_BY).is_some_and(|manager| manager == ME)
        };
        let slices = view
            .in_namespace(ENDPOINT_SLICES, key.namespace())
            .filter(mine)
            .filter_map(|slice| owner::typed(&slice))
            .collect();
        let zones = zones(view, &pods);
        Observed { key: key.clone(), service, pods, zones, slices }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some(service) = &observed.service else {
            return Plan::nothing().then(observed.slices.iter().map(delete));
        };
        let spec = service.spec.clone().unwrap_or_default();
        let managed = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
            && spec.type_.as_deref() != Some("ExternalName");
        if !managed || service.metadata.deletion_timestamp.is_some() {
            // Slices of a Service that lost its selector stay: they are the user's from then on.
            return Plan::nothing();
        }
        changes(observed, service)
    }
}

fn zones(view: &View, pods: &[Arc<Object>]) -> BTreeMap<Box<str>, Box<str>> {
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| &*pod.project::<PodLite>().spec.node_name).collect();
    let zone = |name: &str| {
        let zone = view.get(NODES, &Key::new("", name))?.meta().labels.get(ZONE).map(Box::<str>::from)?;
        Some((Box::from(name), zone))
    };
    nodes.into_iter().filter_map(zone).collect()
}

pub(crate) fn selects(selector: &BTreeMap<String, String>, pod: &Object) -> bool {
    let labels = &pod.meta().labels;
    selector.iter().all(|(name, value)| labels.get(name) == Some(value.as_str()))
}

/// The Services whose selector matches a pod.
pub(crate) fn services_of_pod(view: &View, pod: &Object) -> Vec<Key> {
    let selects_it = |object: &Arc<Object>| {
        let selector = object.project::<ServiceLite>().selector.as_ref();
        selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(name, value)| pod.meta().labels.get(name) == Some(value))
        })
    };
    view.in_namespace(SERVICES, pod.namespace()).filter(selects_it).map(|object| object.key().clone()).collect()
}

fn service_of_slice(_: &View, slice: &Object) -> Vec<Key> {
    let labels = &slice.meta().labels;
    if labels.get(MANAGED_BY).is_none_or(|manager| manager != ME) {
        return Vec::new();
    }
    labels.get(SERVICE_NAME).map(|name| Key::new(slice.namespace(), name)).into_iter().collect()
}

/// What makes the slices say what the pods say, with as few writes as it takes.
///
/// New slices come first and superfluous ones go last: an endpoint that moves is never in none of them.
fn changes(observed: &Observed, service: &Service) -> Plan {
    let labels = labels(service);
    let mut free: Vec<&EndpointSlice> = observed.slices.iter().collect();
    free.sort_by_key(|slice| slice.metadata.name.clone());
    let (mut creates, mut updates, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    let trigger = trigger_time(service, &observed.pods);
    let mut wanted = wanted(service, observed);
    if wanted.is_empty() {
        // A Service without pods has one empty slice, so that consumers can tell it from one not seen yet.
        match free.iter().position(|slice| slice.endpoints.as_ref().is_none_or(Vec::is_empty)) {
            Some(kept) => updates.extend(update(free.remove(kept), &[], &labels, trigger.as_deref())),
            None => creates.extend(create(observed, service, (&[], &[]), &labels, trigger.as_deref())),
        }
    }
    for (ports, endpoints) in &mut wanted {
        let (same_ports, others): (Vec<_>, Vec<_>) =
            free.into_iter().partition(|slice| slice.ports.as_deref().unwrap_or_default() == ports.as_slice());
        free = others;
        let (edits, left) = fill(&same_ports, std::mem::take(endpoints));
        for (slice, endpoints) in edits {
            match endpoints.is_empty() {
                true => deletes.push(delete(slice)),
                false => updates.extend(update(slice, &endpoints, &labels, trigger.as_deref())),
            }
        }
        let chunks = left.chunks(SLICE_ENDPOINTS_MAX);
        creates
            .extend(chunks.filter_map(|chunk| create(observed, service, (ports, chunk), &labels, trigger.as_deref())));
    }
    deletes.extend(free.into_iter().map(delete));
    Plan::nothing().then(creates).then(updates).then(deletes)
}

fn delete(slice: &EndpointSlice) -> Action {
    let of = owner::reference(ENDPOINT_SLICES, &slice.metadata);
    Change::Delete { of, propagation: Propagation::Default, revision: None }.into()
}

/// Which slices keep which endpoints, and the endpoints that found no place.
#[allow(clippy::type_complexity, reason = "read once, right at the call")]
fn fill<'a>(
    slices: &[&'a EndpointSlice],
    endpoints: Vec<Endpoint>,
) -> (Vec<(&'a EndpointSlice, Vec<Endpoint>)>, Vec<Endpoint>) {
    let identity = |endpoint: &Endpoint| {
        (endpoint.addresses.clone(), endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()))
    };
    let mut left: BTreeMap<_, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut edits: Vec<(&EndpointSlice, Vec<Endpoint>)> = slices
        .iter()
        .map(|slice| {
            (*slice, slice.endpoints.iter().flatten().filter_map(|present| left.remove(&identity(present))).collect())
        })
        .collect();
    let mut left: Vec<Endpoint> = left.into_values().collect();
    for (_, kept) in &mut edits {
        let room = SLICE_ENDPOINTS_MAX.saturating_sub(kept.len()).min(left.len());
        kept.extend(left.drain(..room));
    }
    (edits, left)
}

/// The latest of the changes that slices tell of: that the Service came, or that a pod became ready or ceased to be.
fn trigger_time(service: &Service, pods: &[Arc<Object>]) -> Option<String> {
    let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let ready = pods.iter().filter_map(|pod| {
        let lite = pod.project::<PodLite>();
        lite.status.conditions.iter().find(|condition| &*condition.kind == "Ready")?.last_transition
    });
    ready.chain(created).max().map(|time| time.to_string())
}

fn update(
    slice: &EndpointSlice,
    endpoints: &[Endpoint],
    labels: &BTreeMap<String, String>,
    trigger: Option<&str>,
) -> Option<Action> {
    if slice.metadata.labels.as_ref() == Some(labels) && slice.endpoints.as_deref().unwrap_or_default() == endpoints {
        return None;
    }
    let body = patch::object([
        (
            "metadata",
            patch::object([
                ("labels", patch::texts(slice.metadata.labels.as_ref(), labels)),
                ("annotations", patch::object([(TRIGGER_TIME, trigger.map_or(Value::Null, Value::from))])),
            ]),
        ),
        ("endpoints", to_value(endpoints).ok()?),
    ]);
    let of = owner::reference(ENDPOINT_SLICES, &slice.metadata);
    Some(Change::Patch { of, subresource: None, body, revision: None }.into())
}

fn create(
    observed: &Observed,
    service: &Service,
    (ports, endpoints): (&[EndpointPort], &[Endpoint]),
    labels: &BTreeMap<String, String>,
    trigger: Option<&str>,
) -> Option<Action> {
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", observed.key.name())),
            labels: Some(labels.clone()),
            annotations: trigger.map(|time| BTreeMap::from([(TRIGGER_TIME.to_owned(), time.to_owned())])),
            owner_references: Some(vec![owner::controller_reference(SERVICES, &service.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".into(),
        endpoints: Some(endpoints.to_vec()),
        ports: (!ports.is_empty()).then(|| ports.to_vec()),
    };
    let object = to_value(&slice).ok()?;
    Some(Change::Create { resource: ENDPOINT_SLICES, namespace: observed.key.namespace().into(), object }.into())
}

/// The labels of the slices: the Service's own, and what tells whose they are.
fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), ME.into());
    labels
}

/// The endpoints by the ports they serve: a named target port may be a different number in each pod.
fn wanted(service: &Service, observed: &Observed) -> Vec<(Vec<EndpointPort>, Vec<Endpoint>)> {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut by_ports: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    let mut seen = BTreeSet::new();
    for pod in &observed.pods {
        let lite = pod.project::<PodLite>();
        if lite.status.pod_ips.is_empty()
            || matches!(&*lite.status.phase, "Succeeded" | "Failed")
            || !seen.insert(pod.uid())
        {
            continue;
        }
        let ports = ports(spec.ports.as_deref().unwrap_or_default(), lite);
        let mut endpoint = endpoint(pod, service, publish);
        endpoint.zone = observed.zones.get(&lite.spec.node_name).map(ToString::to_string);
        endpoint.hints = hints(&endpoint, spec.traffic_distribution.as_deref());
        match by_ports.iter_mut().find(|(present, _)| *present == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint),
            None => by_ports.push((ports, vec![endpoint])),
        }
    }
    by_ports
}

fn endpoint(pod: &Object, service: &Service, publish: bool) -> Endpoint {
    let lite = pod.project::<PodLite>();
    let terminating = pod.meta().deletion.is_some();
    let serving = is_pod_ready(lite);
    let subdomain_is_mine = !lite.spec.network.hostname.is_empty()
        && Some(&*lite.spec.network.subdomain) == service.metadata.name.as_deref();
    Endpoint {
        addresses: vec![lite.status.pod_ips[0].to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: subdomain_is_mine.then(|| lite.spec.network.hostname.to_string()),
        node_name: Some(lite.spec.node_name.to_string()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace().into()),
            name: Some(pod.name().into()),
            uid: Some(pod.uid().into()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// Whose clients should use an endpoint, as `trafficDistribution` asks. Upstream: `trafficdist`.
fn hints(endpoint: &Endpoint, distribution: Option<&str>) -> Option<EndpointHints> {
    let ready = endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true));
    let close = distribution.filter(|_| ready)?;
    if !["PreferClose", "PreferSameZone", "PreferSameNode"].contains(&close) {
        return None;
    }
    let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let node = endpoint.node_name.clone().filter(|_| close == "PreferSameNode");
    let for_nodes = node.map(|name| vec![ForNode { name }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

/// The ports of a Service as one pod serves them; a named target that the pod does not have is left out.
pub(crate) fn ports(ports: &[ServicePort], pod: &PodLite) -> Vec<EndpointPort> {
    let resolve = |port: &ServicePort| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let number = match port.target_port.as_ref() {
            None => port.port,
            Some(IntOrString::Int(number)) if *number == 0 => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => port_named(pod, name, &protocol)?,
        };
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(number),
            protocol: Some(protocol),
            app_protocol: port.app_protocol.clone(),
        })
    };
    ports.iter().filter_map(resolve).collect()
}

/// The number of a port that a container of the pod names.
fn port_named(pod: &PodLite, name: &str, protocol: &str) -> Option<i32> {
    let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    let protocol_of = |port: &str| if port.is_empty() { "TCP".to_owned() } else { port.to_owned() };
    ports
        .filter(|port| &*port.name == name && protocol_of(&port.protocol) == protocol)
        .map(|port| port.container_port)
        .next()
}

#[cfg(test)]
mod tests;
