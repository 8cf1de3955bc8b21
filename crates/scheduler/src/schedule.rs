//! The decision: which node, or why none. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::case::{Case, Profile};
use crate::nodes::Nodes;
use crate::plugin::Refusal;
use crate::subject::Subject;

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(Box<str>),
    /// No node will do.
    Nowhere(Misfit),
}

/// Why one node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeMisfit {
    pub slot: usize,
    pub name: Box<str>,
    /// The first plugin that refused it.
    pub plugin: &'static str,
    pub refusal: Refusal,
}

/// Why no node will do: what messages and preemption are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// How many nodes there are.
    pub total: usize,
    pub nodes: Vec<NodeMisfit>,
    /// Why all the nodes that are not listed will not do, and who says so.
    pub unnamed: Option<(&'static str, Cow<'static, str>)>,
    /// Why the pod can run nowhere, whatever the nodes are, and who says so.
    pub overall: Option<(&'static str, Cow<'static, str>)>,
}

impl Misfit {
    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.total == 0 {
            return "no nodes available to schedule pods".into();
        }
        if let Some((_, reason)) = &self.overall {
            return format!("0/{} nodes are available: {reason}.", self.total);
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.nodes.iter().flat_map(|node| &node.refusal.reasons) {
            *counts.entry(reason).or_default() += 1;
        }
        if let Some((_, reason)) = &self.unnamed
            && self.nodes.len() < self.total
        {
            *counts.entry(reason).or_default() += self.total - self.nodes.len();
        }
        let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        format!("0/{} nodes are available: {}.", self.total, texts.join(", "))
    }

    /// The plugins that refused some node: only what they care about can help.
    pub fn plugins(&self) -> Vec<&'static str> {
        let others = [&self.unnamed, &self.overall].into_iter().flatten().map(|(plugin, _)| *plugin);
        let mut plugins: Vec<&'static str> = self.nodes.iter().map(|node| node.plugin).chain(others).collect();
        plugins.sort_unstable();
        plugins.dedup();
        plugins
    }
}

/// Chooses a node for a pod; of equally good ones, the one that `tie` (a random number) picks.
pub fn schedule(subject: &Subject, nodes: &Nodes, plugins: Profile, tie: u64) -> Decision {
    decide(&mut Case::new(subject.clone(), nodes, plugins), subject, nodes, tie)
}

/// The same by what was worked out before.
pub fn decide(case: &mut Case, subject: &Subject, nodes: &Nodes, tie: u64) -> Decision {
    match case.choose(subject, nodes, tie) {
        Some(slot) => Decision::Node(nodes.at(slot).name.clone()),
        None => Decision::Nowhere(case.misfit(subject, nodes)),
    }
}

#[cfg(test)]
mod tests;
