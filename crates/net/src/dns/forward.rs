//! Asking the host's resolvers, and remembering what they said.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use stdx::Mono;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::metrics::Metrics;
use super::resolvers::{Resolvers, StubDomain};

/// A size that no path on the way has to split.
const PAYLOAD: u16 = 1232;
const HEADER_SIZE: usize = 12;

/// Limits of forwarding.
#[derive(Clone, Copy, Debug)]
pub struct ForwardOptions {
    /// How long one resolver may take before the next is asked.
    pub try_timeout: Duration,
    /// How often the list of resolvers is gone through.
    pub rounds: usize,
    /// How many questions may be under way at once; more are answered with "server failure".
    pub concurrent_max: usize,
    /// How many answers are remembered.
    pub cache_max: usize,
    /// No answer is remembered for longer, and no client is told to; as upstream's usual configuration has it.
    pub cache_time_max: Duration,
    /// Every answer is remembered for so long at least, as upstream's server does.
    pub cache_time_min: Duration,
}

impl Default for ForwardOptions {
    fn default() -> Self {
        ForwardOptions {
            try_timeout: Duration::from_millis(1500),
            rounds: 2,
            concurrent_max: 256,
            cache_max: 2048,
            cache_time_max: Duration::from_secs(30),
            cache_time_min: Duration::from_secs(5),
        }
    }
}

/// What resolvers said about a question.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) authentic: bool,
}

impl Reply {
    fn failure(code: ResponseCode) -> Reply {
        Reply { code, answers: Vec::new(), authorities: Vec::new(), authentic: false }
    }
}

/// A question as it is forwarded.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) query: Query,
    pub(super) dnssec: bool,
    pub(super) checking_disabled: bool,
    pub(super) recursion_desired: bool,
}

type Key = (Vec<u8>, u16, bool, bool);

struct Remembered {
    reply: Reply,
    since: Mono,
    until: Mono,
}

/// The way to the host's resolvers.
pub(super) struct Forwarder {
    options: ForwardOptions,
    resolvers: Resolvers,
    /// The longest domain first.
    stubs: Vec<(Vec<String>, Resolvers)>,
    metrics: Arc<Metrics>,
    under_way: AtomicUsize,
    cache: Mutex<BTreeMap<Key, Remembered>>,
}

impl Forwarder {
    pub(super) fn new(
        options: ForwardOptions,
        resolvers: Resolvers,
        stubs: &[StubDomain],
        metrics: Arc<Metrics>,
    ) -> Forwarder {
        let mut stubs: Vec<_> = stubs.iter().map(|stub| (stub.labels().to_vec(), stub.resolvers())).collect();
        stubs.sort_by_key(|(labels, _)| std::cmp::Reverse(labels.len()));
        Forwarder { options, resolvers, stubs, metrics, under_way: AtomicUsize::new(0), cache: Mutex::default() }
    }

    /// Who knows names like this one.
    fn resolvers_of(&self, question: &Question) -> &Resolvers {
        let name: Vec<String> = super::zone::labels(question.query.name());
        let stub = self.stubs.iter().find(|(domain, _)| name.ends_with(domain));
        stub.map_or(&self.resolvers, |(_, resolvers)| resolvers)
    }

    /// What was remembered of an earlier answer to this question, its times run down accordingly.
    pub(super) fn recall(&self, question: &Question) -> Option<Reply> {
        let cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let remembered = cache.get(&key_of(question))?;
        let now = stdx::mono();
        if now >= remembered.until {
            return None;
        }
        let age = (now - remembered.since).as_secs() as u32;
        let mut reply = remembered.reply.clone();
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(reply)
    }

    /// The host's resolvers' answer.
    pub(super) async fn ask(&self, question: &Question) -> Reply {
        if let Some(reply) = self.recall(question) {
            self.metrics.count_cache("hits");
            return reply;
        }
        self.metrics.count_cache("misses");
        let _place = match Place::take(&self.under_way, self.options.concurrent_max) {
            Some(place) => place,
            None => return Reply::failure(ResponseCode::ServFail),
        };
        let servers = self.resolvers_of(question).servers();
        if servers.is_empty() {
            return Reply::failure(ResponseCode::Refused);
        }
        let mut last = Reply::failure(ResponseCode::ServFail);
        for server in servers.iter().cycle().take(servers.len() * self.options.rounds) {
            match stdx::timeout(self.options.try_timeout, ask_one(*server, question)).await {
                Ok(Ok(mut reply)) if !matches!(reply.code, ResponseCode::ServFail | ResponseCode::Refused) => {
                    self.remember(question, &mut reply);
                    return reply;
                }
                Ok(Ok(reply)) => last = reply,
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver failed"),
                Err(_) => tracing::debug!(%server, "a resolver did not answer"),
            }
        }
        last
    }

    /// Remembers a reply for as long as its records say, within limits, which is told to the client as well: it would be
    /// odd to hear a long time first and a short one after.
    fn remember(&self, question: &Question, reply: &mut Reply) {
        let Some(seconds) = lifetime(reply) else { return };
        let now = stdx::mono();
        let lasts = Duration::from_secs(seconds.into()).clamp(self.options.cache_time_min, self.options.cache_time_max);
        let until = now + lasts;
        for record in reply.answers.iter_mut().chain(&mut reply.authorities) {
            record.ttl = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX);
        }
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.len() >= self.options.cache_max {
            cache.retain(|_, remembered| now < remembered.until);
        }
        if cache.len() >= self.options.cache_max {
            // All are fresh: the one that ends first makes room.
            let oldest = cache.iter().min_by_key(|(_, remembered)| remembered.until).map(|(key, _)| key.clone());
            oldest.and_then(|key| cache.remove(&key));
        }
        cache.insert(key_of(question), Remembered { reply: reply.clone(), since: now, until });
    }
}

/// One of a limited number of places; given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(count: &'a AtomicUsize, limit: usize) -> Option<Place<'a>> {
        let place = Place(count);
        (count.fetch_add(1, Ordering::Relaxed) < limit).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn key_of(question: &Question) -> Key {
    let name = question.query.name().to_lowercase();
    let mut bytes = Vec::with_capacity(name.len());
    for label in name.iter() {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label);
    }
    (bytes, question.query.query_type().into(), question.dnssec, question.checking_disabled)
}

/// For how many seconds a reply may be remembered: as its shortest record says, or its zone's record for a "no".
fn lifetime(reply: &Reply) -> Option<u32> {
    if !matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let shortest = reply.answers.iter().map(|record| record.ttl).min();
    let negative = reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    shortest.or(negative)
}

async fn ask_one(server: SocketAddr, question: &Question) -> std::io::Result<Reply> {
    let request = request(question);
    let bytes = request.to_vec().map_err(std::io::Error::other)?;
    let reply = ask_by_udp(server, &request, &bytes).await?;
    if reply.metadata.truncation {
        return ask_by_tcp(server, &request, &bytes).await.map(reply_of);
    }
    Ok(reply_of(reply))
}

fn request(question: &Question) -> Message {
    let mut message = Message::new(stdx::random_u64() as u16, hickory_proto::op::MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD).set_dnssec_ok(question.dnssec);
    message.set_edns(edns);
    message
}

/// A socket of its own for every question: its number is what a forger would have to guess beside the id.
async fn ask_by_udp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(reply) = matching(&buffer[..length], request) {
            return Ok(reply);
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, request: &Message, bytes: &[u8]) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let framed = [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; length.into()];
    stream.read_exact(&mut buffer).await?;
    matching(&buffer, request).ok_or_else(|| std::io::Error::other("the answer is to another question"))
}

/// The message in `bytes` if it answers `request`.
fn matching(bytes: &[u8], request: &Message) -> Option<Message> {
    if bytes.len() < HEADER_SIZE || bytes[..2] != request.metadata.id.to_be_bytes() {
        return None;
    }
    let reply = Message::from_vec(bytes).ok()?;
    let is_response = reply.metadata.message_type == hickory_proto::op::MessageType::Response;
    (is_response && reply.queries == request.queries).then_some(reply)
}

fn reply_of(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        authentic: message.metadata.authentic_data,
        answers: message.answers,
        authorities: message.authorities,
    }
}

/// The addresses of `kind` that a reply has, for a name that was an alias.
pub(super) fn only(reply: Reply, kind: RecordType) -> Reply {
    let keep = |record: &Record| record.record_type() == kind || record.record_type() == RecordType::CNAME;
    Reply { answers: reply.answers.into_iter().filter(keep).collect(), ..reply }
}
