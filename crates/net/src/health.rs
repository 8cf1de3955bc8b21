//! Telling load balancers whether this node has endpoints of a Service (`healthCheckNodePort`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use stdx::{Cancel, TaskTree};

use crate::http::{self, Page};
use crate::input::{EndpointView, NetState, ObjectKey};

/// What is told on a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    service: ObjectKey,
    local_endpoints: usize,
}

impl Health {
    /// In upstream's words: other balancers read them.
    fn page(&self) -> Page {
        let Health { service: ObjectKey { namespace, name }, local_endpoints: count } = self;
        let service = format!("\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},");
        Page {
            status: if *count > 0 { "200 OK" } else { "503 Service Unavailable" },
            content_type: "application/json",
            headers: vec![("X-Load-Balancing-Endpoint-Weight", count.to_string())],
            body: format!("{{\n{service}\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"),
        }
    }
}

/// What is to be told on which port of the node called `node`. Of two Services that claim one port, the API server lets
/// only one.
pub(crate) fn wanted(state: &NetState, node: &str) -> BTreeMap<u16, Health> {
    let asked = state.services.values().filter(|view| view.health_check_node_port != 0 && view.external_local);
    let mut wanted: BTreeMap<u16, Health> = asked
        .map(|view| (view.health_check_node_port, Health { service: view.key.clone(), local_endpoints: 0 }))
        .collect();
    for health in wanted.values_mut() {
        let slices = state.slices.values().filter(|slice| slice.service_key() == health.service);
        let here = |endpoint: &&EndpointView| endpoint.ready && endpoint.node_name == node;
        let endpoints = slices.flat_map(|slice| &slice.endpoints).filter(here);
        health.local_endpoints = endpoints.filter_map(EndpointView::address).collect::<BTreeSet<_>>().len();
    }
    wanted
}

/// The ports that are served, and what is told on each.
#[derive(Default)]
pub(crate) struct HealthPorts {
    served: BTreeMap<u16, (Cancel, Arc<Mutex<Health>>)>,
}

impl HealthPorts {
    /// Serves what is wanted, and nothing else.
    pub(crate) fn set(&mut self, wanted: BTreeMap<u16, Health>, tasks: &TaskTree) {
        self.served.retain(|port, (cancel, _)| {
            let stays = wanted.contains_key(port);
            if !stays {
                cancel.cancel();
            }
            stays
        });
        for (port, health) in wanted {
            match self.served.get(&port) {
                Some((_, told)) => *told.lock().unwrap_or_else(PoisonError::into_inner) = health,
                None => self.open(port, health, tasks),
            }
        }
    }

    fn open(&mut self, port: u16, health: Health, tasks: &TaskTree) {
        let listener = match http::listen(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))) {
            Ok(listener) => listener,
            // Tried again with the next change; until then balancers find nobody, which they take for "no endpoints here".
            Err(error) => return tracing::warn!(%error, port, service = %health.service, "health is not told"),
        };
        let (cancel, told) = (Cancel::default(), Arc::new(Mutex::new(health)));
        self.served.insert(port, (cancel.clone(), Arc::clone(&told)));
        let serving =
            http::serve(listener, tasks.clone(), move |_| told.lock().unwrap_or_else(PoisonError::into_inner).page());
        tasks.spawn("health", async move {
            if cancel.run(serving).await.is_none() {
                tracing::debug!(port, "health is no longer asked for here");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::ServiceView;
    use crate::testbed::{endpoint, service, slice};

    #[test]
    fn ready_endpoints_of_this_node_are_counted_once() {
        let balanced =
            ServiceView { health_check_node_port: 30_100, external_local: true, ..service("web", "10.96.0.10") };
        let elsewhere = EndpointView { node_name: "other".into(), ..endpoint("10.0.0.3") };
        let waiting = EndpointView { ready: false, ..endpoint("10.0.0.4") };
        let slices = [slice("web", [endpoint("10.0.0.2"), endpoint("10.0.0.2"), elsewhere, waiting])];
        let state = NetState::new([balanced, service("plain", "10.96.0.11")], slices);
        let told = wanted(&state, "node");
        let page = told[&30_100].page();
        assert_eq!((told.len(), page.status), (1, "200 OK"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&page.body).unwrap(),
            serde_json::json!({
                "service": {"namespace": "default", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": true
            })
        );
        assert_eq!(wanted(&state, "third")[&30_100].page().status, "503 Service Unavailable");
    }
}
