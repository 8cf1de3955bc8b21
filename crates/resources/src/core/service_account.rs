//! ServiceAccount: the identity of what runs in pods.

use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};

use crate::absent::{entry, list, list_mut};
use crate::base::{CORE, stored};
use crate::columns::{age, column, name};
use crate::def::{Cell, Facts, ResourceDef, Rules, Subresource, Writer};

const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

pub static SERVICE_ACCOUNT: ResourceDef<ServiceAccount> = ResourceDef {
    reset,
    warnings,
    columns: &[
        name(),
        column("Secrets", "string", "How many secrets the account lists.", |account| {
            Cell::Int(list(&account.secrets).len() as i64)
        }),
        age(),
    ],
    ..ResourceDef::plain(Facts {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        backing: stored("serviceaccounts"),
        subresources: &[Subresource::Other {
            name: "token",
            kind: ("authentication.k8s.io", "v1", "TokenRequest"),
            verbs: &["create"],
        }],
        ..CORE
    })
};

/// A reference to a secret of the same namespace is its name and nothing more.
fn reset(new: &mut ServiceAccount, _: Option<&ServiceAccount>, _: Writer, _: &Rules<'_>) {
    for secret in list_mut(&mut new.secrets) {
        *secret = ObjectReference { name: secret.name.take(), ..ObjectReference::default() };
    }
}

fn warnings(new: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
    let set = |account: &ServiceAccount| entry(&account.metadata.annotations, MOUNTABLE_SECRETS).is_some();
    if !set(new) || old.is_some_and(set) {
        return Vec::new();
    }
    let advice = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    vec![format!("metadata.annotations[{MOUNTABLE_SECRETS}]: {advice}")]
}
