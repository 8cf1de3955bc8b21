//! What a plugin is: it looks at a pod once, and then judges nodes by what it worked out.

use std::borrow::Cow;
use std::sync::Arc;

use api::projection::{NodeLite, PodLite, Taint};

use crate::nodes::{NodeInfo, Nodes};
use crate::subject::{Counted, HostPort, Subject};

/// Whether a node will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    Unfit(Refusal),
}

impl Verdict {
    /// Whether the node will do.
    pub fn fits(&self) -> bool {
        *self == Verdict::Fits
    }
}

/// Why a node will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In upstream's words.
    pub reasons: Vec<Cow<'static, str>>,
    /// Whether fewer pods could help. Upstream: `Unschedulable`, in contrast to `UnschedulableAndUnresolvable`.
    pub resolvable: bool,
}

impl Refusal {
    /// Pods that went could help.
    pub fn for_now(reason: &'static str) -> Verdict {
        Verdict::Unfit(Refusal { reasons: vec![reason.into()], resolvable: true })
    }

    /// No pod that went would help.
    pub fn for_good(reason: &'static str) -> Verdict {
        Verdict::Unfit(Refusal { reasons: vec![reason.into()], resolvable: false })
    }
}

/// One change that would take away one plugin's objection to one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The node is uncordoned, or the pod tolerates that it is cordoned.
    Uncordon,
    /// `spec.nodeName` names this node.
    NodeName,
    /// The pod tolerates the taint, or the node loses it.
    Tolerate(Taint),
    /// The node's labels meet these requirements, or the pod drops them.
    Labels(Vec<String>),
    /// The pods that hold this port go, or the pod takes another.
    Port(HostPort),
    /// So much more of a resource is free on the node, or the pod asks for so much less. Thousandths of processors, bytes,
    /// or a count.
    Free { resource: Box<str>, lacking: i64 },
    /// The node takes one more pod.
    PodCount,
    /// The node has a label of this key.
    TopologyLabel { key: Box<str> },
    /// The pods in the node's domain of this key become fewer, or others more: it would have `skew`, and may have `max_skew`.
    Spread { key: Box<str>, domain: Box<str>, skew: i64, max_skew: i64 },
    /// A pod that the selector selects runs in the node's domain of this key.
    Near { key: Box<str>, selector: String },
    /// The pods that the selector selects leave the node's domain of this key.
    Apart { key: Box<str>, selector: String },
    /// The pods that want none like this one near them leave the node's domain of this key.
    Unwanted { key: Box<str> },
}

/// Something that may let a pod run that no node would do for.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// A node came, or changed in something that decisions go by.
    Node {
        old: Option<&'a NodeLite>,
        new: &'a NodeLite,
    },
    NodeGone(&'a NodeLite),
    /// A pod came to a node, or one that is there changed.
    PodPlaced {
        old: Option<&'a PodLite>,
        new: &'a PodLite,
    },
    /// A pod left its node.
    PodGone(&'a PodLite),
    /// A namespace's labels are others.
    Namespace,
}

/// A plugin under upstream's name.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// What the plugin has to say about this pod; `None` when nothing, and then it costs nothing per node.
    fn judge(&self, subject: &Subject, nodes: &Nodes) -> Option<Box<dyn Judge>>;

    /// The weight of its scores. Upstream: the default profile.
    fn weight(&self) -> i64 {
        1
    }

    /// Whether a pod that comes to a node gives the plugin something to say where it had nothing.
    fn heeds(&self, _pod: &Counted) -> bool {
        false
    }

    /// Whether a change may end this plugin's objection to the pod. Upstream: queueing hints.
    fn helps(&self, _pod: &PodLite, _change: &Change<'_>, _nodes: &Nodes) -> bool {
        false
    }
}

/// How far a judge looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// At the node and its pods: another verdict comes from a change of that node only.
    Node,
    /// At other nodes and their pods, too.
    Cluster,
}

/// How raw scores become scores from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// There are none.
    None,
    /// They are that already.
    Plain,
    /// In proportion to the largest.
    Proportional,
    /// The same, turned round: the largest raw score is worth nothing.
    Reversed,
    /// The judge makes them itself, for all nodes in question at once.
    Together,
}

/// What a plugin worked out for one pod.
pub trait Judge: Send {
    /// How far it looks.
    fn reach(&self) -> Reach {
        Reach::Node
    }

    /// Whether it may refuse any node at all.
    fn filters(&self) -> bool {
        true
    }

    /// Whether the pod can run on the node.
    fn filter(&self, _node: &NodeInfo) -> Verdict {
        Verdict::Fits
    }

    /// The same without a reason.
    fn passes(&self, node: &NodeInfo) -> bool {
        self.filter(node).fits()
    }

    /// What would let the pod run on a node that is refused.
    fn remedies(&self, _node: &NodeInfo) -> Vec<Remedy> {
        Vec::new()
    }

    /// How it scores.
    fn scoring(&self) -> Scoring {
        Scoring::None
    }

    /// How good the node is, raw.
    fn score(&self, _node: &NodeInfo) -> i64 {
        0
    }

    /// Scores of all nodes in question, 0 to 100, in their order.
    fn score_together(&self, _nodes: &[&NodeInfo]) -> Vec<i64> {
        Vec::new()
    }

    /// A pod came to a node (1) or left it (-1): only for judges that look beyond it.
    fn count(&mut self, _slot: usize, _pod: &Arc<Counted>, _sign: i64, _nodes: &Nodes) {}
}
