//! Endpoints: what the slices say, in the older shape that some clients still read.
//!
//! Upstream: `pkg/controller/endpoint`. One object a Service, at most a thousand addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::decide::pod::is_pod_ready;
use api::projection::PodLite;
use api::value::to_value;
use client::{Key, Object};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::plan::kinds::{ENDPOINTS, PODS, SERVICES};
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, Propagation, View, Watch};

use crate::endpointslice::{ports, selects, services_of_pod};
use crate::{owner, patch};

/// Upstream: `maxCapacity`; what is beyond it is only in the slices, and an annotation says so.
const ADDRESSES_MAX: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ME: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The controller of the Endpoints of Services with a selector.
pub struct EndpointsController;

/// Everything a decision about one Service's Endpoints depends on.
pub struct Observed {
    key: Key,
    service: Option<Service>,
    pods: Vec<Arc<Object>>,
    endpoints: Option<Endpoints>,
}

impl Controller for EndpointsController {
    const NAME: &'static str = "endpoints";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![Watch::primary(SERVICES), Watch::mapped(PODS, services_of_pod), Watch::primary(ENDPOINTS)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let service: Option<Service> = view.get(SERVICES, key).and_then(|object| owner::typed(&object));
        let selector = service.as_ref().and_then(|service| service.spec.as_ref()?.selector.clone()).unwrap_or_default();
        let pods = match selector.is_empty() {
            true => Vec::new(),
            false => view.in_namespace(PODS, key.namespace()).filter(|pod| selects(&selector, pod)).collect(),
        };
        let endpoints = view.get(ENDPOINTS, key).and_then(|object| owner::typed(&object));
        Observed { key: key.clone(), service, pods, endpoints }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some(service) = &observed.service else { return orphaned(observed.endpoints.as_ref()) };
        let spec = service.spec.clone().unwrap_or_default();
        let managed = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
        if !managed || service.metadata.deletion_timestamp.is_some() {
            return Plan::nothing();
        }
        let (subsets, over) = subsets(service, &observed.pods);
        Plan::nothing().then(match &observed.endpoints {
            None => create(&observed.key, service, subsets, over),
            Some(present) => update(present, service, &subsets, over),
        })
    }
}

/// Endpoints without a Service go, if this controller made them; others' stay.
fn orphaned(endpoints: Option<&Endpoints>) -> Plan {
    let mine = |endpoints: &&Endpoints| {
        endpoints
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(MANAGED_BY))
            .is_some_and(|manager| manager == ME)
    };
    let delete = |endpoints: &Endpoints| {
        let of = owner::reference(ENDPOINTS, &endpoints.metadata);
        Change::Delete { of, propagation: Propagation::Default, revision: None }.into()
    };
    Plan::nothing().then(endpoints.filter(mine).map(delete))
}

/// The subsets, and whether some addresses had no room.
fn subsets(service: &Service, pods: &[Arc<Object>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.clone().unwrap_or_default();
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut by_ports: BTreeMap<Vec<(String, i32, String)>, EndpointSubset> = BTreeMap::new();
    let mut counted = 0;
    let mut over = false;
    for pod in pods {
        let lite = pod.project::<PodLite>();
        let leaving = pod.meta().deletion.is_some() && !publish;
        if lite.status.pod_ips.is_empty() || matches!(&*lite.status.phase, "Succeeded" | "Failed") || leaving {
            continue;
        }
        if counted == ADDRESSES_MAX {
            over = true;
            break;
        }
        counted += 1;
        let ports: Vec<EndpointPort> =
            ports(spec.ports.as_deref().unwrap_or_default(), lite).into_iter().map(older).collect();
        let order = ports
            .iter()
            .map(|port| (port.name.clone().unwrap_or_default(), port.port, port.protocol.clone().unwrap_or_default()))
            .collect();
        let subset = by_ports.entry(order).or_insert_with(|| EndpointSubset {
            ports: (!ports.is_empty()).then_some(ports),
            ..EndpointSubset::default()
        });
        let side = if publish || is_pod_ready(lite) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        side.get_or_insert_default().push(address(pod, service));
    }
    let by_ip = |addresses: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = addresses {
            addresses.sort_by(|a, b| (&a.ip, target_uid(a)).cmp(&(&b.ip, target_uid(b))));
        }
    };
    let mut subsets: Vec<EndpointSubset> = by_ports.into_values().collect();
    for subset in &mut subsets {
        by_ip(&mut subset.addresses);
        by_ip(&mut subset.not_ready_addresses);
    }
    (subsets, over)
}

fn target_uid(address: &EndpointAddress) -> Option<&String> {
    address.target_ref.as_ref().and_then(|target| target.uid.as_ref())
}

fn older(port: k8s_openapi::api::discovery::v1::EndpointPort) -> EndpointPort {
    EndpointPort {
        name: port.name.filter(|name| !name.is_empty()),
        port: port.port.unwrap_or_default(),
        protocol: port.protocol,
        app_protocol: port.app_protocol,
    }
}

fn address(pod: &Object, service: &Service) -> EndpointAddress {
    let lite = pod.project::<PodLite>();
    let subdomain_is_mine = !lite.spec.network.hostname.is_empty()
        && Some(&*lite.spec.network.subdomain) == service.metadata.name.as_deref();
    EndpointAddress {
        ip: lite.status.pod_ips[0].to_string(),
        hostname: subdomain_is_mine.then(|| lite.spec.network.hostname.to_string()),
        node_name: Some(lite.spec.node_name.to_string()).filter(|name| !name.is_empty()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some(pod.namespace().into()),
            name: Some(pod.name().into()),
            uid: Some(pod.uid().into()),
            ..ObjectReference::default()
        }),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None")) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), ME.into());
    labels
}

fn create(key: &Key, service: &Service, subsets: Vec<EndpointSubset>, over: bool) -> Option<reconcile::Action> {
    let annotations = over.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())]));
    let endpoints = Endpoints {
        metadata: ObjectMeta {
            name: Some(key.name().into()),
            namespace: Some(key.namespace().into()),
            labels: Some(labels(service)),
            annotations,
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    };
    let object = to_value(&endpoints).ok()?;
    Some(Change::Create { resource: ENDPOINTS, namespace: key.namespace().into(), object }.into())
}

fn update(present: &Endpoints, service: &Service, subsets: &[EndpointSubset], over: bool) -> Option<reconcile::Action> {
    let labels = labels(service);
    let marked =
        present.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(OVER_CAPACITY));
    let same = present.subsets.as_deref().unwrap_or_default() == subsets
        && present.metadata.labels.as_ref() == Some(&labels)
        && marked == over;
    if same {
        return None;
    }
    let wanted = patch::texts(present.metadata.labels.as_ref(), &labels);
    let mark = if over { "truncated".into() } else { api::value::Value::Null };
    let body = patch::object([
        ("metadata", patch::object([("labels", wanted), ("annotations", patch::object([(OVER_CAPACITY, mark)]))])),
        ("subsets", to_value(&subsets).ok()?),
    ]);
    let of = owner::reference(ENDPOINTS, &present.metadata);
    Some(Change::Patch { of, subresource: None, body, revision: None }.into())
}

#[cfg(test)]
mod tests;
