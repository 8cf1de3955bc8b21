//! Who acts.

use std::collections::BTreeMap;

/// A user as authentication (or impersonation) found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Members may do everything; no authorizer is asked.
pub(crate) const MASTERS: &str = "system:masters";
/// Every user who proved who they are.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Every user who did not.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user of a request without credentials.
pub(crate) const ANONYMOUS: &str = "system:anonymous";
/// The group of all node agents.
pub(crate) const NODES: &str = "system:nodes";
/// Every service account.
pub(crate) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";

const NODE_PREFIX: &str = "system:node:";
const SERVICE_ACCOUNT_PREFIX: &str = "system:serviceaccount:";

impl User {
    /// A user with a name and groups.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        User { name: name.into(), groups, ..User::default() }
    }

    /// The user of a request without credentials.
    pub fn anonymous() -> User {
        User::new(ANONYMOUS, &[UNAUTHENTICATED])
    }

    /// A part of the control plane itself, which no rule binds.
    pub fn master(name: &str) -> User {
        User::new(name, &[MASTERS, AUTHENTICATED])
    }

    /// The agent of a node.
    pub fn node(name: &str) -> User {
        User::new(format!("{NODE_PREFIX}{name}"), &[NODES, AUTHENTICATED])
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str, uid: &str) -> User {
        let mut user = User::new(service_account_name(namespace, name), &[SERVICE_ACCOUNTS]);
        user.groups.push(format!("{SERVICE_ACCOUNTS}:{namespace}"));
        user.groups.push(AUTHENTICATED.to_owned());
        user.uid = uid.to_owned();
        user
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|mine| mine == group)
    }

    /// The node whose agent this is.
    pub fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|name| !name.is_empty() && self.is_in(NODES))
    }

    /// Whether this says to be an agent, of whatever node: by its name alone, as upstream.
    pub fn is_agent(&self) -> bool {
        self.is_in(NODES) && self.name.starts_with(NODE_PREFIX)
    }

    /// Namespace and name of the service account that this is.
    pub fn service_account_parts(&self) -> Option<(&str, &str)> {
        service_account_parts(&self.name)
    }
}

/// `system:serviceaccount:NAMESPACE:NAME`
pub(crate) fn service_account_name(namespace: &str, name: &str) -> String {
    format!("{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}")
}

/// Undoes [`service_account_name`].
pub(crate) fn service_account_parts(user_name: &str) -> Option<(&str, &str)> {
    user_name.strip_prefix(SERVICE_ACCOUNT_PREFIX)?.split_once(':').filter(|(_, name)| !name.contains(':'))
}
