//! Tests of the controllers of requests for certificates.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::Key;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use reconcile::plan::kinds::{NODES, SIGNING_REQUESTS};
use reconcile::{Authority, Controller, Facts, Need, Now, Outcomes, Plan, WantedCertificate};
use stdx::Mono;

use super::{CsrApprover, CsrCleaner, CsrSigner};
use crate::testing::{World, resources_of};

/// Takes requests for lists of words: common name, organization, DNS names and addresses. Keeps 10.96.0.0/16 for itself.
#[derive(Debug)]
struct Words;

impl Authority for Words {
    fn read(&self, request: &[u8]) -> Result<WantedCertificate, String> {
        let text = String::from_utf8_lossy(request).into_owned();
        let mut words = text.split(' ').map(str::to_owned);
        let mut wanted = WantedCertificate {
            common_name: words.next().unwrap_or_default(),
            organizations: words.next().into_iter().collect(),
            ..WantedCertificate::default()
        };
        for word in words {
            match word.parse() {
                Ok(address) => wanted.addresses.push(address),
                Err(_) => wanted.dns_names.push(word),
            }
        }
        Ok(wanted)
    }

    fn keeps(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if address.octets()[..2] == [10, 96])
    }

    fn signature(&self, _: &str, _: &str, _: &str) -> String {
        String::new()
    }

    fn valid_until(&self, _: &[u8]) -> Option<Timestamp> {
        None
    }

    fn sign(&self, _: &[u8], _: &[String], _: Duration) -> Result<String, String> {
        panic!("decisions do not sign")
    }
}

/// A request of `user` for the signer; usages are those of clients, or of servers.
fn world(user: &str, signer: &str, words: &str) -> World {
    use api::value::to_value;
    let mut world = World::new();
    let bytes = to_value(&k8s_openapi::ByteString(words.as_bytes().to_vec())).unwrap();
    let bytes = bytes.as_str().unwrap_or_default();
    let purpose = if signer.ends_with("serving") { "server auth" } else { "client auth" };
    world.create(SIGNING_REQUESTS, "", &format!(
        r#"{{"metadata":{{"name":"r"}},"spec":{{"username":"{user}","signerName":"{signer}","request":"{bytes}","usages":["digital signature","{purpose}"]}}}}"#
    ));
    world
}

fn facts() -> Facts {
    Facts { authority: Some(Arc::new(Words)), ..Facts::default() }
}

fn decide<C>(world: &World, facts: &Facts) -> Plan
where
    C: Controller<Key = Key, Memory = ()>,
{
    let view = world.view(&resources_of::<C>());
    let now = Now { wall: world.now, mono: Mono::default() };
    C::reconcile(&C::observe(&view, &Key::new("", "r")), now, &Outcomes::default(), facts, &mut ())
}

/// Type, reason and message of the last condition.
fn said(world: &World) -> String {
    let request: CertificateSigningRequest = world.typed(SIGNING_REQUESTS, "", "r");
    let conditions = request.status.and_then(|status| status.conditions).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    conditions
        .last()
        .map_or_else(String::new, |last| format!("{} {}: {}", last.type_, text(&last.reason), text(&last.message)))
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";

#[test]
fn a_node_gets_its_certificate_when_roles_let_it() {
    let mut world = world("system:bootstrap:abcdef", CLIENT, "system:node:a system:nodes");
    let needs = decide::<CsrApprover>(&world, &facts()).needs;
    let [need @ Need::Permitted { who, subresource, .. }] = &needs[..] else { panic!("{needs:?}") };
    assert_eq!((who.user.as_str(), subresource.as_str()), ("system:bootstrap:abcdef", "nodeclient"));
    let answered = |yes| Facts { answers: [(need.clone(), yes)].into(), ..facts() };
    assert_eq!(decide::<CsrApprover>(&world, &answered(false)), Plan::nothing());
    let plan = decide::<CsrApprover>(&world, &answered(true));
    world.carry(plan, usize::MAX);
    assert_eq!(
        said(&world),
        "Approved AutoApproved: Auto approving kubelet client certificate after SubjectAccessReview."
    );
    assert_eq!(decide::<CsrApprover>(&world, &facts()), Plan::nothing(), "once is enough");
    let needs = decide::<CsrSigner>(&world, &facts()).needs;
    let [need @ Need::Certificate { seconds, .. }] = &needs[..] else { panic!("{needs:?}") };
    assert_eq!(*seconds, 365 * 24 * 3600);
    let signed = Facts { certificates: [(need.clone(), Ok("PEM".to_owned()))].into(), ..facts() };
    let plan = decide::<CsrSigner>(&world, &signed);
    world.carry(plan, usize::MAX);
    let request: CertificateSigningRequest = world.typed(SIGNING_REQUESTS, "", "r");
    assert_eq!(request.status.and_then(|status| status.certificate).map(|bytes| bytes.0), Some(b"PEM".to_vec()));
    assert_eq!(decide::<CsrSigner>(&world, &signed), Plan::nothing());
}

#[test]
fn a_node_renews_its_own_certificate_by_a_permission_of_its_own() {
    let world = world("system:node:a", CLIENT, "system:node:a system:nodes");
    let asked: Vec<String> = decide::<CsrApprover>(&world, &facts())
        .needs
        .into_iter()
        .map(|need| match need {
            Need::Permitted { subresource, .. } => subresource,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, ["selfnodeclient", "nodeclient"]);
}

#[test]
fn only_requests_of_node_agents_are_approved_by_roles() {
    let nothing = |signer: &str, words: &str| {
        let world = world("somebody", signer, words);
        assert_eq!(decide::<CsrApprover>(&world, &facts()), Plan::nothing(), "{signer} {words}");
    };
    nothing(SERVING, "system:node:a system:nodes a.example.com");
    nothing(CLIENT, "system:node:a system:masters");
    nothing(CLIENT, "admin system:nodes");
    nothing(CLIENT, "system:node:a system:nodes a.example.com");
}

#[test]
fn a_node_serves_under_its_own_name_and_addresses_only() {
    let asked = |user: &str, words: &str| {
        let mut world = world(user, SERVING, words);
        for (name, address) in [("elder", "192.0.2.1"), ("a", "192.0.2.2"), ("kubernetes", "192.0.2.3")] {
            let addresses = if name == "a" {
                r#"{"type":"InternalIP","address":"192.0.2.2"},{"type":"ExternalIP","address":"192.0.2.1"},
                {"type":"InternalIP","address":"10.96.0.1"},{"type":"InternalIP","address":"127.0.0.1"}"#
                    .to_owned()
            } else {
                format!(r#"{{"type":"InternalIP","address":"{address}"}}"#)
            };
            world.create(
                NODES,
                "",
                &format!(r#"{{"metadata":{{"name":"{name}"}},"status":{{"addresses":[{addresses}]}}}}"#),
            );
            world.pass(1000);
        }
        let needs = decide::<CsrApprover>(&world, &facts()).needs;
        needs.iter().any(|need| matches!(need, Need::Permitted { subresource, .. } if subresource == "selfnodeserver"))
    };
    let check = |user: &str, words: &str, expected: bool| assert_eq!(asked(user, words), expected, "{user}: {words}");
    check("system:node:a", "system:node:a system:nodes a 192.0.2.2", true);
    check("system:node:a", "system:node:a system:nodes a", true);
    check("system:node:elder", "system:node:elder system:nodes elder 192.0.2.1", true);
    check("system:node:a", "system:node:a system:nodes a 192.0.2.9", false);
    check("system:node:a", "system:node:a system:nodes a 192.0.2.1", false);
    check("system:node:a", "system:node:a system:nodes a 10.96.0.1", false);
    check("system:node:a", "system:node:a system:nodes a 127.0.0.1", false);
    check("system:node:a", "system:node:a system:nodes b 192.0.2.2", false);
    check("system:node:b", "system:node:a system:nodes a 192.0.2.2", false);
    check("system:node:kubernetes", "system:node:kubernetes system:nodes kubernetes 192.0.2.3", false);
    check("system:node:absent", "system:node:absent system:nodes absent 192.0.2.8", false);
}

#[test]
fn signers_refuse_what_they_do_not_stand_for() {
    let refused = |signer: &str, words: &str, expected: &str| {
        let mut world = world("somebody", signer, words);
        world.tell(SIGNING_REQUESTS, "", "r", r#"{"status":{"conditions":[{"type":"Approved","status":"True"}]}}"#);
        let plan = decide::<CsrSigner>(&world, &facts());
        world.carry(plan, usize::MAX);
        assert_eq!(said(&world), expected);
    };
    let failed = "Failed SignerValidationFailure:";
    refused(SERVING, "system:node:a system:nodes", &format!("{failed} DNS or IP subjectAltName is required"));
    refused(CLIENT, "a system:nodes", &format!("{failed} subject common name does not begin with system:node:"));
    refused(CLIENT, "system:node:a x", &format!("{failed} subject organization is not system:nodes"));
    let others = world("somebody", "example.com/ours", "a b");
    assert_eq!(decide::<CsrSigner>(&others, &facts()), Plan::nothing());
}

#[test]
fn requests_are_kept_for_a_while() {
    let mut world = world("somebody", CLIENT, "a b");
    let kept = |world: &World| decide::<CsrCleaner>(world, &facts()).again_after.map(|left| left.as_secs());
    assert_eq!(kept(&world), Some(24 * 3600 + 1));
    let since = world.now;
    let denied =
        format!(r#"{{"status":{{"conditions":[{{"type":"Denied","status":"True","lastUpdateTime":"{since}"}}]}}}}"#);
    world.tell(SIGNING_REQUESTS, "", "r", &denied);
    assert_eq!(kept(&world), Some(3601));
    world.pass(3_600_000);
    let plan = decide::<CsrCleaner>(&world, &facts());
    world.carry(plan, usize::MAX);
    assert!(world.find(SIGNING_REQUESTS, "", "r").is_none());
}
