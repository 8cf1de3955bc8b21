//! Endpoints: where a service's traffic goes, in the older form that EndpointSlice replaces.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};

use crate::absent::{default_text, list, list_mut, text};
use crate::base::{CORE, stored};
use crate::columns::{NONE, age, column, first_three, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Writer};
use crate::faults::{each_invalid, required_choice};
use crate::names;

pub static ENDPOINTS: ResourceDef<Endpoints> = ResourceDef {
    default,
    validate,
    columns: &[name(), column("Endpoints", "string", "Addresses that are ready, with their ports.", addresses), age()],
    ..ResourceDef::plain(Facts {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        backing: stored("services/endpoints"),
        ..CORE
    })
};

fn addresses(endpoints: &Endpoints) -> Cell {
    let subsets = list(&endpoints.subsets);
    if subsets.is_empty() {
        return Cell::Text(NONE.to_owned());
    }
    let shown: Vec<String> = subsets.iter().flat_map(subset_addresses).collect();
    first_three(&shown, "")
}

fn subset_addresses(subset: &EndpointSubset) -> Vec<String> {
    let ready = list(&subset.addresses);
    let ports = list(&subset.ports);
    if ports.is_empty() {
        return ready.iter().map(|address| address.ip.clone()).collect();
    }
    let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    ports
        .iter()
        .flat_map(|port| ready.iter().map(move |address| format!("{}:{}", host(&address.ip), port.port)))
        .collect()
}

fn default(endpoints: &mut Endpoints, _: &Rules<'_>) {
    for subset in list_mut(&mut endpoints.subsets) {
        for port in list_mut(&mut subset.ports) {
            default_text(&mut port.protocol, "TCP");
        }
    }
}

fn validate(new: &Endpoints, _: Option<&Endpoints>, _: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let subsets = Path::new("subsets");
    for (index, subset) in list(&new.subsets).iter().enumerate() {
        validate_subset(subset, &subsets.index(index), faults);
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path<'_>, faults: &mut FieldErrors) {
    let (ready, not_ready, ports) = (list(&subset.addresses), list(&subset.not_ready_addresses), list(&subset.ports));
    if ready.is_empty() && not_ready.is_empty() {
        faults.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (index, address) in addresses.iter().enumerate() {
            validate_address(address, &path.child(field).index(index), faults);
        }
    }
    for (index, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.child("ports").index(index), faults);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path<'_>, faults: &mut FieldErrors) {
    names::check_ip(faults, &path.child("ip"), &address.ip);
    let hostname = text(&address.hostname);
    if !hostname.is_empty() {
        each_invalid(faults, &path.child("hostname"), hostname, names::dns_label(hostname));
    }
    if let Some(node) = &address.node_name {
        each_invalid(faults, &path.child("nodeName"), node, names::dns_subdomain(node));
    }
    names::check_non_special_ip(faults, &path.child("ip"), &address.ip);
}

fn validate_port(port: &EndpointPort, name_required: bool, path: &Path<'_>, faults: &mut FieldErrors) {
    let name = text(&port.name);
    if !name.is_empty() {
        each_invalid(faults, &path.child("name"), name, names::dns_label(name));
    } else if name_required {
        faults.required(&path.child("name"), "");
    }
    each_invalid(faults, &path.child("port"), &port.port, names::port(port.port.into()));
    required_choice(faults, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
    if let Some(protocol) = &port.app_protocol {
        each_invalid(faults, &path.child("appProtocol"), protocol, names::qualified(protocol));
    }
}
