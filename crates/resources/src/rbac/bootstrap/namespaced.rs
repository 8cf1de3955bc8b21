//! Roles and bindings in `kube-system` and `kube-public`.

use super::{EVENTS, READ, Rule, Who, allow, allow_named};

/// Namespace, name, rules.
pub(super) const ROLES: &[(&str, &str, &[Rule])] = &[
    (
        "kube-system",
        "extension-apiserver-authentication-reader",
        &[allow_named(READ, &[""], &["configmaps"], &["extension-apiserver-authentication"])],
    ),
    ("kube-system", "system:controller:bootstrap-signer", &[allow(READ, &[""], &["secrets"])]),
    (
        "kube-system",
        "system:controller:cloud-provider",
        &[allow(&["create", "get", "list", "watch"], &[""], &["configmaps"])],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        &[allow(&["delete", "get", "list", "watch"], &[""], &["secrets"]), EVENTS],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        &[
            allow(&["watch"], &[""], &["configmaps"]),
            allow_named(&["get", "update"], &[""], &["configmaps"], &["kube-controller-manager"]),
        ],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        &[
            allow(&["watch"], &[""], &["configmaps"]),
            allow_named(&["get", "update"], &[""], &["configmaps"], &["kube-scheduler"]),
        ],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        &[
            allow(READ, &[""], &["configmaps"]),
            allow_named(&["update"], &[""], &["configmaps"], &["cluster-info"]),
            EVENTS,
        ],
    ),
];

/// Namespace, name, role, subjects.
pub(super) const BINDINGS: &[(&str, &str, &str, &[Who])] = &[
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &[Who::User("system:kube-controller-manager"), Who::User("system:kube-scheduler")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &[Who::User("system:kube-controller-manager"), Who::Account("kube-controller-manager")],
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &[Who::User("system:kube-scheduler"), Who::Account("kube-scheduler")],
    ),
    (
        "kube-system",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
    (
        "kube-system",
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &[Who::Account("cloud-provider")],
    ),
    (
        "kube-system",
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &[Who::Account("token-cleaner")],
    ),
    (
        "kube-public",
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &[Who::Account("bootstrap-signer")],
    ),
];
