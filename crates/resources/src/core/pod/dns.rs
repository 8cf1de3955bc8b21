//! Rules for names: how the pod resolves them and which it has itself.

use api::field::{FieldErrors, Path};
use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use crate::absent::{list, text};
use crate::faults::{each_invalid, required_choice};
use crate::names;

const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;
/// Longest host name that Linux can hold.
const HOSTNAME_BYTES_MAX: usize = 64;

/// Judges `dnsPolicy`.
pub(crate) fn validate_policy(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let known = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    required_choice(faults, &path.child("dnsPolicy"), text(&spec.dns_policy), &known);
}

/// Judges `dnsConfig`.
pub(crate) fn validate_config(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    let path = path.child("dnsConfig");
    let alone = text(&spec.dns_policy) == "None";
    let Some(config) = &spec.dns_config else {
        if alone {
            faults.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let nameservers = list(&config.nameservers);
    let nameservers_path = path.child("nameservers");
    if alone && nameservers.is_empty() {
        let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        return faults.required(&nameservers_path, why);
    }
    if nameservers.len() > NAMESERVERS_MAX {
        let why = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        faults.invalid(&nameservers_path, nameservers, why);
    }
    for (index, nameserver) in nameservers.iter().enumerate() {
        names::check_ip(faults, &nameservers_path.index(index), nameserver);
    }
    validate_searches(config, &path.child("searches"), faults);
    let options = path.child("options");
    for (index, _) in list(&config.options).iter().enumerate().filter(|(_, option)| text(&option.name).is_empty()) {
        faults.required(&options.index(index), "must not be empty");
    }
}

fn validate_searches(config: &PodDNSConfig, path: &Path<'_>, faults: &mut FieldErrors) {
    let searches = list(&config.searches);
    if searches.len() > SEARCHES_MAX {
        faults.invalid(path, searches, format!("must not have more than {SEARCHES_MAX} search paths"));
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        let why =
            format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        faults.invalid(path, searches, why);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        each_invalid(faults, &path.index(index), search, names::dns_subdomain_with_underscore(search));
    }
}

/// Judges the pod's own names and its extra lines for `/etc/hosts`.
pub(crate) fn validate_hostnames(spec: &PodSpec, path: &Path<'_>, faults: &mut FieldErrors) {
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        let name = text(name);
        if !name.is_empty() {
            each_invalid(faults, &path.child(field), name, names::dns_label(name));
        }
    }
    let overriding = text(&spec.hostname_override);
    let override_path = path.child("hostnameOverride");
    if spec.hostname_override.is_some() {
        if overriding.len() > HOSTNAME_BYTES_MAX {
            faults.too_long(&override_path, HOSTNAME_BYTES_MAX);
        }
        each_invalid(faults, &override_path, overriding, names::dns_subdomain(overriding));
        if spec.set_hostname_as_fqdn == Some(true) {
            faults.forbidden(&override_path, "must not be set when `setHostnameAsFQDN` is true");
        }
        if spec.host_network == Some(true) {
            faults.forbidden(&override_path, "must not be set when `hostNetwork` is true");
        }
    }
    let aliases = path.child("hostAliases");
    for (index, alias) in list(&spec.host_aliases).iter().enumerate() {
        let path = aliases.index(index);
        names::check_ip(faults, &path.child("ip"), &alias.ip);
        let hostnames = path.child("hostnames");
        for (index, hostname) in list(&alias.hostnames).iter().enumerate() {
            each_invalid(faults, &hostnames.index(index), hostname, names::dns_subdomain(hostname));
        }
    }
}
