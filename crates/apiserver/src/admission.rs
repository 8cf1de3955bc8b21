//! Admission: what the cluster adds to requests and forbids, beyond what kinds themselves demand. One file each, in order.
//!
//! Every write of every resource and subresource passes here, so that no side door goes around it.

pub(crate) mod certificates;
pub(crate) mod default_toleration_seconds;
pub(crate) mod mountable_secrets;
pub(crate) mod namespace_lifecycle;
pub(crate) mod node_restriction;
pub(crate) mod priority;
pub(crate) mod rbac_escalation;
pub(crate) mod runtime_class;
pub(crate) mod service_account;
pub(crate) mod taint_nodes_by_condition;

use std::sync::Arc;

use api::status::Status;
use api::value::{Value, from_value, to_value};
use client::{Key, Object};
use k8s_openapi::api::core::v1::Pod;
use store::Compare;

use crate::catalog::Served;
use crate::pipeline::Call;
use crate::refusal::{Outcome, Refusal};
use crate::verbs::target;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// A request as admission sees it.
pub(crate) struct Asked<'a> {
    pub call: &'a Call<'a>,
    pub served: &'a Served,
    pub operation: Operation,
    pub subresource: &'a str,
    pub namespace: String,
    pub name: String,
}

/// What admission wants of the transaction.
#[derive(Default)]
pub(crate) struct Admitted {
    /// The namespace is still as it was when it was looked at.
    pub compare: Option<Compare>,
}

impl Asked<'_> {
    /// Whether the request is about a resource of this group and plural, itself or through a subresource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.served.group == group && self.served.facts().plural == plural
    }

    /// Whether the request creates an object of this group and plural.
    pub(crate) fn creates(&self, group: &str, plural: &str) -> bool {
        self.operation == Operation::Create && self.subresource.is_empty() && self.is(group, plural)
    }

    /// An object of the cache.
    pub(crate) fn object(&self, prefix: &str, key: &Key) -> Option<Arc<Object>> {
        self.call.server.cache.resource(prefix)?.snapshot().objects.get(key).cloned()
    }

    /// 403 by admission.
    pub(crate) fn forbidden(&self, why: &str) -> Refusal {
        Status::forbidden(target(self.served, &self.name), why).into()
    }
}

/// Lets each plug-in change the object and then decide. A deletion has no object.
pub(crate) fn admit(asked: &Asked<'_>, new: Option<&mut Value>, old: Option<&Value>) -> Outcome<Admitted> {
    let admitted = Admitted { compare: namespace_lifecycle::admit(asked)? };
    let Some(new) = new else {
        node_restriction::delete(asked)?;
        return Ok(admitted);
    };
    if asked.creates("", "pods") {
        let mut pod: Pod = from_value(new).map_err(Refusal::internal)?;
        service_account::admit(asked, &mut pod)?;
        priority::admit(asked, &mut pod)?;
        runtime_class::admit(asked, &mut pod)?;
        default_toleration_seconds::admit(&mut pod);
        *new = to_value(&pod).map_err(Refusal::internal)?;
        api::meta::set_type(new, &asked.served.api_version(), asked.served.kind);
    }
    if asked.subresource == "ephemeralcontainers" && asked.is("", "pods") {
        mountable_secrets::admit_ephemeral(asked, &from_value(new).map_err(Refusal::internal)?)?;
    }
    if asked.creates("", "nodes") {
        taint_nodes_by_condition::admit(new);
    }
    priority::admit_class(asked, new)?;
    certificates::admit(asked, new, old)?;
    node_restriction::admit(asked, new, old)?;
    rbac_escalation::admit(asked, new, old)?;
    Ok(admitted)
}
