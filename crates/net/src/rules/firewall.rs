//! A host firewall beside us: what it would drop for want of a rule, although pods need it.
//!
//! In nftables a packet must be accepted by *every* base chain of a hook. So where another table's chain drops what no
//! rule names, by its policy or by its last rule, accepting in our own table is of no use, and the rules have to stand in
//! that chain: at its beginning, as upstream's proxy puts its own into iptables', and marked by a comment. A table that a
//! program has for itself takes rules of nobody else: then all that is left is to say so.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rustix::io::Errno;

use super::NodeFacts;
use super::common::{destination_address, destination_port, in_network, pod_ranges, source_address};
use super::expression::{self, Fact, Register, Step};
use super::transaction::{
    AF_INET, GETCHAIN, GETRULE, NEWCHAIN, NEWRULE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY,
    NFTA_CHAIN_TABLE, NFTA_CHAIN_TYPE, NFTA_HOOK_HOOKNUM, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE,
    NFTA_RULE_TABLE, NFTA_RULE_USERDATA, Transaction, body, comment_of,
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
    /// By policy.
    drops: bool,
}

impl ForeignChain {
    /// As the program `nft` names it.
    fn shown(&self) -> String {
        let family = if self.family == AF_INET { "ip" } else { "inet" };
        format!("{family} {} {}", self.table, self.name)
    }
}

/// What became of the chains of others.
#[derive(Debug, Default)]
pub(super) struct Opened {
    /// How many were changed.
    pub(super) changed: usize,
    /// Those that drop what they do not know, and take no rules of ours: in words, for people.
    pub(super) closed: Vec<String>,
}

/// Puts our rules into chains that drop what no rule names and takes them out of those that no longer do.
pub(super) fn open_for_pods(socket: &Socket, facts: &NodeFacts) -> Result<Opened, NetlinkError> {
    let mut opened = Opened::default();
    for chain in foreign_chains(socket, &facts.names)? {
        let present = match present_rules(socket, &facts.names, &chain) {
            // The chain went away since it was listed, and whatever takes its place announces itself.
            Err(error) if error.is(Errno::NOENT) => continue,
            present => present?,
        };
        let wanted = if chain.drops || present.end_drops { wanted_rules(&chain, facts) } else { Vec::new() };
        match set_rules(socket, &chain, &present, &wanted) {
            Ok(changed) => opened.changed += usize::from(changed),
            Err(error) if error.is(Errno::NOENT) => {}
            Err(error) if error.is(Errno::PERM) => opened.closed.push(closed(&chain, facts)),
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

/// That a chain is closed to pods as far as we can see, and what its owner can do about it.
fn closed(chain: &ForeignChain, facts: &NodeFacts) -> String {
    let interfaces = format!("interfaces {}*", facts.names.veth_prefix);
    let ranges: Vec<String> = pod_ranges(facts).map(ToString::to_string).collect();
    format!(
        "the firewall chain \"{}\" drops what its own rules do not let pass, and the program whose table it is lets nobody else \
         add rules: unless it lets packets of {interfaces} and of {} pass, pods and Services may not be reached",
        chain.shown(),
        ranges.join(", ")
    )
}

/// Takes our rules out of all chains of others.
pub(super) fn close_for_pods(socket: &Socket, names: &Names) -> Result<(), NetlinkError> {
    for chain in foreign_chains(socket, names)? {
        let outcome = present_rules(socket, names, &chain).and_then(|present| set_rules(socket, &chain, &present, &[]));
        match outcome {
            // A table that somebody has for themselves got none.
            Err(error) if error.is(Errno::NOENT) || error.is(Errno::PERM) => {}
            outcome => drop(outcome?),
        }
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
    chain: &ForeignChain,
    present: &Present,
    wanted: &[(String, Vec<Step>)],
) -> Result<bool, NetlinkError> {
    let comments = wanted.iter().map(|(comment, _)| comment).collect::<std::collections::BTreeSet<_>>();
    if present.ours.keys().eq(comments) {
        return Ok(false);
    }
    let mut transaction = Transaction::new(chain.family, &chain.table);
    present.ours.values().flatten().for_each(|handle| transaction.remove_rule(&chain.name, *handle));
    wanted.iter().for_each(|(comment, steps)| transaction.prepend_rule(&chain.name, steps, comment));
    transaction.commit(socket).map(|()| true)
}

/// What stands in a chain of others.
#[derive(Debug, Default)]
struct Present {
    /// The handles of rules with our tag, by comment.
    ours: BTreeMap<String, Vec<u64>>,
    /// Whether the last rule drops all that comes to it. Ours stand before it.
    end_drops: bool,
}

fn present_rules(socket: &Socket, names: &Names, chain: &ForeignChain) -> Result<Present, NetlinkError> {
    let tag = format!("{}: ", names.foreign_rule_tag());
    let mut end_drops = false;
    let rules = socket.dump(
        |batch, flags| {
            let mut message = batch.message(GETRULE, flags, &[chain.family, 0, 0, 0]);
            message.put_text(NFTA_RULE_TABLE, &chain.table).put_text(NFTA_RULE_CHAIN, &chain.name);
        },
        |message| {
            let (_, list) = body(message, NEWRULE, chain.family)?;
            if list.text(NFTA_RULE_TABLE) != Some(&chain.table) || list.text(NFTA_RULE_CHAIN) != Some(&chain.name) {
                return None;
            }
            end_drops = expression::drops_all(list.nested(NFTA_RULE_EXPRESSIONS));
            let comment = list.get(NFTA_RULE_USERDATA).and_then(comment_of).filter(|text| text.starts_with(&tag))?;
            Some((comment.to_owned(), list.be64(NFTA_RULE_HANDLE)?))
        },
    )?;
    let mut ours: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (comment, handle) in rules {
        ours.entry(comment).or_default().push(handle);
    }
    Ok(Present { ours, end_drops })
}
