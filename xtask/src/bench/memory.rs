//! Memory of all of isopod's processes when nothing happens, without and with pods.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::peer::node;
use super::report::{Measure, Peer, Report, Unit};
use super::server::{Cores, Memory, Server, proportional_memory, sleeps};
use super::stage::Stage;

/// After a start, before it is called idle.
const SETTLING: Duration = Duration::from_secs(5);

/// Proportional set sizes after some time, without pods and with the example's three; what idling costs; the binary's size.
pub fn run(stage: &Stage) -> Result<Report> {
    let ours = stage.runtime.block_on(async {
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let size = std::fs::metadata(&stage.isopod)?.len() as f64 / 1e6;
        let size = Measure { what: "release binary".into(), value: size, unit: Unit::Megabytes, budget: "≤ 40 MB" };
        let mut measures = vec![size];
        let server = Server::isopod(stage, Cores::All, &[]).await?;
        super::ready::node_ready(&server).await?;
        let empty = idle(stage, &server).await?;
        empty.show("without pods", &mut measures);
        server.stop()?;
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let server = Server::isopod(stage, Cores::All, &super::ready::example()).await?;
        super::ready::pods_ready(&server, 3).await?;
        let three = idle(stage, &server).await?;
        three.show("with three pods", &mut measures);
        let pod = (three.memory.total - empty.memory.total) / 3.0;
        measures.push(Measure { what: "each pod".into(), value: pod, unit: Unit::Megabytes, budget: "≤ 0.5 MB" });
        server.stop()?;
        anyhow::Ok(measures)
    })?;
    let peer = stage.peer.as_ref().map(|folder| stage.runtime.block_on(peer(stage, folder)));
    Ok(Report { ours, peer })
}

/// The peer's, which has neither service rules nor DNS; without a node where its folder has none.
async fn peer(stage: &Stage, folder: &Path) -> Result<Peer> {
    let mut measures = Vec::new();
    if !node::is_complete(folder) {
        let server = super::peer::start(stage, folder, Cores::All).await?;
        idle(stage, &server).await?.show("without pods", &mut measures);
        let version = server.version().await?;
        server.stop()?;
        return Ok((format!("{version}, API server and store only"), measures));
    }
    let server = node::start(stage, folder).await?;
    super::ready::node_ready(&server).await?;
    let empty = idle(stage, &server).await?;
    empty.show("without pods", &mut measures);
    node::apply_example(stage, folder)?;
    super::ready::pods_ready(&server, 3).await?;
    let three = idle(stage, &server).await?;
    three.show("with three pods", &mut measures);
    let value = (three.memory.total - empty.memory.total) / 3.0;
    measures.push(Measure { what: "each pod".into(), value, unit: Unit::Megabytes, budget: "" });
    let version = server.version().await?;
    server.stop()?;
    Ok((version, measures))
}

/// What was seen of a server that had nothing to do.
struct Idle {
    time: Duration,
    memory: Memory,
    cpu: Duration,
    wake_ups: u64,
}

/// Waits, then sums up all processes of the server, supervisors of pods included.
async fn idle(stage: &Stage, server: &Server) -> Result<Idle> {
    let processes = server.processes()?;
    // What the start left behind is given back first.
    stdx::sleep(SETTLING).await;
    let (cpu, wake_ups) = (server.cpu()?, sleeps(&processes)?);
    stdx::sleep(stage.idle).await;
    Ok(Idle {
        time: stage.idle,
        memory: proportional_memory(&processes)?,
        cpu: server.cpu()?.saturating_sub(cpu),
        wake_ups: sleeps(&processes)?.saturating_sub(wake_ups),
    })
}

impl Idle {
    fn show(&self, when: &str, measures: &mut Vec<Measure>) {
        let mut add = |what: &str, value, unit, budget| {
            measures.push(Measure { what: format!("{what} {when}"), value, unit, budget });
        };
        let per_second = self.time.as_secs_f64();
        add("all processes", self.memory.total, Unit::Megabytes, "≤ 40 MB");
        add("of it anonymous", self.memory.anonymous, Unit::Megabytes, "≤ 25 MB");
        add("idle CPU of a core", self.cpu.as_secs_f64() / per_second * 1e2, Unit::Percent, "≤ 0.2 %");
        add("wake-ups", self.wake_ups as f64 / per_second, Unit::Rate, "≤ 5 /s");
    }
}
