//! The Node object of this machine: made at first start, its status kept, its lease renewed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::value::to_value;
use client::{ClientError, PatchKind, Target};
use cri::{Runtime, RuntimeCondition, RuntimeStatus};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use reconcile::plan::kinds::NODES;
use reconcile::{Note, Reference, Severity};
use stdx::{Backoff, mono, wall};

use crate::agent::Context;
use crate::pressure::{Disks, Pressure, Room};
use crate::reserve::{Capacity, Reserved};

/// How long a lease is good. Upstream: `nodeLeaseDurationSeconds`.
const LEASE_SECONDS: i32 = 40;
/// How often it is renewed: a quarter of that.
const RENEW: Duration = Duration::from_secs(10);
/// How often the status is told although nothing changed. Upstream: `nodeStatusReportFrequency`.
const REPORT: Duration = Duration::from_secs(300);
/// Images told in the status. Upstream: `nodeStatusMaxImages`.
const IMAGES_MAX: usize = 50;

/// The condition of a node whose firewall may keep pods' packets out and takes no rules that let them pass. Ours alone.
const FIREWALL: &str = "FirewallClosed";

/// What a Node says of its machine.
#[derive(Clone, Debug)]
pub struct Registration {
    pub name: String,
    pub address: IpAddr,
    /// Port of the agent's own server; 0 for none.
    pub port: u16,
    pub labels: BTreeMap<String, String>,
    pub machine: Machine,
    pub reserved: Reserved,
}

/// Facts about the machine that do not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub processors: u32,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    pub disks: Disks,
    pub kernel_version: String,
    pub os_image: String,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    /// Of this program, `v1.36.x+isopod…`.
    pub version: String,
}

impl Machine {
    /// Reads the facts from `/proc`, `/sys` and `/etc`.
    pub fn read(disk: &std::path::Path, version: &str) -> std::io::Result<Machine> {
        let text = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let memory = std::fs::read_to_string("/proc/meminfo")?;
        let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
        let kilobytes: u64 = memory.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
        let folder = disk;
        let disk = rustix::fs::statvfs(folder)?;
        let release = text("/etc/os-release");
        let pretty = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        let processors = std::thread::available_parallelism()?.get();
        Ok(Machine {
            processors: u32::try_from(processors).unwrap_or(u32::MAX),
            memory_bytes: kilobytes * 1024,
            disk_bytes: disk.f_blocks * disk.f_frsize,
            disks: Disks::one(folder),
            kernel_version: text("/proc/sys/kernel/osrelease"),
            os_image: pretty.trim_matches('"').to_owned(),
            machine_id: text("/etc/machine-id"),
            system_uuid: text("/sys/class/dmi/id/product_uuid"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            version: version.to_owned(),
        })
    }
}

impl Machine {
    /// What of it pods could have.
    pub fn capacity(&self) -> Capacity {
        Capacity { processors: self.processors, memory_bytes: self.memory_bytes, disk_bytes: self.disk_bytes }
    }
}

impl Registration {
    /// Registers the node, then keeps its status and lease until the task is dropped.
    pub async fn run(self, context: Arc<Context>) {
        self.tell(&context, Severity::Normal, "Starting", "Starting kubelet.".into());
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7));
        let mut told: Option<(NodeStatus, stdx::Mono)> = None;
        loop {
            let result = self.report(&context, &mut told).await;
            let result = match result {
                Ok(()) => self.renew(&context.client).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {
                    backoff.succeed();
                    stdx::sleep(RENEW).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "node not registered or its lease not renewed");
                    stdx::sleep(backoff.fail()).await;
                }
            }
        }
    }

    fn node(&self, name: &str) -> Target {
        Target::new("", "v1", "nodes").name(name)
    }

    /// Tells the status when it changed, when it is time, and when the Node is not there.
    async fn report(&self, context: &Context, told: &mut Option<(NodeStatus, stdx::Mono)>) -> Result<(), ClientError> {
        let client = &context.client;
        // After a restart the API still knows since when each condition holds; and of a node that was cut off it says that
        // nothing is known, which only the node takes back.
        let known = self.known(client).await?;
        let before = told.as_ref().map(|(status, _)| status).or(known.as_ref());
        let status = self.status(context, before).await;
        let agrees = known.as_ref().is_some_and(|known| same_conditions(known, &status));
        let due = told.as_ref().is_none_or(|(before, at)| mono() - *at >= REPORT || !same(before, &status));
        if agrees && !due {
            return Ok(());
        }
        if known.is_none() {
            self.register(client).await?;
        }
        let mut body = api::value::Map::default();
        body.insert("status", to_value(&status).unwrap_or_default());
        let body = api::value::Value::Object(body);
        client.patch(self.node(&self.name).subresource("status"), PatchKind::Strategic, &body).await?;
        for (severity, reason, message) in news(&self.name, before, &status) {
            self.tell(context, severity, reason, message);
        }
        *told = Some((status, mono()));
        Ok(())
    }

    /// Records an event about the node. Upstream's kubelet gives the node's name for its uid, and clients look for that.
    pub fn tell(&self, context: &Context, severity: Severity, reason: &'static str, message: String) {
        let (name, uid) = (self.name.clone(), self.name.clone());
        let regarding = Reference { resource: NODES, namespace: String::new(), name, uid };
        context.recorder.record(Note { regarding, field: String::new(), severity, reason, message });
    }

    /// The status that an earlier agent told.
    async fn known(&self, client: &client::Client) -> Result<Option<NodeStatus>, ClientError> {
        let Some(object) = client.find(self.node(&self.name)).await? else { return Ok(None) };
        Ok(object.typed::<Node>()?.status)
    }

    /// The labels that the node is registered with.
    pub fn all_labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        let own = [
            ("beta.kubernetes.io/arch", go_arch()),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", go_arch()),
            ("kubernetes.io/hostname", &self.name),
            ("kubernetes.io/os", "linux"),
        ];
        labels.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        labels
    }

    async fn register(&self, client: &client::Client) -> Result<(), ClientError> {
        let labels = self.all_labels();
        let node = Node {
            metadata: ObjectMeta { name: Some(self.name.clone()), labels: Some(labels), ..ObjectMeta::default() },
            // The range of its pods' addresses is for the cluster to give.
            spec: Some(NodeSpec::default()),
            status: None,
        };
        match client.create(Target::new("", "v1", "nodes"), &node).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes the Node, if there is none, and tells its addresses: what others have to know before the agent can run.
    pub async fn announce(&self, client: &client::Client) -> Result<(), ClientError> {
        self.register(client).await?;
        let status = NodeStatus { addresses: Some(self.addresses()), ..NodeStatus::default() };
        let mut body = api::value::Map::default();
        body.insert("status", to_value(&status).unwrap_or_default());
        let target = self.node(&self.name).subresource("status");
        client.patch(target, PatchKind::Strategic, &api::value::Value::Object(body)).await.map(drop)
    }

    fn addresses(&self) -> Vec<NodeAddress> {
        let address = |kind: &str, address: String| NodeAddress { type_: kind.into(), address };
        vec![address("InternalIP", self.address.to_string()), address("Hostname", self.name.clone())]
    }

    /// What this node has for pods.
    pub fn allocatable(&self) -> BTreeMap<String, api::quantity::Quantity> {
        let amounts = self.reserved.allocatable(self.machine.capacity());
        amounts
            .into_iter()
            .filter_map(|(name, amount)| Some((name, api::quantity::Quantity::parse(&amount.0).ok()?)))
            .collect()
    }

    async fn status(&self, context: &Context, before: Option<&NodeStatus>) -> NodeStatus {
        let (machine, runtime) = (&self.machine, &*context.runtime);
        let pressure = {
            let mut watch = context.pressure.lock().expect("no holder of this lock panics");
            watch.see(&self.reserved.bounds, &Room::read(&machine.disks), mono());
            watch.told()
        };
        let version = runtime.version().await.unwrap_or_default();
        let runtime_status = runtime.status().await;
        if let Err(error) = &runtime_status {
            tracing::warn!(%error, "container runtime is down");
        }
        let told_status = runtime_status.as_ref().ok();
        NodeStatus {
            capacity: Some(self.reserved.capacity(machine.capacity())),
            allocatable: Some(self.reserved.allocatable(machine.capacity())),
            conditions: Some(conditions(told_status, pressure, &context.rules.obstacles(), before)),
            features: told_status
                .map(|status| NodeFeatures { supplemental_groups_policy: Some(status.supplemental_groups_policy) }),
            runtime_handlers: told_status.map(handlers),
            addresses: Some(self.addresses()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: self.port.into() }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: go_arch().into(),
                boot_id: machine.boot_id.clone(),
                container_runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
                kernel_version: machine.kernel_version.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: machine.version.clone(),
                machine_id: machine.machine_id.clone(),
                operating_system: "linux".into(),
                os_image: machine.os_image.clone(),
                system_uuid: machine.system_uuid.clone(),
                swap: None,
            }),
            images: Some(images(runtime).await),
            ..NodeStatus::default()
        }
    }

    async fn renew(&self, client: &client::Client) -> Result<(), ClientError> {
        let leases = Target::new("coordination.k8s.io", "v1", "leases").namespace("kube-node-lease");
        let now = MicroTime(wall());
        let mut body = api::value::Map::default();
        let spec = LeaseSpec {
            holder_identity: Some(self.name.clone()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now.clone()),
            ..LeaseSpec::default()
        };
        body.insert("spec", to_value(&spec).unwrap_or_default());
        let body = api::value::Value::Object(body);
        match client.patch(leases.clone().name(self.name.as_str()), PatchKind::Merge, &body).await {
            Err(error) if error.is_not_found() => {}
            result => return result.map(drop),
        }
        let owner = client.get(self.node(&self.name)).await?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some("kube-node-lease".into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: self.name.clone(),
                    uid: owner.uid().into(),
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        client.create(leases, &lease).await.map(drop)
    }
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Why pods cannot run; nothing when they can. Upstream: `runtimeState.runtimeErrors` and `networkErrors`.
fn broken(runtime: Option<&RuntimeStatus>) -> Vec<String> {
    let Some(runtime) = runtime else { return vec!["container runtime is down".into()] };
    let about = |kind: &str| {
        let found = runtime.conditions.iter().find(|condition| condition.condition_type == kind);
        let what = if kind == "NetworkReady" { "container runtime network" } else { "container runtime" };
        match found {
            Some(condition) if condition.status => None,
            Some(RuntimeCondition { condition_type, status, reason, message }) => {
                Some(format!("{what} not ready: {condition_type}={status} reason:{reason} message:{message}"))
            }
            None => Some(format!("{what} not ready: <nil>")),
        }
    };
    ["RuntimeReady", "NetworkReady"].into_iter().filter_map(about).collect()
}

/// Upstream: `updateRuntimeHandlers`.
fn handlers(status: &RuntimeStatus) -> Vec<NodeRuntimeHandler> {
    let handler = |handler: &cri::RuntimeHandler| NodeRuntimeHandler {
        name: Some(handler.name.clone()),
        features: Some(NodeRuntimeHandlerFeatures {
            recursive_read_only_mounts: Some(handler.recursive_read_only_mounts),
            user_namespaces: Some(handler.user_namespaces),
        }),
    };
    status.handlers.iter().map(handler).collect()
}

fn conditions(
    runtime: Option<&RuntimeStatus>,
    pressure: Pressure,
    obstacles: &[String],
    before: Option<&NodeStatus>,
) -> Vec<NodeCondition> {
    let broken = broken(runtime);
    let ready = if broken.is_empty() {
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        // As Go prints one error, and several.
        let told = if broken.len() == 1 { broken.concat() } else { format!("[{}]", broken.join(", ")) };
        ("Ready", "False", "KubeletNotReady", told)
    };
    let told = |kind: &'static str, short: bool, words: [(&'static str, &str); 2]| {
        let (reason, message) = words[usize::from(short)];
        (kind, if short { "True" } else { "False" }, reason, message.to_owned())
    };
    let old = before.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut wanted = vec![
        told(
            "MemoryPressure",
            pressure.memory,
            [
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            ],
        ),
        told(
            "DiskPressure",
            pressure.disk,
            [
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            ],
        ),
        told(
            "PIDPressure",
            pressure.pids,
            [
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            ],
        ),
        ready,
    ];
    // Nodes without one have no such condition, as upstream's nodes do; of one that went it is told that it did.
    if !obstacles.is_empty() {
        wanted.push((FIREWALL, "True", "FirewallTakesNoRules", obstacles.join("; ")));
    } else if old.iter().any(|condition| condition.type_ == FIREWALL) {
        wanted.push((FIREWALL, "False", "FirewallIsOpen", "no firewall keeps the rules for pods out".to_owned()));
    }
    let now = wall();
    wanted
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let same = old.iter().find(|condition| condition.type_ == type_ && condition.status == status);
            NodeCondition {
                type_: type_.into(),
                status: status.into(),
                reason: Some(reason.into()),
                message: Some(message),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: same.and_then(|same| same.last_transition_time.clone()).or(Some(Time(now))),
            }
        })
        .collect()
}

/// The events for what a status tells anew. Pure. Upstream: `recordNodeStatusEvent`, and `Rebooted` of `setNodeStatusMachineInfo`.
fn news(node: &str, before: Option<&NodeStatus>, now: &NodeStatus) -> Vec<(Severity, &'static str, String)> {
    let status_of = |status: &NodeStatus, type_: &str| {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_);
        found.map(|condition| condition.status.clone())
    };
    let words = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    let mut news = Vec::new();
    for (type_, holds, holds_not) in words {
        let is = status_of(now, type_);
        if is == before.and_then(|before| status_of(before, type_)) {
            continue;
        }
        let reason = if is.as_deref() == Some("True") { holds } else { holds_not };
        news.push((Severity::Normal, reason, format!("Node {node} status is now: {reason}")));
    }
    if status_of(now, FIREWALL).as_deref() == Some("True")
        && before.and_then(|before| status_of(before, FIREWALL)).as_deref() != Some("True")
    {
        let closed = now.conditions.iter().flatten().find(|condition| condition.type_ == FIREWALL);
        let message = closed.and_then(|closed| closed.message.clone()).unwrap_or_default();
        news.push((Severity::Warning, FIREWALL, message));
    }
    let boot = |status: &NodeStatus| status.node_info.as_ref().map(|info| info.boot_id.clone());
    if let (Some(old), Some(new)) = (before.and_then(boot), boot(now))
        && !old.is_empty()
        && old != new
    {
        let message = format!("Node {node} has been rebooted, boot id: {new}");
        news.push((Severity::Warning, "Rebooted", message));
    }
    news
}

async fn images(runtime: &dyn Runtime) -> Vec<ContainerImage> {
    let mut images = runtime.list_images().await.unwrap_or_default();
    images.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    images
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

/// Whether two statuses say the same, heartbeats aside.
/// Whether the API says of every condition what this node says.
fn same_conditions(known: &NodeStatus, own: &NodeStatus) -> bool {
    let said = |status: &NodeStatus, kind: &str| {
        let found = status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)?;
        Some(found.status.clone())
    };
    own.conditions.iter().flatten().all(|own| said(known, &own.type_).as_ref() == Some(&own.status))
}

fn same(before: &NodeStatus, now: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    bare(before) == bare(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(memory: &str, ready: &str, boot: &str) -> NodeStatus {
        let condition = |type_: &str, status: &str| NodeCondition {
            type_: type_.into(),
            status: status.into(),
            ..NodeCondition::default()
        };
        let info = NodeSystemInfo { boot_id: boot.into(), ..NodeSystemInfo::default() };
        NodeStatus {
            conditions: Some(vec![
                condition("MemoryPressure", memory),
                condition("DiskPressure", "False"),
                condition("PIDPressure", "False"),
                condition("Ready", ready),
            ]),
            node_info: Some(info),
            ..NodeStatus::default()
        }
    }

    #[track_caller]
    fn check(before: Option<&NodeStatus>, now: &NodeStatus, expected: &[&str]) {
        let reasons: Vec<&str> = news("n", before, now).into_iter().map(|(_, reason, _)| reason).collect();
        assert_eq!(reasons, expected);
    }

    #[test]
    fn a_runtime_that_is_not_ready_says_what_of_it() {
        let condition = |kind: &str, status, message: &str| RuntimeCondition {
            condition_type: kind.into(),
            status,
            reason: if status { String::new() } else { "NetworkPluginNotReady".into() },
            message: message.into(),
        };
        let status = |network| RuntimeStatus {
            conditions: vec![condition("RuntimeReady", true, ""), network],
            ..RuntimeStatus::default()
        };
        assert!(broken(Some(&status(condition("NetworkReady", true, "")))).is_empty());
        let missing =
            status(condition("NetworkReady", false, "Network plugin returns error: cni plugin not initialized"));
        assert_eq!(
            broken(Some(&missing)),
            ["container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                message:Network plugin returns error: cni plugin not initialized"]
        );
        assert_eq!(broken(None), ["container runtime is down"]);
        let ready = conditions(None, Pressure::default(), &[], None).pop().unwrap();
        assert_eq!((ready.status.as_str(), ready.message.as_deref()), ("False", Some("container runtime is down")));
    }

    #[test]
    fn a_firewall_that_is_closed_is_told_until_it_is_not() {
        let of = |obstacles: &[&str], before: Option<&NodeStatus>| {
            let obstacles: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
            let conditions = conditions(None, Pressure::default(), &obstacles, before);
            NodeStatus { conditions: Some(conditions), ..NodeStatus::default() }
        };
        let told = |status: &NodeStatus| {
            let found = status.conditions.iter().flatten().find(|condition| condition.type_ == FIREWALL);
            found.map(|found| (found.status.clone(), found.message.clone().unwrap_or_default()))
        };
        let open = of(&[], None);
        assert_eq!(told(&open), None);
        let closed = of(&["a", "b"], Some(&open));
        assert_eq!(told(&closed), Some(("True".into(), "a; b".into())));
        check(Some(&open), &closed, &["FirewallClosed"]);
        check(Some(&closed), &closed, &[]);
        let again = of(&[], Some(&closed));
        assert_eq!(told(&again).map(|(status, _)| status).as_deref(), Some("False"));
        check(Some(&closed), &again, &[]);
    }

    #[test]
    fn what_changes_is_news() {
        let good = status("False", "True", "b1");
        check(None, &good, &["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]);
        check(Some(&good), &good, &[]);
        check(Some(&good), &status("True", "False", "b1"), &["NodeHasInsufficientMemory", "NodeNotReady"]);
        check(Some(&good), &status("False", "True", "b2"), &["Rebooted"]);
        assert_eq!(news("n", None, &good)[3].2, "Node n status is now: NodeReady");
    }
}
