//! What is decided by of a service.

use std::sync::Arc;

use super::{Fields, IntOrText, Meta, Projection, ReadError, Reader, Texts};

/// An entry of `spec.ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    pub name: Box<str>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    pub app_protocol: Box<str>,
    pub port: i32,
    pub target_port: IntOrText,
    /// 0 if there is none.
    pub node_port: i32,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceLite {
    pub meta: Arc<Meta>,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: Box<str>,
    /// `None` if the service has no selector, which is not the same as an empty one.
    pub selector: Option<Texts>,
    pub ports: Vec<ServicePort>,
    /// Empty before they are assigned; `None` alone for a headless service.
    pub cluster_ips: Vec<Box<str>>,
    pub ip_families: Vec<Box<str>>,
    pub external_ips: Vec<Box<str>>,
    pub ingress_ips: Vec<Box<str>>,
    pub external_name: Box<str>,
    pub publish_not_ready_addresses: bool,
    pub traffic: ServiceTraffic,
}

/// How a service's traffic is spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// `Cluster` or `Local`.
    pub external_policy: Box<str>,
    /// `Cluster` or `Local`.
    pub internal_policy: Box<str>,
    /// Such as `PreferClose`.
    pub distribution: Box<str>,
    /// `spec.sessionAffinity` is `ClientIP`: for so many seconds.
    pub client_ip_seconds: Option<i32>,
    pub health_check_node_port: i32,
    pub source_ranges: Vec<Box<str>>,
}

pub(super) const SERVICE: &Fields = &[(2, "spec"), (3, "status")];
pub(super) const SPEC: &Fields = &[
    (1, "ports"),
    (2, "selector"),
    (18, "clusterIPs"),
    (4, "type"),
    (5, "externalIPs"),
    (7, "sessionAffinity"),
    (9, "loadBalancerSourceRanges"),
    (10, "externalName"),
    (11, "externalTrafficPolicy"),
    (12, "healthCheckNodePort"),
    (13, "publishNotReadyAddresses"),
    (14, "sessionAffinityConfig"),
    (19, "ipFamilies"),
    (22, "internalTrafficPolicy"),
    (23, "trafficDistribution"),
];
pub(super) const PORT: &Fields =
    &[(1, "name"), (2, "protocol"), (6, "appProtocol"), (3, "port"), (4, "targetPort"), (5, "nodePort")];
pub(super) const AFFINITY: &Fields = &[(1, "clientIP")];
pub(super) const CLIENT_IP: &Fields = &[(1, "timeoutSeconds")];
pub(super) const STATUS: &Fields = &[(1, "loadBalancer")];
pub(super) const LOAD_BALANCER: &Fields = &[(1, "ingress")];
pub(super) const INGRESS: &Fields = &[(1, "ip")];

/// What a client is remembered for when the service does not say how long.
const CLIENT_IP_SECONDS: i32 = 10_800;

impl ServiceLite {
    /// Whether the service has no address of its own on purpose.
    pub fn is_headless(&self) -> bool {
        self.cluster_ips.first().is_some_and(|address| &**address == "None")
    }

    fn read_spec(&mut self, spec: Reader<'_>) -> Result<(), ReadError> {
        spec.fields(SPEC, |name, value| {
            match name {
                "ports" => self.ports.push(port(value)?),
                "selector" => self.selector.get_or_insert_default().read(value)?,
                "clusterIPs" => self.cluster_ips.push(value.boxed()?),
                "type" => self.kind = value.boxed()?,
                "externalIPs" => self.external_ips.push(value.boxed()?),
                "externalName" => self.external_name = value.boxed()?,
                "publishNotReadyAddresses" => self.publish_not_ready_addresses = value.truth()?,
                "ipFamilies" => self.ip_families.push(value.boxed()?),
                _ => self.traffic.read(name, value)?,
            }
            Ok(())
        })
    }

    fn read_status(&mut self, status: Reader<'_>) -> Result<(), ReadError> {
        status.fields(STATUS, |_, balancer| {
            balancer.fields(LOAD_BALANCER, |_, ingress| {
                ingress.fields(INGRESS, |_, address| {
                    self.ingress_ips.push(address.boxed()?);
                    Ok(())
                })
            })
        })
    }
}

impl ServiceTraffic {
    fn read(&mut self, name: &str, value: Reader<'_>) -> Result<(), ReadError> {
        match name {
            "externalTrafficPolicy" => self.external_policy = value.boxed()?,
            "internalTrafficPolicy" => self.internal_policy = value.boxed()?,
            "trafficDistribution" => self.distribution = value.boxed()?,
            "healthCheckNodePort" => self.health_check_node_port = value.int32()?,
            "loadBalancerSourceRanges" => self.source_ranges.push(value.boxed()?),
            "sessionAffinity" => {
                if value.text()? == "ClientIP" {
                    self.client_ip_seconds.get_or_insert(CLIENT_IP_SECONDS);
                }
            }
            // The configuration is there only beside `ClientIP`.
            _ => value.fields(AFFINITY, |_, client_ip| {
                client_ip.fields(CLIENT_IP, |_, seconds| {
                    self.client_ip_seconds = Some(seconds.int32()?);
                    Ok(())
                })
            })?,
        }
        Ok(())
    }
}

fn port(reader: Reader<'_>) -> Result<ServicePort, ReadError> {
    let mut port = ServicePort::default();
    reader.fields(PORT, |name, value| {
        match name {
            "name" => port.name = value.boxed()?,
            "protocol" => port.protocol = value.boxed()?,
            "appProtocol" => port.app_protocol = value.boxed()?,
            "port" => port.port = value.int32()?,
            "targetPort" => port.target_port = value.int_or_text()?,
            _ => port.node_port = value.int32()?,
        }
        Ok(())
    })?;
    Ok(port)
}

impl Projection for ServiceLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(SERVICE, |name, value| match name {
            "spec" => self.read_spec(value),
            _ => self.read_status(value),
        })
    }
}
