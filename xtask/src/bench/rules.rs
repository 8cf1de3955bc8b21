//! From the change of a slice to the first packet that arrives, among two thousand Services of three endpoints each.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde_json::{Value, json};
use stdx::Mono;

use super::load::{Ask, Connection, bear, percentile};
use super::pod::{self, JSON, NAMESPACE};
use super::report::{Measure, Report, milliseconds};
use super::server::{Cores, Server};
use super::stage::Stage;

const SERVICES: u64 = 2_000;
const ENDPOINTS: u64 = 3;
const CHANGES: u64 = 200;
/// Longer than any change should take.
const CHANGE_MAX: Duration = Duration::from_secs(10);
const MERGE: &str = "application/merge-patch+json";

/// Fills the rules, then changes one Service at a time.
pub fn run(stage: &Stage) -> Result<Report> {
    let ours = stage.runtime.block_on(async {
        let server = Server::isopod(stage, Cores::All, &[]).await?;
        super::ready::node_ready(&server).await?;
        let connection = pod::prepare(&server).await?;
        fill(&server).await?;
        let measured = changes(&connection).await;
        server.stop()?;
        measured
    })?;
    Ok(Report { ours, peer: None })
}

fn services() -> String {
    format!("/api/v1/namespaces/{NAMESPACE}/services")
}

fn slices() -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices")
}

async fn fill(server: &Server) -> Result<()> {
    let named = |index: u64| json!({"name": format!("s{index}")});
    let service = move |index| {
        let spec = json!({"ports": [{"port": 80}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": named(index), "spec": spec})
    };
    let slice = |index: u64| {
        let metadata = json!({
            "name": format!("s{index}"), "labels": {"kubernetes.io/service-name": format!("s{index}")},
        });
        let address = |part: u64| format!("10.{}.{}.{}", 100 + part, index / 250, 1 + index % 250);
        let endpoints: Vec<Value> = (0..ENDPOINTS).map(|part| json!({"addresses": [address(part)]})).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "metadata": metadata,
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}], "endpoints": endpoints,
        })
    };
    bear(server, 16, SERVICES, move |index| Ask::post(services(), JSON, service(index).to_string())).await?;
    bear(server, 16, SERVICES, move |index| Ask::post(slices(), JSON, slice(index).to_string())).await?;
    Ok(())
}

/// A Service without endpoints refuses at once; it gets one that answers, and loses it again.
async fn changes(connection: &Connection) -> Result<Vec<Measure>> {
    let node = node_address(connection).await?;
    let listener = TcpListener::bind(SocketAddr::new(node, 0)).context("listen at the node's address")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let (mut opened, mut closed) = (Vec::new(), Vec::new());
    for index in 0..CHANGES {
        let name = format!("s{}", index * 7 % SERVICES);
        let answer = connection.must(&Ask::get(format!("{}/{name}", services()), JSON)).await?;
        let service: Value = serde_json::from_slice(&answer.bytes)?;
        let address = service["spec"]["clusterIP"].as_str().and_then(|text| text.parse().ok()).context("an address")?;
        let frontend = SocketAddr::new(address, 80);
        let with = |endpoints: Value| json!({"ports": [{"name": "", "port": port, "protocol": "TCP"}], "endpoints": endpoints});
        change(connection, &name, &with(json!([]))).await?;
        arrives(frontend, false)?;
        let sent = change(connection, &name, &with(json!([{"addresses": [node]}]))).await?;
        opened.push(arrives(frontend, true)? - sent);
        let sent = change(connection, &name, &with(json!([]))).await?;
        closed.push(arrives(frontend, false)? - sent);
    }
    opened.sort_unstable();
    closed.sort_unstable();
    Ok(vec![
        milliseconds("endpoint comes: change sent → packet arrives, p50", percentile(&opened, 50), ""),
        milliseconds("endpoint comes: change sent → packet arrives, p99", percentile(&opened, 99), "≤ 20 ms"),
        milliseconds("endpoint goes: change sent → packet refused, p50", percentile(&closed, 50), ""),
        milliseconds("endpoint goes: change sent → packet refused, p99", percentile(&closed, 99), "≤ 20 ms"),
    ])
}

/// Sends the change; when it was sent.
async fn change(connection: &Connection, name: &str, body: &Value) -> Result<Mono> {
    let body = Some((MERGE, body.to_string().into()));
    let ask = Ask { method: Method::PATCH, body, ..Ask::get(format!("{}/{name}", slices()), JSON) };
    let sent = stdx::mono();
    connection.must(&ask).await?;
    Ok(sent)
}

/// Tries until a connection is made, or refused; when it was.
fn arrives(frontend: SocketAddr, wanted: bool) -> Result<Mono> {
    let end = stdx::mono() + CHANGE_MAX;
    while stdx::mono() < end {
        if TcpStream::connect_timeout(&frontend, Duration::from_millis(200)).is_ok() == wanted {
            return Ok(stdx::mono());
        }
    }
    bail!("{frontend} does not become as it should be")
}

async fn node_address(connection: &Connection) -> Result<std::net::IpAddr> {
    let answer = connection.must(&Ask::get("/api/v1/nodes", JSON)).await?;
    let nodes: Value = serde_json::from_slice(&answer.bytes)?;
    let address = nodes["items"][0]["status"]["addresses"][0]["address"].as_str();
    address.and_then(|text| text.parse().ok()).context("the node has an address")
}
