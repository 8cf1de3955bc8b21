//! The rules that every packet passes, whatever Services there are.

use std::net::IpAddr;

use super::difference::{Set, digest_of_facts, installed};
use super::expression::{End, Fact, LOCAL, Register, SetName, Step};
use super::transaction::{Hook, TYPE_ADDRESS, TYPE_PORT, TYPE_TRANSPORT, Transaction};
use super::{NodeFacts, RuleSet};
use crate::input::Protocol;
use crate::netlink::route::octets;

/// The clients that stay with an endpoint, and with which.
pub(super) const AFFINITY: &str = "affinity";
/// Clients beyond this are not remembered: their connections spread.
const AFFINITY_MAX: u32 = 1 << 18;

/// The bit of a packet's mark that says "masquerade": upstream's proxy uses the same.
const MASQUERADE: u32 = 0x4000;

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Before destinations are translated.
const PRIORITY_GUARD: i32 = -110;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE: i32 = 100;

const NAT_PREROUTING: &str = "nat-prerouting";
const NAT_OUTPUT: &str = "nat-output";
const NAT_POSTROUTING: &str = "nat-postrouting";
const GUARD_PREROUTING: &str = "guard-prerouting";
const GUARD_OUTPUT: &str = "guard-output";
const FILTER_INPUT: &str = "filter-input";
const FILTER_FORWARD: &str = "filter-forward";
const FILTER_OUTPUT: &str = "filter-output";

/// The chains that every packet passes.
pub(super) const CHAINS: [(&str, Hook); 8] = [
    (NAT_PREROUTING, Hook { kind: "nat", number: PREROUTING, priority: PRIORITY_DESTINATION }),
    (NAT_OUTPUT, Hook { kind: "nat", number: OUTPUT, priority: PRIORITY_DESTINATION }),
    (NAT_POSTROUTING, Hook { kind: "nat", number: POSTROUTING, priority: PRIORITY_SOURCE }),
    (GUARD_PREROUTING, Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_GUARD }),
    (GUARD_OUTPUT, Hook { kind: "filter", number: OUTPUT, priority: PRIORITY_GUARD }),
    (FILTER_INPUT, Hook { kind: "filter", number: INPUT, priority: PRIORITY_FILTER }),
    (FILTER_FORWARD, Hook { kind: "filter", number: FORWARD, priority: PRIORITY_FILTER }),
    (FILTER_OUTPUT, Hook { kind: "filter", number: OUTPUT, priority: PRIORITY_FILTER }),
];

/// What a set is called.
pub(super) fn name_of(set: Set) -> &'static str {
    match set {
        Set::Frontends => "frontends",
        Set::NodePorts => "node-ports",
        Set::Guards => "guards",
        Set::ClusterIps => "cluster-ips",
        Set::Hairpins => "hairpins",
        Set::Affine => "affine-endpoints",
        Set::Refused => "refused",
        Set::RefusedNodePorts => "refused-node-ports",
        Set::Dropped => "dropped",
        Set::DroppedNodePorts => "dropped-node-ports",
    }
}

/// Makes the table, its sets and these chains.
pub(super) fn write_table(transaction: &mut Transaction, rules: &RuleSet) {
    const FRONTEND: &[u32] = &[TYPE_ADDRESS, TYPE_TRANSPORT, TYPE_PORT];
    const NODE_PORT: &[u32] = &[TYPE_TRANSPORT, TYPE_PORT];
    transaction.add_table(installed(rules).base.as_deref().unwrap_or_default());
    for set in Set::ALL {
        let name = name_of(set);
        match set {
            Set::Frontends | Set::Guards => transaction.add_verdict_map(name, FRONTEND),
            Set::NodePorts => transaction.add_verdict_map(name, NODE_PORT),
            Set::ClusterIps => transaction.add_set(name, &[TYPE_ADDRESS]),
            Set::Hairpins => transaction.add_set(name, &[TYPE_ADDRESS, TYPE_ADDRESS]),
            Set::Affine => transaction.add_set(name, &[FRONTEND, &[TYPE_ADDRESS, TYPE_PORT]].concat()),
            Set::Refused | Set::Dropped => transaction.add_set(name, FRONTEND),
            Set::RefusedNodePorts | Set::DroppedNodePorts => transaction.add_set(name, NODE_PORT),
        }
    }
    let client = [&[TYPE_ADDRESS], FRONTEND].concat();
    transaction.add_memory(AFFINITY, &client, &[TYPE_ADDRESS, TYPE_PORT], AFFINITY_MAX);
    CHAINS.iter().for_each(|(chain, hook)| transaction.add_chain(chain, Some(*hook)));
}

/// Fills these chains, which are empty.
pub(super) fn write_rules(transaction: &mut Transaction, rules: &RuleSet) {
    let facts = &rules.facts;
    let mut add = |chain: &str, steps: &[Step], comment: &str| transaction.append_rule(chain, steps, comment);
    for chain in [NAT_PREROUTING, NAT_OUTPUT] {
        outsiders_to_services(facts).iter().for_each(|steps| add(chain, steps, ""));
        // One rule bears the digest by which a later process sees whether all of them are as it wants them.
        let digest = if chain == NAT_PREROUTING { format!("{:016x}", digest_of_facts(rules)) } else { String::new() };
        add(chain, &to_chain(Set::Frontends), &digest);
        add(chain, &to_node_port(Set::NodePorts, Some(Register::VERDICT)), "");
    }
    source_translations(facts).iter().for_each(|steps| add(NAT_POSTROUTING, steps, ""));
    for chain in [GUARD_PREROUTING, GUARD_OUTPUT] {
        add(chain, &to_chain(Set::Guards), "");
    }
    add(FILTER_INPUT, &invalid_to_loopback(), "");
    add(FILTER_FORWARD, &invalid_from_pods(facts), "");
    for chain in [FILTER_INPUT, FILTER_FORWARD, FILTER_OUTPUT] {
        refusals().iter().for_each(|steps| add(chain, steps, ""));
    }
}

/// The source address.
pub(super) fn source_address(to: Register) -> Step {
    Step::Network { offset: 12, length: 4, to }
}

pub(super) fn destination_address(to: Register) -> Step {
    Step::Network { offset: 16, length: 4, to }
}

pub(super) fn destination_port(to: Register) -> Step {
    Step::Transport { offset: 2, length: 2, to }
}

/// Looks the frontend that a packet is sent to up in a set.
fn to_frontend(set: Set, to: Option<Register>) -> [Step; 4] {
    [
        destination_address(Register::A),
        Step::Meta { fact: Fact::TransportProtocol, to: Register::B },
        destination_port(Register::C),
        Step::Lookup { set: SetName::Named(name_of(set)), from: Register::A, to },
    ]
}

fn to_chain(set: Set) -> [Step; 4] {
    to_frontend(set, Some(Register::VERDICT))
}

/// Looks the port of the node that a packet is sent to up in a set.
fn to_node_port(set: Set, to: Option<Register>) -> Vec<Step> {
    let mut steps = is_local(End::Destination).to_vec();
    steps.extend([
        Step::Meta { fact: Fact::TransportProtocol, to: Register::B },
        destination_port(Register::C),
        Step::Lookup { set: SetName::Named(name_of(set)), from: Register::B, to },
    ]);
    steps
}

/// Goes on if the address is the node's own.
pub(super) fn is_local(end: End) -> [Step; 2] {
    [
        Step::AddressKind { of: end, to: Register::A },
        Step::Equal { of: Register::A, value: LOCAL.to_ne_bytes().to_vec() },
    ]
}

/// Leaves the mark by which the source will be translated.
pub(super) fn mark_to_masquerade() -> [Step; 3] {
    [
        Step::Meta { fact: Fact::Mark, to: Register::A },
        Step::SetBits { bits: MASQUERADE.to_ne_bytes().to_vec(), of: Register::A },
        Step::SetMark { from: Register::A },
    ]
}

/// Goes on if the address in the register, which is lost by that, is in the range.
pub(super) fn in_network(register: Register, cidr: &cni::Cidr) -> [Step; 2] {
    let mask = u32::MAX.checked_shl(32 - u32::from(cidr.prefix())).unwrap_or(0).to_be_bytes().to_vec();
    let value = octets(cidr.network().address());
    [Step::Mask { mask, of: register }, Step::Equal { of: register, value }]
}

/// The ranges of all pods.
pub(super) fn pod_ranges(facts: &NodeFacts) -> impl Iterator<Item = &cni::Cidr> {
    let own = facts.pod_cidrs.iter().filter(|own| !facts.cluster_cidrs.contains(own));
    facts.cluster_cidrs.iter().chain(own).filter(|cidr| cidr.address().is_ipv4())
}

/// What may not go out under its own address: a pod that talks to itself (it would answer itself directly, past the
/// translation), what a Service leads from the outside to endpoints that may be elsewhere, and pods that talk to the world.
fn source_translations(facts: &NodeFacts) -> Vec<Vec<Step>> {
    let mut hairpin = vec![
        source_address(Register::A),
        destination_address(Register::B),
        Step::Lookup { set: SetName::Named(name_of(Set::Hairpins)), from: Register::A, to: None },
    ];
    hairpin.extend(as_the_node(facts));
    let marked = [
        Step::Meta { fact: Fact::Mark, to: Register::A },
        Step::Mask { mask: MASQUERADE.to_ne_bytes().to_vec(), of: Register::A },
        Step::Equal { of: Register::A, value: MASQUERADE.to_ne_bytes().to_vec() },
    ];
    let to = |range: &cni::Cidr| {
        let mut steps = vec![destination_address(Register::A)];
        steps.extend(in_network(Register::A, range));
        steps
    };
    let mut rules = vec![hairpin];
    for range in pod_ranges(facts) {
        rules.push([&marked[..], &to(range), &as_the_node(facts)].concat());
    }
    rules.push([&marked[..], &[Step::Masquerade]].concat());
    rules.extend(pod_ranges(facts).map(|range| [&to(range)[..], &[Step::Accept]].concat()));
    for range in facts.pod_cidrs.iter().filter(|cidr| cidr.address().is_ipv4()) {
        let mut steps = vec![source_address(Register::A)];
        steps.extend(in_network(Register::A, range));
        steps.push(Step::Masquerade);
        rules.push(steps);
    }
    rules
}

/// The source becomes the node's address in the pod network, which every node knows the way to.
fn as_the_node(facts: &NodeFacts) -> Vec<Step> {
    match facts.gateway.filter(IpAddr::is_ipv4) {
        Some(gateway) => vec![
            Step::Constant { value: octets(gateway), to: Register::A },
            Step::TranslateSource { address: Register::A },
        ],
        None => vec![Step::Masquerade],
    }
}

/// A client that is neither a pod nor this node and comes to a Service's own address gets its answers over this node only
/// if its packets go on as the node's. Nothing is known of clients where the ranges of pods are not.
fn outsiders_to_services(facts: &NodeFacts) -> Option<Vec<Step>> {
    let mut steps = vec![
        destination_address(Register::A),
        Step::Lookup { set: SetName::Named(name_of(Set::ClusterIps)), from: Register::A, to: None },
    ];
    let before = steps.len();
    for range in pod_ranges(facts) {
        let [mask, Step::Equal { of, value }] = in_network(Register::A, range) else { continue };
        steps.extend([source_address(Register::A), mask, Step::Differs { of, value }]);
    }
    let told = steps.len() > before;
    steps.extend(mark_to_masquerade());
    told.then_some(steps)
}

/// Packets of translated connections that connection tracking does not recognise would reach the peer untranslated,
/// and its answer would break the connection.
fn invalid_from_pods(facts: &NodeFacts) -> Vec<Step> {
    const INVALID: u32 = 1;
    vec![
        Step::Meta { fact: Fact::InputName, to: Register::A },
        Step::Equal { of: Register::A, value: facts.names.veth_prefix.as_bytes().to_vec() },
        Step::ConnectionState { to: Register::A },
        Step::Mask { mask: INVALID.to_ne_bytes().to_vec(), of: Register::A },
        Step::Differs { of: Register::A, value: vec![0; 4] },
        Step::Drop,
    ]
}

/// So that ports of the node can be reached over its loopback address as well, the kernel is told to route that. What others
/// send to such an address, and what is no answer, must go on being dropped all the same.
fn invalid_to_loopback() -> Vec<Step> {
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    let net = vec![255, 0, 0, 0];
    vec![
        destination_address(Register::A),
        Step::Mask { mask: net.clone(), of: Register::A },
        Step::Equal { of: Register::A, value: vec![127, 0, 0, 0] },
        source_address(Register::A),
        Step::Mask { mask: net, of: Register::A },
        Step::Differs { of: Register::A, value: vec![127, 0, 0, 0] },
        Step::ConnectionState { to: Register::A },
        Step::Mask { mask: ESTABLISHED_OR_RELATED.to_ne_bytes().to_vec(), of: Register::A },
        Step::Equal { of: Register::A, value: vec![0; 4] },
        Step::Drop,
    ]
}

/// What still is addressed to a Service here has no target. TCP is refused by a reset, which clients see as the
/// "connection refused" of upstream's ICMP message, without the kernel's limit on how often that is sent.
fn refusals() -> Vec<Vec<Step>> {
    let tcp = [
        Step::Meta { fact: Fact::TransportProtocol, to: Register::A },
        Step::Equal { of: Register::A, value: vec![Protocol::Tcp.number()] },
    ];
    let to_service = vec![
        destination_address(Register::A),
        Step::Lookup { set: SetName::Named(name_of(Set::ClusterIps)), from: Register::A, to: None },
    ];
    let new = |set| [&is_new()[..], &to_node_port(set, None)].concat();
    let mut rules = vec![
        [&to_frontend(Set::Dropped, None)[..], &[Step::Drop]].concat(),
        [&new(Set::DroppedNodePorts)[..], &[Step::Drop]].concat(),
    ];
    for unserved in [to_service, to_frontend(Set::Refused, None).to_vec(), new(Set::RefusedNodePorts)] {
        rules.push([&unserved[..], &tcp, &[Step::RejectWithReset]].concat());
        rules.push([&unserved[..], &[Step::RejectWithUnreachable]].concat());
    }
    rules
}

/// Goes on if the packet begins a connection: an answer to this node may bear a number that is also a port of Services.
fn is_new() -> [Step; 3] {
    const NEW: u32 = 8;
    [
        Step::ConnectionState { to: Register::A },
        Step::Mask { mask: NEW.to_ne_bytes().to_vec(), of: Register::A },
        Step::Equal { of: Register::A, value: NEW.to_ne_bytes().to_vec() },
    ]
}
