//! NodeResourcesBalancedAllocation: nodes are better whose processor and memory would be used to a like share.

use crate::amounts::Load;
use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Scoring};
use crate::subject::Subject;

/// The plugin.
pub(super) struct NodeResourcesBalancedAllocation;

/// What the pod asks for.
struct Asked(Load);

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// Pods that ask for nothing say nothing here, lest all of them go to one node.
    fn judge(&self, subject: &Subject, _: &Nodes) -> Option<Box<dyn Judge>> {
        let asked = Load::of(&subject.counted.requests);
        (asked != Load::default()).then(|| Box::new(Asked(asked)) as Box<dyn Judge>)
    }
}

impl Judge for Asked {
    fn filters(&self) -> bool {
        false
    }

    fn scoring(&self) -> Scoring {
        Scoring::Plain
    }

    /// One less the standard deviation of the shares, in percent.
    fn score(&self, node: &NodeInfo) -> i64 {
        let asked = Load::of(&node.requested).plus(self.0);
        let share = |asked: i64, has: i64| (has > 0).then(|| (asked as f64 / has as f64).min(1.0));
        let cpu = share(asked.cpu_milli, node.allocatable.cpu_milli);
        let memory = share(asked.memory, node.allocatable.memory);
        let deviation = match (cpu, memory) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - deviation) * 100.0) as i64
    }
}
