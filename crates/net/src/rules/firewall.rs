//! A host firewall beside us: what it would drop for want of a rule, although pods need it.
//!
//! In nftables a packet must be accepted by *every* base chain of a hook. So where another table's chain drops by
//! policy what no rule names, accepting in our own table is of no use, and the rules have to stand in that chain: at
//! its beginning, as upstream's proxy puts its own into iptables', and marked by a comment.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustix::io::Errno;

use super::NodeFacts;
use super::common::{destination_address, destination_port, in_network, pod_ranges, source_address};
use super::expression::{Fact, Register, Step};
use super::transaction::{
    AF_INET, GETCHAIN, GETRULE, NEWCHAIN, NEWRULE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_TABLE,
    NFTA_RULE_USERDATA, Transaction, body, comment_of,
};
use crate::input::Protocol;
use crate::names::Names;
use crate::netlink::route::octets;
use crate::netlink::{NetlinkError, Socket};

const AF_INET_BOTH: u8 = 1;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;

/// A base chain of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ForeignChain {
    family: u8,
    table: String,
    name: String,
    hook: u32,
    drops: bool,
}

/// Puts our rules into chains that drop by policy and takes them out of those that no longer do. The number of chains
/// that were changed.
pub(super) fn open_for_pods(socket: &Socket, facts: &NodeFacts) -> Result<usize, NetlinkError> {
    let mut changed = 0;
    for chain in foreign_chains(socket, &facts.names)? {
        let wanted = if chain.drops { wanted_rules(&chain, facts) } else { Vec::new() };
        changed += usize::from(set_rules(socket, &facts.names, &chain, &wanted)?);
    }
    Ok(changed)
}

/// Takes our rules out of all chains of others.
pub(super) fn close_for_pods(socket: &Socket, names: &Names) -> Result<(), NetlinkError> {
    for chain in foreign_chains(socket, names)? {
        set_rules(socket, names, &chain, &[])?;
    }
    Ok(())
}

fn foreign_chains(socket: &Socket, names: &Names) -> Result<Vec<ForeignChain>, NetlinkError> {
    socket.dump(
        |batch, flags| drop(batch.message(GETCHAIN, flags, &[0, 0, 0, 0])),
        |message| {
            let (family, list) = body(message, NEWCHAIN, 0)?;
            let hook = list.nested(NFTA_CHAIN_HOOK).be32(NFTA_HOOK_HOOKNUM)?;
            let chain = ForeignChain {
                family,
                table: list.text(NFTA_CHAIN_TABLE)?.to_owned(),
                name: list.text(NFTA_CHAIN_NAME)?.to_owned(),
                hook,
                drops: list.be32(NFTA_CHAIN_POLICY) == Some(POLICY_DROP),
            };
            let concerns = matches!(family, AF_INET | AF_INET_BOTH)
                && matches!(hook, HOOK_INPUT | HOOK_FORWARD)
                && list.text(NFTA_CHAIN_TYPE) == Some("filter")
                && !(family == AF_INET && chain.table == names.table);
            concerns.then_some(chain)
        },
    )
}

/// The rules, with their comments, that a chain which drops by policy needs.
fn wanted_rules(chain: &ForeignChain, facts: &NodeFacts) -> Vec<(String, Vec<Step>)> {
    let tag = facts.names.foreign_rule_tag();
    let prefix = facts.names.veth_prefix.as_bytes().to_vec();
    let from_pods =
        [Step::Meta { fact: Fact::InputName, to: Register::A }, Step::Equal { of: Register::A, value: prefix.clone() }];
    if chain.hook == HOOK_FORWARD {
        let to_pods =
            [Step::Meta { fact: Fact::OutputName, to: Register::A }, Step::Equal { of: Register::A, value: prefix }];
        let mut wanted = vec![
            (format!("{tag}: from pods"), [&from_pods[..], &[Step::Accept]].concat()),
            (format!("{tag}: to pods"), [&to_pods[..], &[Step::Accept]].concat()),
        ];
        wanted.extend(pod_ranges(facts).flat_map(|range| passing(&tag, range)));
        return wanted;
    }
    let to_node = |address: &IpAddr| {
        let mut steps = of_ipv4().to_vec();
        steps.push(destination_address(Register::A));
        steps.push(Step::Equal { of: Register::A, value: octets(*address) });
        steps
    };
    let port = |address: &IpAddr, (protocol, port): &(Protocol, u16)| {
        let to_port = [
            Step::Meta { fact: Fact::TransportProtocol, to: Register::A },
            Step::Equal { of: Register::A, value: vec![protocol.number()] },
            destination_port(Register::A),
            Step::Equal { of: Register::A, value: port.to_be_bytes().to_vec() },
            Step::Accept,
        ];
        let comment = format!("{tag}: {address} {} {port}", protocol.lower());
        (comment, [&from_pods[..], &to_node(address), &to_port].concat())
    };
    let addresses = facts.gateway.iter().chain(&facts.node_ip).filter(|address| address.is_ipv4());
    addresses.flat_map(|address| facts.host_ports.iter().map(move |known| port(address, known))).collect()
}

/// What this node passes on between a client outside and a pod of another node, who came to a port of this one.
fn passing(tag: &str, range: &cni::Cidr) -> [(String, Vec<Step>); 2] {
    let ends = [("to", destination_address(Register::A)), ("from", source_address(Register::A))];
    ends.map(|(way, address)| {
        let steps = [&of_ipv4()[..], &[address], &in_network(Register::A, range), &[Step::Accept]].concat();
        (format!("{tag}: {way} {range}"), steps)
    })
}

/// Goes on if the packet is one of IPv4, of which chains of the family of both see others.
fn of_ipv4() -> [Step; 2] {
    [Step::Meta { fact: Fact::Family, to: Register::A }, Step::Equal { of: Register::A, value: vec![AF_INET] }]
}

/// Makes the rules with our tag in `chain` those of `wanted`; whether that took a change.
fn set_rules(
    socket: &Socket,
    names: &Names,
    chain: &ForeignChain,
    wanted: &[(String, Vec<Step>)],
) -> Result<bool, NetlinkError> {
    let found = match tagged_rules(socket, names, chain) {
        // The chain went away since it was listed, and whatever takes its place announces itself.
        Err(error) if error.is(Errno::NOENT) => return Ok(false),
        found => found?,
    };
    if found.keys().eq(wanted.iter().map(|(comment, _)| comment).collect::<std::collections::BTreeSet<_>>()) {
        return Ok(false);
    }
    let mut transaction = Transaction::new(chain.family, &chain.table);
    found.values().flatten().for_each(|handle| transaction.remove_rule(&chain.name, *handle));
    wanted.iter().for_each(|(comment, steps)| transaction.prepend_rule(&chain.name, steps, comment));
    match transaction.commit(socket) {
        Err(error) if error.is(Errno::NOENT) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// The handles of rules with our tag, by comment.
fn tagged_rules(
    socket: &Socket,
    names: &Names,
    chain: &ForeignChain,
) -> Result<BTreeMap<String, Vec<u64>>, NetlinkError> {
    let tag = format!("{}: ", names.foreign_rule_tag());
    let rules = socket.dump(
        |batch, flags| {
            let mut message = batch.message(GETRULE, flags, &[chain.family, 0, 0, 0]);
            message.put_text(NFTA_RULE_TABLE, &chain.table).put_text(NFTA_RULE_CHAIN, &chain.name);
        },
        |message| {
            let (_, list) = body(message, NEWRULE, chain.family)?;
            let ours =
                list.text(NFTA_RULE_TABLE) == Some(&chain.table) && list.text(NFTA_RULE_CHAIN) == Some(&chain.name);
            let comment =
                list.get(NFTA_RULE_USERDATA).and_then(comment_of).filter(|text| ours && text.starts_with(&tag))?;
            Some((comment.to_owned(), list.be64(NFTA_RULE_HANDLE)?))
        },
    )?;
    let mut by_comment: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (comment, handle) in rules {
        by_comment.entry(comment).or_default().push(handle);
    }
    Ok(by_comment)
}
