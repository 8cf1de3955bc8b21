//! Which quality of service a pod gets.
//!
//! Upstream: `k8s.io/kubernetes/pkg/apis/core/v1/helper/qos`.

use super::resources::{PodResources, Resources};

/// `status.qosClass`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container limits CPU and memory to what it requests.
    Guaranteed,
    Burstable,
    /// No container asks for any CPU or memory.
    BestEffort,
}

impl QosClass {
    /// The class as `status` names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The resources that count.
const COUNTED: [&str; 2] = ["cpu", "memory"];

/// The class of a pod with these resources. Ephemeral containers do not count.
pub fn qos_class(pod: &PodResources) -> QosClass {
    let containers = pod.pod.as_ref().map_or(pod.containers.as_slice(), std::slice::from_ref);
    let (mut requests, mut limits) = (Resources::default(), Resources::default());
    let mut all_limited = true;
    for container in containers {
        requests.add(&counted(&container.requests));
        let limited = counted(&container.limits);
        all_limited &= limited.len() == COUNTED.len();
        limits.add(&limited);
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if all_limited && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

fn counted(resources: &Resources) -> Resources {
    resources.iter().filter(|(name, amount)| COUNTED.contains(name) && amount.sign() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::resources::ContainerResources;
    use crate::quantity::Quantity;

    fn container(requests: &str, limits: &str) -> ContainerResources {
        let resources = |text: &str| {
            let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
            pairs.map(|(name, amount)| (name, Quantity::parse(amount).expect("a quantity"))).collect()
        };
        ContainerResources { requests: resources(requests), limits: resources(limits), ..ContainerResources::default() }
    }

    fn check(containers: &[(&str, &str)], expected: QosClass) {
        let containers = containers.iter().map(|(requests, limits)| container(requests, limits)).collect();
        let pod = PodResources { containers, ..PodResources::default() };
        assert_eq!(qos_class(&pod), expected, "{pod:?}");
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        use QosClass::{BestEffort, Burstable, Guaranteed};
        let full = "cpu=1 memory=1Gi";
        check(&[("", "")], BestEffort);
        check(&[("cpu=0", "x/y=1")], BestEffort);
        check(&[(full, full)], Guaranteed);
        check(&[(full, full), ("", "")], Burstable);
        check(&[(full, full), (full, full)], Guaranteed);
        check(&[("cpu=1", full)], Burstable);
        check(&[("cpu=500m memory=1Gi", full)], Burstable);
        check(&[("cpu=1", "")], Burstable);
        check(&[("", "memory=1Gi")], Burstable);
        check(&[("cpu=1 memory=1024Mi", "cpu=1000m memory=1Gi")], Guaranteed);
    }

    #[test]
    fn resources_of_the_whole_pod_decide_alone() {
        let pod = PodResources {
            containers: vec![container("", "")],
            pod: Some(container("cpu=1 memory=1Gi", "cpu=1 memory=1Gi")),
            ..PodResources::default()
        };
        assert_eq!(qos_class(&pod), QosClass::Guaranteed);
    }
}
