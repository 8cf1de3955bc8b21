//! Ports of a pod: connections into its network, each joined with a pair of streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::Runtime;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use stdx::Mono;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::spdy::{self, Incoming, Stream};
use wire::websocket::WebSocket;

use super::spdy::header;
use super::{CREATION_TIMEOUT, Input, Output, session, websocket};

/// Ports in one request of the older form; channels are numbered by a byte, two a port.
const PORTS_MAX: usize = 127;

/// Where ports lead.
#[derive(Clone)]
pub struct Pod {
    pub runtime: Arc<dyn Runtime>,
    pub sandbox_id: String,
}

impl Pod {
    /// Joins a pair of streams with a connection to a port, until either ends.
    async fn forward(&self, port: u16, input: Input, mut data: Output, mut error: Output) {
        match self.runtime.port_forward(&self.sandbox_id, port).await {
            Ok(connection) => {
                if let Err(why) = session::relay(connection, input, &mut data).await {
                    // A client that is gone is not told.
                    drop(error.write(why.to_string().into()).await);
                }
            }
            Err(why) => {
                let why = format!("error forwarding port {port} to pod {}, uid : {why}", self.sandbox_id);
                // A client that is gone is not told.
                drop(error.write(why.into()).await);
            }
        }
        data.finish().await;
        error.finish().await;
    }
}

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Purpose {
    port: u16,
    request: String,
    is_data: bool,
}

/// Reads a stream's headers. A client that numbers no requests opens the two streams of each one after the other.
fn purpose(id: u32, port: &str, kind: &str, request: &str) -> Option<Purpose> {
    let port = port.parse().ok().filter(|port| *port > 0)?;
    let is_data = match kind {
        "data" => true,
        "error" => false,
        _ => return None,
    };
    let request = match (request, is_data) {
        ("", true) => id.saturating_sub(2).to_string(),
        ("", false) => id.to_string(),
        (request, _) => request.to_owned(),
    };
    Some(Purpose { port, request, is_data })
}

/// Streams that wait for their other half.
#[derive(Default)]
struct Pairs(BTreeMap<String, Half>);

struct Half {
    purpose: Purpose,
    stream: Stream,
    since: Mono,
}

/// What became of a stream.
enum Paired {
    Waits,
    Complete {
        port: u16,
        data: Stream,
        error: Stream,
    },
    /// There is one of its kind already; both are dropped.
    Twice,
}

impl Pairs {
    fn add(&mut self, purpose: Purpose, stream: Stream, now: Mono) -> Paired {
        match self.0.remove(&purpose.request) {
            None => {
                self.0.insert(purpose.request.clone(), Half { purpose, stream, since: now });
                Paired::Waits
            }
            Some(half) if half.purpose.is_data == purpose.is_data => Paired::Twice,
            Some(half) if purpose.is_data => Paired::Complete { port: purpose.port, data: stream, error: half.stream },
            Some(half) => Paired::Complete { port: half.purpose.port, data: half.stream, error: stream },
        }
    }

    /// When the first that waits has waited too long.
    fn deadline(&self) -> Option<Mono> {
        self.0.values().map(|half| half.since + CREATION_TIMEOUT).min()
    }

    fn expire(&mut self, now: Mono) {
        self.0.retain(|_, half| half.since + CREATION_TIMEOUT > now);
    }
}

/// Serves pairs of streams on a SPDY connection until the client is gone.
pub async fn serve_spdy<C>(connection: C, pod: Pod)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut session, work) = spdy::start(connection, spdy::Side::Server, spdy::Limits::default());
    let serving = async {
        let mut pairs = Pairs::default();
        let mut forwarding = FuturesUnordered::new();
        loop {
            let late = pairs.deadline();
            let wait = async {
                match late {
                    Some(late) => stdx::sleep_until(late).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                incoming = session.accept() => match incoming {
                    Some(incoming) => {
                        if let Some((port, data, error)) = admit(&mut pairs, incoming).await {
                            forwarding.push(joined(&pod, port, data, error));
                        }
                    }
                    // What is under way goes on to its end.
                    None => break,
                },
                Some(()) = forwarding.next(), if !forwarding.is_empty() => {}
                () = wait => pairs.expire(stdx::mono()),
            }
        }
        let gone = session.closed();
        drop(session);
        let rest = async { while forwarding.next().await.is_some() {} };
        tokio::select! {
            () = rest => {}
            () = gone => {}
        }
    };
    let ((), ended) = tokio::join!(serving, work);
    if let Err(error) = ended {
        tracing::debug!(%error, "port-forward connection ended");
    }
}

async fn joined(pod: &Pod, port: u16, data: Stream, error: Stream) {
    let (input, output) = data.split();
    // Nothing is read from the stream of errors, but it ends when its reader is dropped.
    let (_errors_in, errors) = error.split();
    let (input, output) = (Input::Spdy(Box::new(input)), Output::Spdy(Box::new(output)));
    pod.forward(port, input, output, Output::Spdy(Box::new(errors))).await;
}

/// Takes a stream, or refuses one whose headers are wrong; a complete pair when it has its other half.
async fn admit(pairs: &mut Pairs, incoming: Incoming) -> Option<(u16, Stream, Stream)> {
    let texts = ["port", "streamtype", "requestid"].map(|name| header(&incoming, name));
    let purpose = purpose(incoming.id(), texts[0], texts[1], texts[2])?;
    let stream = incoming.accept().await.ok()?;
    match pairs.add(purpose, stream, stdx::mono()) {
        Paired::Complete { port, data, error } => Some((port, data, error)),
        Paired::Waits | Paired::Twice => None,
    }
}

/// Serves SPDY that is tunnelled in a WebSocket.
pub async fn serve_tunnel(socket: WebSocket, pod: Pod) {
    let (stream, work) = websocket::tunnel(socket);
    tokio::join!(serve_spdy(stream, pod), work);
}

/// Serves the older form: all ports at once, on channels of a WebSocket.
pub async fn serve_channels(socket: WebSocket, pod: Pod, ports: &[u16]) {
    let (opened, gone, work) = websocket::ports(socket, ports).await;
    let serving = async {
        let mut forwarding = FuturesUnordered::new();
        for websocket::Port { port, data: (input, mut data), mut error } in opened {
            let pod = &pod;
            forwarding.push(async move {
                let number = bytes::Bytes::copy_from_slice(&port.to_le_bytes());
                if data.write(number.clone()).await.is_ok() && error.write(number).await.is_ok() {
                    pod.forward(port, input, data, error).await;
                }
            });
        }
        while forwarding.next().await.is_some() {}
    };
    let serving = async {
        if gone.run(serving).await.is_none() {
            tracing::debug!("the client of a port-forward went away");
        }
    };
    tokio::join!(serving, work);
}

/// The ports of a request of the older form, or what is wrong with them.
pub fn ports(query: &crate::server::Query) -> Result<Vec<u16>, String> {
    let texts: Vec<&str> = query.all("port").chain(query.all("ports")).collect();
    if texts.is_empty() {
        return Err("query parameter \"port\" is required".into());
    }
    let mut ports = Vec::new();
    for text in texts {
        if text.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for part in text.split(',') {
            match part.parse::<u16>() {
                Ok(0) => return Err(format!("port {text:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(_) => return Err(format!("unable to parse {text:?} as a port")),
            }
        }
    }
    if ports.len() > PORTS_MAX {
        return Err(format!("at most {PORTS_MAX} ports can be forwarded at once"));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_by_their_headers() {
        let check = |id, port, kind, request, expected: Option<(u16, &str, bool)>| {
            let found = purpose(id, port, kind, request);
            let found = found.as_ref().map(|found| (found.port, found.request.as_str(), found.is_data));
            assert_eq!(found, expected, "{id} {port} {kind} {request}");
        };
        check(1, "80", "error", "0", Some((80, "0", false)));
        check(3, "80", "data", "0", Some((80, "0", true)));
        check(5, "80", "error", "", Some((80, "5", false)));
        check(7, "80", "data", "", Some((80, "5", true)));
        for (port, kind) in [("", "data"), ("0", "data"), ("65536", "data"), ("x", "data"), ("80", ""), ("80", "stdin")]
        {
            check(1, port, kind, "0", None);
        }
    }

    #[test]
    fn ports_of_the_older_form_are_read_and_limited() {
        let check = |query: &str, expected: Result<&[u16], &str>| {
            let found = ports(&crate::server::Query::parse(query));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{query}");
        };
        check("port=80&port=443", Ok(&[80, 443]));
        check("port=80,443", Ok(&[80, 443]));
        check("", Err("query parameter \"port\" is required"));
        check("port=", Err("query parameter \"port\" cannot be empty"));
        check("port=0", Err("port \"0\" must be > 0"));
        check("port=x", Err("unable to parse \"x\" as a port"));
        let many = vec!["1"; 128].join(",");
        check(&format!("port={many}"), Err("at most 127 ports can be forwarded at once"));
    }
}
