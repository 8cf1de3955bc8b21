//! The server over real sockets, with a resolver behind it that this test plays.

use std::sync::atomic::AtomicU32;

use hickory_proto::op::Query;
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{RData, Record, RecordType};

use super::*;
use crate::input::{ObjectKey, ServiceType, ServiceView};
use crate::scratch::Namespace;
use crate::testbed::{endpoint, service, slice};

const SERVER: &str = "127.0.0.1:53";
const RESOLVER: &str = "127.0.0.2:53";

/// A resolver that knows a few names and counts what it is asked.
struct FakeResolver {
    asked: Arc<AtomicU32>,
}

impl FakeResolver {
    async fn start(tasks: &TaskTree) -> FakeResolver {
        let asked = Arc::new(AtomicU32::new(0));
        let udp = UdpSocket::bind(RESOLVER).await.unwrap();
        let tcp = TcpListener::bind(RESOLVER).await.unwrap();
        let count = Arc::clone(&asked);
        tasks.spawn("fake-udp", async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let request = Message::from_vec(&buffer[..length]).unwrap();
                let Some(reply) = answer(&request, Transport::Udp) else { continue };
                // A forger's guess comes first; it must not be believed.
                let mut forged = reply.clone();
                forged.metadata.id = forged.metadata.id.wrapping_add(1);
                udp.send_to(&forged.to_vec().unwrap(), peer).await.unwrap();
                udp.send_to(&reply.to_vec().unwrap(), peer).await.unwrap();
            }
        });
        tasks.spawn("fake-tcp", async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let mut bytes = vec![0; stream.read_u16().await.unwrap().into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let reply = answer(&Message::from_vec(&bytes).unwrap(), Transport::Tcp).unwrap().to_vec().unwrap();
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
        FakeResolver { asked }
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(request: &Message, transport: Transport) -> Option<Message> {
    let name = request.queries[0].name().clone();
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.add_queries(request.queries.iter().cloned());
    let record = |last: u8| Record::from_rdata(name.clone(), 20, RData::A(A([192, 0, 2, last].into())));
    match name.to_ascii().as_str() {
        "silent.example.org." => return None,
        "broken.example.org." => reply.metadata.response_code = ResponseCode::ServFail,
        "big.example.org." if transport == Transport::Udp => reply.metadata.truncation = true,
        "big.example.org." => reply.answers = (0..200).map(record).collect(),
        "www.example.org." => reply.answers = vec![record(1)],
        _ => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, 7);
            reply.authorities = vec![Record::from_rdata(Name::root(), 60, RData::SOA(soa))];
        }
    }
    Some(reply)
}

fn zone() -> Zone {
    let mut zone = Zone::new("cluster.local", vec![[127, 0, 0, 1].into()]).unwrap();
    zone.set_service(Arc::new(service("web", "10.96.0.10")));
    let mut many = service("many", "10.96.0.11");
    many.headless = true;
    many.cluster_ips.clear();
    zone.set_service(Arc::new(many));
    zone.set_slice(Arc::new(slice("many", (1..=100).map(|last| endpoint(&format!("10.244.1.{last}"))))));
    for (name, target) in [
        ("out", "www.example.org"),
        ("gone", "gone.example.org"),
        ("inner", "web.default.svc.cluster.local"),
        ("circle", "circle.default.svc.cluster.local"),
    ] {
        zone.set_service(Arc::new(ServiceView {
            key: ObjectKey::new("default", name),
            kind: ServiceType::ExternalName,
            external_name: target.into(),
            ..ServiceView::default()
        }));
    }
    zone
}

/// Runs `body` in a namespace where the server and the fake resolver are up.
fn with_server(options: ForwardOptions, body: impl AsyncFnOnce(&FakeResolver) + Send) {
    let namespace = Namespace::new();
    namespace.run(|| crate::netlink::Socket::route().unwrap().set_up(1).unwrap());
    namespace.run_async(async || {
        let tasks = TaskTree::default();
        let resolver = FakeResolver::start(&tasks).await;
        let resolvers = Resolvers::fixed(vec![RESOLVER.parse().unwrap()]);
        let server = DnsServer::new(Arc::new(RwLock::new(zone())), resolvers, &[], options);
        server.serve(Listeners::bind(&[SERVER.parse().unwrap()]).unwrap(), &tasks);
        body(&resolver).await;
        tasks.drain(Duration::from_secs(1)).await.unwrap();
    });
}

fn quick() -> ForwardOptions {
    ForwardOptions { try_timeout: Duration::from_millis(100), ..ForwardOptions::default() }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask_bytes(bytes: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(bytes, SERVER).await.unwrap();
    let mut buffer = vec![0; 65536];
    let length = stdx::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

async fn ask(message: &Message) -> Message {
    Message::from_vec(&ask_bytes(&message.to_vec().unwrap()).await).unwrap()
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

fn texts(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn answers_names_of_the_cluster_with_authority() {
    with_server(quick(), async |resolver| {
        let reply = ask(&question("web.DEFAULT.svc.cluster.local.", RecordType::A)).await;
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (77, ResponseCode::NoError));
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
        assert_eq!(texts(&reply), ["10.96.0.10"]);
        assert_eq!((reply.answers[0].ttl, reply.edns.is_some()), (30, false));
        assert_eq!(reply.queries[0].name().to_ascii(), "web.DEFAULT.svc.cluster.local.", "as the client wrote it");
        let reply = ask(&question("web.default.svc.cluster.local.", RecordType::AAAA)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!((reply.answers.len(), reply.authorities.len()), (0, 1));
        let reply = ask(&question("no.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
        assert_eq!(resolver.asked(), 0);
    });
}

#[test]
fn what_does_not_fit_is_cut_and_whole_by_tcp() {
    with_server(quick(), async |_| {
        let mut asked = question("many.default.svc.cluster.local.", RecordType::A);
        let bytes = ask_bytes(&asked.to_vec().unwrap()).await;
        assert!(bytes.len() <= 512, "{}", bytes.len());
        let reply = Message::from_vec(&bytes).unwrap();
        assert!(reply.metadata.truncation && !reply.answers.is_empty(), "clients without TCP can use what fits");
        asked.set_edns({
            let mut edns = Edns::new();
            edns.set_max_payload(4096);
            edns
        });
        let bytes = ask_bytes(&asked.to_vec().unwrap()).await;
        assert!((513..=1232).contains(&bytes.len()), "{}", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().edns.is_some());
        let mut stream = TcpStream::connect(SERVER).await.unwrap();
        for _ in 0..2 {
            let reply = ask_tcp(&mut stream, &asked).await;
            assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 100));
        }
        let reply = ask_tcp(&mut stream, &question("www.example.org.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["192.0.2.1"]);
    });
}

#[test]
fn other_names_are_forwarded_once_and_remembered() {
    with_server(quick(), async |resolver| {
        for name in ["www.example.org.", "WWW.example.org."] {
            let reply = ask(&question(name, RecordType::A)).await;
            assert_eq!(texts(&reply), ["192.0.2.1"]);
            assert!(!reply.metadata.authoritative && reply.answers[0].ttl <= 20);
        }
        assert_eq!(resolver.asked(), 1);
        for _ in 0..2 {
            let reply = ask(&question("no.example.org.", RecordType::A)).await;
            assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
        }
        assert_eq!(resolver.asked(), 2, "a no is remembered as well");
        let reply = ask(&question("big.example.org.", RecordType::A)).await;
        assert!(reply.metadata.truncation);
        let mut stream = TcpStream::connect(SERVER).await.unwrap();
        assert_eq!(ask_tcp(&mut stream, &question("big.example.org.", RecordType::A)).await.answers.len(), 200);
    });
}

#[test]
fn aliases_are_followed_inside_and_outside() {
    with_server(quick(), async |_| {
        let reply = ask(&question("out.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["www.example.org.", "192.0.2.1"]);
        let reply = ask(&question("inner.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["web.default.svc.cluster.local.", "10.96.0.10"]);
        let reply = ask(&question("gone.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!((reply.metadata.response_code, texts(&reply).len()), (ResponseCode::NXDomain, 1));
        let reply = ask(&question("circle.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    });
}

#[test]
fn a_failing_or_silent_resolver_is_a_failure_and_not_remembered() {
    with_server(quick(), async |resolver| {
        for name in ["silent.example.org.", "broken.example.org."] {
            let before = resolver.asked();
            let reply = ask(&question(name, RecordType::A)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{name}");
            assert_eq!(resolver.asked() - before, 2, "{name}: asked once a round");
        }
        let reply = ask(&question("web.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["10.96.0.10"]);
    });
}

#[test]
fn questions_beyond_the_limit_fail_at_once_and_do_not_hold_up_others() {
    let options = ForwardOptions { concurrent_max: 1, ..quick() };
    with_server(options, async |resolver| {
        let first = stdx::spawn(async { ask(&question("silent.example.org.", RecordType::A)).await });
        while resolver.asked() == 0 {
            tokio::task::yield_now().await;
        }
        let reply = ask(&question("www.example.org.", RecordType::A)).await;
        assert_eq!((reply.metadata.response_code, resolver.asked()), (ResponseCode::ServFail, 1));
        let reply = ask(&question("web.default.svc.cluster.local.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["10.96.0.10"]);
        assert_eq!(first.await.unwrap().metadata.response_code, ResponseCode::ServFail);
        let reply = ask(&question("www.example.org.", RecordType::A)).await;
        assert_eq!(texts(&reply), ["192.0.2.1"], "places are given back");
    });
}

#[test]
fn without_resolvers_other_names_are_refused() {
    let namespace = Namespace::new();
    namespace.run(|| crate::netlink::Socket::route().unwrap().set_up(1).unwrap());
    namespace.run_async(async || {
        let tasks = TaskTree::default();
        let server =
            DnsServer::new(Arc::new(RwLock::new(zone())), Resolvers::fixed(Vec::new()), &[], ForwardOptions::default());
        server.serve(Listeners::bind(&[SERVER.parse().unwrap()]).unwrap(), &tasks);
        let reply = ask(&question("www.example.org.", RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        tasks.drain(Duration::from_secs(1)).await.unwrap();
    });
}

#[test]
fn bad_requests_are_told_so_and_answers_are_not_answered() {
    with_server(quick(), async |_| {
        let good = question("web.default.svc.cluster.local.", RecordType::A);
        let code = async |message: &Message| ask(message).await.metadata.response_code;
        let mut update = good.clone();
        update.metadata.op_code = OpCode::Notify;
        assert_eq!(code(&update).await, ResponseCode::NotImp);
        let mut two = good.clone();
        two.add_query(good.queries[0].clone());
        assert_eq!(code(&two).await, ResponseCode::FormErr);
        let mut chaos = good.clone();
        chaos.queries[0].set_query_class(DNSClass::CH);
        assert_eq!(code(&chaos).await, ResponseCode::Refused);
        let mut newer = good.clone();
        newer.set_edns({
            let mut edns = Edns::new();
            edns.set_version(1);
            edns
        });
        // 16 is "bad version" here and "bad signature" elsewhere.
        assert_eq!(u16::from(code(&newer).await), u16::from(ResponseCode::BADVERS));
        let cut = &good.to_vec().unwrap()[..20];
        assert_eq!(Message::from_vec(&ask_bytes(cut).await).unwrap().metadata.response_code, ResponseCode::FormErr);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let answer = good.clone().into_response().to_vec().unwrap();
        for silent in [&answer[..], &[1, 2, 3], &[]] {
            socket.send_to(silent, SERVER).await.unwrap();
        }
        socket.send_to(&good.to_vec().unwrap(), SERVER).await.unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        assert_eq!(
            texts(&Message::from_vec(&buffer[..length]).unwrap()),
            ["10.96.0.10"],
            "only the question was answered"
        );
    });
}

#[test]
fn an_address_that_comes_later_can_be_listened_on_before() {
    Namespace::new().run_async(async || {
        let listeners = Listeners::bind(&["10.244.0.1:53".parse().unwrap()]).unwrap();
        assert_eq!((listeners.udp.len(), listeners.tcp.len()), (1, 1));
    });
}

#[test]
fn a_stub_domain_is_asked_of_its_own_resolver_and_all_is_counted() {
    let namespace = Namespace::new();
    namespace.run(|| crate::netlink::Socket::route().unwrap().set_up(1).unwrap());
    namespace.run_async(async || {
        let tasks = TaskTree::default();
        let _resolver = FakeResolver::start(&tasks).await;
        let stubs = [StubDomain::parse(&format!("example.org={RESOLVER}")).unwrap()];
        let server = DnsServer::new(
            Arc::new(RwLock::new(zone())),
            Resolvers::fixed(Vec::new()),
            &stubs,
            ForwardOptions::default(),
        );
        let metrics = server.metrics();
        server.serve(Listeners::bind(&[SERVER.parse().unwrap()]).unwrap(), &tasks);
        for _ in 0..2 {
            let reply = ask(&question("www.example.org.", RecordType::A)).await;
            assert_eq!(texts(&reply), ["192.0.2.1"]);
            assert!((19..=20).contains(&reply.answers[0].ttl));
        }
        let reply = ask(&question("no.example.org.", RecordType::A)).await;
        assert!((6..=7).contains(&reply.authorities[0].ttl), "a no lasts as its zone says, not as the record does");
        let reply = ask(&question("www.example.com.", RecordType::A)).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        ask(&question("web.default.svc.cluster.local.", RecordType::A)).await;
        let text = metrics.text();
        let rows = [
            "zone=\".\"} 4",
            "zone=\"cluster.local.\"} 1",
            "cache_hits_total{server=\"dns://:53\",view=\"\",zones=\".\"} 1",
        ];
        // The count follows the answer.
        for row in rows.iter().filter(|row| !row.contains("cluster.local")) {
            assert!(text.contains(row), "{row} in {text}");
        }
        tasks.drain(Duration::from_secs(1)).await.unwrap();
    });
}
