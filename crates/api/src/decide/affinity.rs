//! Which nodes a pod may be on by its own word, and which pods a term of affinity means.
//!
//! Upstream: `k8s.io/component-helpers/scheduling/corev1/nodeaffinity`.

use crate::projection::{NodeLite, NodeTerm, PodLite, PodTerm, Texts};

/// Whether all of a term holds for the node. A term that says nothing matches none.
pub fn node_term_matches(term: &NodeTerm, node: &NodeLite) -> bool {
    if term.broken || (term.labels.is_empty() && term.names.is_empty()) {
        return false;
    }
    let is_named = |names: &[Box<str>]| names.contains(&node.meta.name);
    term.labels.iter().all(|requirement| requirement.matches(&node.meta.labels))
        && term.names.iter().all(|requirement| requirement.is_in == is_named(&requirement.names))
}

/// Whether `spec.nodeSelector` and the required node affinity let the pod be on the node.
pub fn node_is_allowed(pod: &PodLite, node: &NodeLite) -> bool {
    let labels = &node.meta.labels;
    let selected = pod.spec.node_selector.iter().all(|(name, value)| labels.get(name) == Some(value));
    let required = pod.spec.affinity.as_ref().and_then(|affinity| affinity.node_required.as_ref());
    selected && required.is_none_or(|terms| terms.iter().any(|term| node_term_matches(term, node)))
}

/// The nodes that the required node affinity names, when each of its terms names some: no other needs a look.
pub fn named_nodes(pod: &PodLite) -> Option<Vec<&str>> {
    let terms = pod.spec.affinity.as_ref()?.node_required.as_ref().filter(|terms| !terms.is_empty())?;
    let mut all: Vec<&str> = Vec::new();
    for term in terms {
        let mut lists = term.names.iter().filter(|requirement| requirement.is_in);
        let mut names: Vec<&str> = lists.next()?.names.iter().map(|name| &**name).collect();
        for further in lists {
            names.retain(|name| further.names.iter().any(|other| **other == **name));
        }
        all.extend(names);
    }
    all.sort_unstable();
    all.dedup();
    Some(all)
}

/// Whether a term of `owner`'s means the pod, which lives in a namespace with these labels.
pub fn pod_term_matches(term: &PodTerm, owner: &PodLite, pod: &PodLite, namespace_labels: &Texts) -> bool {
    let namespace = &pod.meta.namespace;
    let is_meant = match &term.namespace_selector {
        None if term.namespaces.is_empty() => owner.meta.namespace == *namespace,
        None => term.namespaces.contains(namespace),
        Some(selector) => term.namespaces.contains(namespace) || selector.matches(namespace_labels),
    };
    is_meant && term.selector.matches(&pod.meta.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::Projection;

    fn of<P: Projection>(json: &str) -> P {
        P::of_tree(&serde_json::from_str(json).expect("JSON")).expect("an object")
    }

    fn pod(terms: &str) -> PodLite {
        of(&format!(
            r#"{{"metadata":{{"namespace":"mine"}},"spec":{{"nodeSelector":{{"os":"linux"}},"affinity":{{"nodeAffinity":
            {{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{terms}]}}}}}}}}}}"#
        ))
    }

    #[track_caller]
    fn check(terms: &str, expected: bool) {
        let node: NodeLite = of(r#"{"metadata":{"name":"n1","labels":{"os":"linux","cores":"8","disk":"ssd"}}}"#);
        assert_eq!(node_is_allowed(&pod(terms), &node), expected, "{terms}");
    }

    #[test]
    fn a_node_meets_the_selector_and_one_term() {
        check("", false);
        check("{}", false);
        check(r#"{"matchExpressions":[{"key":"disk","operator":"In","values":["hdd","ssd"]}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"disk","operator":"NotIn","values":["ssd"]}]}"#, false);
        check(r#"{"matchExpressions":[{"key":"gpu","operator":"NotIn","values":["a"]}]}"#, true);
        check(
            r#"{"matchExpressions":[{"key":"gpu","operator":"Exists"}]},{"matchExpressions":[{"key":"disk","operator":"Exists"}]}"#,
            true,
        );
        check(r#"{"matchExpressions":[{"key":"disk","operator":"Exists"},{"key":"gpu","operator":"Exists"}]}"#, false);
        check(r#"{"matchExpressions":[{"key":"gpu","operator":"DoesNotExist"}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"cores","operator":"Gt","values":["4"]}]}"#, true);
        check(r#"{"matchExpressions":[{"key":"cores","operator":"Lt","values":["8"]}]}"#, false);
        check(r#"{"matchExpressions":[{"key":"disk","operator":"Gt","values":["4"]}]}"#, false);
        check(r#"{"matchFields":[{"key":"metadata.name","operator":"In","values":["n1"]}]}"#, true);
        check(r#"{"matchFields":[{"key":"metadata.name","operator":"NotIn","values":["n1"]}]}"#, false);
        check(r#"{"matchFields":[{"key":"spec.podCIDR","operator":"In","values":["n1"]}]}"#, false);
    }

    #[test]
    fn names_count_when_every_term_has_some() {
        let name = |names: &str| format!(r#"{{"key":"metadata.name","operator":"In","values":[{names}]}}"#);
        let (one, two) = (name(r#""b""#), name(r#""a","b""#));
        let pod_of = |terms: String| pod(&terms);
        let named = pod_of(format!(r#"{{"matchFields":[{one},{two}]}},{{"matchFields":[{two}]}}"#));
        assert_eq!(named_nodes(&named), Some(vec!["a", "b"]));
        let open =
            pod_of(format!(r#"{{"matchFields":[{one}]}},{{"matchExpressions":[{{"key":"a","operator":"Exists"}}]}}"#));
        assert_eq!(named_nodes(&open), None);
        let torn = pod_of(format!(r#"{{"matchFields":[{},{one}]}}"#, name(r#""c""#)));
        assert_eq!(named_nodes(&torn), Some(vec![]));
    }

    #[test]
    fn a_term_means_pods_of_its_namespaces() {
        let owner: PodLite = of(r#"{"metadata":{"namespace":"mine"}}"#);
        let there: PodLite = of(r#"{"metadata":{"namespace":"theirs","labels":{"a":"b"}}}"#);
        let here: PodLite = of(r#"{"metadata":{"namespace":"mine","labels":{"a":"b"}}}"#);
        let labels: Texts = [("team", "red")].into_iter().collect();
        let everything = crate::selector::Selector::EVERYTHING;
        let own = PodTerm { selector: everything.clone(), ..PodTerm::default() };
        let matches = |term: &PodTerm, pod| pod_term_matches(term, &owner, pod, &labels);
        assert!(matches(&own, &here) && !matches(&own, &there));
        let named = PodTerm { namespaces: vec!["theirs".into()], ..own.clone() };
        assert!(!matches(&named, &here) && matches(&named, &there));
        let all = PodTerm { namespace_selector: Some(everything), ..own.clone() };
        assert!(matches(&all, &here) && matches(&all, &there));
        let blue = crate::selector::Selector::parse("team=blue").expect("a selector");
        let either = PodTerm { namespaces: vec!["mine".into()], namespace_selector: Some(blue), ..own };
        assert!(matches(&either, &here) && !matches(&either, &there));
    }
}
