//! Ports of every node: those that lead to Services, and those on which load balancers ask how a Service is.
//!
//! Upstream: `pkg/registry/core/service/storage/alloc.go`. A number is one Service's, whatever the protocol; within a
//! Service, ports of one number and different protocols share it.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{FieldErrors, Path};
use api::value::Value;
use bytes::Bytes;
use store::RangeRequest;

use super::{DRAWS, SideRecords, invalid, is_free, spec};
use crate::cache::{ROOT, store_refusal};
use crate::refusal::{Outcome, Refusal};
use crate::server::ApiServer;

const HEALTH: &str = "healthCheckNodePort";

fn prefix() -> String {
    format!("{ROOT}ranges/isopod-nodeports/")
}

/// The record that takes a number.
pub(super) fn key(number: i64) -> Bytes {
    format!("{}{number}", prefix()).into()
}

/// All numbers that a Service has.
pub(super) fn held(service: &Value) -> BTreeSet<i64> {
    let ports = service.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
    let health = if needs_health_check(service) { Some(health_port(service)) } else { None };
    ports.iter().map(node_port).chain(health).filter(|number| *number != 0).collect()
}

fn node_port(port: &Value) -> i64 {
    port.get("nodePort").and_then(Value::as_i64).unwrap_or(0)
}

fn health_port(service: &Value) -> i64 {
    service.at(&["spec", HEALTH]).and_then(Value::as_i64).unwrap_or(0)
}

fn needs_health_check(service: &Value) -> bool {
    spec(service, "type") == "LoadBalancer" && spec(service, "externalTrafficPolicy") == "Local"
}

/// Gives the Service the numbers that it needs, and takes back those that it no longer has.
pub(super) async fn plan(
    server: &ApiServer,
    old: Option<&Value>,
    new: &mut Value,
    records: &mut SideRecords,
) -> Outcome<()> {
    let had = old.map(held).unwrap_or_default();
    let mut operation = Operation { server, had: &had, taken: BTreeSet::new() };
    if matches!(spec(new, "type"), "NodePort" | "LoadBalancer") {
        let allocate = spec(new, "type") == "NodePort"
            || new.at(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false);
        operation.give_ports(new, allocate, old.is_none()).await?;
    }
    if needs_health_check(new) && !old.is_some_and(needs_health_check) {
        operation.give_health_port(new).await?;
    }
    let owner = format!("{}/{}", api::meta::namespace(new), api::meta::name(new));
    operation.taken.iter().for_each(|number| records.take(key(*number), owner.clone().into()));
    had.difference(&held(new)).for_each(|number| records.release(key(*number)));
    Ok(())
}

/// An allocation under way.
struct Operation<'a> {
    server: &'a ApiServer,
    had: &'a BTreeSet<i64>,
    taken: BTreeSet<i64>,
}

impl Operation<'_> {
    /// Of a new Service, ports of the same number get the same port of the node, also if only one of them asks for it.
    async fn give_ports(&mut self, service: &mut Value, allocate: bool, created: bool) -> Outcome<()> {
        let shown = service.clone();
        let list = service.at_mut(&["spec", "ports"]).and_then(Value::as_array_mut);
        let Some(ports) = list else { return Ok(()) };
        let mut shared: BTreeMap<i64, i64> = BTreeMap::new();
        for index in 0..ports.len() {
            let number = ports[index].get("port").and_then(Value::as_i64).unwrap_or(0);
            let mut wanted = node_port(&ports[index]);
            if wanted == 0 && !allocate {
                continue;
            }
            if wanted == 0 && created {
                let asked = ports.iter().filter(|port| port.get("port").and_then(Value::as_i64) == Some(number));
                wanted =
                    shared.get(&number).copied().or_else(|| asked.map(node_port).find(|port| *port != 0)).unwrap_or(0);
            }
            if wanted == 0 {
                let drawn = self.draw().await?;
                wanted = drawn.ok_or_else(|| Refusal::internal("failed to allocate a nodePort: range is full"))?;
            } else if let Err(why) = self.take(wanted).await? {
                let (field, mut faults) = (Path::new("spec.ports"), FieldErrors::default());
                faults.invalid(&field.index(index).child("nodePort"), &wanted, why);
                return Err(invalid(&shown, faults));
            }
            shared.entry(number).or_insert(wanted);
            if let Some(members) = ports[index].as_object_mut() {
                members.insert("nodePort", wanted);
            }
        }
        Ok(())
    }

    async fn give_health_port(&mut self, service: &mut Value) -> Outcome<()> {
        let wanted = health_port(service);
        if wanted != 0 {
            let outcome = self.take(wanted).await?;
            return outcome.map_err(|why| {
                Refusal::internal(format!("failed to allocate requested HealthCheck NodePort {wanted}: {why}"))
            });
        }
        let full = || Refusal::internal("failed to allocate a HealthCheck NodePort 0: range is full");
        let drawn = self.draw().await?.ok_or_else(full)?;
        if let Some(members) = service.get_mut("spec").and_then(Value::as_object_mut) {
            members.insert(HEALTH, drawn);
        }
        Ok(())
    }

    /// Takes a number that was asked for; the inner error says why it cannot be had.
    async fn take(&mut self, number: i64) -> Outcome<Result<(), String>> {
        if self.had.contains(&number) || self.taken.contains(&number) {
            return Ok(Ok(()));
        }
        let (first, last) = self.server.network.node_ports;
        if !(i64::from(first)..=i64::from(last)).contains(&number) {
            let range = format!("The range of valid ports is {first}-{last}");
            return Ok(Err(format!("provided port is not in the valid range. {range}")));
        }
        if !is_free(self.server, &key(number)).await? {
            return Ok(Err("provided port is already allocated".to_owned()));
        }
        self.taken.insert(number);
        Ok(Ok(()))
    }

    /// Takes any number: of the upper part of the range while there is one.
    async fn draw(&mut self) -> Outcome<Option<i64>> {
        for _ in 0..DRAWS {
            let number = i64::from(self.server.network.random_port());
            let known = self.had.contains(&number) || self.taken.contains(&number);
            if !known && is_free(self.server, &key(number)).await? {
                self.taken.insert(number);
                return Ok(Some(number));
            }
        }
        let request = RangeRequest { keys_only: true, ..RangeRequest::prefix(prefix()) };
        let all = self.server.store.range(request).await.map_err(store_refusal)?;
        let all: BTreeSet<&[u8]> = all.entries.iter().map(|entry| &entry.key[..]).collect();
        let network = &self.server.network;
        let (first, last) = network.node_ports;
        let middle = first + network.reserved_ports();
        let free = (middle..=last).chain(first..middle).map(i64::from).find(|number| {
            !all.contains(&key(*number)[..]) && !self.had.contains(number) && !self.taken.contains(number)
        });
        self.taken.extend(free);
        Ok(free)
    }
}
