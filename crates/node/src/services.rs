//! Variables that tell a container where Services are. Pure.
//!
//! Upstream: `pkg/kubelet/envvars`: Services of the pod's namespace, and always the API server's own.

use api::projection::ServiceLite;

/// The variables for `services`, in their order.
pub fn variables<'s>(services: impl Iterator<Item = &'s ServiceLite>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        let Some(ip) = service.cluster_ips.first().filter(|ip| !ip.is_empty() && ip.as_ref() != "None") else {
            continue;
        };
        let name = service.meta.name.to_uppercase().replace('-', "_");
        let Some(first) = service.ports.first() else { continue };
        out.push((format!("{name}_SERVICE_HOST"), ip.to_string()));
        out.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            let port_name = port.name.to_uppercase().replace('-', "_");
            out.push((format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string()));
        }
        let protocol = |protocol: &str| if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_lowercase() };
        out.push((format!("{name}_PORT"), format!("{}://{ip}:{}", protocol(&first.protocol), first.port)));
        for port in &service.ports {
            let protocol = protocol(&port.protocol);
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.push((prefix.clone(), format!("{protocol}://{ip}:{}", port.port)));
            out.push((format!("{prefix}_PROTO"), protocol));
            out.push((format!("{prefix}_PORT"), port.port.to_string()));
            out.push((format!("{prefix}_ADDR"), ip.to_string()));
        }
    }
    out
}
