//! Requests over HTTP/2 with TLS, one at a time on each of some connections, and how long each took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Bytes, BytesMut};
use client::ClientConfig;
use client::config::Credentials;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};
use http::{Method, Request};
use wire::tls::{CertificateSlot, ClientTls, Trust, certified_key};
use wire::{Body, ClientOptions};

use super::server::Server;

/// One connection to a server.
#[derive(Clone)]
pub struct Connection {
    client: wire::Client,
    server: Arc<str>,
}

/// What is asked.
#[derive(Clone)]
pub struct Ask {
    pub method: Method,
    pub path: String,
    pub accept: &'static str,
    /// Content type and body.
    pub body: Option<(&'static str, Bytes)>,
    pub gzip: bool,
}

impl Ask {
    /// A GET.
    pub fn get(path: impl Into<String>, accept: &'static str) -> Ask {
        Ask { method: Method::GET, path: path.into(), accept, body: None, gzip: false }
    }

    /// A POST.
    pub fn post(path: impl Into<String>, content_type: &'static str, body: impl Into<Bytes>) -> Ask {
        let body = Some((content_type, body.into()));
        Ask { method: Method::POST, path: path.into(), accept: content_type, body, gzip: false }
    }
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub bytes: Bytes,
    /// From sending to the first piece of the body.
    pub first_byte: Duration,
}

impl Connection {
    /// A connection that is made with the first request.
    pub fn open(config: &ClientConfig) -> Result<Connection> {
        let trust = match &config.ca_pem {
            Some(roots) if !config.insecure => Trust::from_pem(roots)?,
            _ => Trust::Anyone,
        };
        let identity = match &config.credentials {
            Credentials::Certificate { chain_pem, key_pem } => {
                Some(Arc::new(CertificateSlot::new(certified_key(chain_pem, key_pem)?)) as _)
            }
            _ => None,
        };
        let options = ClientOptions { tls: Some(ClientTls::new(&trust, identity)?), ..ClientOptions::default() };
        Ok(Connection { client: wire::Client::new(options), server: config.server.as_str().into() })
    }

    /// Sends a request; the body of the answer is left to the caller.
    pub async fn send(&self, ask: &Ask) -> Result<http::Response<Body>> {
        let mut request = Request::builder().method(ask.method.clone()).uri(format!("{}{}", self.server, ask.path));
        request = request.header(ACCEPT, ask.accept);
        if ask.gzip {
            request = request.header(ACCEPT_ENCODING, "gzip");
        }
        let body = match &ask.body {
            None => Body::Empty,
            Some((content_type, bytes)) => {
                request = request.header(CONTENT_TYPE, *content_type);
                Body::from(bytes.clone())
            }
        };
        Ok(self.client.send(request.body(body)?).await?)
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&self, ask: &Ask) -> Result<Answer> {
        let sent = stdx::mono();
        let response = self.send(ask).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut first_byte = Duration::ZERO;
        let mut bytes = BytesMut::new();
        while let Some(piece) = body.next().await {
            if first_byte.is_zero() {
                first_byte = stdx::mono() - sent;
            }
            bytes.extend_from_slice(&piece?);
        }
        Ok(Answer { status, bytes: bytes.freeze(), first_byte })
    }

    /// A GET whatever the answer.
    pub async fn get(&self, path: &str, accept: &'static str) -> Result<Answer> {
        self.ask(&Ask::get(path, accept)).await
    }

    /// A request that must succeed.
    pub async fn must(&self, ask: &Ask) -> Result<Answer> {
        let answer = self.ask(ask).await?;
        if !(200..300).contains(&answer.status) {
            bail!("{} {}: {}: {}", ask.method, ask.path, answer.status, String::from_utf8_lossy(&answer.bytes));
        }
        Ok(answer)
    }
}

/// A load that was borne.
pub struct Load {
    pub operations: u64,
    pub wall: Duration,
    /// The server's processor time for all of it.
    pub cpu: Duration,
    /// In ascending order.
    latencies: Vec<Duration>,
}

impl Load {
    /// The latency that so many hundredths of the requests did not exceed.
    pub fn percentile(&self, hundredths: usize) -> Duration {
        percentile(&self.latencies, hundredths)
    }
}

/// Out of ascending values, the one that so many hundredths do not exceed; zero out of none.
pub fn percentile(ascending: &[Duration], hundredths: usize) -> Duration {
    let rank = (ascending.len() * hundredths).div_ceil(100).max(1);
    ascending.get(rank - 1).copied().unwrap_or_default()
}

/// Sends `total` requests, on each connection the next one as soon as the last was answered.
pub async fn bear(
    server: &Server,
    connections: usize,
    total: u64,
    ask: impl Fn(u64) -> Ask + Send + Sync + 'static,
) -> Result<Load> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let connection = Connection::open(&server.user)?;
        connection.must(&Ask::get("/readyz", "*/*")).await.context("connect")?;
        open.push(connection);
    }
    let (next, ask) = (Arc::new(AtomicU64::new(0)), Arc::new(ask));
    let (cpu, start) = (server.cpu()?, stdx::mono());
    let mut tasks = Vec::new();
    for connection in open {
        let (next, ask) = (next.clone(), ask.clone());
        tasks.push(stdx::spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= total {
                    return anyhow::Ok(latencies);
                }
                let sent = stdx::mono();
                connection.must(&ask(index)).await?;
                latencies.push(stdx::mono() - sent);
            }
        }));
    }
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.extend(task.await??);
    }
    let wall = stdx::mono() - start;
    latencies.sort_unstable();
    Ok(Load { operations: total, wall, cpu: server.cpu()?.saturating_sub(cpu), latencies })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let check = |values: &[u64], hundredths, expected| {
            let values: Vec<Duration> = values.iter().copied().map(Duration::from_millis).collect();
            assert_eq!(percentile(&values, hundredths), Duration::from_millis(expected));
        };
        check(&[], 99, 0);
        check(&[7], 50, 7);
        check(&[1, 2, 3, 4], 50, 2);
        check(&[1, 2, 3, 4], 99, 4);
        check(&(1..=200).collect::<Vec<_>>(), 99, 198);
    }
}
