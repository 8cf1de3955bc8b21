//! Probes: how each kind asks, and how answers add up to a verdict.
//!
//! Upstream: `pkg/probe` and `pkg/kubelet/prober`.

pub mod counts;

use std::net::IpAddr;
use std::time::Duration;

use cri::Runtime;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

mod grpc;
mod http;

pub use http::{Place, http_get};

/// As much of a command's output as is told. Upstream: `maxReadLength`.
const ANSWER_BYTES_MAX: usize = 10 * 1024;

/// What a probe found once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Good,
    Bad(String),
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

impl Purpose {
    /// As it begins a message: `Liveness probe failed: …`.
    pub const fn word(self) -> &'static str {
        match self {
            Purpose::Startup => "Startup",
            Purpose::Readiness => "Readiness",
            Purpose::Liveness => "Liveness",
        }
    }
}

/// How a probe's answers add up: so many of one kind in a row are a verdict. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    good: bool,
    in_a_row: i32,
}

impl Tally {
    /// Before the first answer a container counts as alive, but neither as ready nor as started.
    pub const fn new(purpose: Purpose) -> Tally {
        Tally { good: matches!(purpose, Purpose::Liveness), in_a_row: 0 }
    }

    /// Counts an answer; the verdict when there is one (also the same as before).
    pub fn count(&mut self, good: bool, probe: &Probe) -> Option<bool> {
        self.in_a_row = if good == self.good { self.in_a_row + 1 } else { 1 };
        self.good = good;
        let threshold = if good { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        (self.in_a_row >= threshold).then_some(good)
    }
}

/// A container to be asked.
pub struct Asked<'a> {
    pub runtime: &'a dyn Runtime,
    pub container_id: &'a str,
    pub container: &'a Container,
    pub pod_ip: Option<IpAddr>,
}

impl Asked<'_> {
    /// The host that is asked for, else the pod.
    pub fn host(&self, wanted: Option<&str>) -> String {
        let wanted = wanted.filter(|host| !host.is_empty()).map(str::to_owned);
        wanted.or(self.pod_ip.map(|ip| ip.to_string())).unwrap_or_default()
    }
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A timeout as Go prints it.
fn go_seconds(duration: Duration) -> String {
    crate::pod::plan::go_duration(duration)
}

/// Asks once.
pub async fn ask(asked: &Asked<'_>, probe: &Probe) -> Found {
    let timeout =
        Duration::from_secs(probe.timeout_seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(1));
    if let Some(exec) = &probe.exec {
        return ask_exec(asked, exec.command.clone().unwrap_or_default(), timeout).await;
    }
    if let Some(get) = &probe.http_get {
        return ask_http(asked, get, timeout).await;
    }
    if let Some(grpc) = &probe.grpc {
        let Some(port) = u16::try_from(grpc.port).ok().filter(|port| *port > 0) else {
            return Found::Bad(format!("invalid port number: {}", grpc.port));
        };
        let authority = authority(&asked.host(None), port);
        return grpc::ask(&authority, grpc.service.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(socket) = &probe.tcp_socket {
        let Some(port) = port(&socket.port, asked.container) else {
            return Found::Bad(format!("couldn't find port: {}", shown(&socket.port)));
        };
        let address = authority(&asked.host(socket.host.as_deref()), port);
        return match stdx::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Found::Good,
            Ok(Err(error)) => Found::Bad(format!("dial tcp {address}: {}", dial_error(&error))),
            Err(_) => Found::Bad(format!("dial tcp {address}: i/o timeout")),
        };
    }
    Found::Bad("missing probe handler".into())
}

async fn ask_exec(asked: &Asked<'_>, command: Vec<String>, timeout: Duration) -> Found {
    match asked.runtime.exec_sync(asked.container_id, command.clone(), timeout).await {
        Ok(response) if response.exit_code == 0 => Found::Good,
        Ok(response) => {
            let mut output = response.stdout;
            output.extend_from_slice(&response.stderr);
            output.truncate(ANSWER_BYTES_MAX);
            Found::Bad(String::from_utf8_lossy(&output).into_owned())
        }
        Err(cri::Error::DeadlineExceeded(_)) => {
            Found::Bad(format!("command timed out: {:?} timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => Found::Bad(error.to_string()),
    }
}

async fn ask_http(asked: &Asked<'_>, get: &HTTPGetAction, timeout: Duration) -> Found {
    let Some(port) = port(&get.port, asked.container) else {
        return Found::Bad(format!("couldn't find port: {}", shown(&get.port)));
    };
    let place = Place::new(get, asked.host(get.host.as_deref()), port);
    let url = place.url();
    match stdx::timeout(timeout, http_get(&place, get)).await {
        Ok(Ok(code)) if (200..400).contains(&code) => Found::Good,
        Ok(Ok(code)) => Found::Bad(format!("HTTP probe failed with statuscode: {code}")),
        Ok(Err(error)) => Found::Bad(format!("Get {url:?}: {error}")),
        Err(_) => Found::Bad(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// Go's words for what the kernel said.
fn dial_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".into(),
        std::io::ErrorKind::TimedOut => "connect: connection timed out".into(),
        _ => error.to_string(),
    }
}

/// A port by number, or by the name the container gives it.
pub fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_deref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())?
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn shown(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_takes_as_many_answers_as_the_thresholds_say() {
        let probe = Probe { failure_threshold: Some(3), success_threshold: Some(1), ..Probe::default() };
        let mut tally = Tally::new(Purpose::Liveness);
        let verdicts: Vec<Option<bool>> =
            [true, false, false, true, false, false, false, true].map(|good| tally.count(good, &probe)).into();
        assert_eq!(verdicts, [Some(true), None, None, Some(true), None, None, Some(false), Some(true)]);
    }
}
