//! NodeAffinity: only nodes that `spec.nodeSelector` and required node affinity allow; preferred ones are better.

use std::sync::Arc;

use api::decide::affinity::{named_nodes, node_is_allowed, node_term_matches};
use api::projection::{NodeTerm, PodLite};

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Change, Judge, Plugin, Refusal, Remedy, Scoring, Verdict};
use crate::subject::{Counted, Subject};

/// The plugin.
pub(super) struct NodeAffinity;

/// The pod, which says something about nodes.
struct Wishes(Arc<Counted>);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        let pod = subject.pod();
        let affinity = pod.spec.affinity.as_ref();
        let says = !pod.spec.node_selector.is_empty()
            || affinity.is_some_and(|affinity| affinity.node_required.is_some() || !affinity.node_preferred.is_empty());
        says.then(|| Box::new(Wishes(subject.counted.clone())) as Box<dyn Judge>)
    }

    fn weight(&self) -> i64 {
        2
    }

    fn helps(&self, pod: &PodLite, change: &Change<'_>, _: &Nodes) -> bool {
        let Change::Node { old, new } = change else { return false };
        node_is_allowed(pod, new) && old.is_none_or(|old| !node_is_allowed(pod, old))
    }
}

impl Wishes {
    fn preferred(&self) -> &[(i32, NodeTerm)] {
        self.0.pod().spec.affinity.as_ref().map_or(&[], |affinity| &affinity.node_preferred)
    }
}

impl Judge for Wishes {
    fn filter(&self, node: &NodeInfo) -> Verdict {
        if node_is_allowed(self.0.pod(), node.node()) {
            Verdict::Fits
        } else {
            Refusal::for_good("node(s) didn't match Pod's node affinity/selector")
        }
    }

    /// What the node's labels lack, by the term that comes nearest.
    fn remedies(&self, node: &NodeInfo) -> Vec<Remedy> {
        let pod = self.0.pod();
        let labels = &node.node().meta.labels;
        let selector = pod.spec.node_selector.iter().filter(|(name, value)| labels.get(name) != Some(value));
        let mut lacking: Vec<String> = selector.map(|(name, value)| format!("{name}={value}")).collect();
        let required = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_required.as_deref());
        if let Some(terms) = required.filter(|terms| !terms.iter().any(|term| node_term_matches(term, node.node()))) {
            let unmet = |term: &NodeTerm| -> Vec<String> {
                let labels = term.labels.iter().filter(|requirement| !requirement.matches(labels));
                let names = term.names.iter().filter(|names| names.is_in != names.names.contains(&node.name));
                let name = |names: &api::projection::NameRequirement| {
                    let operator = if names.is_in { "in" } else { "notin" };
                    format!("metadata.name {operator} ({})", names.names.join(","))
                };
                labels.map(ToString::to_string).chain(names.map(name)).collect()
            };
            lacking.extend(terms.iter().map(unmet).min_by_key(Vec::len).unwrap_or_default());
        }
        vec![Remedy::Labels(lacking)]
    }

    fn scoring(&self) -> Scoring {
        if self.preferred().is_empty() { Scoring::None } else { Scoring::Proportional }
    }

    /// The weights of the preferred terms that hold.
    fn score(&self, node: &NodeInfo) -> i64 {
        let terms = self.preferred().iter().filter(|(_, term)| node_term_matches(term, node.node()));
        terms.map(|(weight, _)| i64::from(*weight)).sum()
    }
}

/// Which nodes have to be looked at, by names that the pod's affinity gives.
pub(crate) enum Named<'a> {
    All,
    /// Only these.
    Only(Vec<&'a str>),
    /// The names exclude one another.
    Conflict,
}

/// The nodes that the pod names. Upstream: `PreFilterResult`.
pub(crate) fn named(pod: &PodLite) -> Named<'_> {
    match named_nodes(pod) {
        None => Named::All,
        Some(names) if names.is_empty() => Named::Conflict,
        Some(names) => Named::Only(names),
    }
}
