//! From the create of a pod to the status that says its container runs, its image being present.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use serde_json::Value;
use stdx::Mono;
use wire::Body;

use super::load::{Ask, Connection, percentile};
use super::peer::node;
use super::pod::{self, JSON, PODS};
use super::report::{Measure, Peer, Report, milliseconds};
use super::server::{Cores, Server};
use super::stage::Stage;

const SEQUENTIAL: usize = 50;
/// Started at once, several times over.
const AT_ONCE: usize = 16;
const ROUNDS: usize = 4;
/// The peer takes seconds for each.
const PEER_SEQUENTIAL: usize = 15;
const PEER_ROUNDS: usize = 2;
/// Longer than any start or end should take, the peer's sixteen at once included.
const STEP_MAX: Duration = Duration::from_secs(180);

/// One at a time, then sixteen at once.
pub fn run(stage: &Stage) -> Result<Report> {
    stage.runtime.block_on(async {
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let server = Server::isopod(stage, Cores::All, &[]).await?;
        let ours = starts(&server, SEQUENTIAL, ROUNDS).await?;
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
    let measures = starts(&server, PEER_SEQUENTIAL, PEER_ROUNDS).await?;
    let version = server.version().await?;
    server.stop()?;
    Ok((version, measures))
}

async fn starts(server: &Server, one_by_one: usize, rounds: usize) -> Result<Vec<Measure>> {
    super::ready::node_ready(server).await?;
    let connection = pod::prepare(server).await?;
    let mut events = Events::start(&connection).await?;
    // The first one meets caches that are still empty.
    round(&connection, &mut events, "warm", 1).await?;
    let mut sequential = Vec::new();
    for index in 0..one_by_one {
        sequential.extend(round(&connection, &mut events, &format!("one-{index}"), 1).await?);
    }
    let mut at_once = Vec::new();
    for index in 0..rounds {
        at_once.extend(round(&connection, &mut events, &format!("many-{index}"), AT_ONCE).await?);
    }
    sequential.sort_unstable();
    at_once.sort_unstable();
    Ok(vec![
        milliseconds("create → running, idle: p50", percentile(&sequential, 50), "≤ 60 ms"),
        milliseconds("create → running, idle: p99", percentile(&sequential, 99), "≤ 150 ms"),
        milliseconds("create → running, 16 at once: p50", percentile(&at_once, 50), ""),
        milliseconds("create → running, 16 at once: p99", percentile(&at_once, 99), "≤ 600 ms"),
    ])
}

/// Creates pods, waits until all run and until all are gone again; returns how long each took to run.
async fn round(connection: &Connection, events: &mut Events, prefix: &str, count: usize) -> Result<Vec<Duration>> {
    let names: Vec<String> = (0..count).map(|index| format!("{prefix}-{index}")).collect();
    let mut sent: BTreeMap<&str, Mono> = BTreeMap::new();
    let mut creates = Vec::new();
    for name in &names {
        let ask = pod::create(&pod::startable(name), JSON)?;
        sent.insert(name, stdx::mono());
        let connection = connection.clone();
        creates.push(stdx::spawn(async move { connection.must(&ask).await }));
    }
    for create in creates {
        create.await??;
    }
    let mut times = Vec::new();
    let mut waiting = sent.clone();
    while !waiting.is_empty() {
        let event = events.next().await?;
        let name = event.name();
        if event.runs()
            && let Some(moment) = waiting.remove(name)
        {
            times.push(stdx::mono() - moment);
        }
    }
    for name in &names {
        let delete = Ask { method: http::Method::DELETE, ..Ask::get(format!("{PODS}/{name}"), JSON) };
        connection.must(&delete).await?;
    }
    while !sent.is_empty() {
        let event = events.next().await?;
        if event.0["type"] == "DELETED" {
            sent.remove(event.name());
        }
    }
    Ok(times)
}

pub struct Event(Value);

impl Event {
    pub fn name(&self) -> &str {
        self.0["object"]["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn runs(&self) -> bool {
        self.0["object"]["status"]["phase"] == "Running"
    }
}

/// A watch of the pods.
pub struct Events {
    body: Body,
    buffer: BytesMut,
}

impl Events {
    pub async fn start(connection: &Connection) -> Result<Events> {
        let response = connection.send(&Ask::get(format!("{PODS}?watch=true"), JSON)).await?;
        if !response.status().is_success() {
            bail!("watch: {}", response.status());
        }
        Ok(Events { body: response.into_body(), buffer: BytesMut::new() })
    }

    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Ok(Event(serde_json::from_slice(&line).context("read an event")?));
            }
            let piece = stdx::timeout(STEP_MAX, self.body.next()).await.context("await an event")?;
            self.buffer.extend_from_slice(&piece.context("the watch ended")??);
        }
    }
}
