//! The group `rbac.authorization.k8s.io/v1`: who may do what.

pub mod bindings;
pub mod bootstrap;
pub mod roles;

/// The group's name, which is also that of its users and groups.
pub const GROUP: &str = "rbac.authorization.k8s.io";
