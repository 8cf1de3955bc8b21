//! Why a decision came out as it did: by node and plugin, with what would have to change. Pure.

use api::quantity::{Format, Quantity};

use crate::case::{Case, Profile, normalize};
use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Refusal, Remedy, Scoring, Verdict};
use crate::subject::Subject;

/// One plugin's objection to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    pub plugin: &'static str,
    pub refusal: Refusal,
    /// All of these together take it away.
    pub remedies: Vec<Remedy>,
}

/// One plugin's score of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    pub plugin: &'static str,
    /// 0 to 100.
    pub score: i64,
    pub weight: i64,
}

/// What is said of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeExplanation {
    pub name: Box<str>,
    /// Of every plugin that has one, in the order of the plugins; none when the pod could run there.
    pub objections: Vec<Objection>,
    /// Only of nodes without objections.
    pub scores: Vec<Score>,
}

impl NodeExplanation {
    /// The weighted sum by which nodes without objections are compared.
    pub fn total(&self) -> i64 {
        self.scores.iter().map(|score| score.score * score.weight).sum()
    }

    /// Everything that would have to change for the pod to run there.
    pub fn remedies(&self) -> impl Iterator<Item = &Remedy> {
        self.objections.iter().flat_map(|objection| &objection.remedies)
    }

    /// What would have to be otherwise for the pod to run there, as a sentence; `None` where nothing is known to help.
    pub fn words(&self) -> Option<String> {
        let mut ifs: Vec<String> = self.remedies().map(Remedy::words).collect();
        ifs.dedup();
        (!ifs.is_empty()).then(|| format!("Node {:?} would do if {}.", self.name, ifs.join(" and ")))
    }

    /// By what nodes are compared: fewest changes, then those that going pods could bring about, then the smallest shortage.
    fn distance(&self) -> (usize, usize, i64) {
        let for_good = self.objections.iter().filter(|objection| !objection.refusal.resolvable).count();
        (self.remedies().count(), for_good, shortage(self))
    }
}

impl Remedy {
    /// The change as what follows an "if" about a node, in plain words.
    pub fn words(&self) -> String {
        match self {
            Remedy::Uncordon => "it were uncordoned".to_owned(),
            Remedy::NodeName => "spec.nodeName named it".to_owned(),
            Remedy::Tolerate(taint) if taint.value.is_empty() => {
                format!("the pod tolerated its taint {}:{}", taint.key, taint.effect)
            }
            Remedy::Tolerate(taint) => {
                format!("the pod tolerated its taint {}={}:{}", taint.key, taint.value, taint.effect)
            }
            Remedy::Labels(requirements) => format!("its labels met {}", requirements.join(", ")),
            Remedy::Port(port) => format!("nothing else held its port {}/{}", port.port, port.protocol),
            Remedy::Free { resource, lacking } => {
                format!("{} more {resource} were free there", amount(resource, *lacking))
            }
            Remedy::PodCount => "it took one more pod".to_owned(),
            Remedy::TopologyLabel { key } => format!("it had a label {key}"),
            Remedy::Spread { key, domain, skew, max_skew } => {
                format!("the pod did not bring {key} {domain:?} {skew} pods ahead of others (maxSkew is {max_skew})")
            }
            Remedy::Near { key, selector } => format!("a pod of {selector} ran in its {key}"),
            Remedy::Apart { key, selector } => format!("no pod of {selector} ran in its {key}"),
            Remedy::Unwanted { key } => format!("no pod in its {key} kept such pods away"),
        }
    }
}

/// So much of a resource as people write it: processors in thousandths, bytes in the largest unit that rounds up little.
pub fn amount(resource: &str, value: i64) -> String {
    const MIB: i64 = 1 << 20;
    match resource {
        "cpu" => Quantity::from_milli(value).to_string(),
        "memory" | "ephemeral-storage" if value > MIB => {
            Quantity::new(value.saturating_add(MIB - 1) / MIB * MIB, Format::BinarySi).to_string()
        }
        _ => value.to_string(),
    }
}

/// What is said of every node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    pub nodes: Vec<NodeExplanation>,
}

impl Explanation {
    /// The node on which the least would have to change, when none will do as it is.
    pub fn nearest(&self) -> Option<&NodeExplanation> {
        if self.nodes.iter().any(|node| node.objections.is_empty()) {
            return None;
        }
        self.nodes.iter().min_by_key(|node| node.distance())
    }

    /// The nodes on which the pod could run, the best first.
    pub fn fitting(&self) -> Vec<&NodeExplanation> {
        let mut fitting: Vec<&NodeExplanation> = self.nodes.iter().filter(|node| node.objections.is_empty()).collect();
        fitting.sort_by_key(|node| std::cmp::Reverse(node.total()));
        fitting
    }
}

/// How much processor or memory is lacking; of different resources only roughly comparable.
fn shortage(node: &NodeExplanation) -> i64 {
    let lacking = |remedy: &Remedy| match remedy {
        Remedy::Free { lacking, .. } => *lacking,
        _ => 0,
    };
    node.remedies().map(lacking).fold(0, i64::saturating_add)
}

/// So many nodes are looked at for what is said of every pod that waits.
const NEAREST_NODES_MAX: usize = 64;

/// The node on which the least would have to change, of the first few, by what was worked out before.
pub(crate) fn nearest(case: &Case, nodes: &Nodes) -> Option<NodeExplanation> {
    let explained = nodes.iter().take(NEAREST_NODES_MAX).map(|node| objections(case, node));
    // One without objections is kept for another pod: what keeps this one off is no plugin's objection.
    let explained: Option<Vec<NodeExplanation>> =
        explained.map(|node| (!node.objections.is_empty()).then_some(node)).collect();
    explained?.into_iter().min_by_key(NodeExplanation::distance)
}

/// Asks every plugin about every node.
pub fn explain(subject: &Subject, nodes: &Nodes, plugins: Profile) -> Explanation {
    let case = Case::new(subject.clone(), nodes, plugins);
    let mut explained: Vec<NodeExplanation> = nodes.iter().map(|node| objections(&case, node)).collect();
    let fits: Vec<usize> = (0..explained.len()).filter(|at| explained[*at].objections.is_empty()).collect();
    let offered: Vec<&NodeInfo> = nodes
        .iter()
        .zip(&explained)
        .filter(|(_, explanation)| explanation.objections.is_empty())
        .map(|(node, _)| node)
        .collect();
    for seat in case.seats() {
        let scoring = seat.judge.scoring();
        let mut scores: Vec<i64> = match scoring {
            Scoring::None => continue,
            Scoring::Together => seat.judge.score_together(&offered),
            _ => offered.iter().map(|node| seat.judge.score(node)).collect(),
        };
        if matches!(scoring, Scoring::Proportional | Scoring::Reversed) {
            normalize(&mut scores, scoring);
        }
        for (at, score) in fits.iter().zip(scores) {
            let score = Score { plugin: seat.plugin.name(), score, weight: seat.plugin.weight() };
            explained[*at].scores.push(score);
        }
    }
    Explanation { nodes: explained }
}

fn objections(case: &Case, node: &NodeInfo) -> NodeExplanation {
    let objection = |seat: &crate::case::Seat| match seat.judge.filter(node) {
        Verdict::Fits => None,
        Verdict::Unfit(refusal) => {
            Some(Objection { plugin: seat.plugin.name(), refusal, remedies: seat.judge.remedies(node) })
        }
    };
    let objections = case.seats().iter().filter_map(objection).collect();
    NodeExplanation { name: node.name.clone(), objections, scores: Vec::new() }
}

#[cfg(test)]
mod tests;
