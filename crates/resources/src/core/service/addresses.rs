//! Rules for a service's own addresses and their families.

use std::collections::BTreeSet;

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::ServiceSpec;

use crate::absent::{list, text};
use crate::core::service::is_headless;
use crate::faults::not_supported_in_order;
use crate::names;

/// Judges `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy`.
pub(crate) fn validate(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if text(&spec.type_) == "ExternalName" {
        return;
    }
    let (single, all) = (text(&spec.cluster_ip), list(&spec.cluster_ips));
    let all_path = path.child("clusterIPs");
    match (single.is_empty(), all.first()) {
        (false, None) => faults.required(&all_path, ""),
        (false, Some(first)) if first != single => faults.invalid(&all_path, all, "first value must match `clusterIP`"),
        (true, Some(_)) => faults.invalid(&all_path, all, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    validate_families(spec, path, faults);
    if !validate_each(all, &all_path, faults) {
        return;
    }
    let families: BTreeSet<bool> = all.iter().map(|address| address.contains(':')).collect();
    if all.len() > 1 && families.len() != all.len().min(2) {
        faults.invalid(&all_path, all, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (index, (address, family)) in all.iter().zip(list(&spec.ip_families)).enumerate() {
        let is = if address.contains(':') { "IPv6" } else { "IPv4" };
        if is != family && ["IPv4", "IPv6"].contains(&family.as_str()) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            faults.invalid(&all_path.index(index), address, why);
        }
    }
}

/// Tells whether each is an address, so that judging them together makes sense.
fn validate_each(all: &[String], path: &Path<'_>, faults: &mut FieldErrors) -> bool {
    let before = faults.len();
    for (index, address) in all.iter().enumerate() {
        if index > 0 || address != "None" {
            names::check_ip(faults, &path.index(index), address);
        } else if all.len() > 1 {
            faults.invalid(path, all, "'None' must be the first and only value");
        }
    }
    let good = faults.len() == before;
    if all.len() > 2 {
        faults.invalid(path, all, "may only hold up to 2 values");
    }
    good
}

fn validate_families(spec: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let families = list(&spec.ip_families);
    let families_path = path.child("ipFamilies");
    for (index, family) in families.iter().enumerate() {
        let path = families_path.index(index);
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            not_supported_in_order(faults, &path, family, &["IPv4", "IPv6"]);
        }
        if families[..index].contains(family) {
            faults.duplicate(&path, family);
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !known.contains(&policy.as_str()) {
            not_supported_in_order(faults, &path.child("ipFamilyPolicy"), policy, &known);
        }
    }
}

/// Once given, the first address and family stay; a second may come and go.
pub(crate) fn validate_update(new: &ServiceSpec, old: &ServiceSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    if [new, old].iter().any(|spec| text(&spec.type_) == "ExternalName") {
        return;
    }
    let (new_headless, old_headless) = (is_headless(new), is_headless(old));
    if !(new_headless && old_headless) {
        let (new_ips, old_ips) = (list(&new.cluster_ips), list(&old.cluster_ips));
        let words = Words { field: "clusterIPs", unset: "primary clusterIP can not be unset", secondary: "clusterIP" };
        validate_list(new_ips, old_ips, new, &words, path, faults);
    }
    if !new_headless && !old_headless {
        let (new_families, old_families) = (list(&new.ip_families), list(&old.ip_families));
        let words = Words { field: "ipFamilies", unset: "primary ipFamily can not be unset", secondary: "ipFamily" };
        validate_list(new_families, old_families, new, &words, path, faults);
    }
}

struct Words {
    field: &'static str,
    unset: &'static str,
    secondary: &'static str,
}

fn validate_list(
    new: &[String],
    old: &[String],
    spec: &ServiceSpec,
    words: &Words,
    path: &Path<'_>,
    faults: &mut FieldErrors,
) {
    let list_path = path.child(words.field);
    let changed = "may not change once set";
    if new.len() == old.len() {
        for (index, _) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            let place = if words.field == "ipFamilies" { 0 } else { index };
            faults.invalid(&list_path.index(place), new, changed);
        }
        return;
    }
    if new.is_empty() {
        faults.invalid(&list_path.index(0), new, words.unset);
    }
    if let (Some(new_first), Some(old_first)) = (new.first(), old.first())
        && new_first != old_first
    {
        faults.invalid(&list_path.index(0), new, changed);
    }
    if new.len() == 1 && old.len() > 1 && text(&spec.ip_family_policy) != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {}", words.secondary);
        let policy = spec.ip_family_policy.as_deref().unwrap_or("null");
        faults.invalid(&path.child("ipFamilyPolicy"), policy, why);
    }
}
