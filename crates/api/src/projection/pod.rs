//! What is decided by of a pod.

use std::sync::Arc;

use jiff::Timestamp;

use super::affinity::{AffinityLite, SpreadLite, affinity, spread};
use super::node::resources;
use super::{Condition, Fields, Meta, Projection, ReadError, Reader, Texts};
use crate::decide::resources::{ContainerResources, PodResources, Resources, Stage};

/// An entry of `spec.tolerations`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toleration {
    pub key: Box<str>,
    pub operator: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
    pub seconds: Option<i64>,
}

/// An entry of a container's `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerPortLite {
    pub name: Box<str>,
    pub protocol: Box<str>,
    pub host_ip: Box<str>,
    pub container_port: i32,
    /// 0 if there is none.
    pub host_port: i32,
}

/// A container as specified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerLite {
    pub name: Box<str>,
    pub image: Box<str>,
    pub stage: Stage,
    pub ports: Vec<ContainerPortLite>,
}

/// Where a pod is in the network, as specified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodNetworkLite {
    pub host_network: bool,
    pub hostname: Box<str>,
    pub subdomain: Box<str>,
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSpecLite {
    /// Empty until the pod is bound.
    pub node_name: Box<str>,
    pub scheduler_name: Box<str>,
    pub service_account: Box<str>,
    pub restart_policy: Box<str>,
    pub priority: i32,
    pub network: PodNetworkLite,
    pub node_selector: Texts,
    pub tolerations: Vec<Toleration>,
    /// Init containers first, in their order.
    pub containers: Vec<ContainerLite>,
    pub resources: PodResources,
    /// Conditions that must hold besides the containers' readiness.
    pub readiness_gates: Vec<Box<str>>,
    /// While there are any, the pod is not placed.
    pub scheduling_gates: Vec<Box<str>>,
    /// Where the pod wants to be.
    pub affinity: Option<Box<AffinityLite>>,
    pub spread: Vec<SpreadLite>,
    /// The pod pushes no others out: `preemptionPolicy` is `Never`.
    pub never_preempts: bool,
}

/// Which list of `status` a container stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerKind {
    Init,
    #[default]
    Main,
    Ephemeral,
}

/// What a container is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Waiting { reason: Box<str> },
    Running { started: Option<Timestamp> },
    Terminated { exit_code: i32, reason: Box<str>, finished: Option<Timestamp> },
}

impl Default for ContainerState {
    fn default() -> Self {
        ContainerState::Waiting { reason: Box::default() }
    }
}

/// A container as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerStatusLite {
    pub name: Box<str>,
    pub kind: ContainerKind,
    pub ready: bool,
    pub started: bool,
    pub restart_count: i32,
    pub container_id: Box<str>,
    pub state: ContainerState,
    /// How it ended the last time.
    pub last: Option<ContainerState>,
    /// What its node has given it of what it requests.
    pub allocated: Resources,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStatusLite {
    pub phase: Box<str>,
    pub reason: Box<str>,
    pub nominated_node: Box<str>,
    pub qos_class: Box<str>,
    pub host_ip: Box<str>,
    pub pod_ips: Vec<Box<str>>,
    pub started: Option<Timestamp>,
    pub observed_generation: i64,
    pub conditions: Vec<Condition>,
    /// Init containers first, ephemeral ones last.
    pub containers: Vec<ContainerStatusLite>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodLite {
    pub meta: Arc<Meta>,
    pub spec: PodSpecLite,
    pub status: PodStatusLite,
}

pub(super) const POD: &Fields = &[(2, "spec"), (3, "status")];
pub(super) const SPEC: &Fields = &[
    (20, "initContainers"),
    (2, "containers"),
    (3, "restartPolicy"),
    (7, "nodeSelector"),
    (8, "serviceAccountName"),
    (10, "nodeName"),
    (11, "hostNetwork"),
    (16, "hostname"),
    (17, "subdomain"),
    (18, "affinity"),
    (19, "schedulerName"),
    (22, "tolerations"),
    (25, "priority"),
    (28, "readinessGates"),
    (31, "preemptionPolicy"),
    (32, "overhead"),
    (33, "topologySpreadConstraints"),
    (38, "schedulingGates"),
    (40, "resources"),
];
pub(super) const READINESS_GATE: &Fields = &[(1, "conditionType")];
pub(super) const SCHEDULING_GATE: &Fields = &[(1, "name")];
pub(super) const CONTAINER: &Fields =
    &[(1, "name"), (2, "image"), (6, "ports"), (8, "resources"), (24, "restartPolicy")];
pub(super) const CONTAINER_PORT: &Fields =
    &[(1, "name"), (2, "hostPort"), (3, "containerPort"), (4, "protocol"), (5, "hostIP")];
pub(super) const RESOURCES: &Fields = &[(1, "limits"), (2, "requests")];
pub(super) const TOLERATION: &Fields =
    &[(1, "key"), (2, "operator"), (3, "value"), (4, "effect"), (5, "tolerationSeconds")];
pub(super) const STATUS: &Fields = &[
    (17, "observedGeneration"),
    (1, "phase"),
    (2, "conditions"),
    (4, "reason"),
    (11, "nominatedNodeName"),
    (5, "hostIP"),
    (12, "podIPs"),
    (7, "startTime"),
    (10, "initContainerStatuses"),
    (8, "containerStatuses"),
    (9, "qosClass"),
    (13, "ephemeralContainerStatuses"),
];
pub(super) const POD_IP: &Fields = &[(1, "ip")];
pub(super) const CONDITION: &Fields =
    &[(1, "type"), (2, "status"), (4, "lastTransitionTime"), (5, "reason"), (6, "message")];
pub(super) const CONTAINER_STATUS: &Fields = &[
    (1, "name"),
    (2, "state"),
    (3, "lastState"),
    (4, "ready"),
    (5, "restartCount"),
    (8, "containerID"),
    (10, "allocatedResources"),
    (9, "started"),
];
pub(super) const STATE: &Fields = &[(1, "waiting"), (2, "running"), (3, "terminated")];
pub(super) const WAITING: &Fields = &[(1, "reason")];
pub(super) const RUNNING: &Fields = &[(1, "startedAt")];
pub(super) const TERMINATED: &Fields = &[(1, "exitCode"), (3, "reason"), (6, "finishedAt")];

impl PodSpecLite {
    fn read(&mut self, spec: Reader<'_>) -> Result<(), ReadError> {
        let mut main = (Vec::new(), Vec::new());
        spec.fields(SPEC, |name, value| {
            match name {
                "initContainers" => push_container(&mut self.containers, &mut self.resources.containers, value, true)?,
                "containers" => push_container(&mut main.0, &mut main.1, value, false)?,
                "restartPolicy" => self.restart_policy = value.boxed()?,
                "nodeSelector" => self.node_selector.read(value)?,
                "serviceAccountName" => self.service_account = value.boxed()?,
                "nodeName" => self.node_name = value.boxed()?,
                "hostNetwork" => self.network.host_network = value.truth()?,
                "hostname" => self.network.hostname = value.boxed()?,
                "subdomain" => self.network.subdomain = value.boxed()?,
                "schedulerName" => self.scheduler_name = value.boxed()?,
                "tolerations" => self.tolerations.push(toleration(value)?),
                "priority" => self.priority = value.int32()?,
                "readinessGates" => gate(value, READINESS_GATE, &mut self.readiness_gates)?,
                "affinity" => self.affinity = Some(Box::new(affinity(value)?)),
                "preemptionPolicy" => self.never_preempts = value.text()? == "Never",
                "overhead" => resources(value, &mut self.resources.overhead)?,
                "topologySpreadConstraints" => self.spread.push(spread(value)?),
                "schedulingGates" => gate(value, SCHEDULING_GATE, &mut self.scheduling_gates)?,
                _ => read_resources(value, self.resources.pod.get_or_insert_default())?,
            }
            Ok(())
        })?;
        // On the wire the main containers come before the init containers, whose numbers are higher.
        self.containers.append(&mut main.0);
        self.resources.containers.append(&mut main.1);
        Ok(())
    }
}

fn gate(reader: Reader<'_>, fields: &Fields, gates: &mut Vec<Box<str>>) -> Result<(), ReadError> {
    reader.fields(fields, |_, name| {
        gates.push(name.boxed()?);
        Ok(())
    })
}

fn push_container(
    containers: &mut Vec<ContainerLite>,
    resources: &mut Vec<ContainerResources>,
    reader: Reader<'_>,
    is_init: bool,
) -> Result<(), ReadError> {
    let mut container = ContainerLite::default();
    let mut amounts = ContainerResources::default();
    let mut stage = if is_init { Stage::Init } else { Stage::Main };
    reader.fields(CONTAINER, |name, value| {
        match name {
            "name" => container.name = value.boxed()?,
            "image" => container.image = value.boxed()?,
            "ports" => container.ports.push(container_port(value)?),
            "resources" => read_resources(value, &mut amounts)?,
            _ => {
                if is_init && value.text()? == "Always" {
                    stage = Stage::Sidecar;
                }
            }
        }
        Ok(())
    })?;
    container.stage = stage;
    amounts.stage = stage;
    containers.push(container);
    resources.push(amounts);
    Ok(())
}

fn read_resources(reader: Reader<'_>, amounts: &mut ContainerResources) -> Result<(), ReadError> {
    reader.fields(RESOURCES, |name, value| match name {
        "limits" => resources(value, &mut amounts.limits),
        _ => resources(value, &mut amounts.requests),
    })
}

fn container_port(reader: Reader<'_>) -> Result<ContainerPortLite, ReadError> {
    let mut port = ContainerPortLite::default();
    reader.fields(CONTAINER_PORT, |name, value| {
        match name {
            "name" => port.name = value.boxed()?,
            "hostPort" => port.host_port = value.int32()?,
            "containerPort" => port.container_port = value.int32()?,
            "protocol" => port.protocol = value.boxed()?,
            _ => port.host_ip = value.boxed()?,
        }
        Ok(())
    })?;
    Ok(port)
}

fn toleration(reader: Reader<'_>) -> Result<Toleration, ReadError> {
    let mut toleration = Toleration::default();
    reader.fields(TOLERATION, |name, value| {
        match name {
            "key" => toleration.key = value.boxed()?,
            "operator" => toleration.operator = value.boxed()?,
            "value" => toleration.value = value.boxed()?,
            "effect" => toleration.effect = value.boxed()?,
            _ => toleration.seconds = Some(value.int()?),
        }
        Ok(())
    })?;
    Ok(toleration)
}

impl PodStatusLite {
    fn read(&mut self, status: Reader<'_>) -> Result<(), ReadError> {
        status.fields(STATUS, |name, value| {
            match name {
                "observedGeneration" => self.observed_generation = value.int()?,
                "phase" => self.phase = value.boxed()?,
                "conditions" => self.conditions.push(Condition::read(value, CONDITION)?),
                "reason" => self.reason = value.boxed()?,
                "nominatedNodeName" => self.nominated_node = value.boxed()?,
                "hostIP" => self.host_ip = value.boxed()?,
                "podIPs" => gate(value, POD_IP, &mut self.pod_ips)?,
                "startTime" => self.started = value.time()?,
                "qosClass" => self.qos_class = value.boxed()?,
                "initContainerStatuses" => self.containers.push(container_status(value, ContainerKind::Init)?),
                "containerStatuses" => self.containers.push(container_status(value, ContainerKind::Main)?),
                _ => self.containers.push(container_status(value, ContainerKind::Ephemeral)?),
            }
            Ok(())
        })?;
        // The lists stand in another order on the wire.
        self.containers.sort_by_key(|container| container.kind);
        Ok(())
    }
}

fn container_status(reader: Reader<'_>, kind: ContainerKind) -> Result<ContainerStatusLite, ReadError> {
    let mut status = ContainerStatusLite { kind, ..ContainerStatusLite::default() };
    reader.fields(CONTAINER_STATUS, |name, value| {
        match name {
            "name" => status.name = value.boxed()?,
            "state" => status.state = container_state(value)?.unwrap_or_default(),
            "lastState" => status.last = container_state(value)?,
            "ready" => status.ready = value.truth()?,
            "restartCount" => status.restart_count = value.int32()?,
            "containerID" => status.container_id = value.boxed()?,
            "allocatedResources" => resources(value, &mut status.allocated)?,
            _ => status.started = value.truth()?,
        }
        Ok(())
    })?;
    Ok(status)
}

fn container_state(reader: Reader<'_>) -> Result<Option<ContainerState>, ReadError> {
    let mut state = None;
    reader.fields(STATE, |name, value| {
        state = Some(match name {
            "waiting" => waiting(value)?,
            "running" => running(value)?,
            _ => terminated(value)?,
        });
        Ok(())
    })?;
    Ok(state)
}

fn waiting(reader: Reader<'_>) -> Result<ContainerState, ReadError> {
    let mut reason = Box::default();
    reader.fields(WAITING, |_, value| {
        reason = value.boxed()?;
        Ok(())
    })?;
    Ok(ContainerState::Waiting { reason })
}

fn running(reader: Reader<'_>) -> Result<ContainerState, ReadError> {
    let mut started = None;
    reader.fields(RUNNING, |_, value| {
        started = value.time()?;
        Ok(())
    })?;
    Ok(ContainerState::Running { started })
}

fn terminated(reader: Reader<'_>) -> Result<ContainerState, ReadError> {
    let (mut exit_code, mut reason, mut finished) = (0, Box::default(), None);
    reader.fields(TERMINATED, |name, value| {
        match name {
            "exitCode" => exit_code = value.int32()?,
            "reason" => reason = value.boxed()?,
            _ => finished = value.time()?,
        }
        Ok(())
    })?;
    Ok(ContainerState::Terminated { exit_code, reason, finished })
}

impl Projection for PodLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(POD, |name, value| match name {
            "spec" => self.spec.read(value),
            _ => self.status.read(value),
        })?;
        self.count_what_is_given();
        Ok(())
    }
}

impl PodLite {
    /// While a pod is resized it takes the more of what it asks for and of what it has; what no node can give it, it does not
    /// take. Upstream: `PodRequests` with the status' resources.
    fn count_what_is_given(&mut self) {
        let infeasible = self.status.conditions.iter().any(|condition| {
            &*condition.kind == "PodResizePending" && condition.is_true() && &*condition.reason == "Infeasible"
        });
        let amounts = self.spec.resources.containers.iter_mut();
        for (container, amounts) in self.spec.containers.iter().zip(amounts) {
            let status = self.status.containers.iter().find(|status| status.name == container.name);
            for (name, given) in status.iter().flat_map(|status| status.allocated.iter()) {
                match amounts.requests.get(name) {
                    Some(asked) if !infeasible && asked >= given => {}
                    _ => amounts.requests.set(name, given),
                }
            }
        }
    }
}
