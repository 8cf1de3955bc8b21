//! What a pod says about where it wants to be: node affinity, pod affinity and anti-affinity, topology spread.

use super::{Fields, ReadError, Reader, Texts};
use crate::selector::{Operator, Requirement, Selector};

/// A term of a node selector: all of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// What the node's labels must be.
    pub labels: Vec<Requirement>,
    /// What the node's name must be.
    pub names: Vec<NameRequirement>,
    /// A part of it cannot be understood, so that it matches no node.
    pub broken: bool,
}

/// A requirement on `metadata.name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameRequirement {
    /// Whether the name must be one of these, or none of them.
    pub is_in: bool,
    pub names: Vec<Box<str>>,
}

/// A term of pod affinity or anti-affinity: pods that `selector` selects, in those namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerm {
    pub selector: Selector,
    /// Together with `namespace_selector` none means the pod's own.
    pub namespaces: Vec<Box<str>>,
    /// Namespaces by their labels, beside those that are named.
    pub namespace_selector: Option<Selector>,
    pub topology_key: Box<str>,
}

/// Pod affinity, or anti-affinity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerms {
    pub required: Vec<PodTerm>,
    /// With their weights.
    pub preferred: Vec<(i32, PodTerm)>,
}

impl PodTerms {
    /// Whether there is no term.
    pub fn is_empty(&self) -> bool {
        self.required.is_empty() && self.preferred.is_empty()
    }
}

/// `spec.affinity`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AffinityLite {
    /// One of these must match; `None` when nothing is required.
    pub node_required: Option<Vec<NodeTerm>>,
    /// With their weights.
    pub node_preferred: Vec<(i32, NodeTerm)>,
    pub pod: PodTerms,
    pub anti: PodTerms,
}

/// An entry of `spec.topologySpreadConstraints`. The API server has merged `matchLabelKeys` into the selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpreadLite {
    pub max_skew: i32,
    pub topology_key: Box<str>,
    /// `DoNotSchedule`; otherwise `ScheduleAnyway`.
    pub is_hard: bool,
    pub selector: Selector,
    /// 1 when absent.
    pub min_domains: i32,
    /// Whether only nodes that the pod's node affinity allows count.
    pub honors_affinity: bool,
    /// Whether only nodes whose taints the pod tolerates count.
    pub honors_taints: bool,
}

impl Default for SpreadLite {
    /// What upstream takes for fields that are absent.
    fn default() -> Self {
        SpreadLite {
            max_skew: 0,
            topology_key: Box::default(),
            is_hard: false,
            selector: Selector::Nothing,
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        }
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) const AFFINITY: &Fields = &[(1, "nodeAffinity"), (2, "podAffinity"), (3, "podAntiAffinity")];
/// Of node affinity, pod affinity and pod anti-affinity alike.
pub(super) const TERMS: &Fields = &[(1, REQUIRED), (2, PREFERRED)];
pub(super) const NODE_SELECTOR: &Fields = &[(1, "nodeSelectorTerms")];
pub(super) const NODE_TERM: &Fields = &[(1, "matchExpressions"), (2, "matchFields")];
/// Of node selectors and label selectors alike.
pub(super) const REQUIREMENT: &Fields = &[(1, "key"), (2, "operator"), (3, "values")];
pub(super) const PREFERRED_NODE: &Fields = &[(1, "weight"), (2, "preference")];
pub(super) const PREFERRED_POD: &Fields = &[(1, "weight"), (2, "podAffinityTerm")];
pub(super) const POD_TERM: &Fields =
    &[(1, "labelSelector"), (2, "namespaces"), (3, "topologyKey"), (4, "namespaceSelector")];
pub(super) const SPREAD: &Fields = &[
    (1, "maxSkew"),
    (2, "topologyKey"),
    (3, "whenUnsatisfiable"),
    (4, "labelSelector"),
    (5, "minDomains"),
    (6, "nodeAffinityPolicy"),
    (7, "nodeTaintsPolicy"),
];
pub(super) const SELECTOR: &Fields = &[(1, "matchLabels"), (2, "matchExpressions")];

/// Reads `spec.affinity`.
pub(super) fn affinity(reader: Reader<'_>) -> Result<AffinityLite, ReadError> {
    let mut affinity = AffinityLite::default();
    reader.fields(AFFINITY, |name, value| match name {
        "nodeAffinity" => node_affinity(value, &mut affinity),
        "podAffinity" => pod_terms(value, &mut affinity.pod),
        _ => pod_terms(value, &mut affinity.anti),
    })?;
    Ok(affinity)
}

fn node_affinity(reader: Reader<'_>, affinity: &mut AffinityLite) -> Result<(), ReadError> {
    reader.fields(TERMS, |name, value| {
        if name == REQUIRED {
            let terms = affinity.node_required.get_or_insert_default();
            return value.fields(NODE_SELECTOR, |_, term| {
                terms.push(node_term(term)?);
                Ok(())
            });
        }
        let mut weighted = (0, NodeTerm::default());
        value.fields(PREFERRED_NODE, |name, value| {
            match name {
                "weight" => weighted.0 = value.int32()?,
                _ => weighted.1 = node_term(value)?,
            }
            Ok(())
        })?;
        affinity.node_preferred.push(weighted);
        Ok(())
    })
}

fn node_term(reader: Reader<'_>) -> Result<NodeTerm, ReadError> {
    let mut term = NodeTerm::default();
    reader.fields(NODE_TERM, |list, value| {
        let (key, operator, values) = requirement(value)?;
        if list == "matchExpressions" {
            match operator_named(&operator).map(|operator| Requirement::new(&key, operator, values)) {
                Some(Ok(requirement)) => term.labels.push(requirement),
                _ => term.broken = true,
            }
        } else if &*key == "metadata.name" && matches!(&*operator, "In" | "NotIn") {
            let names = values.into_iter().map(Into::into).collect();
            term.names.push(NameRequirement { is_in: &*operator == "In", names });
        } else {
            term.broken = true;
        }
        Ok(())
    })?;
    Ok(term)
}

/// Key, operator and values.
type Parts = (Box<str>, Box<str>, Vec<String>);

fn requirement(reader: Reader<'_>) -> Result<Parts, ReadError> {
    let (mut key, mut operator, mut values) = (Box::default(), Box::default(), Vec::new());
    reader.fields(REQUIREMENT, |name, value| {
        match name {
            "key" => key = value.boxed()?,
            "operator" => operator = value.boxed()?,
            _ => values.push(value.text()?.to_owned()),
        }
        Ok(())
    })?;
    Ok((key, operator, values))
}

fn operator_named(name: &str) -> Option<Operator> {
    Some(match name {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    })
}

fn pod_terms(reader: Reader<'_>, terms: &mut PodTerms) -> Result<(), ReadError> {
    reader.fields(TERMS, |name, value| {
        if name == REQUIRED {
            terms.required.push(pod_term(value)?);
            return Ok(());
        }
        let mut weighted = (0, PodTerm { selector: Selector::Nothing, ..PodTerm::default() });
        value.fields(PREFERRED_POD, |name, value| {
            match name {
                "weight" => weighted.0 = value.int32()?,
                _ => weighted.1 = pod_term(value)?,
            }
            Ok(())
        })?;
        terms.preferred.push(weighted);
        Ok(())
    })
}

fn pod_term(reader: Reader<'_>) -> Result<PodTerm, ReadError> {
    // Without a label selector no pod is meant.
    let mut term = PodTerm { selector: Selector::Nothing, ..PodTerm::default() };
    reader.fields(POD_TERM, |name, value| {
        match name {
            "labelSelector" => term.selector = selector(value)?,
            "namespaces" => term.namespaces.push(value.boxed()?),
            "topologyKey" => term.topology_key = value.boxed()?,
            _ => term.namespace_selector = Some(selector(value)?),
        }
        Ok(())
    })?;
    Ok(term)
}

/// Reads an entry of `spec.topologySpreadConstraints`.
pub(super) fn spread(reader: Reader<'_>) -> Result<SpreadLite, ReadError> {
    let mut spread = SpreadLite::default();
    reader.fields(SPREAD, |name, value| {
        match name {
            "maxSkew" => spread.max_skew = value.int32()?,
            "topologyKey" => spread.topology_key = value.boxed()?,
            "whenUnsatisfiable" => spread.is_hard = value.text()? == "DoNotSchedule",
            "labelSelector" => spread.selector = selector(value)?,
            "minDomains" => spread.min_domains = value.int32()?,
            "nodeAffinityPolicy" => spread.honors_affinity = value.text()? != "Ignore",
            _ => spread.honors_taints = value.text()? == "Honor",
        }
        Ok(())
    })?;
    Ok(spread)
}

/// Reads a `LabelSelector` that is there: an empty one selects everything, one that is not understood nothing.
pub(super) fn selector(reader: Reader<'_>) -> Result<Selector, ReadError> {
    let (mut labels, mut requirements, mut broken) = (Texts::default(), Vec::new(), false);
    reader.fields(SELECTOR, |name, value| {
        if name == "matchLabels" {
            return labels.read(value);
        }
        let (key, operator, values) = requirement(value)?;
        let operator = operator_named(&operator)
            .filter(|operator| !matches!(operator, Operator::GreaterThan | Operator::LessThan));
        match operator.map(|operator| Requirement::new(&key, operator, values)) {
            Some(Ok(requirement)) => requirements.push(requirement),
            _ => broken = true,
        }
        Ok(())
    })?;
    if broken {
        return Ok(Selector::Nothing);
    }
    Ok(Selector::from_labels(labels.iter()).and(requirements))
}
