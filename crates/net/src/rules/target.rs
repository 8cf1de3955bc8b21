//! The chains of one frontend: who may use it, and where its packets go.

use std::net::IpAddr;

use super::common::{AFFINITY, in_network, is_local, mark_to_masquerade, name_of, pod_ranges, source_address};
use super::difference::{Chain, Part, Set};
use super::expression::{End, Register, SetName, Step};
use super::transaction::{TYPE_ADDRESS, TYPE_PORT, Transaction};
use super::{Affinity, Backend, Choice, Frontend, Group, NodeFacts, RuleSet, Target};
use crate::input::Protocol;
use crate::netlink::route::octets;

const SERVICE_PREFIX: &str = "service-";
const INSIDE_PREFIX: &str = "inside-";
const GUARD_PREFIX: &str = "guard-";
const NODE: &str = "node";

/// What a frontend's chain is called.
pub(super) fn name_of_chain(chain: &Chain) -> String {
    let prefix = match chain.part {
        Part::Service => SERVICE_PREFIX,
        Part::Inside => INSIDE_PREFIX,
        Part::Guard => GUARD_PREFIX,
    };
    let Frontend { protocol, port, .. } = chain.frontend;
    match chain.frontend.is_of_node() {
        true => format!("{prefix}{NODE}-{}-{port}", protocol.lower()),
        false => format!("{prefix}{}", chain.frontend),
    }
}

/// The chain that a name tells; the other way round: [`name_of_chain`].
pub(super) fn chain_named(name: &str) -> Option<Chain> {
    let prefixes = [(SERVICE_PREFIX, Part::Service), (INSIDE_PREFIX, Part::Inside), (GUARD_PREFIX, Part::Guard)];
    let (part, rest) = prefixes.into_iter().find_map(|(prefix, part)| Some((part, name.strip_prefix(prefix)?)))?;
    let mut words = rest.rsplitn(3, '-');
    let port = words.next()?.parse().ok()?;
    let protocol = Protocol::named(Some(&words.next()?.to_ascii_uppercase()))?;
    let frontend = match words.next()? {
        NODE => Frontend::of_node(protocol, port),
        address => Frontend { address: address.parse().ok()?, protocol, port },
    };
    Some(Chain { part, frontend })
}

/// Address, protocol and port, each filled up to four bytes as the kernel's registers are; of the node's ports without the
/// address.
pub(super) fn key_of(frontend: &Frontend) -> Vec<u8> {
    let tail = protocol_and_port(frontend, 0);
    if frontend.is_of_node() { tail } else { [octets(frontend.address), tail].concat() }
}

fn protocol_and_port(frontend: &Frontend, mark: u8) -> Vec<u8> {
    let [high, low] = frontend.port.to_be_bytes();
    vec![frontend.protocol.number(), mark, 0, 0, high, low, 0, 0]
}

/// The frontend of a key.
pub(super) fn frontend_of(key: &[u8], of_node: bool) -> Option<Frontend> {
    let (address, tail) = if of_node { ([0; 4], key) } else { (key.get(..4)?.try_into().ok()?, key.get(4..)?) };
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = protocols.into_iter().find(|protocol| tail.first() == Some(&protocol.number()))?;
    let port = u16::from_be_bytes(tail.get(4..6)?.try_into().ok()?);
    Some(Frontend { address: IpAddr::from(address), protocol, port })
}

/// What tells the memories of different Service ports apart: three registers.
fn key_of_group(group: &Group) -> Vec<u8> {
    [octets(group.first.address), protocol_and_port(&group.first, u8::from(group.local))].concat()
}

/// An endpoint that clients of a group may be kept with.
pub(super) fn key_of_member(group: &Group, backend: &Backend) -> Vec<u8> {
    [key_of_group(group), value_of(backend)].concat()
}

/// The group and endpoint of a key.
pub(super) fn member_of(key: &[u8]) -> Option<(Group, Backend)> {
    let first = frontend_of(key.get(..12)?, false)?;
    let address: [u8; 4] = key.get(12..16)?.try_into().ok()?;
    let port = u16::from_be_bytes(key.get(16..18)?.try_into().ok()?);
    Some((Group { first, local: key.get(5) == Some(&1) }, (IpAddr::from(address), port)))
}

fn value_of((address, port): &Backend) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [octets(*address), vec![high, low, 0, 0]].concat()
}

/// Fills a frontend's chain, which is empty.
pub(super) fn write_chain(transaction: &mut Transaction, chain: &Chain, digest: u64, rules: &RuleSet) {
    let name = name_of_chain(chain);
    let mut writer = Writer { transaction, chain: &name, comment: String::new() };
    match chain.part {
        Part::Guard => {
            writer.comment = format!("{digest:016x}");
            guard(&mut writer, &chain.frontend, &rules.guards[&chain.frontend]);
        }
        part => {
            let target = &rules.targets[&chain.frontend];
            writer.comment = format!("{digest:016x} {}", target.origin);
            match (part, &target.inside) {
                (Part::Inside, Some(inside)) => choose(&mut writer, inside),
                _ => service(&mut writer, &chain.frontend, target, &rules.facts),
            }
        }
    }
}

/// The chain that is being filled; every rule of it bears the digest of them all.
struct Writer<'a> {
    transaction: &'a mut Transaction,
    chain: &'a str,
    comment: String,
}

impl Writer<'_> {
    fn rule(&mut self, steps: &[Step]) {
        self.transaction.append_rule(self.chain, steps, &self.comment);
    }
}

fn service(writer: &mut Writer<'_>, frontend: &Frontend, target: &Target, facts: &NodeFacts) {
    if target.masquerade {
        writer.rule(&mark_to_masquerade());
    }
    if target.inside.is_some() {
        let chain = name_of_chain(&Chain { part: Part::Inside, frontend: *frontend });
        // Pods are known by their own address wherever they go.
        for range in pod_ranges(facts) {
            let mut steps = vec![source_address(Register::A)];
            steps.extend(in_network(Register::A, range));
            steps.push(Step::Goto { chain: chain.clone() });
            writer.rule(&steps);
        }
        let from_node = [&is_local(End::Source)[..], &mark_to_masquerade(), &[Step::Goto { chain }]].concat();
        writer.rule(&from_node);
    }
    choose(writer, &target.choice);
}

/// Where a chosen endpoint is: what belongs to a client of a group follows its key's registers.
const CHOSEN: (Register, Register) = (Register::E, Register::F);

fn choose(writer: &mut Writer<'_>, choice: &Choice) {
    let Some(first) = choice.backends.first() else { return };
    let translate = Step::TranslateDestination { address: CHOSEN.0, port: CHOSEN.1 };
    let constant = |backend: &Backend| {
        let value = value_of(backend);
        [
            Step::Constant { value: value[..4].to_vec(), to: CHOSEN.0 },
            Step::Constant { value: value[4..].to_vec(), to: CHOSEN.1 },
        ]
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    if let Some(affinity) = &choice.affinity {
        writer.rule(&recall(affinity));
        before = client(affinity);
        after = remember(affinity);
    }
    if choice.backends.len() > 1 {
        let values = choice.backends.iter().map(value_of);
        let set = writer.transaction.anonymous_map(&[TYPE_ADDRESS, TYPE_PORT], values);
        let any = [
            Step::Random { modulus: choice.backends.len() as u32, to: CHOSEN.0 },
            Step::Lookup { set, from: CHOSEN.0, to: Some(CHOSEN.0) },
        ];
        writer.rule(&[&before[..], &any, &after, std::slice::from_ref(&translate)].concat());
    }
    // Also after a choice among several: a packet that is on its way through this chain while a transaction replaces it
    // still walks the old rules, but finds the map of the old choice already empty. It must not fall through.
    writer.rule(&[&before[..], &constant(first), &after, &[translate]].concat());
}

/// Loads what a client is remembered by.
fn client(affinity: &Affinity) -> Vec<Step> {
    let key = key_of_group(&affinity.group);
    vec![
        source_address(Register::A),
        Step::Constant { value: key[..4].to_vec(), to: Register::B },
        Step::Constant { value: key[4..8].to_vec(), to: Register::C },
        Step::Constant { value: key[8..].to_vec(), to: Register::D },
    ]
}

/// A known client goes where it went, if that still is an endpoint, and is known anew from then on.
fn recall(affinity: &Affinity) -> Vec<Step> {
    let mut steps = client(affinity);
    steps.extend([
        Step::Lookup { set: SetName::Named(AFFINITY), from: Register::A, to: Some(CHOSEN.0) },
        // The key's group and the endpoint stand side by side.
        Step::Lookup { set: SetName::Named(name_of(Set::Affine)), from: Register::B, to: None },
        renew(affinity),
        Step::TranslateDestination { address: CHOSEN.0, port: CHOSEN.1 },
    ]);
    steps
}

/// What was remembered, if anything, is no endpoint any more; renewing would keep it.
fn remember(affinity: &Affinity) -> Vec<Step> {
    vec![Step::Forget { map: AFFINITY, key: Register::A, value: CHOSEN.0 }, renew(affinity)]
}

fn renew(affinity: &Affinity) -> Step {
    let milliseconds = u64::from(affinity.seconds) * 1000;
    Step::Remember { map: AFFINITY, key: Register::A, value: CHOSEN.0, milliseconds }
}

/// Whoever is in one of the ranges may pass, and the node itself where the address is its own.
fn guard(writer: &mut Writer<'_>, frontend: &Frontend, ranges: &[cni::Cidr]) {
    for range in ranges.iter().chain(&[cni::Cidr::host(frontend.address)]) {
        let mut steps = vec![source_address(Register::A)];
        steps.extend(in_network(Register::A, range));
        steps.push(Step::Accept);
        writer.rule(&steps);
    }
    writer.rule(&[Step::Drop]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_found_by_its_name_and_a_frontend_by_its_key() {
        for (address, protocol) in
            [("10.96.0.1", Protocol::Tcp), ("0.0.0.0", Protocol::Sctp), ("10.0.0.1", Protocol::Udp)]
        {
            let frontend = Frontend { address: address.parse().unwrap(), protocol, port: 443 };
            for part in [Part::Service, Part::Inside, Part::Guard] {
                let chain = Chain { part, frontend };
                assert_eq!(chain_named(&name_of_chain(&chain)), Some(chain));
            }
            assert_eq!(frontend_of(&key_of(&frontend), frontend.is_of_node()), Some(frontend));
            for local in [false, true] {
                let (group, backend) = (Group { first: frontend, local }, ([10, 1, 2, 3].into(), 8080));
                assert_eq!(member_of(&key_of_member(&group, &backend)), Some((group, backend)));
            }
        }
        let node = Chain { part: Part::Service, frontend: Frontend::of_node(Protocol::Udp, 30053) };
        assert_eq!(name_of_chain(&node), "service-node-udp-30053");
        for name in ["nat-output", "service-", "service-10.96.0.1-tcp-x", "service-1-2", "guard-output"] {
            assert_eq!(chain_named(name), None, "{name}");
        }
    }
}
