//! One event delivered to a thousand watchers of one kind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use stdx::TaskTree;
use tokio::sync::Notify;
use wire::Body;

use super::load::{Ask, Connection, percentile};
use super::pod::{self, JSON, PODS};
use super::report::{Measure, Report, Unit, each, milliseconds, rate};
use super::server::{Server, proportional_memory};
use super::stage::Stage;

const WATCHERS: u64 = 1_000;
/// Watches share connections, as a client's do; a server lets a connection have a few hundred at once.
const CONNECTIONS: usize = 10;
/// Created as fast as sixteen connections can, for throughput.
const BURST: u64 = 100;
/// Created one at a time, for latency.
const SINGLES: u64 = 50;
/// Connections that do nothing, for what one takes.
const IDLE_CONNECTIONS: u32 = 200;
/// Watches of something else, which an event must not cost.
const DISINTERESTED: u64 = 100_000;
/// What a connection may have at once, less one for other requests.
const WATCHES_PER_CONNECTION: u64 = 240;
/// Creates that nobody watches.
const UNWATCHED: u64 = 5_000;
/// Everything must have arrived by then.
const ARRIVAL_MAX: Duration = Duration::from_secs(120);

/// Throughput, cost and latency of the fan-out.
pub fn run(stage: &Stage) -> Result<Report> {
    stage.both(async |server| {
        let connection = pod::prepare(server).await?;
        let tasks = TaskTree::default();
        let mut measures = Vec::new();
        let (arrivals, memory) = start_watches(server, &tasks).await?;
        // While the watches go on, so that nothing of them is given back meanwhile.
        let connections = idle_connections(server).await?;

        let (cpu, start) = (server.cpu()?, stdx::mono());
        let asks = (0..BURST)
            .map(|index| pod::create(&pod::unscheduled(&format!("burst-{index}")), JSON))
            .collect::<Result<Vec<Ask>>>()?;
        super::load::bear(server, 16, BURST, move |index| asks[usize::try_from(index).expect("fits")].clone()).await?;
        arrivals.reach(BURST * WATCHERS).await?;
        let (wall, cpu) = (stdx::mono() - start, server.cpu()?.saturating_sub(cpu));
        measures.push(rate("events delivered", BURST * WATCHERS, wall, "≥ 4 ×"));
        measures.push(each("CPU each event delivered", cpu, BURST * WATCHERS, ""));

        let (median, worst) = singles(&connection, &arrivals).await?;
        measures.push(milliseconds("create sent → half of the watchers have it, p50", median, ""));
        measures.push(milliseconds("create sent → the last watcher has it, p99", worst, "≤ 20 ms"));
        measures.push(kilobytes("memory a watch", memory, "≤ 1 KB"));
        measures.push(connections);
        tasks.drain(Duration::from_secs(5)).await.ok();
        // The peer spends tens of kilobytes on each.
        if !server.is_peer() {
            measures.push(disinterested(server).await?);
        }
        Ok(measures)
    })
}

/// Events that reached any watcher.
#[derive(Default)]
struct Arrivals {
    count: AtomicU64,
    changed: Notify,
}

impl Arrivals {
    /// Waits until there were so many in all.
    async fn reach(&self, wanted: u64) -> Result<()> {
        let all = async {
            loop {
                let changed = self.changed.notified();
                if self.count.load(Ordering::Relaxed) >= wanted {
                    return;
                }
                changed.await;
            }
        };
        if stdx::timeout(ARRIVAL_MAX, all).await.is_err() {
            bail!("{} of {wanted} events came", self.count.load(Ordering::Relaxed));
        }
        Ok(())
    }
}

fn kilobytes(what: &str, megabytes: f64, budget: &'static str) -> Measure {
    Measure { what: what.into(), value: megabytes * 1e3, unit: Unit::Kilobytes, budget }
}

/// The memory of a TLS connection on which one small request was answered.
async fn idle_connections(server: &Server) -> Result<Measure> {
    let before = proportional_memory(&server.processes()?)?;
    let mut connections = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let connection = Connection::open(&server.user)?;
        connection.must(&Ask::get("/readyz", "*/*")).await?;
        connections.push(connection);
    }
    let memory = proportional_memory(&server.processes()?)?.total - before.total;
    Ok(kilobytes("memory a TLS connection", memory / f64::from(IDLE_CONNECTIONS), "≤ 40 KB"))
}

/// How much more a create costs the server when very many watch something else.
async fn disinterested(server: &Server) -> Result<Measure> {
    let creates = async |prefix: &str| -> Result<f64> {
        let asks = (0..UNWATCHED)
            .map(|index| pod::create(&pod::unscheduled(&format!("{prefix}-{index}")), JSON))
            .collect::<Result<Vec<Ask>>>()?;
        let load =
            super::load::bear(server, 16, UNWATCHED, move |index| asks[usize::try_from(index).expect("fits")].clone());
        Ok(load.await?.cpu.as_secs_f64())
    };
    let before = creates("before").await?;
    let mut bodies = Vec::new();
    let mut connection = Connection::open(&server.user)?;
    for index in 0..DISINTERESTED {
        if index % WATCHES_PER_CONNECTION == 0 {
            connection = Connection::open(&server.user)?;
        }
        let path = format!("{PODS}?watch=true&resourceVersion=0&fieldSelector=metadata.name%3Dother-{index}");
        let response = connection.send(&Ask::get(path, JSON)).await.context("watch")?;
        anyhow::ensure!(response.status().is_success(), "watch: {}", response.status());
        bodies.push(response.into_body());
    }
    let during = creates("during").await?;
    drop(bodies);
    Ok(Measure {
        what: "100,000 disinterested watches: more CPU each event".into(),
        value: (during / before - 1.0) * 1e2,
        unit: Unit::Percent,
        budget: "≤ 5 %",
    })
}

/// The watches, and the megabytes that each takes.
async fn start_watches(server: &Server, tasks: &TaskTree) -> Result<(Arc<Arrivals>, f64)> {
    let arrivals = Arc::new(Arrivals::default());
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = Connection::open(&server.user)?;
        connection.must(&Ask::get("/readyz", "*/*")).await?;
        connections.push(connection);
    }
    let before = proportional_memory(&server.processes()?)?;
    for connection in connections {
        for _ in 0..WATCHERS / CONNECTIONS as u64 {
            let ask = Ask::get(format!("{PODS}?watch=true&resourceVersion=0&allowWatchBookmarks=false"), JSON);
            let response = connection.send(&ask).await.context("watch")?;
            anyhow::ensure!(response.status().is_success(), "watch: {}", response.status());
            let (arrivals, mut body) = (arrivals.clone(), response.into_body());
            tasks.spawn("watch", async move { count(&mut body, &arrivals).await });
        }
    }
    let memory = proportional_memory(&server.processes()?)?.total - before.total;
    Ok((arrivals, memory / WATCHERS as f64))
}

/// JSON events end with a line feed, and hold none.
async fn count(body: &mut Body, arrivals: &Arrivals) {
    while let Some(Ok(piece)) = body.next().await {
        let events = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        if events > 0 {
            arrivals.count.fetch_add(events, Ordering::Relaxed);
            arrivals.changed.notify_waiters();
        }
    }
}

/// Median over creates of the median watcher's wait, and the 99th hundredth of the last watcher's.
async fn singles(connection: &Connection, arrivals: &Arrivals) -> Result<(Duration, Duration)> {
    let (mut halves, mut wholes) = (Vec::new(), Vec::new());
    let mut base = arrivals.count.load(Ordering::Relaxed);
    for index in 0..SINGLES {
        let ask = pod::create(&pod::unscheduled(&format!("single-{index}")), JSON)?;
        let sent = stdx::mono();
        let waits = async {
            arrivals.reach(base + WATCHERS / 2).await?;
            let half = stdx::mono() - sent;
            arrivals.reach(base + WATCHERS).await?;
            anyhow::Ok((half, stdx::mono() - sent))
        };
        let (created, waits) = tokio::join!(connection.must(&ask), waits);
        created?;
        let (half, whole) = waits?;
        halves.push(half);
        wholes.push(whole);
        base += WATCHERS;
    }
    halves.sort_unstable();
    wholes.sort_unstable();
    Ok((percentile(&halves, 50), percentile(&wholes, 99)))
}
