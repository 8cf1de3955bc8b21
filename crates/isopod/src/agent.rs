//! `isopod agent`: this machine as a node of a cluster elsewhere, until interrupted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use client::config::Credentials;
use client::{Client, Target, Watched};
use cni::Cidr;
use node::register::{Machine, Registration};
use pki::identity::ClientVerifier;
use stdx::{Backoff, TaskTree};
use tokio::signal::unix::{Signal, SignalKind, signal};
use wire::tls::CertificateSlot;

use crate::join::{self, Invitation, Proof};
use crate::local_node::{self, LocalNode};
use crate::machine::{self, Membership, Settings};
use crate::membership::{self, Joined};
use crate::paths::Paths;
use crate::remote::Remote;
use crate::{down, preflight, up};

/// How long components may take to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How often certificates are looked at; they are renewed at two thirds of their lives.
const RENEWAL_LOOK: Duration = Duration::from_secs(3600);
/// How long a node may wait for its range of pod addresses before it says so.
const SOON: Duration = Duration::from_secs(5);

/// Runs until interrupted.
pub async fn run(said: cli::args::Agent) -> anyhow::Result<()> {
    let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let paths = Paths::new(&said.place.data_dir)?;
    let mut missing = preflight::missing_of_machine(up::holder(&paths));
    missing.extend(faults(&said, &paths));
    if !missing.is_empty() {
        bail!("this machine cannot be a node yet:\n  - {}", missing.join("\n  - "));
    }
    paths.create()?;
    machine::end_last();
    up::hold(&paths)?;
    while let End::Moved(from, to) = live(&said, &paths, &mut signals).await? {
        // The Node was made anew meanwhile. Nobody leads to addresses of the old range any more, so what has one ends.
        println!("the cluster has given this node {to} for its pods in place of {from}");
        down::remove_node(&paths, from).await?;
        paths.create()?;
    }
    println!("the agent has stopped; containers and routing go on (`isopod down` ends them)");
    Ok(())
}

/// Everything wrong with what was said.
fn faults(said: &cli::args::Agent, paths: &Paths) -> Vec<String> {
    let mut faults = machine::faults(&said.node);
    faults.extend(join::pin_faults(&said.ca_cert_hash));
    faults.extend(said.token.as_deref().and_then(|text| join::token(text).err()).map(|error| error.to_string()));
    if said.server.as_ref().is_some_and(|server| !server.starts_with("https://")) {
        faults.push("--server: it is not a URL such as https://192.0.2.1:6443".into());
    }
    if paths.pki().join("ca.key").exists() {
        faults.push(format!("the data folder: {} holds a cluster of its own", paths.data().display()));
    }
    match Joined::read(paths) {
        Err(error) => faults.push(format!("the data folder: {error:#}")),
        Ok(None) if said.server.is_none() || said.token.is_none() => {
            faults.push(
                "--server and --token: this machine has not joined a cluster yet, and needs both for that".into(),
            );
        }
        Ok(Some(joined)) if joined.node_name != machine::node_name(&said.node) => faults.push(format!(
            "node name {:?}: this machine has joined as {:?} (`isopod down --purge` makes it leave)",
            machine::node_name(&said.node),
            joined.node_name
        )),
        Ok(_) => {}
    }
    faults
}

/// Why a node does not go on.
enum End {
    Interrupted,
    /// Its pods have other addresses from now on.
    Moved(Cidr, Cidr),
}

async fn live(said: &cli::args::Agent, paths: &Paths, [interrupt, terminate]: &mut [Signal; 2]) -> anyhow::Result<End> {
    let tasks = TaskTree::default();
    let work = async {
        let way = reach(said, paths).await?;
        let (settings, moved) = start(said, paths, &way, &tasks).await?;
        println!("node {} runs; its pods have addresses of {}", settings.node_name, settings.pod_cidr);
        anyhow::Ok(moved.await)
    };
    let end = tokio::select! {
        end = work => end,
        _ = interrupt.recv() => Ok(End::Interrupted),
        _ = terminate.recv() => Ok(End::Interrupted),
    };
    if let Err(late) = tasks.drain(DRAIN).await {
        tracing::warn!(?late, "parts did not end in time");
    }
    end
}

/// The way to the cluster, and who this node is to it.
struct Way {
    joined: Joined,
    authority_pem: String,
    client_pem: String,
    slot: CertificateSlot,
    remote: Arc<Remote>,
    client: Client,
}

/// Opens the way, by what is remembered or, the first time, by the token.
async fn reach(said: &cli::args::Agent, paths: &Paths) -> anyhow::Result<Way> {
    let known = Joined::read(paths)?;
    let server = said.server.clone().or_else(|| known.as_ref().map(|joined| joined.server.clone()));
    let server = server.context("--server is not given")?.trim_end_matches('/').to_owned();
    let node_name = machine::node_name(&said.node);
    let kept = std::fs::read_to_string(paths.authority()).map_err(|_| LOST.to_owned());
    let kept = kept.and_then(|authority| proves(paths, &authority, &node_name).map(|()| authority));
    let authority_pem = match (kept, &said.token) {
        (Ok(authority), _) => authority,
        (Err(_), Some(token)) => {
            let invitation = Invitation { server: &server, token: join::token(token)?, pins: &said.ca_cert_hash };
            join::admitted(&invitation, paths, &node_name, known.is_some()).await?
        }
        (Err(why), None) => bail!("this node cannot prove who it is any more: {why}"),
    };
    let member = known.and_then(|joined| joined.member);
    let joined = Joined { server, node_name, member };
    joined.write(paths)?;
    let client_pem = Proof::Client.read(paths).context("read this node's certificate")?;
    let slot = CertificateSlot::new(join::usable(&client_pem)?);
    let credentials = Credentials::CertificateSlot(slot.clone());
    let remote = Arc::new(Remote::new(join::trusting(&joined.server, &authority_pem, credentials))?);
    let client = Client::new(remote.clone(), "kubelet");
    Ok(Way { joined, authority_pem, client_pem, slot, remote, client })
}

const LOST: &str = "its certificate is lost; join again with --token";

/// Why the certificate that is kept does not prove to that authority that this is the node, if it does not.
fn proves(paths: &Paths, authority_pem: &str, node_name: &str) -> Result<(), String> {
    let pem = Proof::Client.read(paths).ok_or(LOST)?;
    let chain = wire::tls::certificates_from_pem(pem.as_bytes()).map_err(|_| LOST)?;
    let verifier = ClientVerifier::new(authority_pem).map_err(|_| LOST)?;
    let now = stdx::wall();
    match verifier.identity(&chain, now) {
        Ok(identity) if identity.user == format!("system:node:{node_name}") => Ok(()),
        Ok(identity) => Err(format!("its certificate is that of {}; join again with --token", identity.user)),
        Err(error) => {
            Err(outside(&pem, now).unwrap_or_else(|| format!("{}; join again with --token", stdx::told(&error))))
        }
    }
}

/// That a certificate is not valid by this machine's clock, which may be wrong, if so.
fn outside(pem: &str, now: jiff::Timestamp) -> Option<String> {
    let (begin, end) = pki::authority::validity(pem).ok()?;
    let [begin, end] = [begin, end].map(|seconds| jiff::Timestamp::from_second(seconds).unwrap_or_default());
    if now < begin {
        return Some(format!(
            "its certificate is valid from {begin} on, and by this machine's clock it is {now:.0}: set the clock"
        ));
    }
    (now > end).then(|| {
        format!("its certificate ended at {end}, and by this machine's clock it is {now:.0}: if that is right, join again with --token")
    })
}

/// Starts the node. What is returned besides its settings resolves when its pods are to have other addresses.
async fn start(
    said: &cli::args::Agent,
    paths: &Paths,
    way: &Way,
    tasks: &TaskTree,
) -> anyhow::Result<(Settings, impl Future<Output = End> + use<>)> {
    let server = way.joined.server.trim_start_matches("https://");
    let server = if server.contains(':') { server.to_owned() } else { format!("{server}:443") };
    let address = said.node.node_ip.or_else(|| machine::towards(&server));
    let address = address.context("this machine has no address towards the API: give it one with --node-ip")?;
    let member = match way.joined.member {
        Some(member) => member,
        None => {
            let member = become_member(said, paths, way, address).await?;
            Joined { member: Some(member), ..way.joined.clone() }.write(paths)?;
            member
        }
    };
    let settings = Settings::of_agent(&said.node, address, &member)?;
    let missing = preflight::missing(&settings);
    if !missing.is_empty() {
        bail!("this machine cannot be a node yet:\n  - {}", missing.join("\n  - "));
    }
    let served = vec![address];
    let server_pem = match Proof::Server.read(paths) {
        // One that is about to end, or of another address, is better than none while the API is away.
        Some(pem) => pem,
        None => {
            registration(said, paths, address)?.announce(&way.client).await.context("register the node")?;
            Proof::Server.renew(&way.client, paths, &settings.node_name, &served).await?
        }
    };
    let serving = CertificateSlot::new(join::usable(&server_pem)?);
    let node = LocalNode {
        said: &said.node,
        settings: &settings,
        paths,
        network: local_node::pod_network(&settings, paths).await?,
        client: way.client.clone(),
        proxy: way.client.with_field_manager("kube-proxy"),
        authority_pem: &way.authority_pem,
        serving: serving.clone(),
    };
    node.start(tasks).await?;
    let renewal = Renewal {
        paths: paths.clone(),
        client: way.client.clone(),
        remote: way.remote.clone(),
        node_name: settings.node_name.clone(),
        served,
        slots: [(Proof::Client, way.slot.clone()), (Proof::Server, serving)],
        kept: [way.client_pem.clone(), server_pem],
    };
    tasks.spawn("renewal", renewal.run());
    Ok((settings.clone(), moved(way.client.clone(), way.joined.clone(), paths.clone(), member)))
}

fn registration(said: &cli::args::Agent, paths: &Paths, address: IpAddr) -> anyhow::Result<Registration> {
    local_node::registration(
        &said.node,
        &machine::node_name(&said.node),
        address,
        Machine::read(paths.data(), local_node::VERSION)?,
    )
}

/// Asks the cluster where its pods and Services are, and waits until it has given this node a range.
async fn become_member(
    said: &cli::args::Agent,
    paths: &Paths,
    way: &Way,
    address: IpAddr,
) -> anyhow::Result<Membership> {
    let (pods, services) = membership::published(&way.client).await?;
    registration(said, paths, address)?.announce(&way.client).await.context("register the node")?;
    let range = range(&way.client, &way.joined.node_name, None);
    tokio::pin!(range);
    let range = match stdx::timeout(SOON, &mut range).await {
        Ok(range) => range,
        Err(stdx::Elapsed) => {
            println!("waiting until the cluster has a range of pod addresses for this node");
            range.await
        }
    };
    Ok(Membership { pods, services, range })
}

/// Waits until the node has a range other than that.
async fn range(client: &Client, node_name: &str, than: Option<Cidr>) -> Cidr {
    let own = Watched::new(Target::new("", "v1", "nodes")).fields(format!("metadata.name={node_name}"));
    let look = |seen: &client::Snapshot| {
        let node = seen.get("", node_name)?.project::<api::projection::NodeLite>();
        let range = node.pod_cidrs.first()?.parse::<Cidr>().ok()?.network();
        (Some(range) != than).then_some(range)
    };
    join::when(client, own, look).await
}

/// Resolves when the node has got another range, as it may after its Node was deleted; that is remembered then.
async fn moved(client: Client, joined: Joined, paths: Paths, member: Membership) -> End {
    let to = range(&client, &joined.node_name, Some(member.range.network())).await;
    let joined = Joined { member: Some(Membership { range: to, ..member }), ..joined };
    if let Err(error) = joined.write(&paths) {
        tracing::error!(error = format!("{error:#}"), "the new range is not remembered");
    }
    End::Moved(member.range, to)
}

/// What keeps the node's certificates from ending.
struct Renewal {
    paths: Paths,
    client: Client,
    remote: Arc<Remote>,
    node_name: String,
    served: Vec<IpAddr>,
    slots: [(Proof, CertificateSlot); 2],
    /// What the slots hold, PEM.
    kept: [String; 2],
}

impl Renewal {
    async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
        loop {
            match self.renew_what_is_due().await {
                Ok(()) => {
                    backoff.succeed();
                    stdx::sleep(RENEWAL_LOOK).await;
                }
                Err(error) => {
                    tracing::error!(error = format!("{error:#}"), "certificates not renewed");
                    stdx::sleep(backoff.fail()).await;
                }
            }
        }
    }

    async fn renew_what_is_due(&mut self) -> anyhow::Result<()> {
        let Renewal { paths, client, remote, node_name, served, slots, kept } = self;
        for ((proof, slot), kept) in slots.iter().zip(kept) {
            // The node may have got another address since.
            let strange = *proof == Proof::Server && !pki::authority::serves_at(kept, served);
            if !strange && !pki::authority::renewal_due(kept, stdx::wall()) {
                continue;
            }
            *kept = proof.renew(client, paths, node_name, served).await?;
            slot.replace(join::usable(kept)?);
            // Connections go on with what they were begun with.
            if *proof == Proof::Client {
                remote.begin_anew();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_named_as_what_may_be_wrong() {
        let now: jiff::Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let authority = pki::Authority::generate("kubernetes", now).unwrap();
        let purpose = pki::Purpose::Client { organization: None };
        let day = Duration::from_secs(24 * 3600);
        let pem = authority.sign("system:node:n", &purpose, now, day).unwrap().certificate_pem;
        let check = |now: &str, expected: Option<&str>| {
            let told = outside(&pem, now.parse().unwrap());
            assert_eq!(told.is_some(), expected.is_some(), "{told:?}");
            assert!(told.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check("2026-06-01T12:00:00Z", None);
        check("1970-01-02T00:00:00Z", Some("by this machine's clock it is 1970-01-02T00:00:00Z: set the clock"));
        check("2026-07-01T00:00:00Z", Some("its certificate ended at 2026-06-02T00:00:00Z"));
    }
}
