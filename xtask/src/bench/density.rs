//! Very many pods on one node: how fast they start, what each costs, whether their probes come on time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use stdx::Mono;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::load::{Connection, percentile};
use super::peer::node;
use super::pod::{self, JSON, PODS};
use super::pod_start::Events;
use super::report::{Measure, Peer, Report, Unit, milliseconds, rate};
use super::server::{Cores, Server, proportional_memory};
use super::stage::Stage;

const COUNT: usize = 500;
/// The peer takes a second for each, and its agent lets no more than 110 be.
const PEER_COUNT: usize = 100;
/// Creates that are under way at once.
const AT_ONCE: usize = 16;
/// How often each pod is probed, and for how long that is looked at.
const PERIOD: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);
/// Where the bench answers to probes, in the bench's own network.
const PROBED: &str = "127.0.0.1";

/// Ours with five hundred pods, the peer with a hundred.
pub fn run(stage: &Stage) -> Result<Report> {
    stage.runtime.block_on(async {
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let room = ["--pod-cidr", "10.244.0.0/22", "--max-pods", "600"];
        let server = Server::isopod(stage, Cores::All, &room).await?;
        let ours = fill(&server, COUNT).await?;
        server.stop()?;
        let peer = match stage.peer.as_deref().filter(|folder| node::is_complete(folder)) {
            None => None,
            Some(folder) => Some(peer(stage, folder).await),
        };
        Ok(Report { ours, peer })
    })
}

async fn peer(stage: &Stage, folder: &Path) -> Result<Peer> {
    let server = node::start(stage, folder).await?;
    let measures = fill(&server, PEER_COUNT).await?;
    let version = server.version().await?;
    server.stop()?;
    Ok((format!("{version}, {PEER_COUNT} pods"), measures))
}

async fn fill(server: &Server, count: usize) -> Result<Vec<Measure>> {
    super::ready::node_ready(server).await?;
    let connection = pod::prepare(server).await?;
    let probes = Probes::listen().await?;
    let before = Used::now(server)?;
    let started = start(&connection, probes.port, count).await?;
    // What the starts left behind is given back first, and every pod has been probed once.
    stdx::sleep(PERIOD * 2).await;
    let after = Used::now(server)?;
    let cpu = server.cpu()?;
    let from = stdx::mono();
    stdx::sleep(WATCHED).await;
    let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64() / WATCHED.as_secs_f64();
    let late = probes.late(from, count)?;
    let each = |before: f64, after: f64| (after - before) / count as f64;
    let megabytes =
        |what: &str, value: f64, budget| Measure { what: what.into(), value, unit: Unit::Megabytes, budget };
    Ok(vec![
        rate("pods started", count as u64, started, "≥ 20 /s"),
        megabytes("memory of the processes, each pod", each(before.processes, after.processes), "≤ 1.5 MB"),
        megabytes("memory of the machine, each pod with its program", each(before.machine, after.machine), ""),
        milliseconds("probes every 10 s: later than that, p50", percentile(&late, 50), ""),
        milliseconds("probes every 10 s: later than that, p99", percentile(&late, 99), "≤ 100 ms"),
        Measure { what: "CPU of a core meanwhile".into(), value: cpu * 1e2, unit: Unit::Percent, budget: "" },
        Measure {
            what: "CPU of a core meanwhile, a hundred pods".into(),
            value: cpu * 1e4 / count as f64,
            unit: Unit::Percent,
            budget: "",
        },
    ])
}

/// Memory in megabytes.
struct Used {
    processes: f64,
    machine: f64,
}

impl Used {
    fn now(server: &Server) -> Result<Used> {
        let text = std::fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let kilobytes = |field: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        let used = kilobytes("MemTotal:") - kilobytes("MemAvailable:");
        let processes = proportional_memory(&server.processes()?)?.total;
        Ok(Used { processes, machine: used * 1024.0 / 1e6 })
    }
}

fn named(name: &str, port: u16) -> Value {
    let mut pod = pod::startable(name);
    let probe = json!({"host": PROBED, "port": port, "path": format!("/{name}")});
    pod["spec"]["containers"][0]["livenessProbe"] =
        json!({"httpGet": probe, "periodSeconds": PERIOD.as_secs(), "timeoutSeconds": 5, "failureThreshold": 10});
    pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    pod
}

/// Creates the pods; how long it took until all of them ran.
async fn start(connection: &Connection, port: u16, count: usize) -> Result<Duration> {
    let mut events = Events::start(connection).await?;
    let began = stdx::mono();
    let names: Vec<String> = (0..count).map(|index| format!("dense-{index}")).collect();
    let mut lanes = Vec::new();
    for lane in 0..AT_ONCE {
        let asks = names.iter().skip(lane).step_by(AT_ONCE).map(|name| pod::create(&named(name, port), JSON));
        let (connection, asks) = (connection.clone(), asks.collect::<Result<Vec<_>>>()?);
        lanes.push(stdx::spawn(async move {
            for ask in &asks {
                connection.must(ask).await?;
            }
            anyhow::Ok(())
        }));
    }
    for lane in lanes {
        lane.await??;
    }
    let mut waiting: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    while !waiting.is_empty() {
        let event = events.next().await.with_context(|| format!("{} pods of {PODS} do not run yet", waiting.len()))?;
        if event.runs() {
            waiting.remove(event.name());
        }
    }
    Ok(stdx::mono() - began)
}

/// When which pod was probed.
struct Probes {
    port: u16,
    seen: Arc<Mutex<BTreeMap<String, Vec<Mono>>>>,
}

impl Probes {
    async fn listen() -> Result<Probes> {
        let address: IpAddr = PROBED.parse().context("an address")?;
        let listener = TcpListener::bind((address, 0)).await.context("listen for probes")?;
        let probes = Probes { port: listener.local_addr()?.port(), seen: Arc::default() };
        let seen = probes.seen.clone();
        stdx::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, moment) = (seen.clone(), stdx::mono());
                stdx::spawn(async move {
                    let mut request = [0; 1024];
                    let Ok(length) = stream.read(&mut request).await else { return };
                    let text = String::from_utf8_lossy(&request[..length]);
                    if let Some(name) = text.strip_prefix("GET /").and_then(|rest| rest.split(' ').next()) {
                        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        seen.entry(name.to_owned()).or_default().push(moment);
                    }
                    // Whoever asks sees from a lost answer that it was lost.
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await.ok();
                });
            }
        });
        Ok(probes)
    }

    /// By how much the gaps between probes since then were longer than they should be, sorted; every pod must have been probed.
    fn late(&self, from: Mono, count: usize) -> Result<Vec<Duration>> {
        let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ensure!(seen.len() == count, "{} of {count} pods were probed", seen.len());
        let mut late = Vec::new();
        for moments in seen.values() {
            let moments: Vec<Mono> = moments.iter().copied().filter(|moment| *moment >= from).collect();
            late.extend(moments.windows(2).map(|pair| (pair[1] - pair[0]).saturating_sub(PERIOD)));
        }
        late.sort_unstable();
        ensure!(!late.is_empty(), "nothing was probed twice");
        Ok(late)
    }
}
