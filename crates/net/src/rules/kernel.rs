//! Our nftables table: reading what it holds and changing it.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use rustix::io::Errno;

use super::difference::{AddressSet, Change, Installed, changes, digest, digest_of_facts, installed};
use super::expression::{self, Fact, Register, SetName, Step};
use super::transaction::{
    AF_INET, DELRULE, Element, GETCHAIN, GETRULE, GETSETELEM, GETTABLE, Hook, NEWCHAIN, NEWGENERATION, NEWRULE,
    NEWSETELEM, NEWTABLE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE,
    NFTA_RULE_USERDATA, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_TABLE_NAME, NFTA_TABLE_USERDATA, SUBSYSTEM, TYPE_ADDRESS, TYPE_PORT, TYPE_TRANSPORT,
    Transaction, body, comment_of,
};
use super::{Frontend, NodeFacts, RuleSet, Target, firewall};
use crate::input::Protocol;
use crate::names::Names;
use crate::netlink::codec::Incoming;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};

const FRONTENDS: &str = "frontends";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPINS: &str = "hairpins";
const CHAIN_PREFIX: &str = "service-";
/// A conflict with somebody else's transaction is tried again this often.
const TRIES: usize = 4;

/// The way to one network namespace's nftables.
pub(crate) struct Kernel {
    socket: Socket,
    known: Option<Installed>,
    /// The facts for which tables of others are known to be right.
    others_known: Option<NodeFacts>,
}

/// What an [`Kernel::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many changes of our table were sent; 0 when the kernel had all already.
    pub changes: usize,
    /// How many chains of others got or lost rules of ours.
    pub foreign_chains: usize,
}

impl Kernel {
    /// The nftables of the calling thread's network namespace.
    pub(crate) fn open() -> Result<Kernel, NetlinkError> {
        Ok(Kernel { socket: Socket::netfilter()?, known: None, others_known: None })
    }

    /// The socket's number, by which notifications tell our changes from others'.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Forgets what the tables held: somebody else may have changed any of them.
    pub(crate) fn forget(&mut self) {
        self.known = None;
        self.others_known = None;
    }

    /// Forgets what tables of others held.
    pub(crate) fn forget_others(&mut self) {
        self.others_known = None;
    }

    /// Makes the kernel do what `rules` say, by as few changes as that takes, all at once.
    pub(crate) fn apply(&mut self, rules: &RuleSet) -> Result<Applied, NetlinkError> {
        let mut tries = TRIES;
        let changes = loop {
            match self.try_apply(rules) {
                // What the table held is forgotten by then, and read again.
                Err(error) if tries > 1 && is_conflict(&error) => tries -= 1,
                outcome => break outcome?,
            }
        };
        let mut foreign_chains = 0;
        if self.others_known.as_ref() != Some(&rules.facts) {
            foreign_chains = firewall::open_for_pods(&self.socket, &rules.facts)?;
            self.others_known = Some(rules.facts.clone());
        }
        Ok(Applied { changes, foreign_chains })
    }

    fn try_apply(&mut self, rules: &RuleSet) -> Result<usize, NetlinkError> {
        let table = &rules.facts.names.table;
        let known = match self.known.take() {
            Some(known) => known,
            None => read(&self.socket, table)?,
        };
        let changes = changes(&known, rules);
        let mut transaction = Transaction::new(AF_INET, table);
        changes.iter().for_each(|change| write_change(&mut transaction, change, rules));
        transaction.commit(&self.socket)?;
        self.known = Some(installed(rules));
        Ok(changes.len())
    }

    /// Removes our table and the rules that we put into tables of others.
    pub(crate) fn remove(&mut self, names: &Names) -> Result<(), NetlinkError> {
        self.forget();
        firewall::close_for_pods(&self.socket, names)?;
        let mut transaction = Transaction::new(AF_INET, &names.table);
        transaction.remove_table();
        match transaction.commit(&self.socket) {
            Err(error) if error.is(Errno::NOENT) => Ok(()),
            outcome => outcome,
        }
    }

    /// Whether our table is not there.
    #[cfg(test)]
    pub(crate) fn is_absent(&self, names: &Names) -> Result<bool, NetlinkError> {
        Ok(read_base(&self.socket, &names.table)?.is_none())
    }
}

/// Whose table a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touched {
    /// Ours.
    Ours,
    /// Somebody else's, in a way that may take our rules out of it or call for some.
    Others,
}

impl Touched {
    /// Whether it is our own table.
    pub(crate) fn is_ours(self) -> bool {
        self == Touched::Ours
    }
}

/// What of ours a notification of a change concerns, if anything.
pub(crate) fn touches(message: &Incoming<'_>, names: &Names) -> Option<Touched> {
    // The first attribute of every kind of message is the table's name.
    const TABLE: u16 = 1;
    if !(SUBSYSTEM..NEWGENERATION).contains(&message.kind) {
        return None;
    }
    let (family, list) = body(message, message.kind, 0)?;
    if family == AF_INET && list.text(TABLE) == Some(&names.table) {
        return Some(Touched::Ours);
    }
    matches!(message.kind, NEWCHAIN | DELRULE).then_some(Touched::Others)
}

/// Whether the same difference, taken anew, may succeed: the table is not what it was thought to be, or others were
/// faster.
fn is_conflict(error: &NetlinkError) -> bool {
    let conflicts = [Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::NOENT, Errno::EXIST];
    conflicts.iter().any(|errno| error.is(*errno)) || matches!(error, NetlinkError::Socket(_))
}

fn write_change(transaction: &mut Transaction, change: &Change, rules: &RuleSet) {
    match change {
        Change::RemoveTable => transaction.remove_table(),
        Change::AddTable => write_table(transaction, rules),
        Change::FlushCommon => COMMON_CHAINS.iter().for_each(|(chain, _)| transaction.flush_chain(chain)),
        Change::AddCommon => write_common_rules(transaction, rules),
        Change::AddChain(frontend) => transaction.add_chain(&chain_of(frontend), None),
        Change::FlushChain(frontend) => transaction.flush_chain(&chain_of(frontend)),
        Change::AddRule(frontend) => {
            let target = &rules.targets[frontend];
            write_target(transaction, &chain_of(frontend), target);
        }
        Change::RemoveChain(frontend) => transaction.remove_chain(&chain_of(frontend)),
        Change::RemoveFrontends(frontends) => {
            transaction.remove_elements(FRONTENDS, frontends.iter().map(|frontend| Element::Key(key_of(frontend))));
        }
        Change::AddFrontends(frontends) => {
            let lead = |frontend: &Frontend| Element::Goto(key_of(frontend), chain_of(frontend));
            transaction.add_elements(FRONTENDS, frontends.iter().map(lead));
        }
        Change::RemoveAddresses(set, addresses) => {
            transaction.remove_elements(set_name(*set), address_elements(*set, addresses));
        }
        Change::AddAddresses(set, addresses) => {
            transaction.add_elements(set_name(*set), address_elements(*set, addresses));
        }
    }
}

fn set_name(set: AddressSet) -> &'static str {
    match set {
        AddressSet::ClusterIps => CLUSTER_IPS,
        AddressSet::Hairpins => HAIRPINS,
    }
}

/// A hairpin is a packet whose source and destination are the same address; a set of pairs finds it by one look-up.
fn address_elements(set: AddressSet, addresses: &[IpAddr]) -> impl Iterator<Item = Element> {
    let times = if set == AddressSet::Hairpins { 2 } else { 1 };
    addresses.iter().map(move |address| Element::Key(crate::netlink::route::octets(*address).repeat(times)))
}

fn chain_of(frontend: &Frontend) -> String {
    format!("{CHAIN_PREFIX}{frontend}")
}

/// Address, protocol and port, each filled up to four bytes as the kernel's registers are.
fn key_of(frontend: &Frontend) -> Vec<u8> {
    let [high, low] = frontend.port.to_be_bytes();
    let mut key = crate::netlink::route::octets(frontend.address);
    key.extend_from_slice(&[frontend.protocol.number(), 0, 0, 0, high, low, 0, 0]);
    key
}

fn write_target(transaction: &mut Transaction, chain: &str, target: &Target) {
    let value = |(address, port): &(IpAddr, u16)| {
        let mut value = crate::netlink::route::octets(*address);
        value.extend_from_slice(&port.to_be_bytes());
        value.extend_from_slice(&[0, 0]);
        value
    };
    let comment = format!("{:016x} {}", digest(target), target.origin);
    let translate = Step::TranslateDestination { address: Register::A, port: Register::B };
    if target.backends.len() > 1 {
        let set = transaction.anonymous_map(&[TYPE_ADDRESS, TYPE_PORT], target.backends.iter().map(value));
        let any = [
            Step::Random { modulus: target.backends.len() as u32, to: Register::A },
            Step::Lookup { set, from: Register::A, to: Some(Register::A) },
            translate.clone(),
        ];
        transaction.append_rule(chain, &any, &comment);
    }
    // Also after a choice among several: a packet that is on its way through this chain while a transaction replaces it
    // still walks the old rules, but finds the map of the old choice already empty. It must not fall through.
    let value = value(&target.backends[0]);
    let first = [
        Step::Constant { value: value[..4].to_vec(), to: Register::A },
        Step::Constant { value: value[4..6].to_vec(), to: Register::B },
        translate,
    ];
    transaction.append_rule(chain, &first, &comment);
}

const PREROUTING: u32 = 0;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE: i32 = 100;

const NAT_PREROUTING: &str = "nat-prerouting";
const NAT_OUTPUT: &str = "nat-output";
const NAT_POSTROUTING: &str = "nat-postrouting";
const FILTER_FORWARD: &str = "filter-forward";
const FILTER_OUTPUT: &str = "filter-output";

/// The chains that every packet passes.
const COMMON_CHAINS: [(&str, Hook); 5] = [
    (NAT_PREROUTING, Hook { kind: "nat", number: PREROUTING, priority: PRIORITY_DESTINATION }),
    (NAT_OUTPUT, Hook { kind: "nat", number: OUTPUT, priority: PRIORITY_DESTINATION }),
    (NAT_POSTROUTING, Hook { kind: "nat", number: POSTROUTING, priority: PRIORITY_SOURCE }),
    (FILTER_FORWARD, Hook { kind: "filter", number: FORWARD, priority: PRIORITY_FILTER }),
    (FILTER_OUTPUT, Hook { kind: "filter", number: OUTPUT, priority: PRIORITY_FILTER }),
];

fn write_table(transaction: &mut Transaction, rules: &RuleSet) {
    transaction.add_table(installed(rules).base.as_deref().unwrap_or_default());
    transaction.add_verdict_map(FRONTENDS, &[TYPE_ADDRESS, TYPE_TRANSPORT, TYPE_PORT]);
    transaction.add_set(CLUSTER_IPS, &[TYPE_ADDRESS]);
    transaction.add_set(HAIRPINS, &[TYPE_ADDRESS, TYPE_ADDRESS]);
    COMMON_CHAINS.iter().for_each(|(chain, hook)| transaction.add_chain(chain, Some(*hook)));
}

fn write_common_rules(transaction: &mut Transaction, rules: &RuleSet) {
    // The first rule bears the digest by which a later process sees whether all of them are as it wants them.
    transaction.append_rule(NAT_PREROUTING, &to_frontend(), &format!("{:016x}", digest_of_facts(rules)));
    transaction.append_rule(NAT_OUTPUT, &to_frontend(), "");
    for steps in source_translations(&rules.facts) {
        transaction.append_rule(NAT_POSTROUTING, &steps, "");
    }
    transaction.append_rule(FILTER_FORWARD, &invalid_from_pods(&rules.facts), "");
    for chain in [FILTER_FORWARD, FILTER_OUTPUT] {
        refusals().iter().for_each(|steps| transaction.append_rule(chain, steps, ""));
    }
}

fn source_address(to: Register) -> Step {
    Step::Network { offset: 12, length: 4, to }
}

fn destination_address(to: Register) -> Step {
    Step::Network { offset: 16, length: 4, to }
}

fn to_frontend() -> [Step; 4] {
    [
        destination_address(Register::A),
        Step::Meta { fact: Fact::TransportProtocol, to: Register::B },
        Step::Transport { offset: 2, length: 2, to: Register::C },
        Step::Lookup { set: SetName::Named(FRONTENDS), from: Register::A, to: Some(Register::VERDICT) },
    ]
}

/// What may not go out under its own address: a pod that talks to itself (it would answer itself directly, past the
/// translation), and pods that talk to the world.
fn source_translations(facts: &NodeFacts) -> Vec<Vec<Step>> {
    let mut hairpin = vec![
        source_address(Register::A),
        destination_address(Register::B),
        Step::Lookup { set: SetName::Named(HAIRPINS), from: Register::A, to: None },
    ];
    match facts.gateway {
        Some(gateway) => hairpin.extend([
            Step::Constant { value: crate::netlink::route::octets(gateway), to: Register::A },
            Step::TranslateSource { address: Register::A },
        ]),
        None => hairpin.push(Step::Masquerade),
    }
    let within = facts.cluster_cidrs.iter().chain(&facts.pod_cidrs).filter(|cidr| cidr.address().is_ipv4());
    let within = within.map(|cidr| {
        let mut steps = vec![destination_address(Register::A)];
        steps.extend(in_network(Register::A, cidr));
        steps.push(Step::Accept);
        steps
    });
    let out = facts.pod_cidrs.iter().filter(|cidr| cidr.address().is_ipv4()).map(|cidr| {
        let mut steps = vec![source_address(Register::A)];
        steps.extend(in_network(Register::A, cidr));
        steps.push(Step::Masquerade);
        steps
    });
    std::iter::once(hairpin).chain(within).chain(out).collect()
}

fn in_network(register: Register, cidr: &cni::Cidr) -> [Step; 2] {
    let mask = u32::MAX.checked_shl(32 - u32::from(cidr.prefix())).unwrap_or(0).to_be_bytes().to_vec();
    let value = crate::netlink::route::octets(cidr.network().address());
    [Step::Mask { mask, of: register }, Step::Equal { of: register, value }]
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

/// What still is addressed to a Service here has no target. TCP is refused by a reset, which clients see as the
/// "connection refused" of upstream's ICMP message, without the kernel's limit on how often that is sent.
fn refusals() -> [Vec<Step>; 2] {
    let to_service = [
        destination_address(Register::A),
        Step::Lookup { set: SetName::Named(CLUSTER_IPS), from: Register::A, to: None },
    ];
    let tcp = [
        Step::Meta { fact: Fact::TransportProtocol, to: Register::A },
        Step::Equal { of: Register::A, value: vec![Protocol::Tcp.number()] },
        Step::RejectWithReset,
    ];
    [[&to_service[..], &tcp].concat(), [&to_service[..], &[Step::RejectWithUnreachable]].concat()]
}

/// What our table holds now.
fn read(socket: &Socket, table: &str) -> Result<Installed, NetlinkError> {
    let Some(base) = read_base(socket, table)? else { return Ok(Installed::default()) };
    let mut found = Installed { base: Some(base), ..Installed::default() };
    let chains = socket.dump(
        |batch, flags| drop(batch.message(GETCHAIN, flags, &[AF_INET, 0, 0, 0])),
        |message| {
            let (_, list) = body(message, NEWCHAIN, AF_INET)?;
            let ours = list.text(NFTA_CHAIN_TABLE) == Some(table) && list.get(NFTA_CHAIN_HOOK).is_none();
            frontend_of(list.text(NFTA_CHAIN_NAME).filter(|_| ours)?)
        },
    )?;
    // A chain without a readable rule has digest 0, which differs from all that is wanted.
    found.chains = chains.into_iter().map(|frontend| (frontend, 0)).collect();
    for (chain, digest) in read_digests(socket, table)? {
        match frontend_of(&chain) {
            Some(frontend) => drop(found.chains.insert(frontend, digest)),
            None => found.facts = digest,
        }
    }
    let lead = |element: Attributes<'_>| {
        let chain = frontend_of(expression::read_goto(element.nested(NFTA_SET_ELEM_DATA))?)?;
        (key_of(&chain) == expression::read_value(element.nested(NFTA_SET_ELEM_KEY))?).then_some(chain)
    };
    found.frontends = read_elements(socket, table, FRONTENDS, lead)?.into_iter().collect();
    let address = |element: Attributes<'_>| {
        let octets: [u8; 4] = expression::read_value(element.nested(NFTA_SET_ELEM_KEY))?.get(..4)?.try_into().ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(octets)))
    };
    found.cluster_ips = read_elements(socket, table, CLUSTER_IPS, address)?.into_iter().collect();
    found.hairpins = read_elements(socket, table, HAIRPINS, address)?.into_iter().collect();
    Ok(found)
}

/// The table's comment; empty when it has none, `None` when there is no table.
fn read_base(socket: &Socket, table: &str) -> Result<Option<String>, NetlinkError> {
    let answer = socket.query(
        |batch, flags| {
            batch.message(GETTABLE, flags, &[AF_INET, 0, 0, 0]).put_text(NFTA_TABLE_NAME, table);
        },
        |message| {
            let (_, list) = body(message, NEWTABLE, AF_INET)?;
            Some(list.get(NFTA_TABLE_USERDATA).and_then(comment_of).unwrap_or_default().to_owned())
        },
    );
    match answer {
        Err(error) if error.is(Errno::NOENT) => Ok(None),
        answer => Ok(answer?.pop()),
    }
}

/// The digests that rules bear, by chain.
fn read_digests(socket: &Socket, table: &str) -> Result<Vec<(String, u64)>, NetlinkError> {
    socket.dump(
        |batch, flags| {
            batch.message(GETRULE, flags, &[AF_INET, 0, 0, 0]).put_text(NFTA_RULE_TABLE, table);
        },
        |message| {
            let (_, list) = body(message, NEWRULE, AF_INET)?;
            let chain = list.text(NFTA_RULE_CHAIN).filter(|_| list.text(NFTA_RULE_TABLE) == Some(table))?;
            let comment = list.get(NFTA_RULE_USERDATA).and_then(comment_of)?;
            Some((chain.to_owned(), u64::from_str_radix(comment.split(' ').next()?, 16).ok()?))
        },
    )
}

fn read_elements<T>(
    socket: &Socket,
    table: &str,
    set: &str,
    mut each: impl FnMut(Attributes<'_>) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let lists = socket.dump(
        |batch, flags| {
            let mut message = batch.message(GETSETELEM, flags, &[AF_INET, 0, 0, 0]);
            message.put_text(NFTA_SET_ELEM_LIST_TABLE, table).put_text(NFTA_SET_ELEM_LIST_SET, set);
        },
        |message| {
            let (_, list) = body(message, NEWSETELEM, AF_INET)?;
            let elements = list.nested(NFTA_SET_ELEM_LIST_ELEMENTS);
            Some(elements.filter_map(|(_, element)| each(attributes(element))).collect::<Vec<T>>())
        },
    )?;
    Ok(lists.into_iter().flatten().collect())
}

/// The frontend that a chain's name tells; the other way round: [`chain_of`].
fn frontend_of(chain: &str) -> Option<Frontend> {
    let mut parts = chain.strip_prefix(CHAIN_PREFIX)?.rsplitn(3, '-');
    let port = parts.next()?.parse().ok()?;
    let protocol = Protocol::named(Some(&parts.next()?.to_ascii_uppercase()))?;
    Some(Frontend { address: IpAddr::from_str(parts.next()?).ok()?, protocol, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_found_by_its_name() {
        for (address, protocol) in [("10.96.0.1", Protocol::Tcp), ("fd00::1", Protocol::Sctp)] {
            let frontend = Frontend { address: address.parse().unwrap(), protocol, port: 443 };
            assert_eq!(frontend_of(&chain_of(&frontend)), Some(frontend));
        }
        assert_eq!(
            chain_of(&Frontend { address: [10, 96, 0, 1].into(), protocol: Protocol::Udp, port: 53 }),
            "service-10.96.0.1-udp-53"
        );
        for name in ["nat-output", "service-", "service-10.96.0.1-tcp-x", "service-1-2"] {
            assert_eq!(frontend_of(name), None, "{name}");
        }
    }
}
