//! The kinds that controllers of everything (the garbage collector, the namespace controller) look at.

use reconcile::Resource;
use reconcile::plan::kinds::{
    CLUSTER_ROLES, CONFIG_MAPS, DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, EVENTS, LEASES, NAMESPACES, NODES,
    POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, SECRETS, SERVICE_ACCOUNTS, SERVICES,
};

const RBAC: &str = "rbac.authorization.k8s.io";

const fn rbac(plural: &'static str, kind: &'static str) -> Resource {
    Resource { group: RBAC, version: "v1", plural, kind }
}

/// Kinds whose objects live in a namespace and go with it.
pub const NAMESPACED: &[Resource] = &[
    CONFIG_MAPS,
    ENDPOINTS,
    EVENTS,
    PODS,
    SECRETS,
    SERVICES,
    SERVICE_ACCOUNTS,
    DEPLOYMENTS,
    REPLICA_SETS,
    ENDPOINT_SLICES,
    LEASES,
    POD_DISRUPTION_BUDGETS,
    rbac("roles", "Role"),
    rbac("rolebindings", "RoleBinding"),
];

/// Cluster-scoped kinds that may own or be owned.
pub const CLUSTER_SCOPED: &[Resource] =
    &[NAMESPACES, NODES, CLUSTER_ROLES, rbac("clusterrolebindings", "ClusterRoleBinding")];

/// Kinds that the garbage collector leaves alone. Upstream: `DefaultIgnoredResources`.
pub const IGNORED: &[Resource] = &[EVENTS];
