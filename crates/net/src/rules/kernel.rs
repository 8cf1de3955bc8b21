//! Our nftables table: reading what it holds and changing it.

use std::net::IpAddr;

use rustix::io::Errno;

use super::common::{self, name_of};
use super::conntrack::{Conversations, forget_stale};
use super::difference::{Chain, Change, Installed, Member, Part, Set, changes, installed, is_current};
use super::expression;
use super::target::{chain_named, frontend_of, key_of, key_of_member, member_of, name_of_chain, write_chain};
use super::transaction::{
    AF_INET, DELCHAIN, DELRULE, Element, GETCHAIN, GETRULE, GETSETELEM, GETTABLE, NEWCHAIN, NEWGENERATION, NEWRULE,
    NEWSETELEM, NEWTABLE, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE,
    NFTA_RULE_USERDATA, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_LIST_SET,
    NFTA_SET_ELEM_LIST_TABLE, NFTA_TABLE_NAME, NFTA_TABLE_USERDATA, SUBSYSTEM, Transaction, body, comment_of,
};
use super::{NodeFacts, RuleSet, firewall};
use crate::names::Names;
use crate::netlink::codec::Incoming;
use crate::netlink::route::octets;
use crate::netlink::{Attributes, NetlinkError, Socket, attributes};

/// A conflict with somebody else's transaction is tried again this often.
const TRIES: usize = 4;

/// The way to one network namespace's nftables.
pub(crate) struct Kernel {
    socket: Socket,
    known: Option<Installed>,
    /// The facts for which tables of others are known to be right.
    others_known: Option<NodeFacts>,
    /// Chains of others that keep pods' packets out and take no rules of ours, in words.
    closed: Vec<String>,
    /// What conversations were last held against.
    conversations: Conversations,
}

/// What an [`Kernel::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many changes of our table were sent; 0 when the kernel had all already.
    pub changes: usize,
    /// How many chains of others got or lost rules of ours.
    pub foreign_chains: usize,
    /// How many conversations of UDP had to begin anew.
    pub conversations: usize,
}

impl Kernel {
    /// The nftables of the calling thread's network namespace.
    pub(crate) fn open() -> Result<Kernel, NetlinkError> {
        Ok(Kernel {
            socket: Socket::netfilter()?,
            known: None,
            others_known: None,
            closed: Vec::new(),
            conversations: Conversations::new(),
        })
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

    /// Chains of others that drop what they do not know and take no rules of ours, in words.
    pub(crate) fn closed(&self) -> &[String] {
        &self.closed
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
            let opened = firewall::open_for_pods(&self.socket, &rules.facts)?;
            (foreign_chains, self.closed) = (opened.changed, opened.closed);
            self.others_known = Some(rules.facts.clone());
        }
        let conversations = self.forget_conversations(rules)?;
        Ok(Applied { changes, foreign_chains, conversations })
    }

    /// Ends conversations with frontends whose endpoints changed; after the rules did, so that none begins anew by the old
    /// ones.
    fn forget_conversations(&mut self, rules: &RuleSet) -> Result<usize, NetlinkError> {
        let changed: Conversations = rules
            .conversations
            .iter()
            .filter(|(frontend, backends)| self.conversations.get(frontend) != Some(*backends))
            .map(|(frontend, backends)| (*frontend, backends.clone()))
            .collect();
        let forgotten = forget_stale(&self.socket, &changed)?;
        self.conversations.clone_from(&rules.conversations);
        Ok(forgotten)
    }

    fn try_apply(&mut self, rules: &RuleSet) -> Result<usize, NetlinkError> {
        let table = &rules.facts.names.table;
        let known = match self.known.take() {
            Some(known) => known,
            None => read(&self.socket, table)?,
        };
        let wanted = installed(rules);
        let changes = changes(&known, &wanted);
        let mut transaction = Transaction::new(AF_INET, table);
        changes.iter().for_each(|change| write_change(&mut transaction, change, &wanted, rules));
        transaction.commit(&self.socket)?;
        self.known = Some(wanted);
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
    matches!(message.kind, NEWCHAIN | DELCHAIN | NEWRULE | DELRULE).then_some(Touched::Others)
}

/// Whether the same difference, taken anew, may succeed: the table is not what it was thought to be, or others were
/// faster.
fn is_conflict(error: &NetlinkError) -> bool {
    let conflicts = [Errno::AGAIN, Errno::BUSY, Errno::INTR, Errno::NOENT, Errno::EXIST];
    conflicts.iter().any(|errno| error.is(*errno)) || matches!(error, NetlinkError::Socket(_))
}

fn write_change(transaction: &mut Transaction, change: &Change, wanted: &Installed, rules: &RuleSet) {
    match change {
        Change::RemoveTable => transaction.remove_table(),
        Change::AddTable => common::write_table(transaction, rules),
        Change::FlushCommon => common::CHAINS.iter().for_each(|(chain, _)| transaction.flush_chain(chain)),
        Change::AddCommon => common::write_rules(transaction, rules),
        Change::AddChain(chain) => transaction.add_chain(&name_of_chain(chain), None),
        Change::FlushChain(chain) => transaction.flush_chain(&name_of_chain(chain)),
        Change::AddRules(chain) => write_chain(transaction, chain, wanted.chains[chain], rules),
        Change::RemoveChain(chain) => transaction.remove_chain(&name_of_chain(chain)),
        Change::Remove(set, members) => {
            transaction.remove_elements(name_of(*set), members.iter().map(|member| Element::Key(key(*set, member))));
        }
        Change::Add(set, members) => {
            transaction.add_elements(name_of(*set), members.iter().map(|member| element(*set, member)));
        }
    }
}

/// A member of a set as the kernel keeps it. A hairpin is a packet whose source and destination are the same address; a
/// set of pairs finds it by one look-up.
fn key(set: Set, member: &Member) -> Vec<u8> {
    match member {
        Member::Address(address) => octets(*address).repeat(if set == Set::Hairpins { 2 } else { 1 }),
        Member::Frontend(frontend) => key_of(frontend),
        Member::Backend(group, backend) => key_of_member(group, backend),
    }
}

fn element(set: Set, member: &Member) -> Element {
    match (part_of(set), member) {
        (Some(part), Member::Frontend(frontend)) => {
            Element::Goto(key(set, member), name_of_chain(&Chain { part, frontend: *frontend }))
        }
        _ => Element::Key(key(set, member)),
    }
}

/// Which of a frontend's chains a set leads to.
fn part_of(set: Set) -> Option<Part> {
    match set {
        Set::Frontends | Set::NodePorts => Some(Part::Service),
        Set::Guards => Some(Part::Guard),
        _ => None,
    }
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
            chain_named(list.text(NFTA_CHAIN_NAME).filter(|_| ours)?)
        },
    )?;
    // A chain without a readable rule has digest 0, which differs from all that is wanted.
    found.chains = chains.into_iter().map(|chain| (chain, 0)).collect();
    for (name, digest) in read_digests(socket, table)? {
        match chain_named(&name) {
            Some(chain) => drop(found.chains.insert(chain, digest)),
            None => found.facts = digest,
        }
    }
    // A table of another release has other sets; it is replaced as a whole.
    if !is_current(&found) {
        return Ok(found);
    }
    for set in Set::ALL {
        let members = read_elements(socket, table, name_of(set), |element| member(set, element))?;
        if !members.is_empty() {
            found.members.insert(set, members.into_iter().collect());
        }
    }
    Ok(found)
}

/// The member that an element is; `None` for one that leads elsewhere than it should, which is then put in again.
fn member(set: Set, element: Attributes<'_>) -> Option<Member> {
    let key = expression::read_value(element.nested(NFTA_SET_ELEM_KEY))?;
    let address = |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().map(IpAddr::from);
    let member = match set {
        Set::ClusterIps | Set::Hairpins => Member::Address(address(key.get(..4)?)?),
        Set::Affine => {
            let (group, backend) = member_of(key)?;
            Member::Backend(group, backend)
        }
        Set::NodePorts | Set::RefusedNodePorts | Set::DroppedNodePorts => Member::Frontend(frontend_of(key, true)?),
        Set::Frontends | Set::Guards | Set::Refused | Set::Dropped => Member::Frontend(frontend_of(key, false)?),
    };
    if let (Some(part), Member::Frontend(frontend)) = (part_of(set), member) {
        let chain = expression::read_goto(element.nested(NFTA_SET_ELEM_DATA))?;
        return (chain_named(chain) == Some(Chain { part, frontend })).then_some(member);
    }
    Some(member)
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
