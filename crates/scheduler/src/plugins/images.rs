//! ImageLocality: nodes are better that hold the pod's images, the more so the more nodes hold them.

use crate::nodes::{NodeInfo, Nodes};
use crate::plugin::{Judge, Plugin, Scoring};
use crate::subject::Subject;

/// The plugin.
pub(super) struct ImageLocality;

/// Images smaller than this in sum are worth nothing. Upstream: `minThreshold`.
const BYTES_MIN: i64 = 23 << 20;
/// So much of an image a container counts at most. Upstream: `maxContainerThreshold`.
const BYTES_MAX_EACH: i64 = 1000 << 20;

struct Images {
    /// The pod's images that some node holds, with the share of nodes that do.
    known: Vec<(String, f64)>,
    containers: i64,
}

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn judge(&self, subject: &Subject, nodes: &Nodes) -> Option<Box<dyn Judge>> {
        let containers = &subject.pod().spec.containers;
        let share = |name: String| {
            let holders = nodes.with_image(&name);
            (holders > 0).then(|| (name, holders as f64 / nodes.len().max(1) as f64))
        };
        let known: Vec<(String, f64)> =
            containers.iter().filter_map(|container| share(normalized(&container.image))).collect();
        let judge = Images { known, containers: i64::try_from(containers.len()).unwrap_or(i64::MAX) };
        (!judge.known.is_empty()).then(|| Box::new(judge) as Box<dyn Judge>)
    }
}

/// How many nodes hold the image.
pub(crate) fn holders(image: &str, nodes: &Nodes) -> usize {
    nodes.with_image(&normalized(image))
}

/// The name as nodes report it: with a tag.
fn normalized(image: &str) -> String {
    let has_tag = image.rfind(':').is_some_and(|colon| image.rfind('/').is_none_or(|slash| colon > slash));
    if has_tag { image.to_owned() } else { format!("{image}:latest") }
}

impl Judge for Images {
    fn filters(&self) -> bool {
        false
    }

    fn scoring(&self) -> Scoring {
        Scoring::Plain
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let size = |name: &String| {
            let image = node.node().images.iter().find(|image| image.names.iter().any(|present| **present == **name));
            image.map_or(0, |image| image.size_bytes)
        };
        let sum: i64 = self.known.iter().map(|(name, share)| (size(name) as f64 * share) as i64).sum();
        let most = BYTES_MAX_EACH.saturating_mul(self.containers);
        (sum.clamp(BYTES_MIN, most) - BYTES_MIN) * 100 / (most - BYTES_MIN)
    }
}
