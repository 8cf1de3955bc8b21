//! The pods that a pod is spread among when it does not say. Pure. Upstream: `helper.DefaultSelector`.

use api::projection::{PodLite, ServiceLite, Texts};
use api::selector::Selector;

/// By what selector the pod is managed.
#[derive(Clone, Debug)]
pub enum Managed {
    None,
    /// A ReplicationController's.
    Labels(Texts),
    /// A ReplicaSet's or StatefulSet's.
    Selector(Selector),
}

/// Selects what the pod's services and its manager select together; `None` when there are none.
pub fn siblings<'s>(
    pod: &PodLite,
    services: impl IntoIterator<Item = &'s ServiceLite>,
    manager: &Managed,
) -> Option<Selector> {
    let mut labels = Texts::default();
    let mut merge = |more: &Texts| more.iter().for_each(|(key, value)| labels.insert(key, value));
    for selector in services.into_iter().filter_map(|service| service.selector.as_ref()) {
        if selector.iter().all(|(key, value)| pod.meta.labels.get(key) == Some(value)) {
            merge(selector);
        }
    }
    let further = match manager {
        Managed::None => Vec::new(),
        Managed::Labels(selector) => {
            merge(selector);
            Vec::new()
        }
        Managed::Selector(selector) => selector.requirements().to_vec(),
    };
    let selector = Selector::from_labels(labels.iter()).and(further);
    (!selector.is_everything()).then_some(selector)
}

#[cfg(test)]
mod tests {
    use api::projection::Meta;

    use super::*;

    fn labels(text: &str) -> Texts {
        text.split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    #[test]
    fn services_and_the_manager_select_together() {
        let meta = Meta { labels: labels("app=web,hash=1"), ..Meta::default() };
        let pod = PodLite { meta: meta.into(), ..PodLite::default() };
        let service = |selector: &str| ServiceLite { selector: Some(labels(selector)), ..ServiceLite::default() };
        let services = [service("app=web"), service("app=other"), ServiceLite::default()];
        let text = |services: &[ServiceLite], manager| siblings(&pod, services, &manager).map(|all| all.to_string());
        let set = Managed::Selector(Selector::parse("hash in (1)").unwrap());
        assert_eq!(text(&services, set), Some("app=web,hash in (1)".into()));
        assert_eq!(text(&services[1..], Managed::Labels(labels("rc=x"))), Some("rc=x".into()));
        assert_eq!(text(&services[1..], Managed::None), None);
    }
}
