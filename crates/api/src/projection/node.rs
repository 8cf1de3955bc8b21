//! What is decided by of a node.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Condition, Fields, Meta, Projection, ReadError, Reader};
use crate::decide::Resources;

/// An entry of `spec.taints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taint {
    pub key: Box<str>,
    pub value: Box<str>,
    pub effect: Box<str>,
    pub added: Option<Timestamp>,
}

/// An entry of `status.addresses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// Such as `InternalIP`.
    pub kind: Box<str>,
    pub address: Box<str>,
}

/// An image that a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeImage {
    pub names: Vec<Box<str>>,
    pub size_bytes: i64,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLite {
    pub meta: Arc<Meta>,
    pub unschedulable: bool,
    pub pod_cidrs: Vec<Box<str>>,
    pub provider_id: Box<str>,
    pub taints: Vec<Taint>,
    pub capacity: Resources,
    pub allocatable: Resources,
    pub conditions: Vec<Condition>,
    pub addresses: Vec<Address>,
    pub kubelet_port: i32,
    pub images: Vec<NodeImage>,
}

pub(super) const NODE: &Fields = &[(2, "spec"), (3, "status")];
pub(super) const SPEC: &Fields = &[(7, "podCIDRs"), (3, "providerID"), (4, "unschedulable"), (5, "taints")];
pub(super) const STATUS: &Fields =
    &[(1, "capacity"), (2, "allocatable"), (4, "conditions"), (5, "addresses"), (6, "daemonEndpoints"), (8, "images")];
pub(super) const TAINT: &Fields = &[(1, "key"), (2, "value"), (3, "effect"), (4, "timeAdded")];
pub(super) const ADDRESS: &Fields = &[(1, "type"), (2, "address")];
pub(super) const CONDITION: &Fields =
    &[(1, "type"), (2, "status"), (4, "lastTransitionTime"), (5, "reason"), (6, "message")];
pub(super) const IMAGE: &Fields = &[(1, "names"), (2, "sizeBytes")];
pub(super) const DAEMON_ENDPOINTS: &Fields = &[(1, "kubeletEndpoint")];
pub(super) const DAEMON_ENDPOINT: &Fields = &[(1, "Port")];

impl NodeLite {
    /// The first address of this type, such as `InternalIP`.
    pub fn address(&self, kind: &str) -> Option<&str> {
        self.addresses.iter().find(|address| &*address.kind == kind).map(|address| &*address.address)
    }

    fn read_spec(&mut self, spec: Reader<'_>) -> Result<(), ReadError> {
        spec.fields(SPEC, |name, value| {
            match name {
                "podCIDRs" => self.pod_cidrs.push(value.boxed()?),
                "providerID" => self.provider_id = value.boxed()?,
                "unschedulable" => self.unschedulable = value.truth()?,
                _ => self.taints.push(taint(value)?),
            }
            Ok(())
        })
    }

    fn read_status(&mut self, status: Reader<'_>) -> Result<(), ReadError> {
        status.fields(STATUS, |name, value| {
            match name {
                "capacity" => resources(value, &mut self.capacity)?,
                "allocatable" => resources(value, &mut self.allocatable)?,
                "conditions" => self.conditions.push(Condition::read(value, CONDITION)?),
                "addresses" => self.addresses.push(address(value)?),
                "daemonEndpoints" => {
                    value.fields(DAEMON_ENDPOINTS, |_, endpoint| {
                        endpoint.fields(DAEMON_ENDPOINT, |_, port| {
                            self.kubelet_port = port.int32()?;
                            Ok(())
                        })
                    })?;
                }
                _ => self.images.push(image(value)?),
            }
            Ok(())
        })
    }
}

/// Adds what a resource list holds.
pub(super) fn resources(reader: Reader<'_>, resources: &mut Resources) -> Result<(), ReadError> {
    reader.entries(|name, amount| {
        resources.set(name, amount.quantity()?);
        Ok(())
    })
}

fn taint(reader: Reader<'_>) -> Result<Taint, ReadError> {
    let mut taint = Taint::default();
    reader.fields(TAINT, |name, value| {
        match name {
            "key" => taint.key = value.boxed()?,
            "value" => taint.value = value.boxed()?,
            "effect" => taint.effect = value.boxed()?,
            _ => taint.added = value.time()?,
        }
        Ok(())
    })?;
    Ok(taint)
}

fn address(reader: Reader<'_>) -> Result<Address, ReadError> {
    let mut address = Address::default();
    reader.fields(ADDRESS, |name, value| {
        match name {
            "type" => address.kind = value.boxed()?,
            _ => address.address = value.boxed()?,
        }
        Ok(())
    })?;
    Ok(address)
}

fn image(reader: Reader<'_>) -> Result<NodeImage, ReadError> {
    let mut image = NodeImage::default();
    reader.fields(IMAGE, |name, value| {
        match name {
            "names" => image.names.push(value.boxed()?),
            _ => image.size_bytes = value.int()?,
        }
        Ok(())
    })?;
    Ok(image)
}

impl Projection for NodeLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(NODE, |name, value| match name {
            "spec" => self.read_spec(value),
            _ => self.read_status(value),
        })
    }
}
