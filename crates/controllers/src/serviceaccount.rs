//! ServiceAccount: every namespace has one named `default`.
//!
//! Upstream: `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use std::sync::Arc;

use client::{Key, Object};
use reconcile::plan::kinds::{NAMESPACES, SERVICE_ACCOUNTS};
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, View, Watch};

use crate::patch;

/// The controller that makes `default` service accounts.
pub struct ServiceAccountController;

/// A namespace and whether it has its account.
pub struct Observed {
    namespace: Option<Arc<Object>>,
    present: bool,
}

impl Controller for ServiceAccountController {
    const NAME: &'static str = "serviceaccount";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        let namespace = |_: &View, account: &Object| match account.name() {
            "default" => vec![Key::new("", account.namespace())],
            _ => Vec::new(),
        };
        vec![Watch::primary(NAMESPACES), Watch::mapped(SERVICE_ACCOUNTS, namespace)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let present = view.get(SERVICE_ACCOUNTS, &Key::new(key.name(), "default")).is_some();
        Observed { namespace: view.get(NAMESPACES, key), present }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, _: &Facts, (): &mut ()) -> Plan {
        let Some(namespace) = &observed.namespace else { return Plan::nothing() };
        if observed.present || namespace.meta().deletion.is_some() {
            return Plan::nothing();
        }
        let object = patch::object([("metadata", patch::object([("name", "default".into())]))]);
        let change = Change::Create { resource: SERVICE_ACCOUNTS, namespace: namespace.name().into(), object };
        Plan::nothing().then([change.into()])
    }
}

#[cfg(test)]
mod tests;
