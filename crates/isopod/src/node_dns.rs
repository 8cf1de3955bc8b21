//! The Service by which pods find DNS: every node's data plane answers, and each node's pods ask their own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::projection::NodeLite;
use client::{Cache, Client, ClientError, Object, PatchKind, Snapshot, Target};
use cni::Cidr;
use serde_json::{Value, json};
use stdx::Backoff;

use crate::machine::Settings;

const NAME: &str = "kube-dns";
/// Endpoints in a slice. Upstream: `maxEndpoints`. Nodes beyond that ask others' data planes.
const ENDPOINTS_MAX: usize = 1000;

/// Where the data planes are, by node.
type Places = BTreeMap<String, IpAddr>;

/// Makes the Service and its slice, with this node's data plane behind them, which answers before the node is registered.
pub async fn publish(client: &Client, settings: &Settings) -> anyhow::Result<(String, IpAddr)> {
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let annotations = json!({"prometheus.io/port": "9153", "prometheus.io/scrape": "true"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": NAME, "namespace": "kube-system", "labels": labels, "annotations": annotations},
        "spec": {
            "clusterIP": settings.dns_address.to_string(),
            "ports": ports(|name, port, protocol| json!({"name": name, "port": port, "protocol": protocol, "targetPort": port})),
        },
    });
    let own = (settings.node_name.clone(), settings.gateway);
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": NAME, "namespace": "kube-system", "labels": {"kubernetes.io/service-name": NAME}},
        "endpoints": endpoints(&Places::from([own.clone()])),
        "ports": ports(|name, port, protocol| json!({"name": name, "port": port, "protocol": protocol})),
    });
    let services = Target::new("", "v1", "services").namespace("kube-system");
    create(client, services, &service).await.context("make the DNS Service")?;
    create(client, slices(), &slice).await.context("make the slice of the DNS Service")?;
    Ok(own)
}

fn ports(port: fn(&str, u16, &str) -> Value) -> [Value; 3] {
    [port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP"), port("metrics", crate::dataplane::METRICS_PORT, "TCP")]
}

fn slices() -> Target {
    Target::new("discovery.k8s.io", "v1", "endpointslices").namespace("kube-system")
}

/// Creates an object of `kube-system` unless it is there.
async fn create(client: &Client, target: Target, object: &Value) -> Result<(), ClientError> {
    // Looked up first: creating it again would be refused for its address, which is its own.
    if client.find(target.clone().name(NAME)).await?.is_some() {
        return Ok(());
    }
    client.create(target, object).await.map(drop)
}

/// Keeps the slice as the nodes are, until the task is dropped.
pub async fn keep(client: Client, nodes: Cache, own: (String, IpAddr)) {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let mut told = None;
    let mut seen = nodes.synced().await;
    loop {
        let wanted = places(&seen, own.clone());
        if told.as_ref() != Some(&wanted) {
            let body = json!({"endpoints": endpoints(&wanted)});
            let body = api::value::to_value(&body).unwrap_or_default();
            match client.patch(slices().name(NAME), PatchKind::Merge, &body).await {
                Ok(_) => {
                    backoff.succeed();
                    told = Some(wanted);
                }
                Err(error) => {
                    tracing::error!(%error, "the slice of the DNS Service is not as the nodes are");
                    stdx::sleep(backoff.fail()).await;
                    seen = nodes.snapshot();
                    continue;
                }
            }
        }
        seen = nodes.progressed(seen.revision()).await;
    }
}

fn places(nodes: &Snapshot, (name, own): (String, IpAddr)) -> Places {
    let mut places: Places = nodes.iter().filter_map(place).take(ENDPOINTS_MAX - 1).collect();
    places.insert(name, own);
    places
}

/// Where the data plane of a node answers: at the first address of its range. Agents of others than us bring none along.
fn place(node: &Arc<Object>) -> Option<(String, IpAddr)> {
    let range: Cidr = node.project::<NodeLite>().pod_cidrs.first()?.parse().ok()?;
    let tree = node.tree().ok()?;
    let version = tree.str_at(&["status", "nodeInfo", "kubeletVersion"])?;
    version.contains("+isopod").then_some(())?;
    Some((node.name().to_owned(), range.network().nth(1)?))
}

/// The hints lead each node to its own, and nodes without one to all.
fn endpoints(places: &Places) -> Vec<Value> {
    let endpoint = |(node, address): (&String, &IpAddr)| {
        json!({
            "addresses": [address.to_string()], "nodeName": node, "conditions": {"ready": true},
            "hints": {"forNodes": [{"name": node}]},
        })
    };
    places.iter().map(endpoint).collect()
}
