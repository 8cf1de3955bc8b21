//! What is decided by of an endpoint slice.

use std::sync::Arc;

use super::{Fields, Meta, Projection, ReadError, Reader};

/// An entry of `ports`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlicePort {
    pub name: Box<str>,
    pub protocol: Box<str>,
    pub app_protocol: Box<str>,
    /// `None` means all ports.
    pub port: Option<i32>,
}

/// An entry of `endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addresses: Vec<Box<str>>,
    /// Absent means ready.
    pub ready: Option<bool>,
    /// Absent means as ready says.
    pub serving: Option<bool>,
    pub terminating: bool,
    pub hostname: Box<str>,
    pub node_name: Box<str>,
    pub zone: Box<str>,
    /// Zones and nodes that traffic to this endpoint should come from.
    pub for_zones: Vec<Box<str>>,
    pub for_nodes: Vec<Box<str>>,
    pub target_kind: Box<str>,
    pub target_name: Box<str>,
    pub target_uid: Box<str>,
}

impl SliceEndpoint {
    /// Whether the endpoint takes new connections.
    pub fn is_ready(&self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Whether the endpoint answers, even if it is on its way out.
    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }
}

/// An endpoint slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceLite {
    pub meta: Arc<Meta>,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Box<str>,
    pub endpoints: Vec<SliceEndpoint>,
    pub ports: Vec<SlicePort>,
}

/// The label that names a slice's service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl SliceLite {
    /// The name of the service that the slice belongs to.
    pub fn service(&self) -> Option<&str> {
        self.meta.labels.get(SERVICE_NAME)
    }
}

pub(super) const SLICE: &Fields = &[(4, "addressType"), (2, "endpoints"), (3, "ports")];
pub(super) const ENDPOINT: &Fields = &[
    (1, "addresses"),
    (2, "conditions"),
    (3, "hostname"),
    (4, "targetRef"),
    (6, "nodeName"),
    (7, "zone"),
    (8, "hints"),
];
pub(super) const CONDITIONS: &Fields = &[(1, "ready"), (2, "serving"), (3, "terminating")];
pub(super) const HINTS: &Fields = &[(1, "forZones"), (2, "forNodes")];
pub(super) const FOR: &Fields = &[(1, "name")];
pub(super) const TARGET: &Fields = &[(1, "kind"), (3, "name"), (4, "uid")];
pub(super) const PORT: &Fields = &[(1, "name"), (2, "protocol"), (3, "port"), (4, "appProtocol")];

fn endpoint(reader: Reader<'_>) -> Result<SliceEndpoint, ReadError> {
    let mut endpoint = SliceEndpoint::default();
    reader.fields(ENDPOINT, |name, value| {
        match name {
            "addresses" => endpoint.addresses.push(value.boxed()?),
            "hostname" => endpoint.hostname = value.boxed()?,
            "nodeName" => endpoint.node_name = value.boxed()?,
            "zone" => endpoint.zone = value.boxed()?,
            "conditions" => endpoint.read_conditions(value)?,
            "targetRef" => endpoint.read_target(value)?,
            _ => endpoint.read_hints(value)?,
        }
        Ok(())
    })?;
    Ok(endpoint)
}

impl SliceEndpoint {
    fn read_conditions(&mut self, reader: Reader<'_>) -> Result<(), ReadError> {
        reader.fields(CONDITIONS, |name, value| {
            let truth = value.truth()?;
            match name {
                "ready" => self.ready = Some(truth),
                "serving" => self.serving = Some(truth),
                _ => self.terminating = truth,
            }
            Ok(())
        })
    }

    fn read_target(&mut self, reader: Reader<'_>) -> Result<(), ReadError> {
        reader.fields(TARGET, |name, value| {
            let text = value.boxed()?;
            match name {
                "kind" => self.target_kind = text,
                "name" => self.target_name = text,
                _ => self.target_uid = text,
            }
            Ok(())
        })
    }

    fn read_hints(&mut self, reader: Reader<'_>) -> Result<(), ReadError> {
        reader.fields(HINTS, |hint, value| {
            value.fields(FOR, |_, name| {
                let list = if hint == "forZones" { &mut self.for_zones } else { &mut self.for_nodes };
                list.push(name.boxed()?);
                Ok(())
            })
        })
    }
}

fn port(reader: Reader<'_>) -> Result<SlicePort, ReadError> {
    let mut port = SlicePort::default();
    reader.fields(PORT, |name, value| {
        match name {
            "name" => port.name = value.boxed()?,
            "protocol" => port.protocol = value.boxed()?,
            "port" => port.port = Some(value.int32()?),
            _ => port.app_protocol = value.boxed()?,
        }
        Ok(())
    })?;
    Ok(port)
}

impl Projection for SliceLite {
    fn set_meta(&mut self, meta: Arc<Meta>) {
        self.meta = meta;
    }

    fn read(&mut self, object: Reader<'_>) -> Result<(), ReadError> {
        object.fields(SLICE, |name, value| {
            match name {
                "addressType" => self.address_type = value.boxed()?,
                "endpoints" => self.endpoints.push(endpoint(value)?),
                _ => self.ports.push(port(value)?),
            }
            Ok(())
        })
    }
}
