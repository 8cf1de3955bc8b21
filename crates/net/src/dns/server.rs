//! The server: questions in by UDP and TCP, answers out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use stdx::TaskTree;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::forward::{ForwardOptions, Forwarder, Question, Reply, only};
use super::metrics::{Metrics, Seen};
use super::resolvers::{Resolvers, StubDomain};
use super::zone::{Answer, Outcome, Zone};
use crate::error::NetError;

/// What clients without EDNS can take by UDP.
const UDP_SIZE_PLAIN: usize = 512;
/// What we send by UDP at most, and tell clients that we take: no path on the way has to split it.
const UDP_SIZE_MAX: u16 = 1232;
/// A chain of aliases longer than this is a circle.
const ALIASES_MAX: usize = 8;
const CONNECTIONS_MAX: usize = 128;
/// Answers that wait for a resolver, beyond the forwarder's own limit on questions under way.
const WAITING_MAX: usize = 1024;
/// A connection on which nothing is asked for so long is closed.
const IDLE: Duration = Duration::from_secs(10);
const HEADER_SIZE: usize = 12;

/// A DNS server for a cluster's names and, through the host's resolvers, all others.
#[derive(Clone)]
pub struct DnsServer {
    zone: Arc<RwLock<Zone>>,
    forwarder: Arc<Forwarder>,
    metrics: Arc<Metrics>,
    turn: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

/// Bound sockets of a server; questions wait in them until it runs.
pub struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Binds UDP and TCP at `addresses`. An address need not be the machine's yet: after a reboot the server may be up
    /// before the interface that will have it.
    pub fn bind(addresses: &[SocketAddr]) -> Result<Listeners, NetError> {
        let mut listeners = Listeners { udp: Vec::new(), tcp: Vec::new() };
        for address in addresses {
            listeners.udp.push(bind_udp(*address).map_err(NetError::io(format!("listen on udp {address}")))?);
            listeners.tcp.push(bind_tcp(*address).map_err(NetError::io(format!("listen on tcp {address}")))?);
        }
        Ok(listeners)
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = open(address, rustix::net::SocketType::DGRAM)?;
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(socket.into())
}

/// Listens at an address that need not be the machine's yet.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = open(address, rustix::net::SocketType::STREAM)?;
    // Connections of a predecessor that are still winding down must not keep us from the port.
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 128)?;
    TcpListener::from_std(socket.into())
}

fn open(address: SocketAddr, kind: rustix::net::SocketType) -> io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, sockopt};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match address.ip() {
        IpAddr::V4(_) => sockopt::set_ip_freebind(socket.as_fd(), true)?,
        IpAddr::V6(_) => sockopt::set_ipv6_freebind(socket.as_fd(), true)?,
    }
    Ok(socket)
}

/// How an answer goes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What became of a question without waiting.
enum First {
    /// Nothing is to be said.
    Silence,
    /// The answer.
    Ready(Vec<u8>),
    /// The question must be forwarded: the request, the records found on the way, and the name they led to.
    Forward(Box<Message>, Vec<hickory_proto::rr::Record>, Name),
}

impl DnsServer {
    /// A server for the names in `zone`, which may change while it runs.
    pub fn new(
        zone: Arc<RwLock<Zone>>,
        resolvers: Resolvers,
        stubs: &[StubDomain],
        options: ForwardOptions,
    ) -> DnsServer {
        let metrics = Arc::<Metrics>::default();
        DnsServer {
            zone,
            forwarder: Arc::new(Forwarder::new(options, resolvers, stubs, Arc::clone(&metrics))),
            metrics,
            turn: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Counts an answered question.
    fn count(&self, question: &[u8], answer: &[u8], peer: SocketAddr, transport: Transport, began: stdx::Mono) {
        // What cannot be read was no question.
        let Ok(request) = Message::from_vec(question) else { return };
        let Some(query) = request.queries.first() else { return };
        let origin = self.zone.read().unwrap_or_else(PoisonError::into_inner).origin();
        let name = query.name().to_lowercase();
        let code = answer.get(3).map_or(0, |flags| flags & 0xf);
        self.metrics.count(Seen {
            transport: if transport == Transport::Udp { "udp" } else { "tcp" },
            ipv6: peer.is_ipv6(),
            kind: &query.query_type().to_string(),
            zone: &if origin.zone_of(&name) { origin.to_ascii() } else { ".".to_owned() },
            code: code_name(code),
            took: stdx::mono() - began,
        });
    }

    /// Serves on `listeners` until the tasks are cancelled.
    pub fn serve(&self, listeners: Listeners, tasks: &TaskTree) {
        for socket in listeners.udp {
            tasks.spawn("dns-udp", self.clone().serve_udp(Arc::new(socket), tasks.clone()));
        }
        for listener in listeners.tcp {
            tasks.spawn("dns-tcp", self.clone().serve_tcp(listener, tasks.clone()));
        }
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>, tasks: TaskTree) {
        let mut buffer = vec![0; 4096];
        let mut backoff = stdx::Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // A client that went away reports itself here; that is no reason to stop.
                    tracing::debug!(%error, "a question could not be received");
                    stdx::sleep(backoff.fail()).await;
                    continue;
                }
            };
            backoff.succeed();
            let (began, asked) = (stdx::mono(), &buffer[..length]);
            match self.first(asked, Transport::Udp) {
                First::Silence => {}
                First::Ready(bytes) => {
                    send(&socket, &bytes, peer).await;
                    self.count(asked, &bytes, peer, Transport::Udp, began);
                }
                First::Forward(request, found, name) => {
                    if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
                        self.waiting.fetch_sub(1, Ordering::Relaxed);
                        send(&socket, &failure(&request, ResponseCode::ServFail), peer).await;
                        continue;
                    }
                    let (server, socket, asked) = (self.clone(), Arc::clone(&socket), asked.to_vec());
                    tasks.spawn("dns-forward", async move {
                        let bytes = server.forward(&request, found, name, Transport::Udp).await;
                        server.waiting.fetch_sub(1, Ordering::Relaxed);
                        send(&socket, &bytes, peer).await;
                        server.count(&asked, &bytes, peer, Transport::Udp, began);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener, tasks: TaskTree) {
        let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
        let mut backoff = stdx::Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff.succeed();
                    let server = self.clone();
                    tasks.spawn("dns-connection", async move {
                        // How a client ends its connection is its own affair.
                        drop(server.serve_connection(stream, peer).await);
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a DNS connection could not be accepted");
                    stdx::sleep(backoff.fail()).await;
                }
            }
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        loop {
            let length = stdx::timeout(IDLE, stream.read_u16()).await.map_err(io::Error::other)??;
            let mut bytes = vec![0; length.into()];
            stdx::timeout(IDLE, stream.read_exact(&mut bytes)).await.map_err(io::Error::other)??;
            let began = stdx::mono();
            let answer = match self.first(&bytes, Transport::Tcp) {
                First::Silence => return Ok(()),
                First::Ready(answer) => answer,
                First::Forward(request, found, name) => self.forward(&request, found, name, Transport::Tcp).await,
            };
            let framed = [&(answer.len() as u16).to_be_bytes()[..], &answer].concat();
            stdx::timeout(IDLE, stream.write_all(&framed)).await.map_err(io::Error::other)??;
            self.count(&bytes, &answer, peer, Transport::Tcp, began);
        }
    }

    /// Answers what can be answered without asking anybody.
    fn first(&self, bytes: &[u8], transport: Transport) -> First {
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return First::Silence,
            Err(_) => return malformed(bytes),
        };
        if let Some(code) = fault(&request) {
            return First::Ready(failure(&request, code));
        }
        let query = &request.queries[0];
        let (mut found, mut name) = (Vec::new(), query.name().clone());
        for _ in 0..ALIASES_MAX {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let answer = {
                let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
                zone.answer(&name, query.query_type(), turn)
            };
            match answer {
                Answer::Here(outcome) => return First::Ready(ours(&request, found, *outcome, transport)),
                Answer::Elsewhere => return First::Forward(Box::new(request), found, name),
                Answer::Alias { record, target } => {
                    found.push(*record);
                    name = target;
                }
            }
        }
        First::Ready(failure(&request, ResponseCode::ServFail))
    }

    async fn forward(
        &self,
        request: &Message,
        found: Vec<hickory_proto::rr::Record>,
        name: Name,
        transport: Transport,
    ) -> Vec<u8> {
        let mut query = request.queries[0].clone();
        query.set_name(name);
        let kind = query.query_type();
        let question = Question {
            query,
            dnssec: request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: request.metadata.checking_disabled,
            recursion_desired: request.metadata.recursion_desired,
        };
        let reply = self.forwarder.ask(&question).await;
        let reply = if found.is_empty() { reply } else { only(reply, kind) };
        theirs(request, found, reply, transport)
    }
}

/// The usual name of a response's code.
fn code_name(code: u8) -> &'static str {
    match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => "other",
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, peer).await {
        tracing::debug!(%error, %peer, "an answer could not be sent");
    }
}

/// Why a well-formed request cannot be answered.
fn fault(request: &Message) -> Option<ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Some(ResponseCode::NotImp);
    }
    let [query] = request.queries.as_slice() else { return Some(ResponseCode::FormErr) };
    if request.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
        return Some(ResponseCode::BADVERS);
    }
    (query.query_class() != DNSClass::IN).then_some(ResponseCode::Refused)
}

/// A request that cannot be read is told so if it at least looks like one.
fn malformed(bytes: &[u8]) -> First {
    const RESPONSE: u8 = 0x80;
    if bytes.len() < HEADER_SIZE || bytes[2] & RESPONSE != 0 {
        return First::Silence;
    }
    let id = u16::from_be_bytes([bytes[0], bytes[1]]);
    let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    message.to_vec().map_or(First::Silence, First::Ready)
}

fn response_to(request: &Message) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata = Metadata::response_from_request(&request.metadata);
    message.metadata.recursion_available = true;
    message.add_queries(request.queries.iter().cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_SIZE_MAX).set_dnssec_ok(asked.flags().dnssec_ok);
        message.set_edns(edns);
    }
    message
}

fn failure(request: &Message, code: ResponseCode) -> Vec<u8> {
    let mut message = response_to(request);
    message.metadata.response_code = code;
    encode(message, request, Transport::Udp)
}

fn ours(request: &Message, found: Vec<hickory_proto::rr::Record>, outcome: Outcome, transport: Transport) -> Vec<u8> {
    let mut message = response_to(request);
    message.metadata.authoritative = true;
    message.metadata.response_code = if outcome.exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
    message.answers = found;
    message.answers.extend(outcome.answers);
    message.authorities = outcome.authority.into_iter().collect();
    message.additionals = outcome.additionals;
    encode(message, request, transport)
}

fn theirs(request: &Message, found: Vec<hickory_proto::rr::Record>, reply: Reply, transport: Transport) -> Vec<u8> {
    let mut message = response_to(request);
    message.metadata.response_code = reply.code;
    message.metadata.authentic_data = reply.authentic;
    message.answers = found;
    message.answers.extend(reply.answers);
    message.authorities = reply.authorities;
    encode(message, request, transport)
}

/// The message as bytes that the client can take. What does not fit goes in order of its use to the client: first what
/// was not asked for, then as many answers as it takes, which is told, so that the client may ask again by TCP.
fn encode(mut message: Message, request: &Message, transport: Transport) -> Vec<u8> {
    let limit = match (transport, &request.edns) {
        (Transport::Tcp, _) => usize::from(u16::MAX),
        (Transport::Udp, None) => UDP_SIZE_PLAIN,
        (Transport::Udp, Some(edns)) => usize::from(edns.max_payload().min(UDP_SIZE_MAX)).max(UDP_SIZE_PLAIN),
    };
    loop {
        match message.to_vec() {
            Ok(bytes) if bytes.len() <= limit => return bytes,
            Ok(_) if !message.additionals.is_empty() => message.additionals.clear(),
            Ok(_) if !message.answers.is_empty() => {
                message.authorities.clear();
                message.metadata.truncation = true;
                message.answers.truncate(message.answers.len() * 3 / 4);
            }
            Ok(_) | Err(_) => {
                return Message::error_msg(request.metadata.id, OpCode::Query, ResponseCode::ServFail)
                    .to_vec()
                    .unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests;
