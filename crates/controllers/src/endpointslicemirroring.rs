//! EndpointSlice mirroring: slices of the Endpoints that users write for Services without a selector.
//!
//! Upstream: `pkg/controller/endpointslicemirroring`. One slice for each set of ports and family of addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::projection::ServiceLite;
use api::value::{Value, to_value};
use client::{Key, Object};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::plan::kinds::{ENDPOINT_SLICES, ENDPOINTS, SERVICES};
use reconcile::{Action, Change, Controller, Facts, Note, Now, Outcomes, Plan, Propagation, Severity, View, Watch};

use crate::endpointslice::{MANAGED_BY, SERVICE_NAME};
use crate::{owner, patch};

/// Addresses of one subset. Upstream: `--mirroring-max-endpoints-per-subset`.
const ADDRESSES_MAX: usize = 1000;
const ME: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that only serve as a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints themselves.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// The controller of the slices of Endpoints that nobody else keeps.
pub struct EndpointSliceMirroringController;

/// Everything a decision about one Endpoints object depends on.
pub struct Observed {
    endpoints: Option<Endpoints>,
    /// Whether there is a Service of this name that selects nothing.
    mirrored: bool,
    /// The slices that this controller made.
    slices: Vec<EndpointSlice>,
}

impl Controller for EndpointSliceMirroringController {
    const NAME: &'static str = "endpointslicemirroring";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        vec![
            Watch::primary(ENDPOINTS),
            Watch::primary(SERVICES),
            Watch::mapped(ENDPOINT_SLICES, |_, slice| {
                let service = slice.meta().labels.get(SERVICE_NAME).filter(|_| is_mine(slice));
                service.map(|name| Key::new(slice.namespace(), name)).into_iter().collect()
            }),
        ]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let service = view.get(SERVICES, key);
        let mine = |slice: &Arc<Object>| {
            is_mine(slice) && slice.meta().labels.get(SERVICE_NAME).is_some_and(|name| name == key.name())
        };
        let slices = view.in_namespace(ENDPOINT_SLICES, key.namespace()).filter(mine);
        Observed {
            endpoints: view.get(ENDPOINTS, key).and_then(|object| owner::typed(&object)),
            mirrored: service.is_some_and(|service| service.project::<ServiceLite>().selector.is_none()),
            slices: slices.filter_map(|slice| owner::typed(&slice)).collect(),
        }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        match observed.endpoints.as_ref().filter(|endpoints| observed.mirrored && is_for_mirroring(endpoints)) {
            Some(endpoints) => changes(endpoints, &observed.slices),
            None => Plan::nothing().then(observed.slices.iter().map(delete)),
        }
    }
}

fn is_mine(slice: &Object) -> bool {
    slice.meta().labels.get(MANAGED_BY).is_some_and(|manager| manager == ME)
}

fn is_for_mirroring(endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    let skipped =
        metadata.labels.as_ref().and_then(|labels| labels.get(SKIP_MIRROR)).is_some_and(|skip| skip == "true");
    let lock = metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skipped && !lock
}

/// What makes one slice: the family of its addresses, and its ports.
type Shape = (&'static str, Vec<EndpointPort>);

fn changes(endpoints: &Endpoints, slices: &[EndpointSlice]) -> Plan {
    let (wanted, notes) = wanted(endpoints);
    let mut free: Vec<&EndpointSlice> = slices.iter().collect();
    free.sort_by_key(|slice| slice.metadata.name.clone());
    let (mut creates, mut updates) = (Vec::new(), Vec::new());
    // A slice with the same ports is kept; of two, the first.
    for (shape, wanted) in &wanted {
        let same = |slice: &&EndpointSlice| {
            slice.address_type == shape.0 && slice.ports.as_deref().unwrap_or_default() == shape.1.as_slice()
        };
        match free.iter().position(same) {
            Some(index) => updates.extend(update(endpoints, free.remove(index), wanted)),
            None if endpoints.metadata.deletion_timestamp.is_none() => creates.extend(create(endpoints, shape, wanted)),
            None => {}
        }
    }
    let deletes: Vec<Action> = free.into_iter().map(delete).collect();
    let changed = !(creates.is_empty() && updates.is_empty() && deletes.is_empty());
    let mut plan = Plan::nothing().then(creates).then(updates).then(deletes);
    if changed {
        plan.notes = notes;
    }
    plan
}

/// The endpoints by what makes a slice of them, and what there is to say about those that were left out.
fn wanted(endpoints: &Endpoints) -> (Vec<(Shape, Vec<Endpoint>)>, Vec<Note>) {
    let mut wanted: Vec<(Shape, Vec<Endpoint>)> = Vec::new();
    let (mut invalid, mut skipped) = (0, 0);
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let all: Vec<_> =
            ready.chain(subset.not_ready_addresses.iter().flatten().map(|address| (address, false))).collect();
        let mut added = 0;
        for (address, ready) in &all {
            if added == ADDRESSES_MAX {
                break;
            }
            let Some((family, endpoint)) = endpoint(address, *ready) else {
                invalid += 1;
                continue;
            };
            added += 1;
            let shape = (family, ports.clone());
            match wanted.iter_mut().find(|(present, _)| *present == shape) {
                Some((_, list)) => list.push(endpoint),
                None => wanted.push((shape, vec![endpoint])),
            }
        }
        skipped += all.len() - added;
    }
    for (_, list) in &mut wanted {
        list.truncate(ADDRESSES_MAX);
    }
    (wanted, notes(endpoints, invalid, skipped))
}

fn notes(endpoints: &Endpoints, invalid: usize, skipped: usize) -> Vec<Note> {
    let note = |reason: &'static str, message: String| Note {
        regarding: owner::reference(ENDPOINTS, &endpoints.metadata),
        field: String::new(),
        severity: Severity::Warning,
        reason,
        message,
    };
    let mut notes = Vec::new();
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        notes.push(note("InvalidIPAddress", message));
    }
    if skipped > invalid {
        let what = format!("A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset");
        notes.push(note("TooManyAddressesToMirror", format!("{what}. {skipped} addresses were skipped")));
    }
    notes
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |port: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: port.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Option<(&'static str, Endpoint)> {
    let ip: IpAddr = address.ip.parse().ok()?;
    let endpoint = Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    };
    Some((if ip.is_ipv4() { "IPv4" } else { "IPv6" }, endpoint))
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), endpoints.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), ME.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| !OWN_ANNOTATIONS.contains(&name.as_str()));
    annotations
}

fn create(endpoints: &Endpoints, (family, ports): &Shape, wanted: &[Endpoint]) -> Option<Action> {
    let name = endpoints.metadata.name.clone().unwrap_or_default();
    let annotations = annotations(endpoints);
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            labels: Some(labels(endpoints)),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![owner::controller_reference(ENDPOINTS, &endpoints.metadata)]),
            ..ObjectMeta::default()
        },
        address_type: (*family).into(),
        endpoints: Some(wanted.to_vec()),
        ports: (!ports.is_empty()).then(|| ports.clone()),
    };
    let (namespace, object) = (endpoints.metadata.namespace.clone().unwrap_or_default(), to_value(&slice).ok()?);
    Some(Change::Create { resource: ENDPOINT_SLICES, namespace: namespace.as_str().into(), object }.into())
}

fn update(endpoints: &Endpoints, slice: &EndpointSlice, wanted: &[Endpoint]) -> Option<Action> {
    let (labels, annotations) = (labels(endpoints), annotations(endpoints));
    let present = &slice.metadata;
    let same = present.labels.as_ref() == Some(&labels)
        && present.annotations.clone().unwrap_or_default() == annotations
        && slice.endpoints.as_deref().unwrap_or_default() == wanted;
    if same {
        return None;
    }
    let metadata = patch::object([
        ("labels", patch::texts(present.labels.as_ref(), &labels)),
        ("annotations", patch::texts(present.annotations.as_ref(), &annotations)),
    ]);
    let body: Value = patch::object([("metadata", metadata), ("endpoints", to_value(wanted).ok()?)]);
    let of = owner::reference(ENDPOINT_SLICES, &slice.metadata);
    Some(Change::Patch { of, subresource: None, body, revision: None }.into())
}

fn delete(slice: &EndpointSlice) -> Action {
    let of = owner::reference(ENDPOINT_SLICES, &slice.metadata);
    Change::Delete { of, propagation: Propagation::Default, revision: None }.into()
}

#[cfg(test)]
mod tests;
