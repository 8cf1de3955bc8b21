//! What was worked out for pods that are alike: judges, and what they said of each node. Pure.
//!
//! The verdicts and scores of judges that look at one node only are kept by node, and only nodes that changed since are
//! judged again. Judges that look at all nodes keep counts, which pods that come and go change.

use std::sync::Arc;

use api::projection::PodLite;

use crate::nodes::{Delta, NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Reach, Refusal, Scoring, Verdict};
use crate::plugins::{Named, holders, named_nodes};
use crate::schedule::{Misfit, NodeMisfit};
use crate::subject::{Counted, Subject};

/// The plugins of a profile, in the order in which they filter.
pub type Profile = &'static [&'static dyn Plugin];

/// In place of a sum of scores: the node is refused, or does not exist.
const REFUSED: i64 = i64::MIN;

/// A plugin that has something to say, and what it worked out.
pub(crate) struct Seat {
    pub plugin: &'static dyn Plugin,
    pub judge: Box<dyn Judge>,
}

/// Which nodes are looked at.
enum Scope {
    /// All: a node's position is its slot.
    All,
    /// The slots of those that the pod names.
    Named(Vec<usize>),
    /// None: the names that the pod gives exclude one another.
    Conflict,
}

/// Raw scores that are normalized over the nodes in question.
struct Raw {
    weight: i64,
    scoring: Scoring,
    /// By position.
    scores: Vec<i64>,
    /// How many of them are not zero: while none is, they tell no node from another.
    some: usize,
}

/// What was worked out for pods that are alike.
pub struct Case {
    subject: Subject,
    profile: Profile,
    seats: Vec<Seat>,
    scope: Scope,
    /// By position: the weighted scores that need no normalization, or [`REFUSED`].
    sums: Vec<i64>,
    /// For each seat that scores one node by one and is normalized.
    raw: Vec<(usize, Raw)>,
    /// How many nodes hold the images of the pod, and how many nodes there are.
    images: Vec<usize>,
    /// The number of the first change that is not in yet.
    next: u64,
}

impl Case {
    /// Works everything out.
    pub fn new(subject: Subject, nodes: &Nodes, profile: Profile) -> Case {
        let seat = |plugin: &'static dyn Plugin| Some(Seat { plugin, judge: plugin.judge(&subject, nodes)? });
        let seats: Vec<Seat> = profile.iter().filter_map(|plugin| seat(*plugin)).collect();
        let scope = match named_nodes(subject.pod()) {
            Named::All => Scope::All,
            Named::Conflict => Scope::Conflict,
            Named::Only(names) => {
                Scope::Named(names.iter().filter_map(|name| nodes.named(name)).map(|node| node.slot).collect())
            }
        };
        let images = images(subject.pod(), nodes);
        let mut case =
            Case { subject, profile, seats, scope, sums: Vec::new(), raw: Vec::new(), images, next: nodes.now() };
        case.judge_all(nodes);
        case
    }

    /// The pod for which it was worked out.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Whether the pod names the only nodes that are looked at.
    pub fn is_narrow(&self) -> bool {
        !matches!(self.scope, Scope::All)
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Takes in what changed since.
    pub fn refresh(&mut self, nodes: &Nodes) {
        if self.next == nodes.now() {
            return;
        }
        if !self.follow(nodes) {
            *self = Case::new(self.subject.clone(), nodes, self.profile);
        }
        self.next = nodes.now();
    }

    /// Takes in the changes one by one; false when everything has to be worked out anew.
    fn follow(&mut self, nodes: &Nodes) -> bool {
        let Some(deltas) = nodes.since(self.next) else { return false };
        let deltas: Vec<&Delta> = deltas.collect();
        if deltas.iter().any(|delta| self.is_upset_by(delta, nodes)) || self.images != images(self.subject.pod(), nodes)
        {
            return false;
        }
        let mut touched: Vec<usize> = Vec::new();
        for delta in deltas {
            match delta {
                Delta::Came(slot, pod) => self.count(*slot, pod, 1, nodes),
                Delta::Left(slot, pod) => self.count(*slot, pod, -1, nodes),
                Delta::Node(_) | Delta::Images(_) | Delta::All => {}
            }
            match delta {
                Delta::Node(slot) | Delta::Images(slot) | Delta::Came(slot, _) | Delta::Left(slot, _) => {
                    touched.push(*slot);
                }
                Delta::All => {}
            }
        }
        touched.sort_unstable();
        touched.dedup();
        for slot in touched {
            if let Some(position) = self.position(slot) {
                self.judge_one(position, nodes);
            }
        }
        true
    }

    /// Whether everything has to be worked out anew after that change.
    fn is_upset_by(&self, delta: &Delta, nodes: &Nodes) -> bool {
        match delta {
            Delta::All => true,
            // Who looks at all nodes has put the pods of each into its domains.
            Delta::Node(slot) => {
                *slot >= self.sums.len()
                    || self.is_narrow()
                    || self.seats.iter().any(|seat| seat.judge.reach() == Reach::Cluster)
            }
            Delta::Images(_) => false,
            Delta::Came(slot, pod) => {
                let is_silent =
                    |plugin: &&&dyn Plugin| !self.seats.iter().any(|seat| seat.plugin.name() == plugin.name());
                // A slot of a node that does not exist yet.
                (!self.is_narrow() && *slot >= self.sums.len() && nodes.at(*slot).exists())
                    || self.profile.iter().filter(is_silent).any(|plugin| plugin.heeds(pod))
            }
            Delta::Left(..) => false,
        }
    }

    fn count(&mut self, slot: usize, pod: &Arc<Counted>, sign: i64, nodes: &Nodes) {
        for seat in self.seats.iter_mut().filter(|seat| seat.judge.reach() == Reach::Cluster) {
            seat.judge.count(slot, pod, sign, nodes);
        }
    }

    fn positions(&self, nodes: &Nodes) -> usize {
        match &self.scope {
            Scope::All => nodes.slots(),
            Scope::Named(slots) => slots.len(),
            Scope::Conflict => 0,
        }
    }

    fn slot(&self, position: usize) -> usize {
        match &self.scope {
            Scope::Named(slots) => slots[position],
            _ => position,
        }
    }

    fn position(&self, slot: usize) -> Option<usize> {
        match &self.scope {
            Scope::All => (slot < self.sums.len()).then_some(slot),
            Scope::Named(slots) => slots.iter().position(|named| *named == slot),
            Scope::Conflict => None,
        }
    }

    fn judge_all(&mut self, nodes: &Nodes) {
        let count = self.positions(nodes);
        self.sums = vec![REFUSED; count];
        let raw = |(index, seat): (usize, &Seat)| {
            let scoring = seat.judge.scoring();
            let weight = seat.plugin.weight();
            matches!(scoring, Scoring::Proportional | Scoring::Reversed)
                .then(|| (index, Raw { weight, scoring, scores: vec![0; count], some: 0 }))
        };
        self.raw = self.seats.iter().enumerate().filter_map(raw).collect();
        (0..count).for_each(|position| self.judge_one(position, nodes));
    }

    /// Asks those that look at one node only.
    fn judge_one(&mut self, position: usize, nodes: &Nodes) {
        let node = nodes.at(self.slot(position));
        let alone = |seat: &&Seat| seat.judge.reach() == Reach::Node;
        let passes = node.exists() && self.seats.iter().filter(alone).all(|seat| seat.judge.passes(node));
        let plain = |seat: &&Seat| seat.judge.scoring() == Scoring::Plain;
        let score = |seat: &Seat| seat.judge.score(node) * seat.plugin.weight();
        self.sums[position] = if passes { self.seats.iter().filter(plain).map(score).sum() } else { REFUSED };
        for (index, raw) in &mut self.raw {
            let score = if passes { self.seats[*index].judge.score(node) } else { 0 };
            let old = std::mem::replace(&mut raw.scores[position], score);
            raw.some = raw.some + usize::from(score != 0) - usize::from(old != 0);
        }
    }

    /// The slot of the best node for the pod, which is like the one that this was worked out for; of equally good ones, the
    /// one that `tie` picks.
    pub fn choose(&mut self, who: &Subject, nodes: &Nodes, tie: u64) -> Option<usize> {
        let blocked = self.blocked(who, nodes);
        // Where room was made for it, it goes if it can. Upstream: `evaluateNominatedNode`.
        if let Some(slot) = nodes.nomination(who.uid()).map(|nomination| nomination.slot)
            && self.position(slot).is_some_and(|position| self.passes(position, nodes))
            && !blocked.contains(&slot)
        {
            return Some(slot);
        }
        let is_plain = blocked.is_empty()
            && self.raw.iter().all(|(_, raw)| raw.some == 0)
            && self.seats.iter().all(|seat| {
                let judge = &seat.judge;
                judge.scoring() != Scoring::Together && (judge.reach() == Reach::Node || !judge.filters())
            });
        if is_plain {
            return pick(&self.sums, tie).map(|position| self.slot(position));
        }
        let fitting: Vec<usize> = (0..self.sums.len())
            .filter(|position| self.passes(*position, nodes) && !blocked.contains(&self.slot(*position)))
            .collect();
        if fitting.len() <= 1 {
            return fitting.first().map(|position| self.slot(*position));
        }
        pick(&self.totals(&fitting, nodes), tie).map(|winner| self.slot(fitting[winner]))
    }

    fn passes(&self, position: usize, nodes: &Nodes) -> bool {
        if self.sums[position] == REFUSED {
            return false;
        }
        let node = nodes.at(self.slot(position));
        let far = self.seats.iter().filter(|seat| seat.judge.reach() == Reach::Cluster && seat.judge.filters());
        far.into_iter().all(|seat| seat.judge.passes(node))
    }

    /// The weighted scores of these positions.
    fn totals(&self, fitting: &[usize], nodes: &Nodes) -> Vec<i64> {
        let mut totals: Vec<i64> = fitting.iter().map(|position| self.sums[*position]).collect();
        for (_, raw) in self.raw.iter().filter(|(_, raw)| raw.some > 0) {
            let mut scores: Vec<i64> = fitting.iter().map(|position| raw.scores[*position]).collect();
            normalize(&mut scores, raw.scoring);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * raw.weight);
        }
        let offered: Vec<&NodeInfo> = fitting.iter().map(|position| nodes.at(self.slot(*position))).collect();
        for seat in self.seats.iter().filter(|seat| seat.judge.scoring() == Scoring::Together) {
            let scores = seat.judge.score_together(&offered);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * seat.plugin.weight());
        }
        totals
    }

    /// The slots on which room is being made for others that are at least as important, so that there is none for the pod.
    fn blocked(&mut self, who: &Subject, nodes: &Nodes) -> Vec<usize> {
        let mut slots: Vec<usize> = rivals(who, nodes, None).map(|(slot, _)| slot).collect();
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|slot| {
            self.position(*slot).is_some()
                && nodes.at(*slot).exists()
                && !self.suppose(nodes, *slot).beside_rivals(who).fits()
        });
        slots
    }

    /// A node as it is, to suppose that pods came to it or left it.
    pub(crate) fn suppose<'c>(&'c mut self, nodes: &'c Nodes, slot: usize) -> Supposition<'c> {
        Supposition { info: nodes.at(slot).clone(), case: self, nodes, made: Vec::new() }
    }

    /// Why no node will do for the pod.
    pub fn misfit(&mut self, who: &Subject, nodes: &Nodes) -> Misfit {
        let mut misfit = Misfit { total: nodes.len(), ..Misfit::default() };
        match &self.scope {
            Scope::All => {}
            Scope::Conflict => misfit.overall = Some(("NodeAffinity", "pod affinity terms conflict".into())),
            Scope::Named(_) => {
                misfit.unnamed = Some(("NodeAffinity", "node(s) didn't satisfy plugin(s) [NodeAffinity]".into()));
            }
        }
        for position in 0..self.sums.len() {
            let slot = self.slot(position);
            let node = nodes.at(slot);
            if !node.exists() {
                continue;
            }
            let (plugin, refusal) = match first_refusal(&self.seats, node) {
                Some(refusal) => refusal,
                None => match self.suppose(nodes, slot).refusal_beside_rivals(who) {
                    Some(refusal) => refusal,
                    None => continue,
                },
            };
            misfit.nodes.push(NodeMisfit { slot, name: node.name.clone(), plugin, refusal });
        }
        misfit
    }
}

fn first_refusal(seats: &[Seat], node: &NodeInfo) -> Option<(&'static str, Refusal)> {
    seats.iter().find_map(|seat| match seat.judge.filter(node) {
        Verdict::Fits => None,
        Verdict::Unfit(refusal) => Some((seat.plugin.name(), refusal)),
    })
}

/// Pods other than this one, and not less important, for which room is being made: where, and which.
fn rivals<'n>(
    who: &'n Subject,
    nodes: &'n Nodes,
    on: Option<usize>,
) -> impl Iterator<Item = (usize, &'n Arc<Counted>)> + 'n {
    let priority = who.pod().spec.priority;
    nodes
        .nominations()
        .filter(move |nomination| on.is_none_or(|slot| nomination.slot == slot))
        .filter(move |nomination| {
            nomination.pod.object.uid() != who.uid() && nomination.pod.pod().spec.priority >= priority
        })
        .map(|nomination| (nomination.slot, &nomination.pod))
}

/// A node on which something is supposed. What was counted for it is taken back in the end.
pub(crate) struct Supposition<'c> {
    case: &'c mut Case,
    nodes: &'c Nodes,
    pub info: NodeInfo,
    made: Vec<(Arc<Counted>, i64)>,
}

impl Supposition<'_> {
    /// Supposes that the pod were not there.
    pub fn without(&mut self, pod: &Arc<Counted>) {
        if self.info.remove(pod.object.uid()).is_some() {
            self.made.push((pod.clone(), -1));
            self.case.count(self.info.slot, pod, -1, self.nodes);
        }
    }

    /// Supposes that the pod were there.
    pub fn with(&mut self, pod: &Arc<Counted>) {
        self.info.add(pod.clone());
        self.made.push((pod.clone(), 1));
        self.case.count(self.info.slot, pod, 1, self.nodes);
    }

    fn refusal(&self) -> Option<(&'static str, Refusal)> {
        first_refusal(&self.case.seats, &self.info)
    }

    /// The objection when the pods for which room is being made here were there.
    fn refusal_beside_rivals(&mut self, who: &Subject) -> Option<(&'static str, Refusal)> {
        let rivals: Vec<Arc<Counted>> =
            rivals(who, self.nodes, Some(self.info.slot)).map(|(_, pod)| pod.clone()).collect();
        rivals.iter().for_each(|rival| self.with(rival));
        let refusal = self.refusal();
        rivals.iter().for_each(|rival| self.without(rival));
        refusal
    }

    /// Whether the node would do, both with and without the pods for which room is being made: an affinity to them must not
    /// depend on their coming. Upstream: `RunFilterPluginsWithNominatedPods`.
    pub fn beside_rivals(&mut self, who: &Subject) -> Verdict {
        let has_rivals = rivals(who, self.nodes, Some(self.info.slot)).next().is_some();
        let refusal = if has_rivals { self.refusal_beside_rivals(who) } else { None };
        match refusal.or_else(|| self.refusal()) {
            None => Verdict::Fits,
            Some((_, refusal)) => Verdict::Unfit(refusal),
        }
    }
}

impl Drop for Supposition<'_> {
    fn drop(&mut self) {
        while let Some((pod, sign)) = self.made.pop() {
            self.case.count(self.info.slot, &pod, -sign, self.nodes);
        }
    }
}

/// How many nodes hold each image of the pod, and how many nodes there are: what scores by images go by.
fn images(pod: &PodLite, nodes: &Nodes) -> Vec<usize> {
    let held = pod.spec.containers.iter().map(|container| holders(&container.image, nodes));
    let mut counts: Vec<usize> = held.collect();
    if counts.iter().any(|count| *count > 0) {
        counts.push(nodes.len());
    }
    counts
}

/// Of the best, the one that `tie` picks.
fn pick(sums: &[i64], tie: u64) -> Option<usize> {
    let best = sums.iter().copied().max().filter(|best| *best != REFUSED)?;
    let winners = sums.iter().filter(|sum| **sum == best).count();
    let chosen = usize::try_from(tie % winners as u64).unwrap_or(0);
    sums.iter().enumerate().filter(|(_, sum)| **sum == best).nth(chosen).map(|(position, _)| position)
}

/// Makes raw scores scores from 0 to 100. Upstream: `DefaultNormalizeScore`.
pub(crate) fn normalize(scores: &mut [i64], scoring: Scoring) {
    let most = scores.iter().copied().max().unwrap_or(0);
    let reversed = scoring == Scoring::Reversed;
    for score in scores {
        let share = if most == 0 { *score } else { *score * 100 / most };
        *score = if reversed { 100 - share } else { share };
    }
}
