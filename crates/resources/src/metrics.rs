//! The group `metrics.k8s.io`: what nodes and pods use, as the metrics server shows it.

use std::collections::BTreeMap;

use api::quantity::Quantity as Amount;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use crate::absent::text;
use crate::base::CORE;
use crate::def::{Backing, Cell, Column, Facts, ResourceDef, Scope};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// Amounts by the names of resources.
pub type Usage = BTreeMap<String, Quantity>;

/// What a node uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeMetrics {
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
    /// When it was measured, at the end of `window`.
    pub timestamp: Time,
    /// The time over which processor use was measured, as Go writes durations.
    pub window: String,
    pub usage: Usage,
}

/// What a pod's containers use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodMetrics {
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    #[serde(default)]
    pub kind: String,
    pub metadata: ObjectMeta,
    /// When it was measured, at the end of `window`.
    pub timestamp: Time,
    /// The time over which processor use was measured, as Go writes durations.
    pub window: String,
    pub containers: Vec<ContainerMetrics>,
}

/// What a container uses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerMetrics {
    pub name: String,
    pub usage: Usage,
}

macro_rules! measured_kind {
    ($kind:ident, $name:literal, $plural:literal) => {
        impl k8s_openapi::Resource for $kind {
            const API_VERSION: &'static str = "metrics.k8s.io/v1beta1";
            const GROUP: &'static str = GROUP;
            const KIND: &'static str = $name;
            const VERSION: &'static str = VERSION;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::NamespaceResourceScope;
        }

        impl k8s_openapi::Metadata for $kind {
            type Ty = ObjectMeta;
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

measured_kind!(NodeMetrics, "NodeMetrics", "nodes");
measured_kind!(PodMetrics, "PodMetrics", "pods");

/// The metrics server's kinds have no singular names.
const MEASURED: Facts =
    Facts { group: GROUP, version: VERSION, backing: Backing::Measured, verbs: &["get", "list"], ..CORE };

pub static NODE_METRICS: ResourceDef<NodeMetrics> = ResourceDef {
    columns: &[
        column("Name", "name", "Name of the resource", |node| Cell::Text(text(&node.metadata.name).to_owned())),
        column("cpu", "quantity", "", |node| sum([&node.usage], "cpu")),
        column("memory", "quantity", "", |node| sum([&node.usage], "memory")),
        column("Window", "duration", "", |node| Cell::Text(node.window.clone())),
    ],
    ..ResourceDef::plain(Facts { kind: "NodeMetrics", plural: "nodes", scope: Scope::Cluster, ..MEASURED })
};

pub static POD_METRICS: ResourceDef<PodMetrics> = ResourceDef {
    columns: &[
        column("Name", "name", "Name of the resource", |pod| Cell::Text(text(&pod.metadata.name).to_owned())),
        column("cpu", "quantity", "", |pod| sum(usages(pod), "cpu")),
        column("memory", "quantity", "", |pod| sum(usages(pod), "memory")),
        column("Window", "duration", "", |pod| Cell::Text(pod.window.clone())),
    ],
    ..ResourceDef::plain(Facts { kind: "PodMetrics", plural: "pods", ..MEASURED })
};

const fn column<T>(
    name: &'static str,
    format: &'static str,
    description: &'static str,
    cell: fn(&T) -> Cell,
) -> Column<T> {
    Column { name, type_name: "string", format, description, priority: 0, cell }
}

fn usages(pod: &PodMetrics) -> impl Iterator<Item = &Usage> {
    pod.containers.iter().map(|container| &container.usage)
}

fn sum<'u>(usages: impl IntoIterator<Item = &'u Usage>, resource: &str) -> Cell {
    let amounts = usages.into_iter().filter_map(|usage| Amount::parse(&usage.get(resource)?.0).ok());
    Cell::Text(amounts.reduce(|sum, amount| sum + amount).unwrap_or_default().to_string())
}
