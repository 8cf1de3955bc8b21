//! Rules for services.

use std::collections::BTreeSet;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::absent::{entry, list, text};
use crate::core::pod::probes;
use crate::core::service::{addresses, is_externally_accessible, is_headless, needs_health_check};
use crate::def::{Rules, Writer};
use crate::faults::{IMMUTABLE, choice, each_invalid, required_choice};
use crate::{meta, names};

/// A day.
const STICKY_SECONDS_MAX: i32 = 86400;
const ONLY_BALANCER: &str = "may only be used when `type` is 'LoadBalancer'";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Judges a service.
pub(crate) fn validate(new: &Service, old: Option<&Service>, writer: Writer, _: &Rules<'_>, faults: &mut FieldErrors) {
    let spec = new.spec.clone().unwrap_or_default();
    if writer == Writer::Status {
        return validate_status(new, &spec, faults);
    }
    let path = Path::new("spec");
    if let Some(old) = old {
        validate_update(&spec, &old.spec.clone().unwrap_or_default(), &path, faults);
    }
    validate_topology(new, faults);
    validate_type(&spec, &path, faults);
    validate_ports(&spec, &path.child("ports"), faults);
    meta::validate_labels(&spec.selector, &path.child("selector"), faults);
    validate_affinity(&spec, &path, faults);
    addresses::validate(&spec, &path, faults);
    let external = path.child("externalIPs");
    for (index, address) in list(&spec.external_ips).iter().enumerate() {
        let before = faults.len();
        names::check_ip(faults, &external.index(index), address);
        if faults.len() == before {
            names::check_non_special_ip(faults, &external.index(index), address);
        }
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_choice(faults, &path.child("type"), text(&spec.type_), &types);
    validate_node_ports(&spec, &path.child("ports"), faults);
    validate_source_ranges(new, &spec, &path, faults);
    validate_balancer(&spec, &path, faults);
    validate_traffic(&spec, &path, faults);
}

fn validate_topology(service: &Service, faults: &mut FieldErrors) {
    let (hints, mode) = ("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode");
    let annotations = &service.metadata.annotations;
    if let (Some(hints_value), Some(mode_value)) = (entry(annotations, hints), entry(annotations, mode))
        && hints_value != mode_value
    {
        let metadata = Path::new("metadata");
        let path = metadata.child("annotations");
        faults.invalid(&path.key(mode), mode_value, format!("must match annotations[{hints}] when both are specified"));
    }
}

fn validate_type(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let type_ = text(&spec.type_);
    if list(&spec.ports).is_empty() && !is_headless(spec) && type_ != "ExternalName" {
        faults.required(&path.child("ports"), "");
    }
    match type_ {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let why = format!("may not be set to 'None' for {type_} services");
            faults.invalid(&path.child("clusterIPs").index(0), "None", why);
        }
        "ExternalName" => validate_external_name(spec, path, faults),
        _ => {}
    }
}

fn validate_external_name(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, set) in [
        ("clusterIPs", !list(&spec.cluster_ips).is_empty()),
        ("ipFamilies", !list(&spec.ip_families).is_empty()),
        ("ipFamilyPolicy", spec.ip_family_policy.is_some()),
    ] {
        if set {
            faults.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let name = text(&spec.external_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        faults.required(&path.child("externalName"), "");
    } else {
        each_invalid(faults, &path.child("externalName"), name, names::dns_subdomain(name));
    }
}

fn validate_ports(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let ports = list(&spec.ports);
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port.name);
        if name.is_empty() {
            if ports.len() > 1 {
                faults.required(&path.child("name"), "");
            }
        } else {
            each_invalid(faults, &path.child("name"), name, names::dns_label(name));
            if !seen.insert(name) {
                faults.duplicate(&path.child("name"), name);
            }
        }
        each_invalid(faults, &path.child("port"), &port.port, names::port(port.port.into()));
        required_choice(faults, &path.child("protocol"), text(&port.protocol), &["SCTP", "TCP", "UDP"]);
        let target = port.target_port.clone().unwrap_or(IntOrString::Int(0));
        probes::validate_port(&target, &path.child("targetPort"), faults);
        if let Some(protocol) = &port.app_protocol {
            each_invalid(faults, &path.child("appProtocol"), protocol, names::qualified(protocol));
        }
    }
}

fn validate_node_ports(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let ports = list(&spec.ports);
    let node_port = |port: &ServicePort| port.node_port.unwrap_or(0);
    for (index, port) in ports.iter().enumerate().filter(|(_, port)| node_port(port) != 0) {
        let path = path.index(index);
        if text(&spec.type_) == "ClusterIP" {
            faults.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        let same = |earlier: &ServicePort| {
            (text(&earlier.protocol), node_port(earlier)) == (text(&port.protocol), node_port(port))
        };
        if ports[..index].iter().any(same) {
            faults.duplicate(&path.child("nodePort"), &node_port(port));
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let same = |earlier: &ServicePort| (text(&earlier.protocol), earlier.port) == (text(&port.protocol), port.port);
        if ports[..index].iter().any(same) {
            let key = ServicePort { port: port.port, protocol: port.protocol.clone(), ..ServicePort::default() };
            faults.duplicate(&path.index(index), &key);
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let affinity = text(&spec.session_affinity);
    required_choice(faults, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("None", Some(_)) => faults.forbidden(&config_path, "must not be set when session affinity is None"),
        ("ClientIP", config) => {
            let why = "when session affinity type is ClientIP";
            let client_path = config_path.child("clientIP");
            let seconds_path = client_path.child("timeoutSeconds");
            match config.as_ref().map(|config| config.client_ip.as_ref().map(|client| client.timeout_seconds)) {
                None => faults.required(&config_path, why),
                Some(None) => faults.required(&client_path, why),
                Some(Some(None)) => faults.required(&seconds_path, why),
                Some(Some(Some(seconds))) if !(1..=STICKY_SECONDS_MAX).contains(&seconds) => {
                    let why = format!("must be greater than 0 and less than {STICKY_SECONDS_MAX}");
                    faults.invalid(&seconds_path, &seconds, why);
                }
                Some(Some(Some(_))) => {}
            }
        }
        _ => {}
    }
}

fn validate_source_ranges(service: &Service, spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let ranges = list(&spec.load_balancer_source_ranges);
    let balanced = text(&spec.type_) == "LoadBalancer";
    if !ranges.is_empty() {
        let path = path.child("LoadBalancerSourceRanges");
        if !balanced {
            faults.forbidden(&path, ONLY_BALANCER);
        }
        for (index, range) in ranges.iter().enumerate() {
            names::check_cidr(faults, &path.index(index), range.trim());
        }
    } else if let Some(ranges) = entry(&service.metadata.annotations, SOURCE_RANGES) {
        let metadata = Path::new("metadata");
        let annotations = metadata.child("annotations");
        let path = annotations.key(SOURCE_RANGES);
        if !balanced {
            faults.forbidden(&path, ONLY_BALANCER);
        }
        for range in ranges.split(',').map(str::trim).filter(|_| !ranges.trim().is_empty()) {
            names::check_cidr(faults, &path, range);
        }
    }
}

fn validate_balancer(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let balanced = text(&spec.type_) == "LoadBalancer";
    match (balanced, spec.allocate_load_balancer_node_ports) {
        (false, Some(_)) => faults.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCER),
        (true, None) => faults.required(&Path::new("allocateLoadBalancerNodePorts"), ""),
        _ => {}
    }
    match &spec.load_balancer_class {
        Some(class) if balanced => {
            each_invalid(faults, &path.child("loadBalancerClass"), class, names::qualified(class));
        }
        Some(_) => faults.forbidden(&path.child("loadBalancerClass"), ONLY_BALANCER),
        None => {}
    }
}

fn validate_traffic(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let external = text(&spec.external_traffic_policy);
    let external_path = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        required_choice(faults, &external_path, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        faults.invalid(&external_path, external, "may only be set for externally-accessible services");
    }
    let health_port = spec.health_check_node_port.unwrap_or(0);
    let health_path = path.child("healthCheckNodePort");
    if !needs_health_check(spec) {
        if health_port != 0 {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            faults.invalid(&health_path, &health_port, why);
        }
    } else if health_port != 0 {
        // A missing one is allocated.
        each_invalid(faults, &health_path, &health_port, names::port(health_port.into()));
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        Some(policy) => choice(faults, &internal_path, policy, &["Cluster", "Local"]),
        None if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&text(&spec.type_)) => {
            faults.required(&internal_path, "");
        }
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let known = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        choice(faults, &path.child("trafficDistribution"), distribution, &known);
    }
}

fn validate_update(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    addresses::validate_update(new, old, path, faults);
    let balanced = [new, old].iter().all(|spec| text(&spec.type_) == "LoadBalancer");
    if balanced && new.load_balancer_class != old.load_balancer_class {
        let class = new.load_balancer_class.as_deref().unwrap_or("null");
        faults.invalid(&path.child("loadBalancerClass"), class, "may not change once set");
    }
    let same_port = new.health_check_node_port == old.health_check_node_port;
    if needs_health_check(new) && needs_health_check(old) && !same_port {
        faults.forbidden(&path.child("healthCheckNodePort"), IMMUTABLE);
    }
}

fn validate_status(service: &Service, spec: &ServiceSpec, faults: &mut FieldErrors) {
    let status = Path::new("status");
    let path = status.child("loadBalancer.ingress");
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.map_or(&[][..], |balancer| list(&balancer.ingress));
    if text(&spec.type_) != "LoadBalancer" && !ingress.is_empty() {
        return faults.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
    }
    for (index, ingress) in ingress.iter().enumerate() {
        validate_ingress(ingress, &path.index(index), faults);
    }
}

fn validate_ingress(ingress: &LoadBalancerIngress, path: &Path<'_>, faults: &mut FieldErrors) {
    let (ip, hostname) = (text(&ingress.ip), text(&ingress.hostname));
    if !ip.is_empty() {
        names::check_ip(faults, &path.child("ip"), ip);
    }
    let mode_path = path.child("ipMode");
    match &ingress.ip_mode {
        None if !ip.is_empty() => faults.required(&mode_path, "must be specified when `ip` is set"),
        None => {}
        Some(_) if ip.is_empty() => faults.forbidden(&mode_path, "may not be specified when `ip` is not set"),
        Some(mode) => choice(faults, &mode_path, mode, &["Proxy", "VIP"]),
    }
    if !hostname.is_empty() {
        each_invalid(faults, &path.child("hostname"), hostname, names::dns_subdomain(hostname));
        if names::parse_ip(hostname).is_some() {
            faults.invalid(&path.child("hostname"), hostname, "must be a DNS name, not an IP address");
        }
    }
}
