//! What a plugin is: it looks at a pod once, and then judges nodes by what it worked out.

use api::projection::PodLite;

use crate::nodes::{NodeInfo, Nodes};

/// Whether a node will do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Not now; the reasons in upstream's words.
    Unfit(Vec<String>),
}

/// A plugin under upstream's name.
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;

    /// What the plugin has to say about this pod; `None` when nothing, and then it costs nothing per node.
    fn judge<'a>(&self, pod: &'a PodLite, nodes: &'a Nodes) -> Option<Box<dyn Judge + 'a>>;

    /// The weight of its scores. Upstream: the default profile.
    fn weight(&self) -> i64 {
        1
    }
}

/// What a plugin worked out for one pod.
pub trait Judge {
    /// Whether the pod can run on the node.
    fn filter(&self, _: &NodeInfo) -> Verdict {
        Verdict::Fits
    }

    /// How good the node is, 0 to 100; `None` when the plugin does not score.
    fn score(&self, _: &NodeInfo) -> Option<i64> {
        None
    }

    /// Whether a high raw score is a bad one, so that scores are turned round when they are normalized.
    fn normalization(&self) -> Normalization {
        Normalization::None
    }
}

/// How raw scores become scores from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// They are that already.
    None,
    /// In proportion to the largest, turned round: the largest raw score is worth nothing.
    Reverse,
}
