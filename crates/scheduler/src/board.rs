//! The nodes with what was worked out for the pods that came before: what the loop decides by. Pure.

use std::collections::VecDeque;

use api::projection::BudgetLite;

use crate::case::{Case, Profile};
use crate::explain::{NodeExplanation, nearest};
use crate::nodes::Nodes;
use crate::preempt::{Preemption, preempt};
use crate::schedule::{Decision, Misfit, decide};
use crate::subject::Subject;

/// So many kinds of pods are remembered, the ones asked for last: each takes a few bytes a node.
const CASES_MAX: usize = 64;

/// Nodes and cases.
pub struct Board {
    pub nodes: Nodes,
    profile: Profile,
    /// The one asked for last comes first.
    cases: VecDeque<Case>,
}

impl Board {
    /// An empty cluster.
    pub fn new(profile: Profile) -> Board {
        Board { nodes: Nodes::default(), profile, cases: VecDeque::new() }
    }

    /// Chooses a node for a pod: what [`crate::schedule`] would choose, sooner.
    pub fn decide(&mut self, subject: &Subject, tie: u64) -> Decision {
        self.find(subject);
        decide(&mut self.cases[0], subject, &self.nodes, tie)
    }

    /// Chooses whom to push out for a pod that has just been told that no node will do.
    pub fn preempt(&mut self, subject: &Subject, misfit: &Misfit, budgets: &[&BudgetLite], tie: u64) -> Preemption {
        self.find(subject);
        preempt(&mut self.cases[0], subject, &self.nodes, misfit, budgets, tie)
    }

    /// The node on which the least would have to change for a pod that has just been told that no node will do.
    pub fn nearest(&mut self, subject: &Subject) -> Option<NodeExplanation> {
        self.find(subject);
        nearest(&self.cases[0], &self.nodes)
    }

    /// Puts the case for such pods first, up to date.
    fn find(&mut self, subject: &Subject) {
        let wooed = self.nodes.with_terms() > 0;
        match self.cases.iter().position(|case| case.subject().is_like(subject, wooed)) {
            Some(0) => {}
            Some(at) => {
                let case = self.cases.remove(at).expect("the position was just found");
                self.cases.push_front(case);
            }
            None => {
                // What was worked out for pods that name their node serves no other pod: the next takes its place.
                if self.cases.front().is_some_and(Case::is_narrow) {
                    self.cases.pop_front();
                }
                self.cases.truncate(CASES_MAX - 1);
                self.cases.push_front(Case::new(subject.clone(), &self.nodes, self.profile));
            }
        }
        self.cases[0].refresh(&self.nodes);
    }
}

#[cfg(test)]
mod tests;
