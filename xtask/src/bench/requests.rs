//! Creates, gets and lists of pods: throughput, latency and what they cost the server.

use anyhow::Result;

use super::load::{Ask, Connection, bear};
use super::pod::{self, JSON, PODS, PROTOBUF};
use super::report::{Measure, Report, Unit, each, milliseconds, rate};
use super::server::{Server, proportional_memory};
use super::stage::Stage;

/// Long enough for hundredths of a second in the process accounts to be one percent.
const CREATES: u64 = 5_000;
const GETS: u64 = 20_000;
const LISTED: u64 = 10_000;
const LISTS: u64 = 20;
/// Begun and not read to their end, for what a running one takes.
const RUNNING: u32 = 20;

/// Durable creates.
pub fn creates(stage: &Stage) -> Result<Report> {
    stage.both(async |server| {
        pod::prepare(server).await?;
        let mut measures = Vec::new();
        for (round, (connections, content_type)) in [(16, JSON), (64, JSON), (64, PROTOBUF)].into_iter().enumerate() {
            let load = make_pods(server, &format!("r{round}"), connections, CREATES, content_type).await?;
            let what = format!("{} creates, {connections} connections", name(content_type));
            measures.push(rate(format!("{what}: throughput"), load.operations, load.wall, "≥ 5 ×"));
            measures.push(each(format!("{what}: CPU each"), load.cpu, load.operations, "≥ 10 ×"));
            let budget = if connections == 64 { "≤ 5 ms" } else { "" };
            measures.push(milliseconds(format!("{what}: p99"), load.percentile(99), budget));
        }
        Ok(measures)
    })
}

/// Creates so many pods as fast as some connections can.
pub async fn make_pods(
    server: &Server,
    prefix: &str,
    connections: usize,
    total: u64,
    content_type: &'static str,
) -> Result<super::load::Load> {
    // Bodies are made before, so that the load's core does little but send.
    let asks: Vec<Ask> = (0..total)
        .map(|index| pod::create(&pod::unscheduled(&format!("web-{prefix}-{index}")), content_type))
        .collect::<Result<_>>()?;
    bear(server, connections, total, move |index| asks[usize::try_from(index).expect("fits")].clone()).await
}

fn name(content_type: &str) -> &'static str {
    if content_type == JSON { "JSON" } else { "protobuf" }
}

/// Reads of single pods out of a thousand.
pub fn gets(stage: &Stage) -> Result<Report> {
    stage.both(async |server| {
        pod::prepare(server).await?;
        make_pods(server, "g", 16, 1_000, JSON).await?;
        let mut measures = Vec::new();
        for content_type in [JSON, PROTOBUF] {
            let ask = move |index| Ask::get(format!("{PODS}/web-g-{}", index * 7 % 1_000), content_type);
            let load = bear(server, 16, GETS, ask).await?;
            let what = format!("{} GET, 16 connections", name(content_type));
            measures.push(rate(format!("{what}: throughput"), load.operations, load.wall, ""));
            measures.push(each(format!("{what}: CPU each"), load.cpu, load.operations, "≥ 5 ×"));
            measures.push(milliseconds(format!("{what}: p99"), load.percentile(99), ""));
        }
        Ok(measures)
    })
}

/// Lists of ten thousand pods, from the server's cache.
pub fn lists(stage: &Stage) -> Result<Report> {
    stage.both(async |server| {
        let connection = pod::prepare(server).await?;
        make_pods(server, "l", 64, LISTED, PROTOBUF).await?;
        let mut measures = Vec::new();
        let ask = |accept, gzip| Ask { gzip, ..Ask::get(format!("{PODS}?resourceVersion=0"), accept) };
        list(server, &connection, "cold JSON LIST", &ask(JSON, false), 1, "≥ 4 ×", &mut measures).await?;
        list(server, &connection, "warm JSON LIST", &ask(JSON, false), LISTS, "≥ 10 ×", &mut measures).await?;
        list(server, &connection, "protobuf LIST", &ask(PROTOBUF, false), LISTS, "≥ 10 ×", &mut measures).await?;
        list(server, &connection, "gzip JSON LIST", &ask(JSON, true), LISTS, "≥ 3 ×", &mut measures).await?;
        measures.push(running_lists(server, &ask(JSON, false)).await?);
        Ok(measures)
    })
}

/// What the server holds for each of some lists whose readers have stopped reading, each on its connection.
async fn running_lists(server: &Server, ask: &Ask) -> Result<Measure> {
    let mut connections = Vec::new();
    for _ in 0..RUNNING {
        let connection = Connection::open(&server.user)?;
        connection.must(&Ask::get(format!("{PODS}/web-l-0"), JSON)).await?;
        connections.push(connection);
    }
    let before = proportional_memory(&server.processes()?)?;
    let mut bodies = Vec::new();
    for connection in &connections {
        let mut body = connection.send(ask).await?.into_body();
        let first = body.next().await.transpose()?;
        anyhow::ensure!(first.is_some(), "an empty list");
        bodies.push(body);
    }
    let during = proportional_memory(&server.processes()?)?;
    drop(bodies);
    Ok(Measure {
        what: "memory each running LIST".into(),
        value: (during.total - before.total) / f64::from(RUNNING),
        unit: Unit::Megabytes,
        budget: "≤ 2 MB",
    })
}

async fn list(
    server: &Server,
    connection: &Connection,
    what: &str,
    ask: &Ask,
    times: u64,
    budget: &'static str,
    measures: &mut Vec<Measure>,
) -> Result<()> {
    let (cpu, start) = (server.cpu()?, stdx::mono());
    let mut first_bytes = Vec::new();
    let mut size = 0;
    for _ in 0..times {
        let answer = connection.must(ask).await?;
        first_bytes.push(answer.first_byte);
        size = answer.bytes.len();
    }
    let wall = stdx::mono() - start;
    let cpu = server.cpu()?.saturating_sub(cpu);
    first_bytes.sort_unstable();
    let times = u32::try_from(times)?;
    measures.push(milliseconds(format!("{what}: CPU"), cpu / times, budget));
    measures.push(milliseconds(format!("{what}: time"), wall / times, ""));
    measures.push(milliseconds(format!("{what}: first byte"), super::load::percentile(&first_bytes, 50), "≤ 5 ms"));
    measures.push(Measure {
        what: format!("{what}: size"),
        value: size as f64 / 1e6,
        unit: Unit::Megabytes,
        budget: "",
    });
    Ok(())
}
