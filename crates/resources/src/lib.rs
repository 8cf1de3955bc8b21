//! What the API server knows of each kind beyond its shape: one file a kind. Pure.
//!
//! To add a kind, copy a neighbour's file and add a line to [`RESOURCES`].

mod absent;
pub mod apps;
pub mod authentication;
pub mod authorization;
mod base;
pub mod certificates;
mod columns;
mod conditions;
pub mod coordination;
pub mod core;
pub mod def;
pub mod discovery;
mod faults;
pub mod gaps;
pub mod meta;
pub mod metrics;
pub mod names;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod scheduling;
mod selector;
mod shares;

pub use def::{
    AnyResource, Backing, Cell, Column, ColumnHead, Facts, ResourceDef, Rules, Scope, Selectable, Subresource, Writer,
};

/// Every kind with a collection of its own, in the order of discovery: by group, then by plural name.
pub static RESOURCES: &[&dyn AnyResource] = &[
    &core::binding::BINDING,
    &core::config_map::CONFIG_MAP,
    &core::endpoints::ENDPOINTS,
    &core::event::EVENT,
    &core::namespace::NAMESPACE,
    &core::node::NODE,
    &core::pod::POD,
    &core::secret::SECRET,
    &core::service_account::SERVICE_ACCOUNT,
    &core::service::SERVICE,
    &apps::deployment::DEPLOYMENT,
    &apps::replica_set::REPLICA_SET,
    &authentication::reviews::SELF_SUBJECT_REVIEW,
    &authentication::reviews::TOKEN_REVIEW,
    &authorization::access_reviews::LOCAL_SUBJECT_ACCESS_REVIEW,
    &authorization::access_reviews::SELF_SUBJECT_ACCESS_REVIEW,
    &authorization::access_reviews::SELF_SUBJECT_RULES_REVIEW,
    &authorization::access_reviews::SUBJECT_ACCESS_REVIEW,
    &certificates::certificate_signing_request::CERTIFICATE_SIGNING_REQUEST,
    &coordination::lease::LEASE,
    &discovery::endpoint_slice::ENDPOINT_SLICE,
    &metrics::NODE_METRICS,
    &metrics::POD_METRICS,
    &node::runtime_class::RUNTIME_CLASS,
    &policy::pod_disruption_budget::POD_DISRUPTION_BUDGET,
    &rbac::bindings::CLUSTER_ROLE_BINDING,
    &rbac::roles::CLUSTER_ROLE,
    &rbac::bindings::ROLE_BINDING,
    &rbac::roles::ROLE,
    &scheduling::priority_class::PRIORITY_CLASS,
];

/// Kinds that only subresources take: not in discovery as resources, but defaulted and judged like them.
pub static SUBRESOURCE_KINDS: &[&dyn AnyResource] = &[&authentication::token_request::TOKEN_REQUEST, &policy::EVICTION];

/// The kind with these facts, of [`RESOURCES`] and [`SUBRESOURCE_KINDS`]; also-served versions are found too.
pub fn find(group: &str, version: &str, kind: &str) -> Option<&'static dyn AnyResource> {
    let is = |resource: &&&dyn AnyResource| {
        let facts = resource.facts();
        (facts.group, facts.version, facts.kind) == (group, version, kind)
            || facts.also_served.contains(&(group, version, kind))
    };
    RESOURCES.iter().chain(SUBRESOURCE_KINDS).find(is).copied()
}

/// What every answer about a deprecated kind carries in its `Warning` header.
pub fn deprecation(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    match (group, version, kind) {
        ("", "v1", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}
