//! Service: a stable address for pods that come and go.

mod addresses;
mod carry;
mod rules;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::absent::{default_text, list, list_mut, text};
use crate::base::{CORE, stored};
use crate::columns::{NONE, age, column, labels, name, or_none, wide};
use crate::def::{Cell, Facts, ResourceDef, Rules, Selectable, Subresource, Writer};
use crate::names;

/// How long a client stays with one endpoint.
const STICKY_SECONDS: i32 = 3 * 60 * 60;

pub static SERVICE: ResourceDef<Service> = ResourceDef {
    name_faults: |name, generate| {
        let faults = names::dns_1035_label(name);
        if generate && name.ends_with('-') {
            names::dns_1035_label(&format!("{}a", &name[..name.len() - 1]))
        } else {
            faults
        }
    },
    selectable: &[
        Selectable {
            field: "spec.clusterIP",
            value: |service| of_spec(service, |spec| text(&spec.cluster_ip)).to_owned(),
        },
        Selectable { field: "spec.type", value: |service| of_spec(service, |spec| text(&spec.type_)).to_owned() },
    ],
    default,
    reset,
    validate: rules::validate,
    warnings,
    columns: &[
        name(),
        column("Type", "string", "How the service is reached.", |service| {
            Cell::Text(of_spec(service, |spec| text(&spec.type_)).to_owned())
        }),
        column("Cluster-IP", "string", "Address within the cluster.", |service| {
            or_none(of_spec(service, |spec| list(&spec.cluster_ips).first().map_or("", String::as_str)))
        }),
        column("External-IP", "string", "Addresses outside the cluster.", |service| Cell::Text(external_ip(service))),
        column("Port(s)", "string", "Ports of the service, and of nodes where it has any.", |service| {
            or_none(&ports(service))
        }),
        age(),
        wide("Selector", "string", "Labels of the pods behind the service.", |service| {
            service.spec.as_ref().map_or(or_none(""), |spec| labels(&spec.selector))
        }),
    ],
    ..ResourceDef::plain(Facts {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        backing: stored("services/specs"),
        subresources: &[
            Subresource::Other {
                name: "proxy",
                kind: ("", "v1", "ServiceProxyOptions"),
                verbs: &["create", "delete", "get", "patch", "update"],
            },
            Subresource::Status,
        ],
        ..CORE
    })
};

fn of_spec<'a>(service: &'a Service, field: fn(&'a ServiceSpec) -> &'a str) -> &'a str {
    service.spec.as_ref().map_or("", field)
}

fn ports(service: &Service) -> String {
    let ports = service.spec.as_ref().map_or(&[][..], |spec| list(&spec.ports));
    let shown = ports.iter().map(|port| match port.node_port.unwrap_or(0) {
        node_port if node_port > 0 => format!("{}:{node_port}/{}", port.port, text(&port.protocol)),
        _ => format!("{}/{}", port.port, text(&port.protocol)),
    });
    shown.collect::<Vec<_>>().join(",")
}

fn external_ip(service: &Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let external = list(&spec.external_ips);
    match text(&spec.type_) {
        "ExternalName" => text(&spec.external_name).to_owned(),
        "ClusterIP" | "NodePort" if external.is_empty() => NONE.to_owned(),
        "ClusterIP" | "NodePort" => external.join(","),
        "LoadBalancer" => {
            let mut all: Vec<String> = balancer_addresses(service).into_iter().collect();
            all.extend_from_slice(external);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        _ => "<unknown>".to_owned(),
    }
}

fn balancer_addresses(service: &Service) -> BTreeSet<String> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.map_or(&[][..], |status| list(&status.ingress));
    let address = |ingress: &k8s_openapi::api::core::v1::LoadBalancerIngress| match text(&ingress.ip) {
        "" => text(&ingress.hostname).to_owned(),
        ip => ip.to_owned(),
    };
    ingress.iter().map(address).filter(|address| !address.is_empty()).collect()
}

/// Whether the service has node ports or a load balancer, or addresses that somebody else routes here.
fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    ["LoadBalancer", "NodePort"].contains(&text(&spec.type_))
        || (text(&spec.type_) == "ClusterIP" && !list(&spec.external_ips).is_empty())
}

fn needs_health_check(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    ["ClusterIP", "NodePort", "LoadBalancer"].contains(&text(&spec.type_))
}

fn needs_node_port(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "NodePort"
        || (text(&spec.type_) == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false))
}

fn is_headless(spec: &ServiceSpec) -> bool {
    list(&spec.cluster_ips) == ["None"]
}

fn default(service: &mut Service, _: &Rules<'_>) {
    let spec = service.spec.get_or_insert_default();
    default_text(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            config.client_ip.get_or_insert_default().timeout_seconds.get_or_insert(STICKY_SECONDS);
        }
        _ => {}
    }
    default_text(&mut spec.type_, "ClusterIP");
    for port in list_mut(&mut spec.ports) {
        default_text(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(name)) => name.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    if is_externally_accessible(spec) {
        default_text(&mut spec.external_traffic_policy, "Cluster");
    }
    if needs_cluster_ip(spec) && spec.internal_traffic_policy.is_none() {
        spec.internal_traffic_policy = Some("Cluster".to_owned());
    }
    if text(&spec.type_) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
        let status = service.status.as_mut().and_then(|status| status.load_balancer.as_mut());
        for ingress in status.map_or(&mut [][..], |status| list_mut(&mut status.ingress)) {
            if !text(&ingress.ip).is_empty() {
                ingress.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }
}

fn reset(new: &mut Service, old: Option<&Service>, writer: Writer, _: &Rules<'_>) {
    match old {
        None => {
            new.status = Some(Default::default());
            carry::carry(new, None);
        }
        Some(old) if writer == Writer::Status => new.spec.clone_from(&old.spec),
        Some(old) => {
            new.status.clone_from(&old.status);
            carry::carry(new, Some(old));
            carry::drop_dependent(new, old);
        }
    }
}

fn warnings(new: &Service, _: Option<&Service>) -> Vec<String> {
    let Some(spec) = &new.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    let hints = "service.kubernetes.io/topology-aware-hints";
    if crate::absent::entry(&new.metadata.annotations, hints).is_some() {
        warnings.push(format!("metadata.annotations[{hints}]: annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    if text(&spec.type_) == "ExternalName" && !list(&spec.external_ips).is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if text(&spec.type_) != "ExternalName" && !text(&spec.external_name).is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if is_headless(spec) {
        if !text(&spec.load_balancer_ip).is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !list(&spec.external_ips).is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(&spec.session_affinity) != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    warnings
}
