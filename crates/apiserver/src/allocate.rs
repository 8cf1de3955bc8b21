//! Addresses and ports of Services, recorded beside the Service in the same transaction.
//!
//! An address is taken by a key of its own (upstream's `IPAddress` objects, at upstream's place), so that two Services
//! created at once never wait for one another unless they want the same address.

mod ports;

use std::net::Ipv4Addr;

use api::field::{FieldErrors, Path};
use api::value::Value;
use bytes::Bytes;
use store::{Compare, Op, RangeRequest};

use crate::cache::{ROOT, store_refusal};
use crate::catalog::Served;
use crate::refusal::{Outcome, Refusal};
use crate::server::ApiServer;

/// What Services are given.
#[derive(Clone, Debug)]
pub struct Network {
    /// The base address of the service range and its prefix length.
    pub services: (Ipv4Addr, u8),
    /// The first and the last port that Services of type NodePort are given.
    pub node_ports: (u16, u16),
}

impl Default for Network {
    /// Upstream's customary 10.96.0.0/12 and 30000–32767.
    fn default() -> Network {
        Network { services: (Ipv4Addr::new(10, 96, 0, 0), 12), node_ports: (30_000, 32_767) }
    }
}

impl Network {
    fn base(&self) -> u32 {
        u32::from(self.services.0) & self.mask()
    }

    fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.services.1.min(32))).unwrap_or(0)
    }

    /// How many addresses the range has.
    fn size(&self) -> u64 {
        1 << (32 - u32::from(self.services.1.min(32)))
    }

    /// The first usable address, which the `kubernetes` Service has.
    pub fn first(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base() + 1)
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        address & self.mask() == self.base()
            && address != self.base()
            && u64::from(address - self.base()) + 1 < self.size()
    }

    /// `10.96.0.0/12`
    pub fn cidr(&self) -> String {
        format!("{}/{}", Ipv4Addr::from(self.base()), self.services.1)
    }

    /// A random address of the upper part of the range; the lower part is for addresses that people ask for, as upstream
    /// divides it: between 16 and 256 addresses, a sixteenth of the range.
    fn random_address(&self) -> Ipv4Addr {
        let usable = self.size().saturating_sub(2).max(1);
        let reserved = (self.size() / 16).clamp(16, 256).min(usable - 1);
        let offset = reserved + stdx::random_u64() % (usable - reserved);
        Ipv4Addr::from(self.base() + 1 + u32::try_from(offset).unwrap_or(0))
    }

    /// How many ports at the beginning of the range are for numbers that people ask for, as upstream divides it: a
    /// thirty-second, between 16 and 128.
    fn reserved_ports(&self) -> u16 {
        let (first, last) = self.node_ports;
        let size = last.saturating_sub(first).saturating_add(1);
        if size < 16 { 0 } else { (size / 32).clamp(16, 128).min(size - 1) }
    }

    /// A random port of the upper part of the range.
    fn random_port(&self) -> u16 {
        let (first, last) = (self.node_ports.0 + self.reserved_ports(), self.node_ports.1);
        let count = u64::from(last.saturating_sub(first)) + 1;
        first + u16::try_from(stdx::random_u64() % count).unwrap_or(0)
    }
}

/// What is stored beside an object, and under which conditions.
#[derive(Debug, Default)]
pub(crate) struct SideRecords {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl SideRecords {
    fn take(&mut self, key: Bytes, value: Bytes) {
        self.compares.push(Compare::absent(key.clone()));
        self.ops.push(Op::put(key, value));
    }

    fn release(&mut self, key: Bytes) {
        self.ops.push(Op::delete(key));
    }
}

/// Random draws before the range is searched from its start.
const DRAWS: usize = 32;
const HEADLESS: &str = "None";

fn address_key(address: &str) -> Bytes {
    format!("{ROOT}ipaddresses/{address}").into()
}

/// Fills in what the object needs and does not have, and gives the records that take it. Only Services have any.
pub(crate) async fn plan(
    server: &ApiServer,
    served: &Served,
    old: Option<&Value>,
    new: &mut Value,
) -> Outcome<SideRecords> {
    if !is_service(served) {
        return Ok(SideRecords::default());
    }
    let mut records = SideRecords::default();
    addresses(server, old, new, &mut records).await?;
    ports::plan(server, old, new, &mut records).await?;
    Ok(records)
}

/// Copies what a Service was given into an update that does not mention it, as upstream's `patchAllocatedValues` does.
pub(crate) fn carry_over(served: &Served, old: &Value, new: &mut Value) {
    let addressed = |service: &Value| spec(service, "type") != "ExternalName" && spec(service, "clusterIP") != HEADLESS;
    if !is_service(served) || !addressed(old) || !addressed(new) {
        return;
    }
    let ported = |service: &Value| matches!(spec(service, "type"), "NodePort" | "LoadBalancer");
    let keep_ports = ported(old) && ported(new);
    let Some(members) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let absent = match members.get(field) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        if let (true, Some(value)) = (absent, old.at(&["spec", field])) {
            members.insert(field, value.clone());
        }
    }
    if keep_ports {
        carry_over_ports(old, members.get_or_insert_array("ports"));
    }
}

/// A port without a node port keeps the one that its protocol and number had.
fn carry_over_ports(old: &Value, ports: &mut [Value]) {
    let before = old.at(&["spec", "ports"]).and_then(Value::as_array).unwrap_or_default();
    let number = |port: &Value| port.get("nodePort").and_then(Value::as_i64).filter(|number| *number != 0);
    let taken: Vec<i64> = ports.iter().filter_map(number).collect();
    for port in ports.iter_mut().filter(|port| number(port).is_none()) {
        let same = |other: &&Value| ["protocol", "port"].iter().all(|field| other.get(field) == port.get(field));
        let kept = before.iter().find(same).and_then(number).filter(|number| !taken.contains(number));
        if let (Some(kept), Some(members)) = (kept, port.as_object_mut()) {
            members.insert("nodePort", kept);
        }
    }
}

/// The records that take the addresses which the object names, each with its condition.
pub(crate) fn claim(object: &Value) -> Outcome<Vec<(Compare, Op)>> {
    let mut claims = Vec::new();
    for address in cluster_addresses(object) {
        let key = address_key(address);
        claims.push((Compare::absent(key.clone()), Op::put(key, address_record(object, address)?)));
    }
    Ok(claims)
}

/// The records that give back what a removed object had.
pub(crate) fn release(served: &Served, object: &Value) -> SideRecords {
    let mut records = SideRecords::default();
    if is_service(served) {
        cluster_addresses(object).for_each(|address| records.release(address_key(address)));
        ports::held(object).into_iter().for_each(|number| records.release(ports::key(number)));
    }
    records
}

fn is_service(served: &Served) -> bool {
    served.group.is_empty() && served.facts().plural == "services"
}

fn spec<'v>(service: &'v Value, field: &str) -> &'v str {
    service.str_at(&["spec", field]).unwrap_or_default()
}

fn cluster_addresses(service: &Value) -> impl Iterator<Item = &str> {
    let listed = service.at(&["spec", "clusterIPs"]).and_then(Value::as_array).unwrap_or_default();
    let single = if listed.is_empty() { Some(spec(service, "clusterIP")) } else { None };
    listed.iter().filter_map(Value::as_str).chain(single).filter(|address| !address.is_empty() && *address != HEADLESS)
}

async fn addresses(server: &ApiServer, old: Option<&Value>, new: &mut Value, records: &mut SideRecords) -> Outcome<()> {
    let before: Vec<String> = old.into_iter().flat_map(cluster_addresses).map(str::to_owned).collect();
    if spec(new, "type") == "ExternalName" {
        before.iter().for_each(|address| records.release(address_key(address)));
        return Ok(());
    }
    if spec(new, "clusterIP") == HEADLESS {
        let Some(members) = new.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        members.get_or_insert_array("clusterIPs").clone_from(&vec![Value::from(HEADLESS)]);
        default_families(members);
        return Ok(());
    }
    let wanted = cluster_addresses(new).next().map(str::to_owned);
    let address = match wanted {
        Some(address) => {
            if !before.contains(&address) {
                take_wanted(server, new, &address, records).await?;
            }
            address
        }
        None => draw_address(server, new, records).await?,
    };
    before.iter().filter(|old| **old != address).for_each(|old| records.release(address_key(old)));
    if let Some(members) = new.as_object_mut().map(|members| members.get_or_insert_object("spec")) {
        members.insert("clusterIP", address.as_str());
        members.insert("clusterIPs", vec![address]);
        default_families(members);
    }
    Ok(())
}

fn default_families(spec: &mut api::value::Map) {
    if spec.get_or_insert_array("ipFamilies").is_empty() {
        spec.insert("ipFamilies", vec!["IPv4"]);
    }
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        spec.insert("ipFamilyPolicy", "SingleStack");
    }
}

/// Upstream's words for an address that cannot be given.
fn invalid_address(service: &Value, address: &str, why: &str) -> Refusal {
    let mut faults = FieldErrors::default();
    let why = format!("failed to allocate IP {address}: {why}");
    faults.invalid(&Path::new("spec").child("clusterIPs"), &vec![address], why);
    invalid(service, faults)
}

fn invalid(service: &Value, faults: FieldErrors) -> Refusal {
    let status = faults.into_status("", "Service", api::meta::name(service));
    status.map_or_else(|| Refusal::internal("no fault"), Refusal::from)
}

async fn is_free(server: &ApiServer, key: &Bytes) -> Outcome<bool> {
    Ok(server.store.get(key).await.map_err(store_refusal)?.is_none())
}

async fn take_wanted(server: &ApiServer, service: &Value, address: &str, records: &mut SideRecords) -> Outcome<()> {
    let parsed: Option<Ipv4Addr> = address.parse().ok();
    if !parsed.is_some_and(|address| server.network.contains(address)) {
        let why = format!(
            "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
            server.network.cidr()
        );
        return Err(invalid_address(service, address, &why));
    }
    let key = address_key(address);
    if !is_free(server, &key).await? {
        return Err(invalid_address(service, address, "provided IP is already allocated"));
    }
    records.take(key, address_record(service, address)?);
    Ok(())
}

async fn draw_address(server: &ApiServer, service: &Value, records: &mut SideRecords) -> Outcome<String> {
    for _ in 0..DRAWS {
        let address = server.network.random_address().to_string();
        let key = address_key(&address);
        if is_free(server, &key).await? {
            records.take(key, address_record(service, &address)?);
            return Ok(address);
        }
    }
    let request = RangeRequest { keys_only: true, ..RangeRequest::prefix(format!("{ROOT}ipaddresses/")) };
    let taken = server.store.range(request).await.map_err(store_refusal)?;
    let taken: std::collections::BTreeSet<&[u8]> = taken.entries.iter().map(|entry| &entry.key[..]).collect();
    let first = u32::from(server.network.first());
    let mut all = (0..u32::try_from(server.network.size().saturating_sub(2)).unwrap_or(u32::MAX))
        .map(|offset| Ipv4Addr::from(first + offset));
    let free = all.find(|address| !taken.contains(&address_key(&address.to_string())[..]));
    let full = || Refusal::internal("failed to allocate a serviceIP: range is full");
    let address = free.ok_or_else(full)?.to_string();
    records.take(address_key(&address), address_record(service, &address)?);
    Ok(address)
}

/// The `IPAddress` object that says whose the address is.
fn address_record(service: &Value, address: &str) -> Outcome<Bytes> {
    let parent = Value::from([
        ("resource", "services"),
        ("namespace", api::meta::namespace(service)),
        ("name", api::meta::name(service)),
    ]);
    let mut object = Value::object();
    api::meta::set_name(&mut object, address);
    api::meta::set_uid(&mut object, &crate::verbs::attempt::uid());
    api::meta::set_creation_timestamp(&mut object, stdx::wall());
    api::meta::set_label(&mut object, "ipaddress.kubernetes.io/ip-family", "IPv4");
    api::meta::set_label(&mut object, "ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
    if let Some(members) = object.as_object_mut() {
        members.get_or_insert_object("spec").insert("parentRef", parent);
    }
    crate::stored::body_of("networking.k8s.io", "v1", "IPAddress", &object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_has_its_ends_and_draws_stay_above_the_reserved_part() {
        let network = Network { services: (Ipv4Addr::new(10, 43, 0, 0), 16), ..Network::default() };
        assert_eq!(network.first(), Ipv4Addr::new(10, 43, 0, 1));
        assert_eq!(network.cidr(), "10.43.0.0/16");
        assert!(!network.contains(Ipv4Addr::new(10, 43, 0, 0)));
        assert!(network.contains(Ipv4Addr::new(10, 43, 255, 254)));
        assert!(!network.contains(Ipv4Addr::new(10, 43, 255, 255)));
        assert!(!network.contains(Ipv4Addr::new(10, 44, 0, 1)));
        for _ in 0..1000 {
            let drawn = network.random_address();
            assert!(network.contains(drawn) && u32::from(drawn) > u32::from(Ipv4Addr::new(10, 43, 0, 255)), "{drawn}");
            assert!((30_086..=32_767).contains(&network.random_port()));
        }
        for (range, reserved) in [((30_000, 30_009), 0), ((30_000, 30_099), 16), ((1, 65_535), 128)] {
            assert_eq!(Network { node_ports: range, ..Network::default() }.reserved_ports(), reserved);
        }
    }
}
