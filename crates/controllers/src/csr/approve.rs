//! Approves requests of node agents for certificates, when roles let the asker have one.
//!
//! Upstream: `pkg/controller/certificates/approver`, for certificates of clients. Upstream leaves those of servers to people
//! and clouds; here an agent gets one for its own name and the addresses of its Node, lest somebody has to stand by whenever
//! a machine joins. Unbinding the role that lets them (`isopod:selfnodeserver`) brings upstream's way back.

use std::net::IpAddr;
use std::sync::Arc;

use api::projection::NodeLite;
use client::{Key, Object};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::plan::kinds::{NODES, SIGNING_REQUESTS};
use reconcile::{Asker, Controller, Facts, Need, Now, Outcomes, Plan, View, WantedCertificate, Watch};

use super::{
    KUBELET_CLIENT, KUBELET_SERVING, add, has, is_issued, kubelet_client_fault, kubelet_serving_fault, usages,
};
use crate::owner;

/// What the users are called that node agents are.
const AGENT: &str = "system:node:";

/// Names by which clients in the cluster find the API server and Services: a node that were called so could pass for them.
const NAMES_OF_OTHERS: [&str; 3] = ["kubernetes", "kubernetes.default", "localhost"];
const DOMAINS_OF_OTHERS: [&str; 2] = [".svc", ".cluster.local"];

/// The controller that approves by roles.
pub struct CsrApprover;

/// A request, and if it is for a server the nodes there are.
pub struct Observed {
    request: Option<Arc<Object>>,
    nodes: Vec<Arc<Object>>,
}

impl Controller for CsrApprover {
    const NAME: &'static str = "certificatesigningrequest-approving";
    type Key = Key;
    type Observed<'c> = Observed;
    type Memory = ();

    fn watches() -> Vec<Watch<Key>> {
        // A node may ask before its addresses are known.
        let of_node = |view: &View, node: &Object| {
            let user = format!("{AGENT}{}", node.name());
            let waits = |request: &CertificateSigningRequest| {
                is_serving(request) && is_open(request) && request.spec.username.as_deref() == Some(&*user)
            };
            let requests = view.all(SIGNING_REQUESTS);
            let waiting = requests.filter(|object| owner::typed(object).is_some_and(|request| waits(&request)));
            waiting.map(|object| object.key().clone()).collect()
        };
        vec![Watch::primary(SIGNING_REQUESTS), Watch::mapped(NODES, of_node)]
    }

    fn observe(view: &View, key: &Key) -> Observed {
        let request = view.get(SIGNING_REQUESTS, key);
        let serving = request.as_ref().and_then(|object| owner::typed(object)).is_some_and(|typed| is_serving(&typed));
        Observed { request, nodes: if serving { view.all(NODES).collect() } else { Vec::new() } }
    }

    fn reconcile(observed: &Observed, now: Now, _: &Outcomes, facts: &Facts, (): &mut ()) -> Plan {
        let Some(object) = &observed.request else { return Plan::nothing() };
        let Some(request) = owner::typed::<CertificateSigningRequest>(object) else { return Plan::nothing() };
        if !is_open(&request) {
            return Plan::nothing();
        }
        let mut needs = Vec::new();
        for (subresource, message) in recognized(&request, &observed.nodes, facts) {
            let need = need(&request, subresource);
            match facts.answers.get(&need) {
                Some(true) => {
                    let approved = ("Approved", "AutoApproved", message);
                    let change = add(object, &request, "approval", approved, now);
                    return Plan::nothing().then(change.map(Into::into));
                }
                Some(false) => {}
                None => needs.push(need),
            }
        }
        Plan { needs, ..Plan::default() }
    }
}

/// Whether nobody has decided yet.
fn is_open(request: &CertificateSigningRequest) -> bool {
    !is_issued(request) && !has(request, "Approved") && !has(request, "Denied")
}

fn is_serving(request: &CertificateSigningRequest) -> bool {
    request.spec.signer_name == KUBELET_SERVING
}

/// What the request is taken for: which permission lets it through, and what is then said.
fn recognized(
    request: &CertificateSigningRequest,
    nodes: &[Arc<Object>],
    facts: &Facts,
) -> Vec<(&'static str, &'static str)> {
    let Some(authority) = &facts.authority else { return Vec::new() };
    let Ok(wanted) = authority.read(&request.spec.request.0) else { return Vec::new() };
    let is_own = request.spec.username.as_deref() == Some(wanted.common_name.as_str());
    let own = ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview.");
    let any = ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
    let server = ("selfnodeserver", "Auto approving self kubelet server certificate after SubjectAccessReview.");
    match &*request.spec.signer_name {
        KUBELET_CLIENT if kubelet_client_fault(&wanted, &usages(request)).is_some() => Vec::new(),
        KUBELET_CLIENT if is_own => vec![own, any],
        KUBELET_CLIENT => vec![any],
        KUBELET_SERVING if kubelet_serving_fault(&wanted, &usages(request)).is_some() || !is_own => Vec::new(),
        KUBELET_SERVING if is_where_it_says(&wanted, nodes, |address| authority.keeps(address)) => vec![server],
        _ => Vec::new(),
    }
}

/// Whether a node's agent asks for nothing but its node's name and addresses. A Node's addresses are what its agent says
/// they are: so none counts that the cluster keeps for itself or that a node had before.
fn is_where_it_says(wanted: &WantedCertificate, nodes: &[Arc<Object>], kept: impl Fn(IpAddr) -> bool) -> bool {
    let Some(name) = wanted.common_name.strip_prefix(AGENT) else { return false };
    let Some(node) = nodes.iter().find(|node| node.name() == name) else { return false };
    let of_others = NAMES_OF_OTHERS.contains(&name) || DOMAINS_OF_OTHERS.iter().any(|domain| name.ends_with(domain));
    let age = |node: &Object| (node.meta().creation, node.uid().to_owned());
    let has = |node: &Object, address: IpAddr| {
        let mut addresses = node.project::<NodeLite>().addresses.iter();
        addresses
            .any(|listed| matches!(&*listed.kind, "InternalIP" | "ExternalIP") && listed.address.parse() == Ok(address))
    };
    let is_own = |address: IpAddr| {
        let elder = |other: &&Arc<Object>| age(other) < age(node) && has(other, address);
        let ordinary = !address.is_loopback() && !address.is_unspecified() && !address.is_multicast();
        has(node, address) && ordinary && !kept(address) && nodes.iter().find(elder).is_none()
    };
    !of_others && wanted.dns_names.iter().all(|wanted| wanted == name) && wanted.addresses.iter().all(|at| is_own(*at))
}

fn need(request: &CertificateSigningRequest, subresource: &str) -> Need {
    let spec = &request.spec;
    let who = Asker {
        user: spec.username.clone().unwrap_or_default(),
        uid: spec.uid.clone().unwrap_or_default(),
        groups: spec.groups.clone().unwrap_or_default(),
        extra: spec.extra.clone().unwrap_or_default(),
    };
    Need::Permitted { who, verb: "create".into(), resource: SIGNING_REQUESTS, subresource: subresource.into() }
}
