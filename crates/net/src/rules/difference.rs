//! What has to change in the kernel so that it does what a rule set says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Frontend, RuleSet, Target};
use crate::names::fingerprint;

/// Grows when tables made by earlier releases must be replaced as a whole.
const LAYOUT: u32 = 1;

/// What our table holds, in the terms in which it is compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Installed {
    /// The table's comment; `None` when there is no table.
    pub(super) base: Option<String>,
    /// A digest of what the rules that every packet passes were made from.
    pub(super) facts: u64,
    /// A digest of the rule of each frontend's chain.
    pub(super) chains: BTreeMap<Frontend, u64>,
    /// The frontends in the map that leads to the chains.
    pub(super) frontends: BTreeSet<Frontend>,
    /// The addresses of Services.
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    /// The endpoints that may reach themselves.
    pub(super) hairpins: BTreeSet<IpAddr>,
}

/// What our table has to hold for `rules`.
pub(super) fn installed(rules: &RuleSet) -> Installed {
    Installed {
        base: Some(base()),
        facts: digest_of_facts(rules),
        chains: rules.targets.iter().map(|(frontend, target)| (*frontend, digest(target))).collect(),
        frontends: rules.targets.keys().copied().collect(),
        cluster_ips: rules.cluster_ips.clone(),
        hairpins: rules.hairpins.clone(),
    }
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

/// A digest of what a frontend's rule says.
pub(super) fn digest(target: &Target) -> u64 {
    let backends: Vec<String> = target.backends.iter().map(|(address, port)| format!("{address} {port}\n")).collect();
    fingerprint(std::iter::once(target.origin.as_bytes()).chain(backends.iter().map(|text| text.as_bytes())))
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
    AddChain(Frontend),
    /// Empty a frontend's chain.
    FlushChain(Frontend),
    /// Give a frontend's empty chain its rule.
    AddRule(Frontend),
    /// Remove a frontend's chain.
    RemoveChain(Frontend),
    /// Stop leading these to their chains.
    RemoveFrontends(Vec<Frontend>),
    /// Lead these to their chains.
    AddFrontends(Vec<Frontend>),
    /// Forget addresses in a set.
    RemoveAddresses(AddressSet, Vec<IpAddr>),
    /// Put addresses into a set.
    AddAddresses(AddressSet, Vec<IpAddr>),
}

/// Which of the sets of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressSet {
    ClusterIps,
    Hairpins,
}

/// The changes that lead from `installed` to what `rules` say, in an order in which each is possible; they are made as
/// one transaction. None when nothing differs.
pub(super) fn changes(installed: &Installed, rules: &RuleSet) -> Vec<Change> {
    let wanted = self::installed(rules);
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
    for (frontend, digest) in &wanted.chains {
        match from.chains.get(frontend) {
            Some(found) if found == digest => continue,
            Some(_) => changes.push(Change::FlushChain(*frontend)),
            None => changes.push(Change::AddChain(*frontend)),
        }
        changes.push(Change::AddRule(*frontend));
    }
    push_nonempty(&mut changes, &from.frontends, &wanted.frontends, Change::RemoveFrontends);
    push_nonempty(&mut changes, &wanted.frontends, &from.frontends, Change::AddFrontends);
    let gone = from.chains.keys().filter(|frontend| !wanted.chains.contains_key(frontend));
    changes.extend(gone.flat_map(|frontend| [Change::FlushChain(*frontend), Change::RemoveChain(*frontend)]));
    for (set, from, to) in [
        (AddressSet::ClusterIps, &from.cluster_ips, &wanted.cluster_ips),
        (AddressSet::Hairpins, &from.hairpins, &wanted.hairpins),
    ] {
        push_nonempty(&mut changes, from, to, |addresses| Change::RemoveAddresses(set, addresses));
        push_nonempty(&mut changes, to, from, |addresses| Change::AddAddresses(set, addresses));
    }
    changes
}

/// Adds a change about the members of `of` that are not in `without`, if there are any.
fn push_nonempty<T: Copy + Ord>(
    changes: &mut Vec<Change>,
    of: &BTreeSet<T>,
    without: &BTreeSet<T>,
    change: impl FnOnce(Vec<T>) -> Change,
) {
    let members: Vec<T> = of.difference(without).copied().collect();
    if !members.is_empty() {
        changes.push(change(members));
    }
}
