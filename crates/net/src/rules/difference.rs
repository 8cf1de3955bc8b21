//! What has to change in the kernel so that it does what a rule set says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Backend, Choice, Frontend, Group, RuleSet, Target};
use crate::names::fingerprint;
use crate::netlink::route::octets;

/// Grows when tables made by earlier releases must be replaced as a whole.
const LAYOUT: u32 = 2;

/// A chain of one frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Chain {
    pub(super) part: Part,
    pub(super) frontend: Frontend,
}

/// What a frontend's chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    /// Where its packets go.
    Service,
    /// Where those from inside of the cluster go, when that is elsewhere.
    Inside,
    /// Who may use it.
    Guard,
}

/// A member of one of the table's sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Member {
    Address(IpAddr),
    Frontend(Frontend),
    Backend(Group, Backend),
}

/// The table's sets whose members follow from the rule set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Set {
    /// Leads frontends to their chains.
    Frontends,
    /// The same for ports of every address of the node.
    NodePorts,
    /// Leads frontends to the chains that say who may use them.
    Guards,
    /// The addresses of Services.
    ClusterIps,
    /// The endpoints that may reach themselves.
    Hairpins,
    /// The endpoints that clients may be kept with.
    Affine,
    /// Frontends to refuse.
    Refused,
    /// Ports of the node to refuse.
    RefusedNodePorts,
    /// Frontends to be silent at.
    Dropped,
    /// Ports of the node to be silent at.
    DroppedNodePorts,
}

impl Set {
    pub(super) const ALL: [Set; 10] = [
        Set::Frontends,
        Set::NodePorts,
        Set::Guards,
        Set::ClusterIps,
        Set::Hairpins,
        Set::Affine,
        Set::Refused,
        Set::RefusedNodePorts,
        Set::Dropped,
        Set::DroppedNodePorts,
    ];
}

/// What our table holds, in the terms in which it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Installed {
    /// The table's comment; `None` when there is no table.
    pub(super) base: Option<String>,
    /// A digest of what the rules that every packet passes were made from.
    pub(super) facts: u64,
    /// A digest of the rules of each frontend's chain.
    pub(super) chains: BTreeMap<Chain, u64>,
    /// The members of each set.
    pub(super) members: BTreeMap<Set, BTreeSet<Member>>,
}

/// What our table has to hold for `rules`.
pub(super) fn installed(rules: &RuleSet) -> Installed {
    Installed { base: Some(base()), facts: digest_of_facts(rules), chains: chains(rules), members: members(rules) }
}

fn chains(rules: &RuleSet) -> BTreeMap<Chain, u64> {
    let facts = digest_of_facts(rules);
    let chain = |part: Part, frontend: &Frontend| Chain { part, frontend: *frontend };
    let services = rules.targets.iter().map(|(frontend, target)| {
        let facts = if target.inside.is_some() { facts } else { 0 };
        (chain(Part::Service, frontend), digest(target, facts))
    });
    let insides = rules.targets.iter().filter_map(|(frontend, target)| {
        let digest = digest_of_choice(&target.origin, target.inside.as_ref()?);
        Some((chain(Part::Inside, frontend), digest))
    });
    let guards = rules
        .guards
        .iter()
        .map(|(frontend, ranges)| (chain(Part::Guard, frontend), fingerprint([format!("{ranges:?}").as_bytes()])));
    services.chain(insides).chain(guards).collect()
}

fn members(rules: &RuleSet) -> BTreeMap<Set, BTreeSet<Member>> {
    let mut members: BTreeMap<Set, BTreeSet<Member>> = BTreeMap::new();
    let mut put = |set: Set, all: &mut dyn Iterator<Item = Member>| {
        let all: BTreeSet<Member> = all.collect();
        if !all.is_empty() {
            members.insert(set, all);
        }
    };
    let mut split = |node: Set, other: Set, all: &mut dyn Iterator<Item = &Frontend>| {
        let (of_node, others): (Vec<&Frontend>, Vec<&Frontend>) = all.partition(|frontend| frontend.is_of_node());
        put(node, &mut of_node.into_iter().copied().map(Member::Frontend));
        put(other, &mut others.into_iter().copied().map(Member::Frontend));
    };
    split(Set::NodePorts, Set::Frontends, &mut rules.targets.keys());
    split(Set::RefusedNodePorts, Set::Refused, &mut rules.refused.iter());
    split(Set::DroppedNodePorts, Set::Dropped, &mut rules.dropped.iter());
    put(Set::Guards, &mut rules.guards.keys().copied().map(Member::Frontend));
    put(Set::ClusterIps, &mut rules.cluster_ips.iter().copied().map(Member::Address));
    put(Set::Hairpins, &mut rules.hairpins.iter().copied().map(Member::Address));
    let choices = rules.targets.values().flat_map(|target| std::iter::once(&target.choice).chain(&target.inside));
    let affine = choices.filter_map(|choice| Some((choice.affinity?.group, choice)));
    let kept = affine.flat_map(|(group, choice)| choice.backends.iter().map(move |one| Member::Backend(group, *one)));
    put(Set::Affine, &mut kept.into_iter());
    members
}

/// Whether a table was made by this release, or by one that makes it in the same way.
pub(super) fn is_current(found: &Installed) -> bool {
    found.base.as_deref() == Some(&base())
}

/// The table's comment.
fn base() -> String {
    format!("isopod service rules {LAYOUT}")
}

/// A digest of all that the rules which do not depend on Services are made from.
pub(super) fn digest_of_facts(rules: &RuleSet) -> u64 {
    let facts = &rules.facts;
    let text = format!("{:?} {:?} {:?} {:?}", facts.names, facts.gateway, facts.pod_cidrs, facts.cluster_cidrs);
    fingerprint([text.as_bytes()])
}

/// A digest of what a frontend's chain says; `facts` is that of the node's, where the chain depends on them.
pub(super) fn digest(target: &Target, facts: u64) -> u64 {
    let flags = [u8::from(target.masquerade), u8::from(target.inside.is_some())];
    let choice = digest_of_choice(&target.origin, &target.choice);
    fingerprint([&flags[..], &facts.to_be_bytes(), &choice.to_be_bytes()])
}

/// A digest of the rules that choose an endpoint.
pub(super) fn digest_of_choice(origin: &str, choice: &Choice) -> u64 {
    let affinity = choice.affinity.map(|affinity| format!("{affinity:?}")).unwrap_or_default();
    // Bytes, not texts: this is done for every Service whenever one of them changes.
    let mut backends = Vec::with_capacity(choice.backends.len() * 6);
    for (address, port) in &choice.backends {
        backends.extend_from_slice(&octets(*address));
        backends.extend_from_slice(&port.to_be_bytes());
    }
    fingerprint([origin.as_bytes(), &[0], affinity.as_bytes(), &[0], &backends])
}

/// One change of our table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Remove the table and all in it.
    RemoveTable,
    /// Make the table, its sets, and the chains that every packet passes, without rules.
    AddTable,
    /// Empty the chains that every packet passes.
    FlushCommon,
    /// Give the empty chains that every packet passes their rules.
    AddCommon,
    /// Make a frontend's chain.
    AddChain(Chain),
    /// Empty a frontend's chain.
    FlushChain(Chain),
    /// Give a frontend's empty chain its rules.
    AddRules(Chain),
    /// Remove a frontend's chain.
    RemoveChain(Chain),
    /// Take members out of a set.
    Remove(Set, Vec<Member>),
    /// Put members into a set.
    Add(Set, Vec<Member>),
}

/// The changes that lead from `installed` to `wanted`, in an order in which each is possible; they are made as one
/// transaction. None when nothing differs.
pub(super) fn changes(installed: &Installed, wanted: &Installed) -> Vec<Change> {
    let mut changes = Vec::new();
    let empty = Installed::default();
    let from = if installed.base == wanted.base {
        installed
    } else {
        if installed.base.is_some() {
            changes.push(Change::RemoveTable);
        }
        changes.push(Change::AddTable);
        &empty
    };
    if from.facts != wanted.facts {
        if from.base.is_some() {
            changes.push(Change::FlushCommon);
        }
        changes.push(Change::AddCommon);
    }
    // All chains before all rules, since rules lead to chains; and for the same reason the other way round at the end.
    let differing: Vec<Chain> = wanted
        .chains
        .iter()
        .filter(|(chain, digest)| from.chains.get(chain) != Some(*digest))
        .map(|(chain, _)| *chain)
        .collect();
    let prepare = |chain: &Chain| match from.chains.contains_key(chain) {
        true => Change::FlushChain(*chain),
        false => Change::AddChain(*chain),
    };
    changes.extend(differing.iter().map(prepare));
    changes.extend(differing.iter().copied().map(Change::AddRules));
    for set in Set::ALL {
        push_nonempty(&mut changes, &from.members, &wanted.members, set, Change::Remove);
        push_nonempty(&mut changes, &wanted.members, &from.members, set, Change::Add);
    }
    let gone: Vec<Chain> = from.chains.keys().filter(|chain| !wanted.chains.contains_key(chain)).copied().collect();
    changes.extend(gone.iter().copied().map(Change::FlushChain));
    changes.extend(gone.iter().copied().map(Change::RemoveChain));
    changes
}

/// Adds a change about the members of a set in `of` that are not in `without`, if there are any.
fn push_nonempty(
    changes: &mut Vec<Change>,
    of: &BTreeMap<Set, BTreeSet<Member>>,
    without: &BTreeMap<Set, BTreeSet<Member>>,
    set: Set,
    change: impl FnOnce(Set, Vec<Member>) -> Change,
) {
    let Some(members) = of.get(&set) else { return };
    let members: Vec<Member> = match without.get(&set) {
        Some(without) => members.difference(without).copied().collect(),
        None => members.iter().copied().collect(),
    };
    if !members.is_empty() {
        changes.push(change(set, members));
    }
}
