//! How often each probe found what, for metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Pod;

use super::Purpose;
use crate::pod::{name, namespace, uid};

/// A probe of a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub pod_uid: String,
    pub namespace: String,
    pub pod: String,
    pub container: String,
    /// As metrics name it.
    pub purpose: &'static str,
}

/// What it found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub successful: u64,
    pub failed: u64,
}

/// What all probes found, of pods that the API still has.
#[derive(Default)]
pub struct Probed(Mutex<BTreeMap<Probe, Counts>>);

impl Probed {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Probe, Counts>> {
        self.0.lock().expect("no holder of this lock panics")
    }

    /// Counts an answer.
    pub fn count(&self, pod: &Pod, container: &str, purpose: Purpose, good: bool) {
        let probe = Probe {
            pod_uid: uid(pod).into(),
            namespace: namespace(pod).into(),
            pod: name(pod).into(),
            container: container.into(),
            purpose: purpose.word(),
        };
        let mut all = self.lock();
        let counts = all.entry(probe).or_default();
        let count = if good { &mut counts.successful } else { &mut counts.failed };
        *count += 1;
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.lock().retain(|probe, _| probe.pod_uid != pod_uid);
    }

    /// Every probe with what it found.
    pub fn counts(&self) -> Vec<(Probe, Counts)> {
        self.lock().iter().map(|(probe, counts)| (probe.clone(), *counts)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_until_the_pod_is_gone() {
        let probed = Probed::default();
        let mut pod = Pod::default();
        pod.metadata.uid = Some("u".into());
        for good in [true, false, true] {
            probed.count(&pod, "c", Purpose::Liveness, good);
        }
        let counts: Vec<Counts> = probed.counts().into_iter().map(|(_, counts)| counts).collect();
        assert_eq!(counts, [Counts { successful: 2, failed: 1 }]);
        probed.forget("u");
        assert!(probed.counts().is_empty());
    }
}
