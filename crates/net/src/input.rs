//! What rules and names are made from: the few fields of Services and EndpointSlices that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cni::Cidr;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use serde::{Deserialize, Serialize};

/// The label by which a slice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The label by which a Service asks for another proxy than the node's own.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> ObjectKey {
        ObjectKey { namespace: namespace.into(), name: name.into() }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that Services have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The protocol called `name` in the API; absent means TCP.
    pub fn named(name: Option<&str>) -> Option<Protocol> {
        match name {
            None | Some("TCP") => Some(Protocol::Tcp),
            Some("UDP") => Some(Protocol::Udp),
            Some("SCTP") => Some(Protocol::Sctp),
            Some(_) => None,
        }
    }

    /// Lower case, as in names of DNS and of chains.
    pub fn lower(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// Its number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }
}

/// What a Service is reached by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// An address of the cluster, or none (headless).
    #[default]
    ClusterIP,
    /// Also a port of every node.
    NodePort,
    /// Also an address outside of the cluster.
    LoadBalancer,
    /// A name elsewhere.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortView {
    /// Its name; empty when it is the only one and has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number clients use.
    pub port: u16,
    /// The port of every node that leads to it; 0 when none does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub node_port: u16,
}

/// The fields of a Service that rules and names depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Which one.
    pub key: ObjectKey,
    /// How it is reached.
    pub kind: ServiceType,
    /// Its addresses; empty when it is headless, has a name elsewhere, or has none yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<IpAddr>,
    /// Whether `clusterIP: None` was asked for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub headless: bool,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortView>,
    /// The name elsewhere, of an ExternalName.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_name: String,
    /// Only endpoints on the client's own node serve (`internalTrafficPolicy: Local`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub local_only: bool,
    /// Addresses outside of the cluster that somebody routes to its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// Addresses of its load balancer that reach nodes untranslated (`ipMode: VIP`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub balancer_ips: Vec<IpAddr>,
    /// Who may use the load balancer's addresses; all when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_ranges: Vec<Cidr>,
    /// Clients outside of the cluster are served by the endpoints of the node they came to, which see their own
    /// addresses (`externalTrafficPolicy: Local`).
    #[serde(default, skip_serializing_if = "is_false")]
    pub external_local: bool,
    /// For how many seconds a client stays with its endpoint; 0 when it does not.
    #[serde(default, skip_serializing_if = "is_zero_seconds")]
    pub affinity_seconds: u32,
    /// The node's port on which load balancers ask whether an endpoint is on this node; 0 when there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub health_check_node_port: u16,
    /// The proxy that it asks for instead of the node's own; empty when none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub proxy_name: String,
    /// Paths of fields that are set and that nothing here honours yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<String>,
}

/// A port of a slice's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePortView {
    /// The Service port it stands for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number the endpoints listen on.
    pub port: u16,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Where it is; as upstream's consumers do, the first is used and the others are for readers.
    pub addresses: Vec<String>,
    /// It takes new connections.
    pub ready: bool,
    /// It would be ready, were it not terminating.
    pub serving: bool,
    /// It is about to end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub terminating: bool,
    /// Its name under the Service's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// The uid of the pod behind it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// The zones whose clients should use it; empty when that was not said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub for_zones: Vec<String>,
    /// The nodes whose clients should use it; empty when that was not said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub for_nodes: Vec<String>,
}

impl EndpointView {
    /// The address that is used.
    pub fn address(&self) -> Option<IpAddr> {
        self.addresses.first()?.parse().ok()
    }
}

/// The fields of an EndpointSlice that rules and names depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceView {
    /// Which one.
    pub key: ObjectKey,
    /// The Service it belongs to; in the same namespace.
    pub service: String,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<SlicePortView>,
    /// Its endpoints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointView>,
}

impl SliceView {
    /// The key of the Service it belongs to.
    pub fn service_key(&self) -> ObjectKey {
        ObjectKey::new(&self.key.namespace, &self.service)
    }

    /// The fields of `slice` that count here; `None` when it belongs to no Service or lists names instead of addresses.
    pub fn from_slice(slice: &EndpointSlice) -> Option<SliceView> {
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
        if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            // A port without a number means "all ports", which only a proxy that knows more than Services can use.
            Some(SlicePortView {
                name: port.name.clone().unwrap_or_default(),
                protocol: Protocol::named(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok().filter(|port| *port != 0)?,
            })
        });
        Some(SliceView {
            key: key_of(&slice.metadata),
            service: service.clone(),
            ports: ports.collect(),
            endpoints: slice.endpoints.iter().flatten().map(endpoint_view).collect(),
        })
    }
}

impl ServiceView {
    /// The fields of `service` that count here.
    pub fn from_service(service: &Service) -> ServiceView {
        let spec = service.spec.clone().unwrap_or_default();
        let listed = spec.cluster_ips.clone().unwrap_or_default();
        let texts = if listed.is_empty() { spec.cluster_ip.iter().cloned().collect() } else { listed };
        let labels = service.metadata.labels.as_ref();
        let kind = match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIP,
        };
        ServiceView {
            key: key_of(&service.metadata),
            kind,
            headless: texts.first().is_some_and(|text| text == "None"),
            cluster_ips: texts.iter().filter_map(|text| text.parse().ok()).collect(),
            ports: spec.ports.iter().flatten().filter_map(port_view).collect(),
            external_name: spec.external_name.clone().unwrap_or_default(),
            local_only: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_ips: spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok()).collect(),
            balancer_ips: if kind == ServiceType::LoadBalancer { balancer_ips(service) } else { Vec::new() },
            source_ranges: if kind == ServiceType::LoadBalancer { source_ranges(service, &spec) } else { Vec::new() },
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity_seconds: affinity_seconds(&spec),
            health_check_node_port: port_number(spec.health_check_node_port),
            proxy_name: labels.and_then(|labels| labels.get(PROXY_NAME_LABEL)).cloned().unwrap_or_default(),
            unsupported: unsupported_fields(service),
        }
    }
}

fn key_of(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> ObjectKey {
    ObjectKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

fn port_view(port: &ServicePort) -> Option<PortView> {
    Some(PortView {
        name: port.name.clone().unwrap_or_default(),
        protocol: Protocol::named(port.protocol.as_deref())?,
        port: u16::try_from(port.port).ok().filter(|port| *port != 0)?,
        node_port: port_number(port.node_port),
    })
}

fn port_number(number: Option<i32>) -> u16 {
    number.and_then(|number| u16::try_from(number).ok()).unwrap_or_default()
}

/// Upstream's default, for a Service that was stored without its defaults.
const AFFINITY_SECONDS_DEFAULT: u32 = 10_800;

fn affinity_seconds(spec: &ServiceSpec) -> u32 {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return 0;
    }
    let said = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    said.and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(AFFINITY_SECONDS_DEFAULT)
}

/// The addresses of the load balancer that packets still bear when they reach a node.
fn balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let reaches_nodes = status.into_iter().flatten().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    reaches_nodes.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

/// The annotation that said what `loadBalancerSourceRanges` says, before there was that field.
const SOURCE_RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn source_ranges(service: &Service, spec: &ServiceSpec) -> Vec<Cidr> {
    let listed = spec.load_balancer_source_ranges.iter().flatten().map(String::as_str);
    let ranges: Vec<Cidr> = listed.filter_map(|range| range.trim().parse().ok()).collect();
    if !ranges.is_empty() {
        return ranges;
    }
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES_ANNOTATION));
    annotation.iter().flat_map(|text| text.split(',')).filter_map(|range| range.trim().parse().ok()).collect()
}

fn endpoint_view(endpoint: &Endpoint) -> EndpointView {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let hints = endpoint.hints.clone().unwrap_or_default();
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    EndpointView {
        addresses: endpoint.addresses.clone(),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        node_name: endpoint.node_name.clone().unwrap_or_default(),
        pod_uid: target.and_then(|target| target.uid.clone()).unwrap_or_default(),
        for_zones: hints.for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
        for_nodes: hints.for_nodes.into_iter().flatten().map(|node| node.name).collect(),
    }
}

/// Paths of the fields of `service` that are set to something that nothing here honours yet: addresses of IPv6.
fn unsupported_fields(service: &Service) -> Vec<String> {
    let spec = service.spec.clone().unwrap_or_default();
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.clone());
    let ingress = status.unwrap_or_default().into_iter().map(|ingress| ingress.ip.unwrap_or_default()).collect();
    let lists = [
        ("spec.clusterIPs", spec.cluster_ips.unwrap_or_default()),
        ("spec.externalIPs", spec.external_ips.unwrap_or_default()),
        ("spec.loadBalancerSourceRanges", spec.load_balancer_source_ranges.unwrap_or_default()),
        ("status.loadBalancer.ingress", ingress),
    ];
    let mut paths = Vec::new();
    for (path, texts) in lists {
        let sixes = texts.iter().enumerate().filter(|(_, text)| text.contains(':'));
        paths.extend(sixes.map(|(index, _)| format!("{path}[{index}]")));
    }
    paths
}

/// All Services and slices of the cluster, as one node knows them. Cheap to copy and to compare with its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// The Services.
    pub services: BTreeMap<ObjectKey, Arc<ServiceView>>,
    /// The slices.
    pub slices: BTreeMap<ObjectKey, Arc<SliceView>>,
    /// The namespaces: names in one that does not exist do not exist either.
    pub namespaces: BTreeSet<String>,
    /// The zone that this node is in; empty when it is in none.
    pub zone: String,
}

impl NetState {
    /// A state of these Services and slices.
    pub fn new(
        services: impl IntoIterator<Item = ServiceView>,
        slices: impl IntoIterator<Item = SliceView>,
    ) -> NetState {
        NetState {
            services: services.into_iter().map(|view| (view.key.clone(), Arc::new(view))).collect(),
            slices: slices.into_iter().map(|view| (view.key.clone(), Arc::new(view))).collect(),
            ..NetState::default()
        }
    }

    /// The same with these namespaces, on a node of this zone.
    pub fn within(self, namespaces: impl IntoIterator<Item = String>, zone: impl Into<String>) -> NetState {
        NetState { namespaces: namespaces.into_iter().collect(), zone: zone.into(), ..self }
    }

    /// This state as seen by a node that knows some pods to be ending before the cluster does.
    pub fn with_ending(&self, ending: &BTreeSet<String>) -> NetState {
        let mut state = self.clone();
        let concerns = |endpoint: &EndpointView| !endpoint.pod_uid.is_empty() && ending.contains(&endpoint.pod_uid);
        for slice in state.slices.values_mut().filter(|slice| slice.endpoints.iter().any(concerns)) {
            for endpoint in Arc::make_mut(slice).endpoints.iter_mut().filter(|endpoint| concerns(endpoint)) {
                endpoint.ready = false;
                endpoint.terminating = true;
            }
        }
        state
    }
}

fn is_zero(number: &u16) -> bool {
    *number == 0
}

fn is_zero_seconds(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_reduced_to_what_counts_and_says_what_is_ignored() {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "web", "labels": {PROXY_NAME_LABEL: "mine"}},
            "spec": {
                "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
                "sessionAffinity": "ClientIP", "externalIPs": ["1.2.3.4"], "internalTrafficPolicy": "Local",
                "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]
            }
        }));
        let view = ServiceView::from_service(&service.unwrap());
        assert_eq!(view.key, ObjectKey::new("a", "web"));
        assert_eq!(view.cluster_ips.len(), 2);
        assert!(view.local_only && !view.headless);
        assert_eq!(
            view.ports[0],
            PortView { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 30080 }
        );
        assert_eq!(view.ports[1].protocol, Protocol::Udp);
        assert_eq!(view.proxy_name, "mine");
        assert_eq!((view.affinity_seconds, view.external_ips.len()), (10_800, 1));
        assert_eq!(view.unsupported, ["spec.clusterIPs[1]"]);
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<ServiceView>(&text).unwrap(), view);
    }

    #[test]
    fn a_balanced_service_is_reached_by_what_its_balancer_leaves_untranslated() {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "web"},
            "spec": {
                "type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
                "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}},
                "loadBalancerSourceRanges": ["192.0.2.0/24 "]
            },
            "status": {"loadBalancer": {"ingress": [
                {"ip": "203.0.113.1", "ipMode": "VIP"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}
            ]}}
        }));
        let view = ServiceView::from_service(&service.unwrap());
        assert_eq!(view.balancer_ips, ["203.0.113.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(view.source_ranges, ["192.0.2.0/24".parse().unwrap()]);
        assert_eq!((view.affinity_seconds, view.health_check_node_port, view.external_local), (7, 31000, true));
        assert!(view.unsupported.is_empty());
    }

    #[test]
    fn a_plain_service_ignores_nothing() {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "web"},
            "spec": {
                "type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "publishNotReadyAddresses": true
            }
        }));
        let view = ServiceView::from_service(&service.unwrap());
        assert!(view.headless && view.cluster_ips.is_empty() && view.unsupported.is_empty());
    }

    #[test]
    fn a_slice_is_reduced_with_upstreams_meaning_of_absent_conditions() {
        let slice = serde_json::from_value(json!({
            "metadata": {"namespace": "a", "name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 3000, "protocol": "TCP"}, {"name": "any", "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.0.0.2"], "targetRef": {"kind": "Pod", "name": "p", "uid": "u1"}, "nodeName": "n"},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}}
            ]
        }));
        let view = SliceView::from_slice(&slice.unwrap()).unwrap();
        assert_eq!(view.ports.len(), 1, "a port without a number stands for no Service port");
        assert!(view.endpoints[0].ready && view.endpoints[0].serving && !view.endpoints[0].terminating);
        assert!(!view.endpoints[1].ready && view.endpoints[1].terminating);
        let state = NetState::new([], [view]).with_ending(&["u1".to_owned()].into());
        let changed = state.slices.values().next().unwrap();
        assert!(!changed.endpoints[0].ready && changed.endpoints[0].serving && changed.endpoints[0].terminating);
    }
}
