//! Which images are removed when the disk fills up. The decision is pure.
//!
//! Upstream: `pkg/kubelet/images/image_gc_manager.go`: from 85 % down to 80 %, the longest unused first, none younger than two minutes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cri::{ContainerFilter, ImageSpec};
use reconcile::Severity;
use stdx::{Mono, mono};

use crate::agent::Agent;
use crate::pressure::Room;

/// Upstream: `imageGCHighThresholdPercent`, `imageGCLowThresholdPercent`, `imageMinimumGCAge`.
const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
const AGE_MIN: Duration = Duration::from_secs(120);

/// How much is to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// What is above the low mark, once the high one is passed.
    Bounds,
    /// All that is not used: the node runs short.
    Everything,
}

/// An image as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Present {
    id: String,
    bytes: u64,
    pinned: bool,
}

/// What is known of each image from one look to the next, by id.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    seen: BTreeMap<String, Known>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    first_seen: Mono,
    last_used: Option<Mono>,
}

/// Bytes to free of a disk (capacity, left).
fn excess((capacity, available): (u64, u64), want: Want) -> u64 {
    let used_percent = 100 - available.saturating_mul(100).checked_div(capacity).unwrap_or(100).min(100);
    match want {
        Want::Everything => u64::MAX,
        Want::Bounds if used_percent < HIGH_PERCENT => 0,
        Want::Bounds => (capacity / 100 * (100 - LOW_PERCENT)).saturating_sub(available),
    }
}

impl Collector {
    /// Takes in which images are there and used.
    fn see(&mut self, present: &[Present], used: &BTreeSet<String>, now: Mono) {
        self.seen.retain(|id, _| present.iter().any(|image| image.id == *id));
        for image in present {
            let known = self.seen.entry(image.id.clone()).or_insert(Known { first_seen: now, last_used: None });
            if used.contains(&image.id) {
                known.last_used = Some(now);
            }
        }
    }

    /// The images to remove, in order, until `bytes` are freed.
    fn chosen(&self, present: &[Present], used: &BTreeSet<String>, bytes: u64, now: Mono) -> Vec<String> {
        let mut unused: Vec<(&Present, Known)> = present
            .iter()
            .filter(|image| !image.pinned && !used.contains(&image.id))
            .filter_map(|image| self.seen.get(&image.id).map(|known| (image, *known)))
            .filter(|(_, known)| now - known.first_seen >= AGE_MIN)
            .collect();
        unused.sort_by_key(|(_, known)| (known.last_used, known.first_seen));
        let (mut freed, mut chosen) = (0_u64, Vec::new());
        for (image, _) in unused {
            if freed >= bytes {
                break;
            }
            freed = freed.saturating_add(image.bytes);
            chosen.push(image.id.clone());
        }
        chosen
    }

    /// Looks, and removes what is to go.
    pub async fn collect(&mut self, agent: &Agent, want: Want) {
        let runtime = &agent.context().runtime;
        let known = agent.context().pulled.known();
        let (images, containers) =
            match (runtime.list_images().await, runtime.list_containers(ContainerFilter::default()).await) {
                (Ok(images), Ok(containers)) => (images, containers),
                (Err(error), _) | (_, Err(error)) => {
                    return tracing::warn!(%error, "images or containers not listed: no image is removed");
                }
            };
        let used: BTreeSet<String> = containers.into_iter().map(|container| container.image.image_id).collect();
        let present: Vec<Present> = images
            .iter()
            .map(|image| Present { id: image.id.clone(), bytes: image.size_bytes, pinned: image.pinned })
            .collect();
        agent.context().pulled.keep(&known, &present.iter().map(|image| image.id.clone()).collect());
        let now = mono();
        self.see(&present, &used, now);
        let bytes = excess(Room::read(&agent.registration().machine.disks).image_disk, want);
        for id in self.chosen(&present, &used, bytes, now) {
            match runtime.remove_image(&ImageSpec::named(id.clone())).await {
                Ok(()) => {
                    self.seen.remove(&id);
                    tracing::info!(image = id, "unused image removed");
                }
                Err(error) => {
                    let message = format!("failed to remove image {id:?}: {error}");
                    agent.tell_node(Severity::Warning, "ImageGCFailed", message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_is_above_the_low_mark_is_freed_once_the_high_one_is_passed() {
        assert_eq!(excess((100 * GIB, 16 * GIB), Want::Bounds), 0);
        assert_eq!(excess((100 * GIB, 15 * GIB), Want::Bounds), 5 * GIB);
        assert_eq!(excess((0, 0), Want::Bounds), 0, "a disk that could not be read");
        assert_eq!(excess((100, 50), Want::Everything), u64::MAX);
    }

    #[test]
    fn the_longest_unused_goes_first_and_nothing_young_or_used() {
        let at = |second: u64| Mono(Duration::from_secs(second));
        let image = |id: &str, pinned: bool| Present { id: id.into(), bytes: 10, pinned };
        let mut present = vec![image("old", false), image("recent", false), image("used", false), image("pin", true)];
        let mut collector = Collector::default();
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        collector.see(&present, &ids(&["recent", "used"]), at(0));
        present.push(image("young", false));
        let used = ids(&["used"]);
        collector.see(&present, &used, at(100));
        assert_eq!(collector.chosen(&present, &used, 1, at(130)), ["old"]);
        assert_eq!(collector.chosen(&present, &used, 11, at(130)), ["old", "recent"]);
        assert_eq!(collector.chosen(&present, &used, u64::MAX, at(130)), ["old", "recent"]);
        // One that was never used goes before one that was.
        assert_eq!(collector.chosen(&present, &used, u64::MAX, at(230)), ["old", "young", "recent"]);
    }
}
