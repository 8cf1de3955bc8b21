//! EndpointSlice: where a service's traffic goes, in pieces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use crate::absent::{default_text, list, list_mut, text};
use crate::base::{CORE, stored};
use crate::columns::{age, column, first_three, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Writer};
use crate::faults::{each_invalid, immutable, required_choice};
use crate::{meta, names};

const PORTS_MAX: usize = 20000;
const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const TOPOLOGY_LABELS_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub static ENDPOINT_SLICE: ResourceDef<EndpointSlice> = ResourceDef {
    default,
    reset,
    validate,
    columns: &[
        name(),
        column("AddressType", "string", "Family of the slice's addresses.", |slice| {
            Cell::Text(slice.address_type.clone())
        }),
        column("Ports", "string", "Ports of each endpoint.", |slice| {
            let ports: Vec<String> = list(&slice.ports).iter().map(shown_port).collect();
            first_three(&ports, "<unset>")
        }),
        column("Endpoints", "string", "Addresses of the endpoints.", |slice| {
            let addresses = list(&slice.endpoints).iter().flat_map(|endpoint| endpoint.addresses.iter().cloned());
            first_three(&addresses.collect::<Vec<_>>(), "<unset>")
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        backing: stored("endpointslices"),
        ..CORE
    })
};

fn shown_port(port: &EndpointPort) -> String {
    match (port.port, &port.name) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "*".to_owned(),
    }
}

fn default(slice: &mut EndpointSlice, _: &Rules<'_>) {
    for port in list_mut(&mut slice.ports) {
        port.name.get_or_insert_default();
        default_text(&mut port.protocol, "TCP");
    }
}

fn reset(new: &mut EndpointSlice, old: Option<&EndpointSlice>, _: Writer, _: &Rules<'_>) {
    let changed = old.is_none_or(|old| {
        (&new.address_type, &new.endpoints, &new.ports, &new.metadata.labels)
            != (&old.address_type, &old.endpoints, &old.ports, &old.metadata.labels)
    });
    meta::count_generation(&mut new.metadata, old.map(|old| &old.metadata), changed);
}

fn validate(new: &EndpointSlice, old: Option<&EndpointSlice>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let type_path = Path::new("addressType");
    required_choice(faults, &type_path, &new.address_type, &["FQDN", "IPv4", "IPv6"]);
    validate_ports(list(&new.ports), &Path::new("ports"), faults);
    let endpoints = list(&new.endpoints);
    let path = Path::new("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        faults.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            validate_endpoint(endpoint, &new.address_type, &path.index(index), faults);
        }
    }
    if let Some(old) = old {
        immutable(faults, &type_path, &new.address_type, &old.address_type);
    }
}

fn validate_ports(ports: &[EndpointPort], path: &Path<'_>, faults: &mut FieldErrors) {
    if ports.len() > PORTS_MAX {
        return faults.too_many(path, ports.len(), PORTS_MAX);
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if !name.is_empty() {
            each_invalid(faults, &path.child("name"), name, names::dns_label(name));
        }
        if !seen.insert(name) {
            faults.duplicate(&path.child("name"), name);
        }
        if let Some(number) = port.port {
            each_invalid(faults, &path.child("port"), &number, names::port(number.into()));
        }
        required_choice(faults, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
        if let Some(protocol) = &port.app_protocol {
            each_invalid(faults, &path.child("appProtocol"), protocol, names::qualified(protocol));
        }
    }
}

fn validate_endpoint(endpoint: &Endpoint, address_type: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    let addresses_path = path.child("addresses");
    match endpoint.addresses.len() {
        0 => faults.required(&addresses_path, "must contain at least 1 address"),
        count if count > ADDRESSES_MAX => faults.too_many(&addresses_path, count, ADDRESSES_MAX),
        _ => {}
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        validate_address(address, address_type, &addresses_path.index(index), faults);
    }
    if let Some(node) = &endpoint.node_name {
        each_invalid(faults, &path.child("nodeName"), node, names::dns_subdomain(node));
    }
    let topology = endpoint.deprecated_topology.as_ref().map_or(0, |labels| labels.len());
    let topology_path = path.child("deprecatedTopology");
    if topology > TOPOLOGY_LABELS_MAX {
        faults.too_many(&topology_path, topology, TOPOLOGY_LABELS_MAX);
    }
    meta::validate_labels(&endpoint.deprecated_topology, &topology_path, faults);
    if let Some(hostname) = &endpoint.hostname {
        each_invalid(faults, &path.child("hostname"), hostname, names::dns_label(hostname));
    }
    if let Some(hints) = &endpoint.hints {
        let zones: Vec<&str> = list(&hints.for_zones).iter().map(|zone| zone.name.as_str()).collect();
        validate_hints(&zones, &path.child("hints").child("forZones"), faults);
        let nodes: Vec<&str> = list(&hints.for_nodes).iter().map(|node| node.name.as_str()).collect();
        validate_hints(&nodes, &path.child("hints").child("forNodes"), faults);
    }
}

fn validate_address(address: &str, address_type: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    match address_type {
        "IPv4" | "IPv6" => {
            let of_type = match names::parse_ip(address) {
                Some(IpAddr::V4(_)) => address_type == "IPv4",
                Some(IpAddr::V6(_)) => address_type == "IPv6",
                None => false,
            };
            if !of_type {
                faults.invalid(path, address, format!("must be a valid {address_type} address"));
            }
            names::check_non_special_ip(faults, path, address);
        }
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            let name_faults = names::dns_subdomain(name);
            if !name_faults.is_empty() {
                faults.invalid(path, name, name_faults.join(","));
            } else if !name.contains('.') {
                faults.invalid(path, name, "should be a domain with at least two segments separated by dots");
            }
        }
        _ => {}
    }
}

fn validate_hints(hints: &[&str], path: &Path<'_>, faults: &mut FieldErrors) {
    if hints.len() > HINTS_MAX {
        return faults.too_many(path, hints.len(), HINTS_MAX);
    }
    for (index, name) in hints.iter().enumerate() {
        let index_path = path.index(index);
        let path = index_path.child("name");
        if hints[..index].contains(name) {
            faults.duplicate(&path, name);
        }
        if name.is_empty() {
            faults.required(&path, "");
        } else {
            each_invalid(faults, &path, name, names::label_value(name));
        }
    }
}
