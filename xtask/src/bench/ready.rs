//! How long it takes from the start of the process until a cluster is of use.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use super::load::{Connection, percentile};
use super::peer::node;
use super::report::{Peer, Report, milliseconds};
use super::server::{Cores, Server};
use super::stage::Stage;
use crate::place;

const NEW: &str = "exec → /readyz, new cluster";
const NODE: &str = "exec → node Ready, new cluster";
const PODS: &str = "exec → the example's three pods ready";
/// Starts of each sort; the median is shown.
const ROUNDS: usize = 5;
/// Objects of a cluster that starts again, and how often it does.
const OBJECTS: u64 = 200_000;
const FULL_RESTARTS: usize = 3;
/// Longer than anything here should take.
const READY_MAX: Duration = Duration::from_secs(60);

/// New clusters, restarts, nodes and the example's pods.
pub fn run(stage: &Stage) -> Result<Report> {
    let ours = stage.runtime.block_on(async {
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let mut server = Server::isopod(stage, Cores::All, &[]).await?;
            times[0].push(server.ready_after);
            times[1].push(node_ready(&server).await?);
            server.interrupt()?;
            let server = Server::isopod(stage, Cores::All, &[]).await?;
            times[2].push(server.ready_after);
            server.stop()?;
            stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
            let server = Server::isopod(stage, Cores::All, &example()).await?;
            times[3].push(pods_ready(&server, 3).await?);
            server.stop()?;
        }
        times.iter_mut().for_each(|times| times.sort_unstable());
        let [ready, node, restart, pods] = times.map(|times| percentile(&times, 50));
        let full = full_restart(stage).await?;
        anyhow::Ok(vec![
            milliseconds(NEW, ready, "≤ 150 ms"),
            milliseconds("exec → /readyz, restart", restart, ""),
            milliseconds("exec → /readyz, restart with 200,000 pods", full, "≤ 500 ms"),
            milliseconds(NODE, node, "≤ 400 ms"),
            milliseconds(PODS, pods, "≤ 1 s"),
        ])
    })?;
    let peer = stage.peer.as_ref().map(|folder| stage.runtime.block_on(peer(stage, folder)));
    Ok(Report { ours, peer })
}

/// The peer's starts, with a node where its folder has one.
async fn peer(stage: &Stage, folder: &Path) -> Result<Peer> {
    let mut times = [const { Vec::new() }; 3];
    let mut version = String::new();
    for _ in 0..ROUNDS {
        let server = if node::is_complete(folder) {
            let server = node::start(stage, folder).await?;
            node::apply_example(stage, folder)?;
            times[1].push(node_ready(&server).await?);
            times[2].push(pods_ready(&server, 3).await?);
            server
        } else {
            super::peer::start(stage, folder, Cores::All).await?
        };
        times[0].push(server.ready_after);
        version = server.version().await?;
        server.stop()?;
    }
    let mut measures = Vec::new();
    for (what, mut times) in [NEW, NODE, PODS].into_iter().zip(times).filter(|(_, times)| !times.is_empty()) {
        times.sort_unstable();
        measures.push(milliseconds(what, percentile(&times, 50), ""));
    }
    Ok((version, measures))
}

/// How long a start takes that finds very many objects.
async fn full_restart(stage: &Stage) -> Result<Duration> {
    let mut server = Server::isopod(stage, Cores::All, &[]).await?;
    super::pod::prepare(&server).await?;
    super::requests::make_pods(&server, "full", 64, OBJECTS, super::pod::PROTOBUF).await?;
    let mut times = Vec::new();
    for _ in 0..FULL_RESTARTS {
        server.interrupt()?;
        server = Server::isopod(stage, Cores::All, &[]).await?;
        times.push(server.ready_after);
    }
    server.stop()?;
    times.sort_unstable();
    Ok(percentile(&times, 50))
}

/// Arguments for `up` that apply the example.
pub fn example() -> [&'static str; 6] {
    // Leaked once a process: the path of the checkout is a constant of this program.
    let file =
        |name: &str| &*Box::leak(place::root().join("examples").join(name).display().to_string().into_boxed_str());
    ["-n", "production", "-f", file("namespace.yaml"), "-f", file("deployment.yaml")]
}

/// Waits until a node is ready; returns how long after the start that was.
pub async fn node_ready(server: &Server) -> Result<Duration> {
    until(server, "/api/v1/nodes", 1).await
}

/// Waits until so many of the example's pods are ready; returns how long after the start that was.
pub async fn pods_ready(server: &Server, count: usize) -> Result<Duration> {
    until(server, "/api/v1/namespaces/production/pods", count).await
}

/// Asks every two milliseconds until so many objects have the condition `Ready`.
async fn until(server: &Server, path: &str, count: usize) -> Result<Duration> {
    let connection = Connection::open(&server.config)?;
    loop {
        let answer = connection.get(path, super::pod::JSON).await?;
        let list: Value = serde_json::from_slice(&answer.bytes)?;
        let ready = list["items"].as_array().map_or(0, |items| items.iter().filter(|item| is_ready(item)).count());
        let passed = stdx::mono() - server.started;
        if ready >= count {
            return Ok(passed);
        }
        if passed > READY_MAX {
            bail!("{path}: {ready} of {count} ready after {} s", passed.as_secs());
        }
        stdx::sleep(Duration::from_millis(2)).await;
    }
}

fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}
