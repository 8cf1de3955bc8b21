//! What a pod resolves names with. Pure.
//!
//! Upstream: `pkg/kubelet/network/dns`, words included.

use cri::DnsConfig;
use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use super::create::NodeFacts;
use super::{namespace, spec};

/// As many name servers as resolvers ask. Upstream: `MaxDNSNameservers`.
const SERVERS_MAX: usize = 3;
/// Upstream: `MaxDNSSearchPaths`.
const SEARCHES_MAX: usize = 32;
/// Bytes of all search domains in one line. Upstream: `MaxDNSSearchListChars`.
const SEARCH_LINE_BYTES_MAX: usize = 2048;
/// Bytes of one domain. Upstream: `DNS1123SubdomainMaxLength`.
const DOMAIN_BYTES_MAX: usize = 253;

/// The settings of a pod's resolver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    pub config: DnsConfig,
    /// What was left out, to be told in an event.
    pub omissions: Vec<String>,
}

/// What the pod resolves names with.
pub fn resolver(pod: &Pod, node: &NodeFacts) -> Resolver {
    let spec = spec(pod);
    let host_network = spec.host_network == Some(true);
    let mut config = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => DnsConfig::default(),
        "ClusterFirst" if !host_network && !node.cluster_dns.is_empty() => of_cluster(pod, node),
        "ClusterFirstWithHostNet" if !node.cluster_dns.is_empty() => of_cluster(pod, node),
        _ => node.host_dns.clone(),
    };
    if let Some(own) = spec.dns_config {
        add(&mut config, own);
    }
    fitting(config)
}

fn of_cluster(pod: &Pod, node: &NodeFacts) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = vec![format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
    add_new(&mut searches, node.host_dns.searches.iter().filter(|search| *search != ".").cloned());
    DnsConfig { servers: vec![node.cluster_dns.clone()], searches, options: vec!["ndots:5".into()] }
}

/// What the pod adds: servers and domains that are not there yet, and options in place of those of their names.
fn add(config: &mut DnsConfig, own: PodDNSConfig) {
    add_new(&mut config.servers, own.nameservers.into_iter().flatten());
    add_new(&mut config.searches, own.searches.into_iter().flatten());
    for option in own.options.into_iter().flatten() {
        let name = option.name.unwrap_or_default();
        config.options.retain(|present| present.split(':').next() != Some(&name));
        config.options.push(option.value.map_or(name.clone(), |value| format!("{name}:{value}")));
    }
}

fn add_new(list: &mut Vec<String>, more: impl Iterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// As much as resolvers take.
fn fitting(mut config: DnsConfig) -> Resolver {
    let mut omissions = Vec::new();
    if config.servers.len() > SERVERS_MAX {
        config.servers.truncate(SERVERS_MAX);
        let line = config.servers.join(" ");
        omissions.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}"
        ));
    }
    let asked = config.searches.len();
    config.searches.truncate(SEARCHES_MAX);
    config.searches.retain(|domain| domain.len() <= DOMAIN_BYTES_MAX);
    while config.searches.join(" ").len() > SEARCH_LINE_BYTES_MAX {
        config.searches.pop();
    }
    if config.searches.len() < asked {
        let line = config.searches.join(" ");
        omissions.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}"
        ));
    }
    Resolver { config, omissions }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(servers: usize, searches: &[&str], kept: (usize, usize), told: &[&str]) {
        let config = DnsConfig {
            servers: (0..servers).map(|number| format!("192.0.2.{number}")).collect(),
            searches: searches.iter().map(|domain| (*domain).to_owned()).collect(),
            options: Vec::new(),
        };
        let fitting = fitting(config);
        assert_eq!((fitting.config.servers.len(), fitting.config.searches.len()), kept);
        let beginnings: Vec<&str> = fitting.omissions.iter().filter_map(|text| text.split(", ").next()).collect();
        assert_eq!(beginnings, told);
    }

    #[test]
    fn what_resolvers_do_not_take_is_left_out_and_told() {
        let (servers, searches) = ("Nameserver limits were exceeded", "Search Line limits were exceeded");
        check(3, &["a"; 32], (3, 32), &[]);
        check(4, &["a"], (3, 1), &[servers]);
        check(1, &["a"; 33], (1, 32), &[searches]);
        let (long, longest) = ("x".repeat(250), "x".repeat(254));
        check(1, &[&longest, "a"], (1, 1), &[searches]);
        check(1, &[&*long; 8], (1, 8), &[]);
        check(4, &[&*long; 9], (3, 8), &[servers, searches]);
    }
}
