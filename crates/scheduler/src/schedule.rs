//! The decision: which node, or why none. Pure.

use std::collections::BTreeMap;

use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Normalization, Plugin, Verdict};

/// The best score.
const SCORE_MAX: i64 = 100;

/// Where a pod goes, or why nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Node(Box<str>),
    /// No node will do.
    Nowhere(Misfit),
}

/// Why no node will do, by node: what explanations are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// By node: the plugin that refused it and its reasons.
    pub nodes: BTreeMap<Box<str>, (&'static str, Vec<String>)>,
}

impl Misfit {
    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub fn message(&self) -> String {
        if self.nodes.is_empty() {
            return "no nodes available to schedule pods".into();
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in self.nodes.values().flat_map(|(_, reasons)| reasons) {
            *counts.entry(reason).or_default() += 1;
        }
        let mut texts: Vec<String> = counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        texts.sort();
        format!("0/{} nodes are available: {}.", self.nodes.len(), texts.join(", "))
    }

    /// The plugins that refused some node: only what they care about can help.
    pub fn plugins(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.nodes.values().map(|(plugin, _)| *plugin)
    }
}

/// Chooses among `nodes`; of equally good ones, the one that `tie` (a random number) picks.
pub fn schedule(pod: &PodLite, nodes: &Nodes, plugins: &[&dyn Plugin], tie: u64) -> Decision {
    let judges: Vec<(&dyn Plugin, Box<dyn Judge + '_>)> =
        plugins.iter().filter_map(|plugin| Some((*plugin, plugin.judge(pod, nodes)?))).collect();
    let mut misfit = Misfit::default();
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    for node in nodes.iter() {
        let refusal = judges.iter().find_map(|(plugin, judge)| match judge.filter(node) {
            Verdict::Fits => None,
            Verdict::Unfit(reasons) => Some((plugin.name(), reasons)),
        });
        match refusal {
            None => fitting.push(node),
            Some(refusal) => drop(misfit.nodes.insert(node.name.clone(), refusal)),
        }
    }
    match best(&judges, &fitting, tie) {
        Some(node) => Decision::Node(node.name.clone()),
        None => Decision::Nowhere(misfit),
    }
}

fn best<'n>(judges: &[(&dyn Plugin, Box<dyn Judge + '_>)], nodes: &[&'n NodeInfo], tie: u64) -> Option<&'n NodeInfo> {
    if nodes.len() <= 1 {
        return nodes.first().copied();
    }
    let mut totals = vec![0i64; nodes.len()];
    for (plugin, judge) in judges {
        let Some(mut scores) = nodes.iter().map(|node| judge.score(node)).collect::<Option<Vec<i64>>>() else {
            continue;
        };
        normalize(&mut scores, judge.normalization());
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let most = *totals.iter().max()?;
    let winners: Vec<&NodeInfo> =
        nodes.iter().zip(&totals).filter(|(_, total)| **total == most).map(|(node, _)| *node).collect();
    let chosen = usize::try_from(tie % winners.len() as u64).unwrap_or(0);
    winners.get(chosen).copied()
}

/// Upstream: `DefaultNormalizeScore`.
fn normalize(scores: &mut [i64], normalization: Normalization) {
    if normalization == Normalization::None {
        return;
    }
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if most == 0 { 0 } else { *score * SCORE_MAX / most };
        *score = SCORE_MAX - share;
    }
}

#[cfg(test)]
mod tests;
