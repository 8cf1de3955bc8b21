//! Root CA: every namespace has a ConfigMap `kube-root-ca.crt` by which pods know the API server.
//!
//! Upstream: `pkg/controller/certificates/rootcacertpublisher`.

use std::sync::Arc;

use client::{Key, Object};
use k8s_openapi::api::core::v1::ConfigMap;
use reconcile::plan::kinds::{CONFIG_MAPS, NAMESPACES};
use reconcile::{Change, Controller, Facts, Now, Outcomes, Plan, View, Watch};

use crate::{owner, patch};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// The controller that publishes the certificate of the API server's authority.
pub struct RootCaController;

/// A namespace and its ConfigMap.
pub struct Observed {
    namespace: Option<Arc<Object>>,
    published: Option<ConfigMap>,
}

impl Controller for RootCaController {
    const NAME: &'static str = "root-ca-certificate-publisher";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        let namespace = |_: &View, map: &Object| match map.name() {
            NAME => vec![Key::new("", map.namespace())],
            _ => Vec::new(),
        };
        vec![Watch::primary(NAMESPACES), Watch::mapped(CONFIG_MAPS, namespace)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let published = view.get(CONFIG_MAPS, &Key::new(key.name(), NAME)).and_then(|object| owner::typed(&object));
        Observed { namespace: view.get(NAMESPACES, key), published }
    }

    fn reconcile(observed: &Observed, _: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(namespace) = &observed.namespace else { return Plan::nothing() };
        if namespace.meta().deletion.is_some() {
            return Plan::nothing();
        }
        let data = patch::object([("ca.crt", facts.root_ca.as_ref().into())]);
        let annotations = patch::object([("kubernetes.io/description", DESCRIPTION.into())]);
        let change = match &observed.published {
            None => {
                let metadata = patch::object([("name", NAME.into()), ("annotations", annotations)]);
                let object = patch::object([("metadata", metadata), ("data", data)]);
                Change::Create { resource: CONFIG_MAPS, namespace: namespace.name().into(), object }
            }
            Some(map) if right(map, &facts.root_ca) => return Plan::nothing(),
            Some(map) => {
                let of = owner::reference(CONFIG_MAPS, &map.metadata);
                let body = patch::object([("metadata", patch::object([("annotations", annotations)])), ("data", data)]);
                Change::Patch { of, subresource: None, body, revision: None }
            }
        };
        Plan::nothing().then([change.into()])
    }
}

fn right(map: &ConfigMap, root_ca: &str) -> bool {
    let described = map
        .metadata
        .annotations
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key("kubernetes.io/description"));
    described && map.data.as_ref().and_then(|data| data.get("ca.crt")).is_some_and(|text| text == root_ca)
}

#[cfg(test)]
mod tests;
