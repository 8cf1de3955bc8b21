//! What an update that says nothing of them keeps: addresses and ports that were allocated to the service.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};

use crate::absent::{list, list_mut, text};
use crate::core::service::{is_externally_accessible, needs_cluster_ip, needs_health_check, needs_node_port};

/// Keeps what the old service has, and makes `clusterIP` and `clusterIPs` agree. What is missing then is allocated.
pub(super) fn carry(new: &mut Service, old: Option<&Service>) {
    let new = new.spec.get_or_insert_default();
    let Some(old) = old.and_then(|old| old.spec.as_ref()) else {
        if !text(&new.cluster_ip).is_empty() && list(&new.cluster_ips).is_empty() {
            new.cluster_ips = new.cluster_ip.clone().map(|address| vec![address]);
        }
        return;
    };
    keep_allocated(new, old);
    agree(new, old);
}

fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(&new.cluster_ip).is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if list(&new.cluster_ips).is_empty() && new.cluster_ip == old.cluster_ip {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        keep_node_ports(new, old);
    }
    if needs_health_check(old) && needs_health_check(new) && new.health_check_node_port.unwrap_or(0) == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

fn keep_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let same =
        |new: &ServicePort, old: &ServicePort| (text(&new.protocol), new.port) == (text(&old.protocol), old.port);
    let mut used: Vec<i32> = list(&new.ports).iter().filter_map(|port| port.node_port).collect();
    for port in list_mut(&mut new.ports).iter_mut().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let before = list(&old.ports).iter().find(|old| same(port, old)).and_then(|old| old.node_port);
        if let Some(node_port) = before.filter(|node_port| !used.contains(node_port)) {
            port.node_port = Some(node_port);
            used.push(node_port);
        }
    }
}

/// `clusterIP` is the first of `clusterIPs`; who changes one of the two means both.
fn agree(new: &mut ServiceSpec, old: &ServiceSpec) {
    let same_list = list(&new.cluster_ips) == list(&old.cluster_ips);
    let (single, old_single) = (text(&new.cluster_ip), text(&old.cluster_ip));
    if single == old_single {
        if list(&new.cluster_ips).is_empty() {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    } else if same_list {
        new.cluster_ips = (!single.is_empty()).then(|| vec![single.to_owned()]);
    }
}

/// Drops what the new type has no use for, unless the writer changed it at the same time.
pub(super) fn drop_dependent(new: &mut Service, old: &Service) {
    let (Some(new), Some(old)) = (&mut new.spec, &old.spec) else { return };
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        let same = text(&new.cluster_ip) == text(&old.cluster_ip) && list(&new.cluster_ips) == list(&old.cluster_ips);
        if same {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if needs_node_port(old) && !needs_node_port(new) && same_node_ports(new, old) {
        for port in list_mut(&mut new.ports) {
            port.node_port = None;
        }
    }
    if needs_health_check(old) && !needs_health_check(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    if text(&old.type_) == "LoadBalancer" && text(&new.type_) != "LoadBalancer" {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    let same_policy = new.external_traffic_policy == old.external_traffic_policy;
    if is_externally_accessible(old) && !is_externally_accessible(new) && same_policy {
        new.external_traffic_policy = None;
    }
}

fn same_node_ports(new: &ServiceSpec, old: &ServiceSpec) -> bool {
    let ports = |spec: &ServiceSpec| -> std::collections::BTreeSet<i32> {
        list(&spec.ports).iter().filter_map(|port| port.node_port.filter(|node_port| *node_port != 0)).collect()
    };
    ports(new) == ports(old)
}
