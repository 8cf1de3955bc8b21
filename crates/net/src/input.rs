//! What rules and names are made from: the few fields of Services and EndpointSlices that they need.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
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
        node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).unwrap_or_default(),
    })
}

fn endpoint_view(endpoint: &Endpoint) -> EndpointView {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    EndpointView {
        addresses: endpoint.addresses.clone(),
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        hostname: endpoint.hostname.clone().unwrap_or_default(),
        node_name: endpoint.node_name.clone().unwrap_or_default(),
        pod_uid: target.and_then(|target| target.uid.clone()).unwrap_or_default(),
    }
}

/// Paths of the fields of `service` that are set to something that nothing here honours yet.
fn unsupported_fields(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let mut paths = Vec::new();
    let mut note = |is_set: bool, path: &str| {
        if is_set {
            paths.push(path.to_owned());
        }
    };
    note(spec.session_affinity.as_deref() == Some("ClientIP"), "spec.sessionAffinity");
    note(spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()), "spec.externalIPs");
    note(spec.traffic_distribution.is_some(), "spec.trafficDistribution");
    note(
        spec.load_balancer_source_ranges.as_ref().is_some_and(|ranges| !ranges.is_empty()),
        "spec.loadBalancerSourceRanges",
    );
    note(spec.external_traffic_policy.as_deref() == Some("Local"), "spec.externalTrafficPolicy");
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        note(port.node_port.is_some_and(|port| port != 0), &format!("spec.ports[{index}].nodePort"));
        note(Protocol::named(port.protocol.as_deref()).is_none(), &format!("spec.ports[{index}].protocol"));
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        note(ip.contains(':'), &format!("spec.clusterIPs[{index}]"));
    }
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    note(ingress.is_some_and(|ingress| !ingress.is_empty()), "status.loadBalancer.ingress");
    paths
}

/// All Services and slices of the cluster, as one node knows them. Cheap to copy and to compare with its successor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// The Services.
    pub services: BTreeMap<ObjectKey, Arc<ServiceView>>,
    /// The slices.
    pub slices: BTreeMap<ObjectKey, Arc<SliceView>>,
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
        }
    }

    /// This state as seen by a node that knows some pods to be ending before the cluster does.
    pub fn with_ending(&self, ending: &std::collections::BTreeSet<String>) -> NetState {
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
        assert_eq!(
            view.unsupported,
            ["spec.sessionAffinity", "spec.externalIPs", "spec.ports[0].nodePort", "spec.clusterIPs[1]"]
        );
        let text = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<ServiceView>(&text).unwrap(), view);
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
