//! What leads to pods: Services and slices into the kernel's rules and to the data-plane process, and the DNS Service itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use client::{Cache, Client, ClientError, Snapshot, Target};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::feed::Feed;
use net::input::{NetState, ServiceView, SliceView};
use serde_json::json;
use stdx::BoxFuture;

use crate::machine::Settings;

/// How long an ending pod waits for the kernel to forget it, before it is told to stop all the same.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(5);

/// The node's rules as the agent sees them.
pub struct NodeRules(pub Feed);

impl node::Rules for NodeRules {
    fn withdraw<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match stdx::timeout(WITHDRAWAL_MAX, self.0.exclude(pod_uid)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, pod_uid, "pod not taken out of the service rules"),
                Err(_) => tracing::warn!(pod_uid, "the service rules take too long"),
            }
        })
    }

    fn forget(&self, pod_uid: &str) {
        if let Err(error) = self.0.include(pod_uid) {
            tracing::warn!(%error, pod_uid, "an ended pod stays excluded from the rules");
        }
    }
}

/// Keeps the rules as the caches say, until the task is dropped.
pub async fn feed(feed: Feed, services: Cache, slices: Cache) {
    // Rules are replaced only after complete lists.
    let mut snapshots = (services.synced().await, slices.synced().await);
    loop {
        if let Err(error) = feed.apply(state(&snapshots.0, &snapshots.1)).await {
            tracing::error!(%error, "service rules not written");
            stdx::sleep(Duration::from_millis(200)).await;
        }
        let (seen_services, seen_slices) = (snapshots.0.revision(), snapshots.1.revision());
        tokio::select! {
            _ = services.progressed(seen_services) => {}
            _ = slices.progressed(seen_slices) => {}
        }
        snapshots = (services.snapshot(), slices.snapshot());
    }
}

fn state(services: &Arc<Snapshot>, slices: &Arc<Snapshot>) -> NetState {
    let services = services
        .iter()
        .filter_map(|object| object.typed::<Service>().ok())
        .map(|service| ServiceView::from_service(&service));
    let slices = slices
        .iter()
        .filter_map(|object| object.typed::<EndpointSlice>().ok())
        .filter_map(|slice| SliceView::from_slice(&slice));
    NetState::new(services, slices)
}

/// Makes the Service by which pods find DNS, with the data-plane process behind it.
pub async fn publish_dns(client: &Client, settings: &Settings) -> anyhow::Result<()> {
    let labels =
        json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let ports = |port: fn(&str, &str) -> serde_json::Value| [port("dns", "UDP"), port("dns-tcp", "TCP")];
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {
            "clusterIP": settings.dns_address.to_string(),
            "ports": ports(|name, protocol| json!({"name": name, "port": 53, "protocol": protocol, "targetPort": 53})),
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "endpoints": [{"addresses": [settings.gateway.to_string()], "conditions": {"ready": true}}],
        "ports": ports(|name, protocol| json!({"name": name, "port": 53, "protocol": protocol})),
    });
    create(client, Target::new("", "v1", "services").namespace("kube-system"), &service)
        .await
        .context("make the DNS Service")?;
    let slices = Target::new("discovery.k8s.io", "v1", "endpointslices").namespace("kube-system");
    create(client, slices, &slice).await.context("make the slice of the DNS Service")
}

/// Creates an object of `kube-system` unless it is there.
async fn create(client: &Client, target: Target, object: &serde_json::Value) -> Result<(), ClientError> {
    // Looked up first: creating it again would be refused for its address, which is its own.
    if client.find(target.clone().name("kube-dns")).await?.is_some() {
        return Ok(());
    }
    client.create(target, object).await.map(drop)
}
