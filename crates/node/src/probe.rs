//! Probes: how each kind asks, and how answers add up to a verdict.
//!
//! Upstream: `pkg/probe` and `pkg/kubelet/prober`.

use std::net::IpAddr;
use std::time::Duration;

use cri::Runtime;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// As much of an answer as is read and told. Upstream: `maxRespBodyLength`.
const ANSWER_BYTES_MAX: u64 = 10 * 1024;

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
    if let Some(socket) = &probe.tcp_socket {
        let Some(port) = port(&socket.port, asked.container) else {
            return Found::Bad(format!("couldn't find port: {}", shown(&socket.port)));
        };
        let host = socket.host.clone().filter(|host| !host.is_empty()).or(asked.pod_ip.map(|ip| ip.to_string()));
        let address = format!("{}:{port}", host.unwrap_or_default());
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
            output.truncate(usize::try_from(ANSWER_BYTES_MAX).unwrap_or(usize::MAX));
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
    let host =
        get.host.clone().filter(|host| !host.is_empty()).or(asked.pod_ip.map(|ip| ip.to_string())).unwrap_or_default();
    let url = format!("http://{host}:{port}{}", rooted(get.path.as_deref().unwrap_or_default()));
    match stdx::timeout(timeout, http_get(&host, port, get)).await {
        Ok(Ok(code)) if (200..400).contains(&code) => Found::Good,
        Ok(Ok(code)) => Found::Bad(format!("HTTP probe failed with statuscode: {code}")),
        Ok(Err(error)) => Found::Bad(format!("Get {url:?}: {error}")),
        Err(_) => Found::Bad(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Asks a web server, and answers with its status code. Used by probes and hooks.
pub async fn http_get(host: &str, port: u16, get: &HTTPGetAction) -> Result<u16, String> {
    let address = format!("{host}:{port}");
    let mut stream =
        TcpStream::connect(&address).await.map_err(|error| format!("dial tcp {address}: {}", dial_error(&error)))?;
    let headers = get.http_headers.as_deref().unwrap_or_default();
    let has = |name: &str| headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    let mut request = format!("GET {} HTTP/1.1\r\n", rooted(get.path.as_deref().unwrap_or_default()));
    for (name, value) in [("Host", address.as_str()), ("User-Agent", "kube-probe/1.36"), ("Accept", "*/*")] {
        if !has(name) {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    for header in headers {
        request.push_str(&format!("{}: {}\r\n", header.name, header.value));
    }
    request.push_str("Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    let mut limited = (&mut stream).take(ANSWER_BYTES_MAX);
    // The status line is all that counts; the rest of the answer is not waited for.
    while !answer.windows(2).any(|pair| pair == b"\r\n") {
        match limited.read_buf(&mut answer).await {
            Ok(0) => return Err("EOF".into()),
            Ok(_) => {}
            Err(error) => return Err(format!("read tcp {address}: {}", dial_error(&error))),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let code = line.split(' ').nth(1).and_then(|code| code.get(..3)).and_then(|code| code.parse().ok());
    code.filter(|_| line.starts_with("HTTP/1.")).ok_or_else(|| "malformed HTTP response".into())
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

    #[tokio::test]
    async fn reads_the_status_line_and_says_why_it_cannot() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = stdx::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let get = HTTPGetAction { path: Some("/health".into()), ..HTTPGetAction::default() };
        assert_eq!(http_get("127.0.0.1", port, &get).await, Ok(503));
        let request = server.await.unwrap();
        assert!(request.starts_with("GET /health HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        let refused = http_get("127.0.0.1", port, &get).await.unwrap_err();
        assert_eq!(refused, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}
