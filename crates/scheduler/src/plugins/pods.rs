//! InterPodAffinity: near pods that it wants, away from pods that it does not want or that do not want it.

use std::sync::Arc;

use api::decide::affinity::pod_term_matches;
use api::projection::{NodeLite, PodLite, PodTerm, PodTerms};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Reach, Refusal, Remedy, Scoring, Verdict};
use crate::subject::{Counted, Subject, has_terms};
use crate::topology::Tally;

/// The plugin.
pub(super) struct InterPodAffinity;

/// What a required term of a pod that runs already is worth to a pod that it means. Upstream: `HardPodAffinityWeight`.
const HARD_WEIGHT: i64 = 1;

struct Neighbours {
    subject: Arc<Counted>,
    /// Whether the pod itself has something to say, so that every other counts.
    speaks: bool,
    /// Pods that all required affinity terms mean.
    wanted: Tally,
    /// Pods that a required anti-affinity term means.
    unwanted: Tally,
    /// Pods one of whose required anti-affinity terms means this one.
    unwilling: Tally,
    /// What preferred terms, its own and the others', come to.
    liking: Tally,
    /// Whether it meets its own affinity terms, so that it may be the first of its kind.
    wants_itself: bool,
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn judge(&self, subject: &Subject, nodes: &Nodes) -> Option<Box<dyn Judge>> {
        let speaks = subject.counted.has_terms();
        if !speaks && nodes.with_terms() == 0 {
            return None;
        }
        let mut judge = Neighbours {
            speaks,
            wanted: Tally::default(),
            unwanted: Tally::default(),
            unwilling: Tally::default(),
            liking: Tally::default(),
            wants_itself: means_all(terms(subject.pod()).0, subject.pod(), subject.pod(), nodes),
            subject: subject.counted.clone(),
        };
        for node in nodes.iter().filter(|node| speaks || node.with_terms > 0) {
            node.pods.iter().for_each(|placed| judge.add(node.slot, placed, 1, nodes));
        }
        Some(Box::new(judge))
    }

    fn heeds(&self, pod: &Counted) -> bool {
        pod.has_terms()
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, nodes: &Nodes) -> bool {
        let (near, apart) = terms(pod);
        let means = |terms: &[PodTerm], other: &PodLite| terms.iter().any(|term| means(term, pod, other, nodes));
        let refuses = |other: &PodLite| {
            let theirs = terms_of(other).map_or(&[][..], |(_, anti)| &anti.required);
            theirs.iter().any(|term| self::means(term, other, pod, nodes))
        };
        match change {
            Change::Node { old, new } => {
                let keys = near.iter().chain(apart).map(|term| &*term.topology_key);
                let label = |node: &NodeLite, key: &str| node.meta.labels.get(key).map(str::to_owned);
                let own = keys.into_iter().any(|key| match old {
                    None => label(new, key).is_some(),
                    Some(old) => label(old, key) != label(new, key),
                });
                // Which labels the pods that refuse it go by is not worth finding out.
                own || old.is_none_or(|old| old.meta.labels != new.meta.labels)
            }
            Change::PodPlaced { old, new } => {
                let was = |terms: &[PodTerm]| old.is_some_and(|old| means(terms, old));
                (means(near, new) && (old.is_none() || !was(near))) || (was(apart) && !means(apart, new))
            }
            Change::PodGone(gone) => means(apart, gone) || refuses(gone),
            Change::NodeGone(_) => false,
            Change::Namespace => true,
        }
    }
}

fn terms_of(pod: &PodLite) -> Option<(&PodTerms, &PodTerms)> {
    pod.spec.affinity.as_ref().map(|affinity| (&affinity.pod, &affinity.anti))
}

/// The required terms of affinity and of anti-affinity.
fn terms(pod: &PodLite) -> (&[PodTerm], &[PodTerm]) {
    terms_of(pod).map_or((&[], &[]), |(near, apart)| (&near.required, &apart.required))
}

fn means(term: &PodTerm, owner: &PodLite, pod: &PodLite, nodes: &Nodes) -> bool {
    pod_term_matches(term, owner, pod, nodes.namespace_labels(&pod.meta.namespace))
}

fn means_all(terms: &[PodTerm], owner: &PodLite, pod: &PodLite, nodes: &Nodes) -> bool {
    !terms.is_empty() && terms.iter().all(|term| means(term, owner, pod, nodes))
}

impl Neighbours {
    fn add(&mut self, slot: usize, placed: &Counted, sign: i64, nodes: &Nodes) {
        let counted = self.subject.clone();
        let (subject, other) = (counted.pod(), placed.pod());
        if self.speaks {
            self.add_own(subject, other, slot, sign, nodes);
        }
        if !has_terms(other) {
            return;
        }
        let Some((near, apart)) = terms_of(other) else { return };
        let meant = |terms: &[PodTerm]| -> Vec<Box<str>> {
            let terms = terms.iter().filter(|term| means(term, other, subject, nodes));
            terms.map(|term| term.topology_key.clone()).collect()
        };
        meant(&apart.required).iter().for_each(|key| self.unwilling.add(key, slot, sign, nodes));
        meant(&near.required).iter().for_each(|key| self.liking.add(key, slot, sign * HARD_WEIGHT, nodes));
        for (terms, sign) in [(near, sign), (apart, -sign)] {
            for (weight, term) in terms.preferred.iter().filter(|(_, term)| means(term, other, subject, nodes)) {
                self.liking.add(&term.topology_key, slot, sign * i64::from(*weight), nodes);
            }
        }
    }

    /// Counts a pod for what the subject itself says.
    fn add_own(&mut self, subject: &PodLite, other: &PodLite, slot: usize, sign: i64, nodes: &Nodes) {
        let Some((near, apart)) = terms_of(subject) else { return };
        if means_all(&near.required, subject, other, nodes) {
            near.required.iter().for_each(|term| self.wanted.add(&term.topology_key, slot, sign, nodes));
        }
        for term in apart.required.iter().filter(|term| means(term, subject, other, nodes)) {
            self.unwanted.add(&term.topology_key, slot, sign, nodes);
        }
        for (terms, sign) in [(near, sign), (apart, -sign)] {
            for (weight, term) in terms.preferred.iter().filter(|(_, term)| means(term, subject, other, nodes)) {
                self.liking.add(&term.topology_key, slot, sign * i64::from(*weight), nodes);
            }
        }
    }

    /// The required affinity terms that do not hold on the node.
    fn unmet<'a>(&'a self, node: &'a NodeInfo) -> impl Iterator<Item = &'a PodTerm> {
        // The first of its kind needs only the labels.
        let is_first = self.wants_itself && self.wanted.is_empty();
        terms(self.subject.pod()).0.iter().filter(move |term| {
            let present = self.wanted.at(&term.topology_key, node.slot).is_some_and(|pods| pods > 0);
            let may_be_first = is_first && node.label(&term.topology_key).is_some();
            !present && !may_be_first
        })
    }

    /// The required anti-affinity terms that a pod breaks.
    fn broken<'a>(&'a self, node: &'a NodeInfo) -> impl Iterator<Item = &'a PodTerm> {
        let terms = terms(self.subject.pod()).1.iter();
        terms.filter(|term| self.unwanted.at(&term.topology_key, node.slot).is_some_and(|pods| pods > 0))
    }
}

impl Judge for Neighbours {
    fn reach(&self) -> Reach {
        Reach::Cluster
    }

    fn filters(&self) -> bool {
        let (near, _) = terms(self.subject.pod());
        !near.is_empty() || !self.unwanted.is_empty() || !self.unwilling.is_empty()
    }

    fn filter(&self, node: &NodeInfo) -> Verdict {
        if self.unmet(node).next().is_some() {
            return Refusal::for_good("node(s) didn't match pod affinity rules");
        }
        if self.broken(node).next().is_some() {
            return Refusal::for_now("node(s) didn't match pod anti-affinity rules");
        }
        if self.unwilling.positive(node.slot).is_some() {
            return Refusal::for_now("node(s) didn't satisfy existing pods anti-affinity rules");
        }
        Verdict::Fits
    }

    fn passes(&self, node: &NodeInfo) -> bool {
        self.unmet(node).next().is_none()
            && self.broken(node).next().is_none()
            && self.unwilling.positive(node.slot).is_none()
    }

    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let parts = |term: &PodTerm| (term.topology_key.clone(), term.selector.to_string());
        let near = self.unmet(node).map(parts).map(|(key, selector)| Remedy::Near { key, selector });
        let apart = self.broken(node).map(parts).map(|(key, selector)| Remedy::Apart { key, selector });
        let unwanted = self.unwilling.positive(node.slot).map(|key| Remedy::Unwanted { key: key.into() });
        near.chain(apart).chain(unwanted).collect()
    }

    fn scoring(&self) -> Scoring {
        if self.liking.is_empty() { Scoring::None } else { Scoring::Together }
    }

    fn score_together(&self, nodes: &[&NodeInfo]) -> Vec<i64> {
        let raw: Vec<i64> = nodes.iter().map(|node| self.liking.total(node.slot)).collect();
        let (least, most) = (raw.iter().min().copied().unwrap_or(0), raw.iter().max().copied().unwrap_or(0));
        if most == least {
            return vec![0; raw.len()];
        }
        raw.into_iter().map(|score| (100.0 * ((score - least) as f64 / (most - least) as f64)) as i64).collect()
    }

    fn count(&mut self, slot: usize, pod: &Arc<Counted>, sign: i64, nodes: &Nodes) {
        self.add(slot, pod, sign, nodes);
    }
}

#[cfg(test)]
mod tests;
