//! How a machine becomes a node of a cluster elsewhere: it recognizes the cluster by a token, and gets certificates.
//!
//! Upstream: kubeadm's discovery by token, and the certificates of `kubelet`. The token signs what tells who vouches for the
//! cluster; pins say it besides for those who do not trust everybody who knows the token. No request that matters is sent
//! before the server has shown a certificate of that authority.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use client::config::{Credentials, Secret};
use client::{Cache, Client, ClientConfig, ClientError, HttpTransport, Snapshot, Target, Watched};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, NodeCondition};
use pki::request::Wish;
use serde_json::json;
use stdx::Backoff;
use wire::tls::{CertifiedKey, certified_key};

use crate::paths::Paths;
use crate::roles;

/// How long the cluster may take to show itself, and to sign for a token that was just made. Upstream: kubeadm's
/// `Discovery` timeout.
const DISCOVERY: Duration = Duration::from_secs(300);
/// How long a cluster that answers may take to sign for a token: its controllers may have just started.
const SIGNING: Duration = Duration::from_secs(10);
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";
/// After so long without a decision somebody may have to make it.
const SOON: Duration = Duration::from_secs(5);

/// What is told to a machine that is to join.
pub struct Invitation<'a> {
    pub server: &'a str,
    /// Id and secret.
    pub token: (&'a str, &'a str),
    pub pins: &'a [String],
}

/// The two parts of a token.
pub fn token(text: &str) -> anyhow::Result<(&str, &str)> {
    let sound = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    // The text is a secret and not repeated.
    let parts = text.split_once('.').filter(|(id, secret)| sound(id, 6) && sound(secret, 16));
    parts.context("--token: a token is six letters or digits, a dot, and sixteen of them")
}

/// What is wrong with the pins.
pub fn pin_faults(pins: &[String]) -> Vec<String> {
    let sound = |pin: &&String| {
        pin.strip_prefix("sha256:")
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let strange = pins.iter().filter(|pin| !sound(pin));
    strange.map(|pin| format!("--ca-cert-hash {pin:?} is not sha256: and 64 hexadecimal digits")).collect()
}

/// Finds out who vouches for the cluster at that server: PEM.
pub async fn discover(invitation: &Invitation<'_>) -> anyhow::Result<String> {
    let anyone = ClientConfig { server: invitation.server.into(), insecure: true, ..ClientConfig::default() };
    let anyone = connect(&anyone)?;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let start = stdx::mono();
    let (mut answered, mut told) = (None, String::new());
    let authority = loop {
        let (why, limit) = match cluster_info(&anyone).await {
            Ok(info) => match recognized(&info, invitation)? {
                Some(authority) => break authority,
                None => {
                    let since = *answered.get_or_insert_with(stdx::mono);
                    (unsigned(invitation), SIGNING.saturating_sub(stdx::mono() - since))
                }
            },
            Err(error) => {
                answered = None;
                let why = format!("the cluster at {} does not answer: {}", invitation.server, stdx::told(&error));
                (why, DISCOVERY.saturating_sub(stdx::mono() - start))
            }
        };
        if limit.is_zero() {
            bail!(why);
        }
        // Each fault once: people should not have to wait for the end to learn what is wrong.
        if told != why {
            println!("{why}; trying for {} s more", limit.as_secs());
            told = why;
        }
        stdx::sleep(backoff.fail()).await;
    };
    // Whoever passed the signature on need not be the cluster. What is valid is judged by this machine's clock.
    let checked = connect(&trusting(invitation.server, &authority, Credentials::Anonymous))?;
    let info = cluster_info(&checked).await;
    let info = info.with_context(|| {
        format!(
            "the server at {} does not prove that it is the cluster's (by this machine's clock it is {:.0})",
            invitation.server,
            stdx::wall()
        )
    })?;
    if recognized(&info, invitation)?.as_ref() != Some(&authority) {
        bail!("{} does not tell everybody the same about its authority", invitation.server);
    }
    Ok(authority)
}

fn unsigned(invitation: &Invitation<'_>) -> String {
    format!(
        "the cluster at {} knows no token {}, or it has ended (`isopod token create` there makes another)",
        invitation.server, invitation.token.0
    )
}

async fn cluster_info(client: &Client) -> Result<ConfigMap, ClientError> {
    let target = Target::new("", "v1", "configmaps").namespace("kube-public").name("cluster-info");
    client.get(target).await?.typed()
}

/// The authority that the token, and pins if there are any, vouch for; nothing if the token is not known there.
fn recognized(info: &ConfigMap, invitation: &Invitation<'_>) -> anyhow::Result<Option<String>> {
    let (id, secret) = invitation.token;
    let data = |key: &str| info.data.as_ref().and_then(|data| data.get(key));
    let (Some(kubeconfig), Some(signature)) = (data("kubeconfig"), data(&format!("jws-kubeconfig-{id}"))) else {
        return Ok(None);
    };
    if !pki::detached::verify(signature, kubeconfig, id, secret) {
        bail!(
            "the cluster at {} does not know the secret of token {id}: it is another cluster, or the token is wrong",
            invitation.server
        );
    }
    let authority = pki::kubeconfig::authority(kubeconfig).context("cluster-info names no authority")?;
    let found = pki::authority::pins(&authority)?;
    let pinned = |pin: &String| invitation.pins.iter().any(|wanted| wanted.eq_ignore_ascii_case(pin));
    if !invitation.pins.is_empty() && !found.iter().all(pinned) {
        bail!(
            "the authority of the cluster at {} is {}, which --ca-cert-hash does not name",
            invitation.server,
            found.join(", ")
        );
    }
    Ok(Some(authority))
}

/// How a server is reached that an authority vouches for.
pub fn trusting(server: &str, authority_pem: &str, credentials: Credentials) -> ClientConfig {
    let ca_pem = Some(authority_pem.as_bytes().to_vec());
    ClientConfig { server: server.into(), ca_pem, credentials, ..ClientConfig::default() }
}

fn connect(config: &ClientConfig) -> anyhow::Result<Client> {
    Ok(Client::new(Arc::new(HttpTransport::new(config, "isopod")?), "isopod"))
}

/// What a node proves who it is by: files of the data folder, each a certificate with its key, so that they are exchanged
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Client,
    Server,
}

impl Proof {
    fn file(self, paths: &Paths) -> PathBuf {
        paths.pki().join(if self == Proof::Client { "kubelet-client.pem" } else { "kubelet-server.pem" })
    }

    fn signer(self) -> &'static str {
        if self == Proof::Client { CLIENT_SIGNER } else { SERVING_SIGNER }
    }

    fn usages(self) -> [&'static str; 2] {
        ["digital signature", if self == Proof::Client { "client auth" } else { "server auth" }]
    }

    /// What was kept, if there is any.
    pub fn read(self, paths: &Paths) -> Option<String> {
        std::fs::read_to_string(self.file(paths)).ok().filter(|pem| usable(pem).is_ok())
    }

    /// Asks for a new one, and keeps it when it has come. `known` are the server's addresses.
    pub async fn renew(self, client: &Client, paths: &Paths, node: &str, known: &[IpAddr]) -> anyhow::Result<String> {
        let (names, addresses) = match self {
            Proof::Client => (Vec::new(), &[][..]),
            Proof::Server => (vec![node.to_owned()], known),
        };
        let wish = Wish::make(&format!("system:node:{node}"), roles::NODES, &names, addresses)?;
        let certificate = issued(client, self, &wish.request_pem).await?;
        let pem = format!("{}\n{}", certificate.trim_end(), wish.key_pem);
        usable(&pem).context("use the certificate that was issued")?;
        pki::files::write_private(&self.file(paths), &pem)?;
        Ok(pem)
    }
}

/// A certificate with its key.
pub fn usable(pem: &str) -> anyhow::Result<Arc<CertifiedKey>> {
    Ok(certified_key(pem.as_bytes(), pem.as_bytes())?)
}

/// Asks for a certificate and waits until it is issued, however long that takes.
async fn issued(client: &Client, proof: Proof, request_pem: &str) -> anyhow::Result<String> {
    let target = Target::new("certificates.k8s.io", "v1", "certificatesigningrequests");
    let request = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {
            "request": ByteString(request_pem.as_bytes().to_vec()), "signerName": proof.signer(), "usages": proof.usages(),
        },
    });
    let made = client.create(target.clone(), &request).await.context("ask for a certificate")?;
    let name = made.name().to_owned();
    let watched = Watched::new(target).fields(format!("metadata.name={name}"));
    let outcome = when(client, watched, |seen| match seen.get("", &name) {
        Some(request) => decided(&request.typed().ok()?),
        None => Some(Err("it was deleted".to_owned())),
    });
    tokio::pin!(outcome);
    let outcome = match stdx::timeout(SOON, &mut outcome).await {
        Ok(outcome) => outcome,
        Err(stdx::Elapsed) => {
            println!("waiting until somebody approves the request: kubectl certificate approve {name}");
            outcome.await
        }
    };
    outcome.map_err(|why| anyhow::anyhow!("the request {name} for a certificate: {why}"))
}

/// The certificate, or why there will be none; nothing as long as that is open.
fn decided(request: &CertificateSigningRequest) -> Option<Result<String, String>> {
    let status = request.status.as_ref()?;
    let refused = status.conditions.iter().flatten().find(|condition| matches!(&*condition.type_, "Denied" | "Failed"));
    if let Some(refused) = refused {
        return Some(Err(format!("{}: {}", refused.type_, refused.message.as_deref().unwrap_or_default())));
    }
    let bytes = status.certificate.clone().filter(|certificate| !certificate.0.is_empty())?;
    Some(String::from_utf8(bytes.0).map_err(|error| error.to_string()))
}

/// Waits until what is watched shows something.
pub async fn when<T>(client: &Client, watched: Watched, look: impl Fn(&Snapshot) -> Option<T>) -> T {
    let cache = Cache::new(client.clone(), watched);
    let found = async {
        let mut seen = cache.synced().await;
        loop {
            if let Some(found) = look(&seen) {
                return found;
            }
            seen = cache.progressed(seen.revision()).await;
        }
    };
    tokio::select! {
        found = found => found,
        // It follows for ever.
        () = cache.run() => std::future::pending().await,
    }
}

/// Refuses a name under which another machine is at work. Upstream: kubeadm's `kubelet-start` phase.
async fn unclaimed(client: &Client, node: &str) -> anyhow::Result<()> {
    let found = match client.find(Target::new("", "v1", "nodes").name(node)).await {
        // A cluster that was not made for such questions: its own checks have to do.
        Err(error) if error.is_forbidden() => return Ok(()),
        found => found.context("look whether there is a node of that name")?,
    };
    let Some(found) = found else { return Ok(()) };
    let status = found.typed::<Node>()?.status.unwrap_or_default();
    let ready = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    if status.conditions.iter().flatten().any(ready) {
        bail!(
            "the cluster has a node {node:?} already, and it is ready: give this machine another name (--node-name), or, if \
             it is that node, take the old one away first (`kubectl delete node {node}`)"
        );
    }
    Ok(())
}

/// Makes the machine known to the cluster: who vouches for the cluster, PEM. Keeps that and the node's certificate. `returns`
/// if it was that node before and lost what proved it.
pub async fn admitted(invitation: &Invitation<'_>, paths: &Paths, node: &str, returns: bool) -> anyhow::Result<String> {
    let authority = discover(invitation).await?;
    println!("the cluster at {} is the one that the token is of", invitation.server);
    let (id, secret) = invitation.token;
    let credentials = Credentials::Token(Secret(format!("{id}.{secret}")));
    let client = connect(&trusting(invitation.server, &authority, credentials))?;
    if !returns {
        unclaimed(&client, node).await?;
    }
    pki::Files::open(&paths.pki())?;
    pki::files::write_private(&paths.authority(), &authority)?;
    Proof::Client.renew(&client, paths, node, &[]).await?;
    Ok(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: (&str, &str) = ("abcdef", "0123456789abcdef");

    fn info(kubeconfig: &str, signed_with: &str) -> ConfigMap {
        let signature = pki::detached::sign(kubeconfig, TOKEN.0, signed_with);
        let data = [("kubeconfig".to_owned(), kubeconfig.to_owned()), ("jws-kubeconfig-abcdef".to_owned(), signature)];
        ConfigMap { data: Some(data.into()), ..ConfigMap::default() }
    }

    #[test]
    fn a_cluster_is_recognized_by_token_and_by_pin() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let [ours, others] = [(); 2].map(|()| pki::Authority::generate("kubernetes", now).unwrap());
        let kubeconfig =
            |authority: &pki::Authority| pki::kubeconfig::bare("https://h:6443", authority.certificate_pem());
        let pin = |authority: &pki::Authority| pki::authority::pins(authority.certificate_pem()).unwrap();
        let check = |info: &ConfigMap, id: &str, pins: &[String], expected: Result<Option<&str>, &str>| {
            let invitation = Invitation { server: "https://h:6443", token: (id, TOKEN.1), pins };
            match (recognized(info, &invitation), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected),
                (Err(found), Err(expected)) => assert!(found.to_string().contains(expected), "{found}"),
                (found, expected) => panic!("{found:?} is not {expected:?}"),
            }
        };
        let good = info(&kubeconfig(&ours), TOKEN.1);
        check(&good, TOKEN.0, &[], Ok(Some(ours.certificate_pem())));
        check(&good, TOKEN.0, &pin(&ours), Ok(Some(ours.certificate_pem())));
        check(&good, TOKEN.0, &[pin(&others), pin(&ours)].concat(), Ok(Some(ours.certificate_pem())));
        check(&good, TOKEN.0, &pin(&others), Err("which --ca-cert-hash does not name"));
        check(&good, "fedcba", &[], Ok(None));
        check(&info(&kubeconfig(&others), "fedcba9876543210"), TOKEN.0, &[], Err("does not know the secret"));
        let mut changed = good.clone();
        changed.data.as_mut().unwrap().insert("kubeconfig".into(), kubeconfig(&others));
        check(&changed, TOKEN.0, &[], Err("does not know the secret"));
    }

    #[test]
    fn tokens_and_pins_have_their_shapes() {
        let check = |text: &str, expected: bool| assert_eq!(token(text).is_ok(), expected, "{text}");
        check("abcdef.0123456789abcdef", true);
        check("abcdef.0123456789abcde", false);
        check("ABCDEF.0123456789abcdef", false);
        check("abcdef0123456789abcdef", false);
        let good = format!("sha256:{}", "0a".repeat(32));
        assert!(pin_faults(std::slice::from_ref(&good)).is_empty());
        assert_eq!(pin_faults(&[good, "sha1:00".into(), "sha256:00".into()]).len(), 2);
    }
}
