//! Amounts of resources: which names and quantities are good, and what a pod asks for in all.

use std::collections::{BTreeMap, BTreeSet};

use api::decide::Resources;
use api::decide::qos::qos_class;
use api::decide::resources::PodResources;
use api::field::{FieldErrors, Path};
use api::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceClaim, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use crate::absent::{entries, entry, list, text};
use crate::faults::{each_invalid, not_found_because};
use crate::names;

/// Amounts by resource name, as objects hold them.
pub(crate) type Amounts = BTreeMap<String, QuantityText>;

/// Resources that a pod as a whole may ask for, besides huge pages.
const POD_LEVEL: &[&str] = &["cpu", "memory"];

/// Resources without a domain that anything at all may name.
const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Resources that are counted.
const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// The amount. A text that is none was refused when the object was decoded.
pub(crate) fn amount(text: &QuantityText) -> Quantity {
    Quantity::parse(&text.0).unwrap_or(Quantity::ZERO)
}

/// Rounds amounts up to thousandths, the finest that the API keeps.
pub(crate) fn round_up(amounts: &mut Option<Amounts>) {
    for quantity in amounts.iter_mut().flat_map(BTreeMap::values_mut) {
        let exact = amount(quantity);
        // Huge amounts do not fit a count of thousandths, and have no fraction of one either.
        if exact.value().unsigned_abs() > i64::MAX.unsigned_abs() / 1000 {
            continue;
        }
        let rounded = Quantity::from_milli(exact.milli_value());
        if rounded != exact {
            quantity.0 = rounded.to_string();
        }
    }
}

pub(crate) fn is_huge_page(resource: &str) -> bool {
    resource.starts_with("hugepages-")
}

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

/// Whether requests may be lower than limits.
pub(crate) fn is_overcommit_allowed(resource: &str) -> bool {
    is_native(resource) && !is_huge_page(resource)
}

fn is_extended(resource: &str) -> bool {
    !is_native(resource)
        && !resource.starts_with("requests.")
        && names::qualified(&format!("requests.{resource}")).is_empty()
}

/// Judges one amount of a resource.
pub(crate) fn validate_quantity(resource: &str, quantity: &QuantityText, path: &Path<'_>, faults: &mut FieldErrors) {
    let exact = amount(quantity);
    if exact.sign() < 0 {
        faults.invalid(path, &exact.to_string(), "must be greater than or equal to 0");
    }
    let whole = COUNTED.contains(&resource) || is_extended(resource);
    if whole && exact.milli_value() % 1000 != 0 {
        faults.invalid(path, quantity, "must be an integer");
    }
}

/// Faults of a resource's name. Whether there was one decides what else is judged.
fn validate_name(resource: &str, path: &Path<'_>, faults: &mut FieldErrors) -> bool {
    let before = faults.len();
    each_invalid(faults, path, resource, names::qualified(resource));
    let standard =
        STANDARD.contains(&resource) || is_huge_page(resource) || resource.starts_with("requests.hugepages-");
    if faults.len() == before && !resource.contains('/') && !standard {
        faults.invalid(path, resource, "must be a standard resource type or fully qualified");
    }
    faults.len() == before
}

fn validate_container_name(resource: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    validate_name(resource, path, faults);
    if !resource.contains('/') {
        if !["cpu", "memory", "ephemeral-storage"].contains(&resource) && !is_huge_page(resource) {
            faults.invalid(path, resource, "must be a standard resource for containers");
        }
    } else if !is_native(resource) && !is_extended(resource) {
        faults.invalid(path, resource, "doesn't follow extended resource name standard");
    }
}

fn is_pod_level(resource: &str) -> bool {
    POD_LEVEL.contains(&resource) || is_huge_page(resource)
}

fn validate_pod_name(resource: &str, path: &Path<'_>, faults: &mut FieldErrors) {
    if validate_name(resource, path, faults) && !is_pod_level(resource) {
        faults.not_supported(path, resource, &["cpu", "hugepages-", "memory"]);
    }
}

/// Judges what one container asks for. `claims` are the names in the pod's `resourceClaims`.
pub(crate) fn validate_container(
    requirements: &ResourceRequirements,
    claims: &BTreeSet<&str>,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    validate_requirements(requirements, validate_container_name, path, faults);
    validate_claims(list(&requirements.claims), claims, &path.child("claims"), faults);
}

fn validate_requirements(
    requirements: &ResourceRequirements,
    validate_name: fn(&str, &Path<'_>, &mut FieldErrors),
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let (limits, requests) = (path.child("limits"), path.child("requests"));
    for (resource, quantity) in entries(&requirements.limits) {
        let path = limits.key(resource);
        validate_name(resource, &path, faults);
        validate_quantity(resource, quantity, &path, faults);
        validate_huge_pages(resource, quantity, &path, faults);
    }
    for (resource, quantity) in entries(&requirements.requests) {
        let path = requests.key(resource);
        validate_name(resource, &path, faults);
        validate_quantity(resource, quantity, &path, faults);
        match entry(&requirements.limits, resource) {
            Some(limit) => validate_within(resource, quantity, limit, &requests, faults),
            None if !is_overcommit_allowed(resource) => {
                faults.required(&limits, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        validate_huge_pages(resource, quantity, &path, faults);
    }
    let named = || entries(&requirements.limits).chain(entries(&requirements.requests)).map(|(resource, _)| resource);
    if named().any(|resource| is_huge_page(resource)) && !named().any(|resource| POD_LEVEL.contains(&resource.as_str()))
    {
        faults.forbidden(path, "HugePages require cpu or memory");
    }
}

fn validate_within(
    resource: &str,
    request: &QuantityText,
    limit: &QuantityText,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let (request, limit) = (amount(request), amount(limit));
    if request != limit && !is_overcommit_allowed(resource) {
        faults.invalid(path, &request.to_string(), format!("must be equal to {resource} limit of {limit}"));
    } else if request > limit {
        faults.invalid(
            path,
            &request.to_string(),
            format!("must be less than or equal to {resource} limit of {limit}"),
        );
    }
}

fn validate_huge_pages(resource: &str, quantity: &QuantityText, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(size) = resource.strip_prefix("hugepages-") else { return };
    let size = Quantity::parse(size).unwrap_or(Quantity::ZERO);
    let amount = amount(quantity);
    if size.sign() <= 0 || amount.value() % size.value() != 0 {
        faults.invalid(path, &amount.to_string(), format!("{amount} is not positive integer multiple of {resource}"));
    }
}

fn validate_claims(used: &[ResourceClaim], claims: &BTreeSet<&str>, path: &Path<'_>, faults: &mut FieldErrors) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (index, claim) in used.iter().enumerate() {
        let path = path.index(index);
        let (name, request) = (claim.name.as_str(), text(&claim.request));
        if name.is_empty() {
            faults.required(&path, "");
            continue;
        }
        if !request.is_empty() {
            each_invalid(faults, &path.child("request"), request, names::dns_label(request));
        }
        let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
        let covered = seen.contains(name) || seen.contains(&key);
        let overlaps =
            request.is_empty() && seen.iter().any(|seen| seen.split_once('/').is_some_and(|seen| seen.0 == name));
        if covered || overlaps {
            faults.duplicate(&path, if seen.contains(name) || request.is_empty() { name } else { &key });
        }
        seen.insert(key);
        if !claims.contains(name) {
            let known = claims.iter().copied().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { " which is empty".to_owned() } else { format!(": {known}") };
            not_found_because(
                faults,
                &path,
                name,
                &format!("must be one of the names in pod.spec.resourceClaims{known}"),
            );
        }
    }
}

/// Judges what the pod as a whole asks for, beside what its containers ask for.
pub(crate) fn validate_pod(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let Some(resources) = &spec.resources else { return };
    if resources.claims.is_some() {
        faults.forbidden(&path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    validate_requirements(resources, validate_pod_name, path, faults);
    let requests = path.child("requests");
    for (resource, of_containers) in of_containers(spec).requests().iter() {
        let of_pod = entry(&resources.requests, resource).map_or(Quantity::ZERO, amount);
        if is_pod_level(resource) && of_containers > of_pod {
            let why = format!("must be greater than or equal to aggregate container requests of {of_containers}");
            faults.invalid(&requests.key(resource), &of_pod.to_string(), why);
        }
    }
    let containers = path.child("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        for (resource, limit) in limits(container) {
            let Some(of_pod) = entry(&resources.limits, resource).map(amount) else { continue };
            if amount(limit) > of_pod {
                let path = containers.index(index);
                let why = format!("must be less than or equal to pod limits of {of_pod}");
                faults.invalid(&path.key(resource).child("limits"), &amount(limit).to_string(), why);
            }
        }
    }
}

/// The amounts that a container may not exceed.
fn limits(container: &Container) -> impl Iterator<Item = (&String, &QuantityText)> {
    container.resources.iter().flat_map(|resources| entries(&resources.limits))
}

/// What the containers need at the worst moment of the pod's life, without what the pod as a whole says.
fn of_containers(spec: &PodSpec) -> PodResources {
    PodResources { overhead: Resources::default(), pod: None, ..of(spec) }
}

/// The pod's resources. An amount that is none was refused when the object was decoded.
fn of(spec: &PodSpec) -> PodResources {
    PodResources::of(spec).unwrap_or_default()
}

/// The pod's quality of service, which decides who is evicted first.
pub(crate) fn quality_of_service(spec: &PodSpec) -> &'static str {
    let mut resources = of(spec);
    // Resources of the pod as a whole count only where there are any.
    resources.pod = resources.pod.filter(|pod| !(pod.requests.is_empty() && pod.limits.is_empty()));
    qos_class(&resources).as_str()
}

/// Fills pod-level requests and limits that follow from what containers say, where the pod says a part of it already.
pub(crate) fn default_pod(spec: &mut PodSpec) {
    if spec.resources.is_none() {
        return;
    }
    let containers = of_containers(spec);
    let (container_requests, container_limits) = (containers.requests(), containers.limits());
    let limited_by_all = limited_by_all(spec);
    let Some(resources) = &mut spec.resources else { return };
    default_huge_pages(resources, &container_limits);
    let text = |amount: Quantity| QuantityText(amount.to_string());
    let mut requests = resources.requests.take().unwrap_or_default();
    if entries(&resources.limits).next().is_some() {
        for (resource, sum) in container_requests.iter().filter(|(resource, _)| POD_LEVEL.contains(resource)) {
            requests.entry(resource.to_owned()).or_insert_with(|| text(sum));
        }
        for (resource, limit) in entries(&resources.limits).filter(|(resource, _)| is_pod_level(resource)) {
            requests.entry(resource.clone()).or_insert_with(|| limit.clone());
        }
    } else if !requests.is_empty() {
        let limits =
            limited_by_all.into_iter().filter_map(|resource| Some((resource, container_limits.get(resource)?)));
        let limits: Amounts = limits.map(|(resource, sum)| (resource.to_owned(), text(sum))).collect();
        resources.limits = (!limits.is_empty()).then_some(limits);
    }
    resources.requests = (!requests.is_empty()).then_some(requests);
}

fn default_huge_pages(resources: &mut ResourceRequirements, container_limits: &Resources) {
    if entries(&resources.requests).chain(entries(&resources.limits)).next().is_none() {
        return;
    }
    for (resource, sum) in container_limits.iter().filter(|(resource, _)| is_huge_page(resource)) {
        if entry(&resources.requests, resource).is_none() {
            let limits = resources.limits.get_or_insert_default();
            limits.entry(resource.to_owned()).or_insert_with(|| QuantityText(sum.to_string()));
        }
    }
}

/// The resources that every container has a limit for.
fn limited_by_all(spec: &PodSpec) -> Vec<&'static str> {
    let has = |container: &Container, resource: &str| limits(container).any(|(name, _)| name == resource);
    let by_all = |resource: &&&str| {
        spec.containers.iter().chain(list(&spec.init_containers)).all(|container| has(container, resource))
    };
    POD_LEVEL.iter().filter(by_all).copied().collect()
}
