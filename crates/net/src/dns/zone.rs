//! The cluster's names: which records a question has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::input::{EndpointView, NetState, ObjectKey, Protocol, ServiceType, ServiceView, SliceView};

/// How long clients may keep an answer, in seconds: as in the configuration that Kubernetes ships for its DNS.
const TTL_SECONDS: u32 = 30;
/// The version of the cluster DNS specification, and for how long clients may keep it, as upstream answers.
const SCHEMA: (&str, u32) = ("1.1.0", 28_800);

/// The names of one cluster.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Vec<String>,
    origin: Name,
    servers: Vec<IpAddr>,
    state: NetState,
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    services_at: BTreeMap<IpAddr, BTreeMap<ObjectKey, u32>>,
    serial: u32,
}

/// What the zone knows about a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The name is not under the cluster's domain, nor the reverse of an address in it.
    Elsewhere,
    /// The name is another name for `target`, whose records are still to be found.
    Alias {
        /// The record that says so.
        record: Box<Record>,
        /// The name to go on with.
        target: Name,
    },
    /// All there is to say.
    Here(Box<Outcome>),
}

/// Records for a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was asked for.
    pub answers: Vec<Record>,
    /// What will be asked for next.
    pub additionals: Vec<Record>,
    /// The zone's own record; there when nothing was found.
    pub authority: Option<Record>,
    /// Whether the name exists, whatever its records.
    pub exists: bool,
}

/// A record to be, before its type is known.
struct Hit {
    address: IpAddr,
    port: Option<u16>,
    /// The name that has the address.
    name: Vec<String>,
}

/// What a name stands for.
enum Meaning<'a> {
    /// It has records of these.
    Hits(Vec<Hit>),
    /// It exists without records.
    Empty,
    /// It is another name.
    Alias(&'a str),
    /// It does not exist.
    Missing,
}

impl Zone {
    /// An empty zone for `domain`, such as `cluster.local`, served at `servers`.
    pub fn new(domain: &str, servers: Vec<IpAddr>) -> Result<Zone, hickory_proto::ProtoError> {
        let mut origin = Name::from_ascii(domain)?.to_lowercase();
        origin.set_fqdn(true);
        Ok(Zone {
            domain: labels(&origin),
            origin,
            servers,
            state: NetState::default(),
            slices_of: BTreeMap::new(),
            services_at: BTreeMap::new(),
            serial: 1,
        })
    }

    /// The cluster's domain.
    pub(super) fn origin(&self) -> Name {
        self.origin.clone()
    }

    /// The Services and slices that the names are made of.
    pub fn state(&self) -> &NetState {
        &self.state
    }

    /// Puts a Service in, in place of the one with its key.
    pub fn set_service(&mut self, view: Arc<ServiceView>) {
        self.remove_service(&view.key);
        view.cluster_ips.iter().for_each(|address| self.note(*address, &view.key));
        self.state.services.insert(view.key.clone(), view);
    }

    /// Makes these the namespaces that there are.
    pub fn set_namespaces(&mut self, namespaces: BTreeSet<String>) {
        self.serial = self.serial.wrapping_add(1);
        self.state.namespaces = namespaces;
    }

    /// Takes a Service out.
    pub fn remove_service(&mut self, key: &ObjectKey) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(view) = self.state.services.remove(key) {
            view.cluster_ips.iter().for_each(|address| self.forget(*address, key));
        }
    }

    /// Puts a slice in, in place of the one with its key.
    pub fn set_slice(&mut self, view: Arc<SliceView>) {
        self.remove_slice(&view.key);
        let service = view.service_key();
        addresses_of(&view).for_each(|address| self.note(address, &service));
        self.slices_of.entry(service).or_default().insert(view.key.clone());
        self.state.slices.insert(view.key.clone(), view);
    }

    /// Takes a slice out.
    pub fn remove_slice(&mut self, key: &ObjectKey) {
        self.serial = self.serial.wrapping_add(1);
        let Some(view) = self.state.slices.remove(key) else { return };
        let service = view.service_key();
        addresses_of(&view).for_each(|address| self.forget(address, &service));
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
    }

    fn note(&mut self, address: IpAddr, service: &ObjectKey) {
        *self.services_at.entry(address).or_default().entry(service.clone()).or_default() += 1;
    }

    fn forget(&mut self, address: IpAddr, service: &ObjectKey) {
        let Some(services) = self.services_at.get_mut(&address) else { return };
        if let Some(count) = services.get_mut(service) {
            *count -= 1;
            if *count == 0 {
                services.remove(service);
            }
        }
        if services.is_empty() {
            self.services_at.remove(&address);
        }
    }

    /// The answer to a question. Several records come in a fixed order, starting at the `turn`th, so that clients
    /// that take the first spread over all.
    pub fn answer(&self, name: &Name, kind: RecordType, turn: usize) -> Answer {
        let asked = labels(name);
        if let Some(address) = reverse(&asked) {
            return self.reverse_answer(name, address, kind);
        }
        let Some(inner) = asked.strip_suffix(self.domain.as_slice()).map(<[String]>::to_vec) else {
            return Answer::Elsewhere;
        };
        if let Some(outcome) = self.fixed(name, &inner, kind) {
            return Answer::Here(Box::new(outcome));
        }
        match self.meaning(&inner) {
            Meaning::Alias(target) => self.alias(name, target, kind),
            Meaning::Hits(mut hits) => {
                let turn = turn % hits.len().max(1);
                hits.rotate_left(turn);
                self.here(self.records(name, &hits, kind), true)
            }
            Meaning::Empty => self.here(Outcome::default(), true),
            Meaning::Missing => self.here(Outcome::default(), false),
        }
    }

    fn here(&self, mut outcome: Outcome, exists: bool) -> Answer {
        outcome.exists = exists;
        if outcome.answers.is_empty() {
            outcome.authority = Some(self.start_of_authority());
        }
        Answer::Here(Box::new(outcome))
    }

    /// Records that do not depend on Services.
    fn fixed(&self, name: &Name, inner: &[String], kind: RecordType) -> Option<Outcome> {
        let text = |label: &str| inner == [label.to_owned()];
        let addresses = || self.servers.iter().filter_map(|address| address_record(name, *address, kind)).collect();
        let answers = match kind {
            RecordType::SOA if inner.is_empty() => vec![self.start_of_authority()],
            RecordType::NS if inner.is_empty() => {
                vec![Record::from_rdata(name.clone(), TTL_SECONDS, RData::NS(NS(self.server_name())))]
            }
            RecordType::TXT if text("dns-version") => {
                let text = RData::TXT(TXT::new(vec![SCHEMA.0.to_owned()]));
                vec![Record::from_rdata(name.clone(), SCHEMA.1, text)]
            }
            _ if inner == ["ns".to_owned(), "dns".to_owned()] => addresses(),
            _ if text("dns-version") || inner.is_empty() => Vec::new(),
            _ => return None,
        };
        let authority = answers.is_empty().then(|| self.start_of_authority());
        Some(Outcome { answers, authority, exists: true, ..Outcome::default() })
    }

    /// What a name stands for, by its labels before the zone's own.
    fn meaning(&self, inner: &[String]) -> Meaning<'_> {
        let [rest @ .., area] = inner else { return Meaning::Empty };
        match (area.as_str(), rest) {
            ("svc" | "pod", []) => Meaning::Empty,
            ("svc", [namespace]) if self.has_namespace(namespace) => Meaning::Empty,
            ("pod", [namespace]) if self.has_namespace(namespace) => Meaning::Empty,
            ("pod", [pod, namespace]) if self.has_namespace(namespace) => {
                pod_address(pod).map_or(Meaning::Missing, |address| {
                    let name = [pod, namespace, area].into_iter().cloned().collect();
                    Meaning::Hits(vec![Hit { address, port: None, name }])
                })
            }
            ("svc", [service, namespace]) => self.service(service, namespace, Part::All),
            ("svc", [endpoint, service, namespace]) => self.service(service, namespace, Part::Endpoint(endpoint)),
            ("svc", [port, protocol, service, namespace]) => match (port.strip_prefix('_'), protocol.strip_prefix('_'))
            {
                (Some(port), Some(protocol)) => self.service(service, namespace, Part::Port(port, protocol)),
                _ => Meaning::Missing,
            },
            _ => Meaning::Missing,
        }
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        if self.state.namespaces.contains(namespace) {
            return true;
        }
        let first = ObjectKey::new(namespace, "");
        self.state.services.range(first..).next().is_some_and(|(key, _)| key.namespace == namespace)
    }

    fn service(&self, name: &str, namespace: &str, part: Part<'_>) -> Meaning<'_> {
        let key = ObjectKey::new(namespace, name);
        let Some(service) = self.state.services.get(&key) else { return Meaning::Missing };
        let hits = match (service.kind, part) {
            (ServiceType::ExternalName, Part::Endpoint(_)) => return Meaning::Missing,
            // An address in place of a name is none: upstream does not answer it either.
            (ServiceType::ExternalName, _) if service.external_name.parse::<IpAddr>().is_ok() => Vec::new(),
            (ServiceType::ExternalName, _) => return Meaning::Alias(&service.external_name),
            (_, Part::Endpoint(_)) => self.endpoint_hits(&key, part),
            _ if service.headless => self.endpoint_hits(&key, part),
            _ => service_hits(service, part),
        };
        if hits.is_empty() { Meaning::Missing } else { Meaning::Hits(hits) }
    }

    fn endpoint_hits(&self, service: &ObjectKey, part: Part<'_>) -> Vec<Hit> {
        let mut hits = Vec::new();
        for slice in self.slices(service) {
            let ports = slice.ports.iter().filter(|port| part.is_of(&port.name, port.protocol));
            let mut ports: Vec<Option<u16>> = ports.map(|port| Some(port.port)).collect();
            // A Service without ports has names all the same.
            if slice.ports.is_empty() && !matches!(part, Part::Port(..)) {
                ports.push(None);
            }
            for (address, endpoint) in ready(slice) {
                let label = endpoint_label(address, endpoint);
                if matches!(part, Part::Endpoint(wanted) if wanted != label.as_str()) {
                    continue;
                }
                let name = std::iter::once(label).chain(service_name(service)).collect::<Vec<_>>();
                hits.extend(ports.iter().map(|port| Hit { address, port: *port, name: name.clone() }));
            }
        }
        hits
    }

    fn slices(&self, service: &ObjectKey) -> impl Iterator<Item = &SliceView> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        keys.filter_map(|key| self.state.slices.get(key)).map(Arc::as_ref)
    }

    fn records(&self, name: &Name, hits: &[Hit], kind: RecordType) -> Outcome {
        if kind == RecordType::SRV {
            return self.port_records(name, hits);
        }
        let mut seen = BTreeSet::new();
        let hits = hits.iter().filter(|hit| seen.insert(hit.address));
        let answers = hits.filter_map(|hit| address_record(name, hit.address, kind)).collect();
        Outcome { answers, ..Outcome::default() }
    }

    fn port_records(&self, name: &Name, hits: &[Hit]) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut seen, mut targets) = (BTreeSet::new(), BTreeSet::new());
        let pairs: Vec<(&Hit, u16)> = hits.iter().filter_map(|hit| Some((hit, hit.port?))).collect();
        // As upstream: all of them together weigh 100.
        let weight = (100 / pairs.len().max(1)).max(1) as u16;
        for (hit, port) in pairs {
            let Ok(target) = self.full_name(&hit.name) else { continue };
            if seen.insert((hit.name.clone(), port)) {
                let data = RData::SRV(SRV::new(0, weight, port, target.clone()));
                outcome.answers.push(Record::from_rdata(name.clone(), TTL_SECONDS, data));
            }
            if targets.insert((hit.name.clone(), hit.address)) {
                outcome.additionals.push(any_address_record(&target, hit.address));
            }
        }
        outcome
    }

    fn alias(&self, name: &Name, target: &str, kind: RecordType) -> Answer {
        let target = Name::from_ascii(target).map(|mut name| {
            name.set_fqdn(true);
            name
        });
        let Ok(target) = target else { return self.here(Outcome::default(), false) };
        let record = Record::from_rdata(name.clone(), TTL_SECONDS, RData::CNAME(CNAME(target.clone())));
        match kind {
            RecordType::CNAME => self.here(Outcome { answers: vec![record], ..Outcome::default() }, true),
            RecordType::SRV => self.here(Outcome::default(), true),
            _ => Answer::Alias { record: Box::new(record), target },
        }
    }

    /// The names that have `address`: of Services first, as upstream, else of their endpoints.
    fn reverse_answer(&self, name: &Name, address: IpAddr, kind: RecordType) -> Answer {
        let Some(services) = self.services_at.get(&address) else { return Answer::Elsewhere };
        let has = |key: &&ObjectKey| {
            self.state.services.get(*key).is_some_and(|service| service.cluster_ips.contains(&address))
        };
        let mut names: BTreeSet<Vec<String>> = services.keys().filter(has).map(service_name).map(Vec::from).collect();
        if names.is_empty() {
            for key in services.keys() {
                let endpoints = self.slices(key).flat_map(ready).filter(|(found, _)| *found == address);
                let labels = endpoints.map(|(_, endpoint)| endpoint_label(address, endpoint));
                names.extend(labels.map(|label| std::iter::once(label).chain(service_name(key)).collect()));
            }
        }
        if names.is_empty() {
            return Answer::Elsewhere;
        }
        let pointers = names.iter().filter(|_| kind == RecordType::PTR).filter_map(|name| self.full_name(name).ok());
        let record = |target| Record::from_rdata(name.clone(), TTL_SECONDS, RData::PTR(PTR(target)));
        self.here(Outcome { answers: pointers.map(record).collect(), ..Outcome::default() }, true)
    }

    fn full_name(&self, inner: &[String]) -> Result<Name, hickory_proto::ProtoError> {
        let mut name = Name::from_labels(inner.iter().chain(&self.domain).map(|label| label.as_bytes()))?;
        name.set_fqdn(true);
        Ok(name)
    }

    fn server_name(&self) -> Name {
        self.full_name(&["ns".to_owned(), "dns".to_owned()]).unwrap_or_else(|_| self.origin.clone())
    }

    fn start_of_authority(&self) -> Record {
        let mailbox = self.full_name(&["hostmaster".to_owned()]).unwrap_or_else(|_| self.origin.clone());
        let data = SOA::new(self.server_name(), mailbox, self.serial, 7200, 1800, 86400, TTL_SECONDS);
        Record::from_rdata(self.origin.clone(), TTL_SECONDS, RData::SOA(data))
    }
}

/// Which part of a Service a name asks for.
#[derive(Clone, Copy)]
enum Part<'a> {
    All,
    /// The endpoint of this name.
    Endpoint(&'a str),
    /// The port of this name and protocol.
    Port(&'a str, &'a str),
}

impl Part<'_> {
    fn is_of(&self, port: &str, protocol: Protocol) -> bool {
        match self {
            Part::All | Part::Endpoint(_) => true,
            Part::Port(wanted, transport) => *wanted == port && *transport == protocol.lower(),
        }
    }
}

fn service_hits(service: &ServiceView, part: Part<'_>) -> Vec<Hit> {
    let ports = service.ports.iter().filter(|port| part.is_of(&port.name, port.protocol));
    let mut ports: Vec<Option<u16>> = ports.map(|port| Some(port.port)).collect();
    if service.ports.is_empty() && matches!(part, Part::All) {
        ports.push(None);
    }
    let name: Vec<String> = service_name(&service.key).into();
    let hit = |port: &Option<u16>, address: &IpAddr| Hit { address: *address, port: *port, name: name.clone() };
    ports.iter().flat_map(|port| service.cluster_ips.iter().map(move |address| hit(port, address))).collect()
}

fn service_name(key: &ObjectKey) -> [String; 3] {
    [key.name.clone(), key.namespace.clone(), "svc".to_owned()]
}

fn ready(slice: &SliceView) -> impl Iterator<Item = (IpAddr, &EndpointView)> {
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    ready.filter_map(|endpoint| Some((endpoint.address()?, endpoint)))
}

fn addresses_of(slice: &SliceView) -> impl Iterator<Item = IpAddr> {
    slice.endpoints.iter().filter_map(EndpointView::address)
}

/// An endpoint's name under its Service: the host name it asked for, else its address with dashes.
fn endpoint_label(address: IpAddr, endpoint: &EndpointView) -> String {
    if endpoint.hostname.is_empty() {
        address.to_string().replace(['.', ':'], "-")
    } else {
        endpoint.hostname.to_ascii_lowercase()
    }
}

/// The address in a pod's name, such as `10-244-0-5`.
fn pod_address(label: &str) -> Option<IpAddr> {
    let is_ipv4 = label.matches('-').count() == 3 && !label.contains("--");
    match is_ipv4 {
        true => label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        false => label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

fn address_record(name: &Name, address: IpAddr, kind: RecordType) -> Option<Record> {
    let fits = match address {
        IpAddr::V4(_) => kind == RecordType::A,
        IpAddr::V6(_) => kind == RecordType::AAAA,
    };
    fits.then(|| any_address_record(name, address))
}

fn any_address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL_SECONDS, data)
}

/// A name's labels in lower case, from the left.
pub(super) fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// The address whose reverse name this is.
fn reverse(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [digits @ .., version, arpa] if arpa == "arpa" && version == "in-addr" && digits.len() == 4 => {
            let mut octets = [0; 4];
            for (octet, digit) in octets.iter_mut().rev().zip(digits) {
                *octet = digit.parse().ok()?;
            }
            Some(octets.into())
        }
        [digits @ .., version, arpa] if arpa == "arpa" && version == "ip6" && digits.len() == 32 => {
            let mut number = 0u128;
            for digit in digits.iter().rev() {
                let nibble = u8::from_str_radix(digit, 16).ok().filter(|_| digit.len() == 1)?;
                number = number << 4 | u128::from(nibble);
            }
            Some(IpAddr::V6(Ipv6Addr::from(number)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{PortView, SlicePortView};
    use crate::testbed::{endpoint, service, slice};

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local", vec![[10, 244, 0, 1].into()]).unwrap();
        zone.set_service(Arc::new(service("web", "10.96.0.10")));
        let mut database = service("db", "10.96.0.99");
        database.cluster_ips.clear();
        database.headless = true;
        zone.set_namespaces(["default", "empty"].map(str::to_owned).into());
        zone.set_service(Arc::new(database));
        let named = EndpointView { hostname: "db-0".into(), ..endpoint("10.244.0.5") };
        let ending = EndpointView { ready: false, terminating: true, ..endpoint("10.244.0.7") };
        zone.set_slice(Arc::new(slice("db", [named, endpoint("10.244.0.6"), ending])));
        zone.set_slice(Arc::new(slice("web", [endpoint("10.244.0.8")])));
        let external = |name: &str, target: &str| ServiceView {
            key: ObjectKey::new("default", name),
            kind: ServiceType::ExternalName,
            external_name: target.into(),
            ..ServiceView::default()
        };
        zone.set_service(Arc::new(external("out", "www.example.org")));
        zone.set_service(Arc::new(external("number", "1.2.3.4")));
        zone
    }

    fn text(zone: &Zone, name: &str, kind: RecordType) -> String {
        match zone.answer(&Name::from_ascii(name).unwrap(), kind, 0) {
            Answer::Elsewhere => "elsewhere".into(),
            Answer::Alias { target, .. } => format!("alias {target}"),
            Answer::Here(outcome) if outcome.answers.is_empty() => {
                assert!(outcome.authority.is_some(), "{name}: clients need to know how long to remember a no");
                if outcome.exists { "nothing" } else { "missing" }.into()
            }
            Answer::Here(outcome) => {
                let records = outcome.answers.iter().chain(&outcome.additionals);
                records.map(|record| record.data.to_string()).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn answers_as_the_specification_and_upstream_do() {
        use RecordType::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
        let zone = zone();
        for (name, kind, expected) in [
            ("web.default.svc.cluster.local.", A, "10.96.0.10"),
            ("WEB.Default.svc.Cluster.Local.", A, "10.96.0.10"),
            ("web.default.svc.cluster.local.", AAAA, "nothing"),
            ("web.default.svc.cluster.local.", TXT, "nothing"),
            ("web.other.svc.cluster.local.", A, "missing"),
            ("absent.default.svc.cluster.local.", A, "missing"),
            ("default.svc.cluster.local.", A, "nothing"),
            ("other.svc.cluster.local.", A, "missing"),
            ("svc.cluster.local.", A, "nothing"),
            ("cluster.local.", A, "nothing"),
            ("x.cluster.local.", A, "missing"),
            ("example.org.", A, "elsewhere"),
            ("xcluster.local.", A, "elsewhere"),
            ("db.default.svc.cluster.local.", A, "10.244.0.5, 10.244.0.6"),
            ("db-0.db.default.svc.cluster.local.", A, "10.244.0.5"),
            ("10-244-0-5.db.default.svc.cluster.local.", A, "missing"),
            ("10-244-0-6.db.default.svc.cluster.local.", A, "10.244.0.6"),
            ("10-244-0-7.db.default.svc.cluster.local.", A, "missing"),
            ("10-244-0-8.web.default.svc.cluster.local.", A, "10.244.0.8"),
            ("_tcp._tcp.web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local., 10.96.0.10"),
            ("_tcp._udp.web.default.svc.cluster.local.", SRV, "missing"),
            ("_tcp._tcp.web.default.svc.cluster.local.", A, "10.96.0.10"),
            (
                "_udp._udp.db.default.svc.cluster.local.",
                SRV,
                "0 50 3000 db-0.db.default.svc.cluster.local., 0 50 3000 10-244-0-6.db.default.svc.cluster.local., \
                 10.244.0.5, 10.244.0.6",
            ),
            ("tcp.tcp.web.default.svc.cluster.local.", A, "missing"),
            ("a.b.c.web.default.svc.cluster.local.", A, "missing"),
            ("out.default.svc.cluster.local.", A, "alias www.example.org."),
            ("out.default.svc.cluster.local.", CNAME, "www.example.org."),
            ("out.default.svc.cluster.local.", SRV, "nothing"),
            ("number.default.svc.cluster.local.", A, "missing"),
            ("1-2-3-4.default.pod.cluster.local.", A, "1.2.3.4"),
            ("1-2-3-4.default.pod.cluster.local.", AAAA, "nothing"),
            ("fd00--1.default.pod.cluster.local.", AAAA, "fd00::1"),
            ("1-2-3-400.default.pod.cluster.local.", A, "missing"),
            ("default.pod.cluster.local.", A, "nothing"),
            ("empty.svc.cluster.local.", A, "nothing"),
            ("empty.pod.cluster.local.", A, "nothing"),
            ("1-2-3-4.empty.pod.cluster.local.", A, "1.2.3.4"),
            ("other.pod.cluster.local.", A, "missing"),
            ("1-2-3-4.other.pod.cluster.local.", A, "missing"),
            ("10.0.96.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
            ("10.0.96.10.in-addr.arpa.", A, "nothing"),
            ("5.0.244.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local."),
            ("7.0.244.10.in-addr.arpa.", PTR, "elsewhere"),
            ("4.3.2.1.in-addr.arpa.", PTR, "elsewhere"),
            ("dns-version.cluster.local.", TXT, "1.1.0"),
            ("cluster.local.", NS, "ns.dns.cluster.local."),
            ("ns.dns.cluster.local.", A, "10.244.0.1"),
        ] {
            assert_eq!(text(&zone, name, kind), expected, "{name} {kind}");
        }
        assert!(text(&zone, "cluster.local.", SOA).starts_with("ns.dns.cluster.local. hostmaster.cluster.local."));
    }

    #[test]
    fn what_is_taken_out_is_gone() {
        let mut zone = zone();
        zone.set_slice(Arc::new(slice("db", [endpoint("10.244.0.6")])));
        assert_eq!(text(&zone, "db.default.svc.cluster.local.", RecordType::A), "10.244.0.6");
        assert_eq!(text(&zone, "5.0.244.10.in-addr.arpa.", RecordType::PTR), "elsewhere");
        zone.remove_slice(&ObjectKey::new("default", "db-1"));
        assert_eq!(text(&zone, "db.default.svc.cluster.local.", RecordType::A), "missing");
        for name in ["web", "db", "out", "number", "never"] {
            zone.remove_service(&ObjectKey::new("default", name));
        }
        zone.remove_slice(&ObjectKey::new("default", "web-1"));
        assert_eq!(text(&zone, "web.default.svc.cluster.local.", RecordType::A), "missing");
        assert_eq!(text(&zone, "default.svc.cluster.local.", RecordType::A), "nothing");
        zone.set_namespaces(BTreeSet::new());
        assert_eq!(text(&zone, "default.svc.cluster.local.", RecordType::A), "missing");
        assert!(zone.services_at.is_empty() && zone.slices_of.is_empty());
    }

    #[test]
    fn ports_are_no_condition_for_a_name() {
        let mut zone = Zone::new("cluster.local", Vec::new()).unwrap();
        let mut plain = service("web", "10.96.0.10");
        plain.ports.clear();
        zone.set_service(Arc::new(plain));
        assert_eq!(text(&zone, "web.default.svc.cluster.local.", RecordType::A), "10.96.0.10");
        assert_eq!(text(&zone, "web.default.svc.cluster.local.", RecordType::SRV), "nothing");
        let mut headless = service("db", "10.96.0.11");
        headless.headless = true;
        headless.ports = vec![PortView { name: "a".into(), port: 1, ..PortView::default() }];
        let mut bare = slice("db", [endpoint("10.244.0.6")]);
        bare.ports = Vec::<SlicePortView>::new();
        zone.set_service(Arc::new(headless));
        zone.set_slice(Arc::new(bare));
        assert_eq!(text(&zone, "db.default.svc.cluster.local.", RecordType::A), "10.244.0.6");
    }

    #[test]
    fn answers_take_turns() {
        let zone = zone();
        let name = Name::from_ascii("db.default.svc.cluster.local.").unwrap();
        let first = |turn| match zone.answer(&name, RecordType::A, turn) {
            Answer::Here(outcome) => outcome.answers[0].data.to_string(),
            other => panic!("{other:?}"),
        };
        // Each endpoint has two ports, so each address has two turns.
        assert_eq!([0, 1, 2, 3, 4].map(first), ["10.244.0.5", "10.244.0.5", "10.244.0.6", "10.244.0.6", "10.244.0.5"]);
    }
}
