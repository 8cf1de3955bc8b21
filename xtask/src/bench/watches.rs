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
use super::report::{Report, each, milliseconds, rate};
use super::server::{Server, proportional_memory};
use super::stage::Stage;

const WATCHERS: u64 = 1_000;
/// Watches share connections, as a client's do; a server lets a connection have a few hundred at once.
const CONNECTIONS: usize = 10;
/// Created as fast as sixteen connections can, for throughput.
const BURST: u64 = 100;
/// Created one at a time, for latency.
const SINGLES: u64 = 50;
/// Everything must have arrived by then.
const ARRIVAL_MAX: Duration = Duration::from_secs(120);

/// Throughput, cost and latency of the fan-out.
pub fn run(stage: &Stage) -> Result<Report> {
    stage.both(async |server| {
        let connection = pod::prepare(server).await?;
        let tasks = TaskTree::default();
        let before = proportional_memory(&server.processes()?)?;
        let arrivals = start_watches(server, &tasks).await?;
        let memory = proportional_memory(&server.processes()?)?;
        let mut measures = Vec::new();

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
        let kilobytes = (memory.total - before.total) / WATCHERS as f64 * 1e3;
        let unit = super::report::Unit::Kilobytes;
        measures.push(super::report::Measure {
            what: "memory a watch".into(),
            value: kilobytes,
            unit,
            budget: "≤ 1 KB",
        });
        tasks.drain(Duration::from_secs(5)).await.ok();
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

async fn start_watches(server: &Server, tasks: &TaskTree) -> Result<Arc<Arrivals>> {
    let arrivals = Arc::new(Arrivals::default());
    for _ in 0..CONNECTIONS {
        let connection = Connection::open(&server.config)?;
        for _ in 0..WATCHERS / CONNECTIONS as u64 {
            let ask = Ask::get(format!("{PODS}?watch=true&resourceVersion=0&allowWatchBookmarks=false"), JSON);
            let response = connection.send(&ask).await.context("watch")?;
            anyhow::ensure!(response.status().is_success(), "watch: {}", response.status());
            let (arrivals, mut body) = (arrivals.clone(), response.into_body());
            tasks.spawn("watch", async move { count(&mut body, &arrivals).await });
        }
    }
    Ok(arrivals)
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
