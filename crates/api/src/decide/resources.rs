//! How much a pod asks for and may use in all.
//!
//! Upstream: `k8s.io/component-helpers/resource`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use crate::quantity::{Quantity, QuantityError};

/// Amounts by resource name, sorted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Resources(Vec<(Box<str>, Quantity)>);

impl Resources {
    /// The amount of this resource, if it is named.
    pub fn get(&self, name: &str) -> Option<Quantity> {
        let at = self.position(name).ok()?;
        Some(self.0[at].1)
    }

    /// The amount of this resource, zero if it is not named.
    pub fn amount(&self, name: &str) -> Quantity {
        self.get(name).unwrap_or_default()
    }

    /// Names a resource's amount.
    pub fn set(&mut self, name: &str, amount: Quantity) {
        match self.position(name) {
            Ok(at) => self.0[at].1 = amount,
            Err(at) => self.0.insert(at, (name.into(), amount)),
        }
    }

    /// Names and amounts, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Quantity)> {
        self.0.iter().map(|(name, amount)| (&**name, *amount))
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Resources) {
        other.iter().for_each(|(name, amount)| self.set(name, self.amount(name) + amount));
    }

    /// Takes every amount of `other` away; results may be negative.
    pub fn sub(&mut self, other: &Resources) {
        other.iter().for_each(|(name, amount)| self.set(name, self.amount(name) - amount));
    }

    /// Raises every amount to that of `other`.
    pub fn raise(&mut self, other: &Resources) {
        for (name, amount) in other.iter() {
            if self.get(name).is_none_or(|present| present < amount) {
                self.set(name, amount);
            }
        }
    }

    /// Whether no resource is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many resources are named.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(present, _)| (**present).cmp(name))
    }

    /// The amounts of a typed resource list.
    pub fn parse(list: Option<&BTreeMap<String, QuantityText>>) -> Result<Resources, QuantityError> {
        let pairs = list.into_iter().flatten();
        pairs.map(|(name, text)| Ok((name.as_str(), Quantity::parse(&text.0)?))).collect()
    }
}

impl<K: AsRef<str>> FromIterator<(K, Quantity)> for Resources {
    fn from_iter<I: IntoIterator<Item = (K, Quantity)>>(items: I) -> Self {
        let mut resources = Resources::default();
        items.into_iter().for_each(|(name, amount)| resources.set(name.as_ref(), amount));
        resources
    }
}

impl std::fmt::Debug for Resources {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_map().entries(self.iter()).finish()
    }
}

/// When a container of a pod runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Beside the other containers.
    #[default]
    Main,
    /// Before them, to its end.
    Init,
    /// Started before them and running on: an init container that always restarts.
    Sidecar,
}

/// What one container asks for and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerResources {
    pub stage: Stage,
    pub requests: Resources,
    pub limits: Resources,
}

/// What a pod's sums are made of. Init containers are in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    pub containers: Vec<ContainerResources>,
    pub overhead: Resources,
    /// What the pod as a whole asks for and may use; wins over the containers' sums.
    pub pod: Option<ContainerResources>,
}

impl PodResources {
    /// The resources that a typed pod names.
    ///
    /// # Errors
    /// When an amount is no quantity, which no accepted pod has.
    pub fn of(spec: &PodSpec) -> Result<PodResources, QuantityError> {
        let init = spec.init_containers.iter().flatten().map(|container| {
            let always = container.restart_policy.as_deref() == Some("Always");
            container_resources(container, if always { Stage::Sidecar } else { Stage::Init })
        });
        let main = spec.containers.iter().map(|container| container_resources(container, Stage::Main));
        let pod = spec.resources.as_ref().map(|resources| requirements(Some(resources), Stage::Main)).transpose()?;
        Ok(PodResources {
            containers: init.chain(main).collect::<Result<_, _>>()?,
            overhead: Resources::parse(spec.overhead.as_ref())?,
            pod,
        })
    }

    /// What a node must have free for the pod.
    pub fn requests(&self) -> Resources {
        let mut total = self.total(|container| &container.requests);
        total.add(&self.overhead);
        total
    }

    /// The same, where each container asks for at least something of what `missing` names.
    pub fn requests_or(&self, missing: &Resources) -> Resources {
        let mut filled = self.clone();
        for container in &mut filled.containers {
            for (name, amount) in missing.iter() {
                if container.requests.get(name).is_none() {
                    container.requests.set(name, amount);
                }
            }
        }
        filled.requests()
    }

    /// What the pod may use at most, of those resources that it limits.
    pub fn limits(&self) -> Resources {
        let mut total = self.total(|container| &container.limits);
        for (name, amount) in self.overhead.iter() {
            if let Some(limit) = total.get(name).filter(|limit| !limit.is_zero()) {
                total.set(name, limit + amount);
            }
        }
        total
    }

    /// Sums what runs together; an init container runs beside the sidecars started before it only.
    fn total(&self, amounts: fn(&ContainerResources) -> &Resources) -> Resources {
        let (mut total, mut sidecars, mut peak) = (Resources::default(), Resources::default(), Resources::default());
        for container in self.containers.iter().filter(|container| container.stage == Stage::Main) {
            total.add(amounts(container));
        }
        for container in &self.containers {
            match container.stage {
                Stage::Main => {}
                Stage::Sidecar => {
                    total.add(amounts(container));
                    sidecars.add(amounts(container));
                    peak.raise(&sidecars);
                }
                Stage::Init => {
                    let mut beside = sidecars.clone();
                    beside.add(amounts(container));
                    peak.raise(&beside);
                }
            }
        }
        total.raise(&peak);
        let whole = self.pod.as_ref().map(amounts);
        for (name, amount) in whole.iter().flat_map(|whole| whole.iter()).filter(|(name, _)| is_pod_level(name)) {
            total.set(name, amount);
        }
        total
    }
}

/// Whether a resource may be set for a pod as a whole.
fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn container_resources(container: &Container, stage: Stage) -> Result<ContainerResources, QuantityError> {
    requirements(container.resources.as_ref(), stage)
}

fn requirements(resources: Option<&ResourceRequirements>, stage: Stage) -> Result<ContainerResources, QuantityError> {
    Ok(ContainerResources {
        stage,
        requests: Resources::parse(resources.and_then(|resources| resources.requests.as_ref()))?,
        limits: Resources::parse(resources.and_then(|resources| resources.limits.as_ref()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        let pairs = text.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, amount)| (name, Quantity::parse(amount).expect("a quantity"))).collect()
    }

    fn container(stage: Stage, requests: &str, limits: &str) -> ContainerResources {
        ContainerResources { stage, requests: resources(requests), limits: resources(limits) }
    }

    fn check(pod: PodResources, requests: &str, limits: &str) {
        assert_eq!((pod.requests(), pod.limits()), (resources(requests), resources(limits)));
    }

    #[test]
    fn sums_what_runs_together() {
        use Stage::{Init, Main, Sidecar};
        let pod = |containers: Vec<ContainerResources>| PodResources { containers, ..PodResources::default() };
        check(pod(vec![]), "", "");
        check(
            pod(vec![container(Main, "cpu=1 memory=1Gi", "cpu=2"), container(Main, "cpu=500m", "")]),
            "cpu=1500m memory=1Gi",
            "cpu=2",
        );
        check(pod(vec![container(Init, "cpu=3", ""), container(Main, "cpu=1", "")]), "cpu=3", "");
        // The sidecar after the init container does not run beside it.
        check(
            pod(vec![
                container(Sidecar, "cpu=1", ""),
                container(Init, "cpu=2", "cpu=4"),
                container(Sidecar, "cpu=1", ""),
                container(Main, "cpu=500m", ""),
            ]),
            "cpu=3",
            "cpu=4",
        );
        check(pod(vec![container(Sidecar, "cpu=1", ""), container(Main, "cpu=2", "")]), "cpu=3", "");
    }

    #[test]
    fn overhead_raises_only_limits_that_are_there() {
        let containers = vec![container(Stage::Main, "cpu=1", "memory=1Gi")];
        let overhead = resources("cpu=100m memory=1Mi");
        check(PodResources { containers, overhead, pod: None }, "cpu=1100m memory=1Mi", "memory=1025Mi");
    }

    #[test]
    fn amounts_for_the_whole_pod_win() {
        let containers = vec![container(Stage::Main, "cpu=1 x/y=2", "cpu=1")];
        let whole = container(Stage::Main, "cpu=3 x/y=9", "memory=1Gi");
        check(
            PodResources { containers, overhead: Resources::default(), pod: Some(whole) },
            "cpu=3 x/y=2",
            "cpu=1 memory=1Gi",
        );
    }
}
