//! Memory of all of isopod's processes when nothing happens, without and with pods.

use std::time::Duration;

use anyhow::Result;

use super::report::{Measure, Report, Unit};
use super::server::{Cores, Memory, Server, proportional_memory, running};
use super::stage::Stage;

/// Long enough for what the start left behind to be given back.
const IDLE: Duration = Duration::from_secs(60);

/// Proportional set sizes after a minute, without pods and with the example's three.
pub fn run(stage: &Stage) -> Result<Report> {
    let ours = stage.runtime.block_on(async {
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let mut measures = Vec::new();
        let server = Server::isopod(stage, Cores::All, &[]).await?;
        super::ready::node_ready(&server).await?;
        let (empty, used) = idle(&server).await?;
        show("without pods", &empty, "≤ 40 MB", "≤ 25 MB", &mut measures);
        let share = used.as_secs_f64() / IDLE.as_secs_f64() * 1e2;
        measures.push(Measure {
            what: "idle CPU of a core".into(),
            value: share,
            unit: Unit::Percent,
            budget: "≤ 0.2 %",
        });
        server.stop()?;
        stage.isopod(&["image", "load", &stage.archive.display().to_string()])?;
        let server = Server::isopod(stage, Cores::All, &super::ready::example()).await?;
        super::ready::pods_ready(&server, 3).await?;
        let (three, _) = idle(&server).await?;
        show("with three pods", &three, "", "", &mut measures);
        let pod = (three.total - empty.total) / 3.0;
        measures.push(Measure { what: "each pod".into(), value: pod, unit: Unit::Megabytes, budget: "≤ 0.5 MB" });
        server.stop()?;
        anyhow::Ok(measures)
    })?;
    let peer = match &stage.peer {
        None => None,
        Some(folder) => Some(stage.runtime.block_on(async {
            let server = super::peer::start(stage, folder, Cores::All).await?;
            let (empty, used) = idle(&server).await?;
            let mut measures = Vec::new();
            // Its store and API server only: no scheduler, controllers, agent, runtime, service rules or DNS.
            show("without pods", &empty, "", "", &mut measures);
            let share = used.as_secs_f64() / IDLE.as_secs_f64() * 1e2;
            measures.push(Measure { what: "idle CPU of a core".into(), value: share, unit: Unit::Percent, budget: "" });
            let version = server.version().await?;
            server.stop()?;
            anyhow::Ok((format!("{version}, API server and store only"), measures))
        })?),
    };
    Ok(Report { ours, peer })
}

fn show(when: &str, memory: &Memory, total: &'static str, anonymous: &'static str, measures: &mut Vec<Measure>) {
    let unit = Unit::Megabytes;
    measures.push(Measure { what: format!("all processes {when}"), value: memory.total, unit, budget: total });
    measures.push(Measure {
        what: format!("of it anonymous, {when}"),
        value: memory.anonymous,
        unit,
        budget: anonymous,
    });
}

/// Waits, then sums up all processes of the server, supervisors of pods included; also the processor time meanwhile.
async fn idle(server: &Server) -> Result<(Memory, Duration)> {
    let cpu = server.cpu()?;
    stdx::sleep(IDLE).await;
    let cpu = server.cpu()?.saturating_sub(cpu);
    let mut processes = server.processes()?;
    processes.extend(running(|exe| exe.to_string_lossy().starts_with("/memfd:isopod-shim"))?);
    Ok((proportional_memory(&processes)?, cpu))
}
