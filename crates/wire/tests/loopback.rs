//! Both ends against each other over real sockets and real TLS.
#![allow(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, Version};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;
use stdx::{Cancel, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use wire::client::{Protocols, Route};
use wire::tls::{
    CertificateSlot, ClientCertificates, ClientRoots, ClientTls, ServerTls, Trust, certified_key, verify_client_chain,
};
use wire::websocket::{self, Message, MessageLimits, WebSocketError};
use wire::{
    Body, BodyError, Client, ClientError, ClientOptions, ConnectionInfo, Limits, Listener, ServeError, Service,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn trust(&self) -> Trust {
        Trust::Roots(vec![self.0.der().clone()])
    }

    fn issue(&self, common_name: &str, usage: ExtendedKeyUsagePurpose) -> CertificateSlot {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        CertificateSlot::new(certified_key(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap())
    }
}

struct TestServer {
    address: SocketAddr,
    cancel: Cancel,
    ended: Task<Result<(), ServeError>>,
}

impl TestServer {
    async fn start(tls: Option<ServerTls>, limits: Limits, service: Service) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = Cancel::default();
        let ended = stdx::spawn(wire::serve(vec![Listener::Tcp(listener)], tls, service, limits, cancel.clone()));
        TestServer { address, cancel, ended }
    }

    fn uri(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }

    async fn stop(self) -> Result<(), ServeError> {
        self.cancel.cancel();
        stdx::timeout(Duration::from_secs(20), self.ended).await.expect("the server drains").unwrap()
    }
}

fn service<F, R>(answer: F) -> Service
where
    F: Fn(Request<Body>, Arc<ConnectionInfo>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    Arc::new(move |request, info| Box::pin(answer(request, info)))
}

/// Answers with what it knows of request and connection.
fn describing() -> Service {
    service(async |mut request, info: Arc<ConnectionInfo>| {
        let body = request.body_mut().read(1 << 20).await.unwrap();
        let text = format!(
            "{} {} {:?} sni={} certs={} peer={} body={}",
            request.method(),
            request.uri().path(),
            request.version(),
            info.server_name.as_deref().unwrap_or("-"),
            info.client_chain.len(),
            info.peer.map_or_else(|| "-".to_owned(), |peer| peer.port().to_string()),
            body.len(),
        );
        Response::new(Body::from(text))
    })
}

fn request(method: Method, uri: String, body: impl Into<Body>) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(body.into()).unwrap()
}

async fn text(response: Result<Response<Body>, ClientError>) -> String {
    let mut response = response.unwrap();
    let bytes = response.body_mut().read(1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn server_tls(slot: &CertificateSlot, clients: ClientCertificates) -> Option<ServerTls> {
    Some(ServerTls::new(Arc::new(slot.clone()), clients).unwrap())
}

fn client(trust: &Trust, identity: Option<&CertificateSlot>, protocols: Protocols) -> Client {
    let identity = identity.map(|slot| Arc::new(slot.clone()) as Arc<dyn rustls::client::ResolvesClientCert>);
    let tls = Some(ClientTls::new(trust, identity).unwrap());
    Client::new(ClientOptions { tls, protocols, ..ClientOptions::default() })
}

#[tokio::test]
async fn agrees_on_a_protocol_and_knows_the_connection() {
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let tls = server_tls(&slot, ClientCertificates::Requested);
    let server = TestServer::start(tls, Limits::default(), describing()).await;
    for (protocols, version) in [
        (Protocols::Negotiated, Version::HTTP_2),
        (Protocols::Http2, Version::HTTP_2),
        (Protocols::Http1, Version::HTTP_11),
    ] {
        let client = client(&authority.trust(), None, protocols);
        let answer = client.send(request(Method::POST, server.uri("https", "/a?b"), vec![7; 100_000])).await;
        let said = text(answer).await;
        assert!(said.starts_with(&format!("POST /a {version:?} sni=localhost certs=0 peer=")), "{said}");
        assert!(said.ends_with("body=100000"), "{said}");
    }
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn shows_the_service_any_client_certificate_and_judges_it_apart() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("strange"));
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let roots: Vec<CertificateDer<'static>> = vec![authority.0.der().clone()];
    let judge = ClientRoots::new(&roots).unwrap();
    let judging = service(move |_, info: Arc<ConnectionInfo>| {
        let verdict = judge.verify(&info.client_chain, wire::tls::now()).map_err(|error| error.to_string());
        let same = verify_client_chain(&info.client_chain, &roots, wire::tls::now()).map_err(|error| error.to_string());
        assert_eq!(verdict, same);
        std::future::ready(Response::new(Body::from(format!("{verdict:?}"))))
    });
    let server = TestServer::start(server_tls(&slot, ClientCertificates::Requested), Limits::default(), judging).await;
    let good = authority.issue("someone", ExtendedKeyUsagePurpose::ClientAuth);
    let foreign = stranger.issue("someone", ExtendedKeyUsagePurpose::ClientAuth);
    let misused = authority.issue("someone", ExtendedKeyUsagePurpose::ServerAuth);
    for (identity, expected) in [
        (Some(&good), "Ok(())"),
        (Some(&foreign), "UnknownIssuer"),
        (Some(&misused), "does not allow extended key usage for client authentication"),
        (None, "no certificate found"),
    ] {
        let client = client(&authority.trust(), identity, Protocols::Negotiated);
        let said = text(client.send(request(Method::GET, server.uri("https", "/"), "")).await).await;
        assert!(said.contains(expected), "{said} where {expected} was expected");
    }
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn serves_a_replaced_certificate_on_new_connections() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let slot = old.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let server =
        TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), describing()).await;
    let get = |trust: Trust| {
        let uri = server.uri("https", "/");
        async move { client(&trust, None, Protocols::Negotiated).send(request(Method::GET, uri, "")).await }
    };
    text(get(old.trust()).await).await;
    assert!(matches!(get(new.trust()).await, Err(ClientError::Tls { .. })));
    slot.replace(new.issue("server", ExtendedKeyUsagePurpose::ServerAuth).current());
    text(get(new.trust()).await).await;
    assert!(matches!(get(old.trust()).await, Err(ClientError::Tls { .. })));
    text(get(Trust::Anyone).await).await;
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn verifies_the_name_it_was_told_to_verify() {
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let server =
        TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), describing()).await;
    for (server_name, uri_host, good) in [
        (None, "localhost", true),
        (None, "127.0.0.1", true),
        (Some("localhost"), "127.0.0.1", true),
        (Some("other"), "localhost", false),
    ] {
        let tls = Some(ClientTls::new(&authority.trust(), None).unwrap());
        let server_name = server_name.map(str::to_owned);
        let client = Client::new(ClientOptions { tls, server_name, ..ClientOptions::default() });
        let uri = format!("https://{uri_host}:{}/", server.address.port());
        let answer = client.send(request(Method::GET, uri, "")).await;
        assert_eq!(answer.is_ok(), good, "{answer:?}");
    }
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn refuses_a_key_that_is_not_the_certificates() {
    let (one, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&one).unwrap();
    assert!(certified_key(certificate.pem().as_bytes(), one.serialize_pem().as_bytes()).is_ok());
    assert!(certified_key(certificate.pem().as_bytes(), other.serialize_pem().as_bytes()).is_err());
    assert!(certified_key(b"", one.serialize_pem().as_bytes()).is_err());
}

#[tokio::test]
async fn finishes_what_is_in_flight_when_it_drains() {
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    for protocols in [Protocols::Http2, Protocols::Http1] {
        let (entered, mut arrivals) = mpsc::unbounded_channel();
        let release = Cancel::default();
        let waiting = {
            let release = release.clone();
            service(move |_, _| {
                let (entered, release) = (entered.clone(), release.clone());
                async move {
                    entered.send(()).unwrap();
                    release.cancelled().await;
                    Response::new(Body::from("done"))
                }
            })
        };
        let server =
            TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), waiting).await;
        let (address, uri) = (server.address, server.uri("https", "/"));
        let client = client(&authority.trust(), None, protocols);
        let inflight = stdx::spawn(async move { text(client.send(request(Method::GET, uri, "")).await).await });
        arrivals.recv().await.unwrap();
        let stopping = stdx::spawn(server.stop());
        // The listener is closed first of all.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.cancel();
        assert_eq!(inflight.await.unwrap(), "done");
        assert_eq!(stopping.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn closes_what_outlives_the_drain_deadline_and_says_so() {
    let (entered, mut arrivals) = mpsc::unbounded_channel();
    let stuck = service(move |_, _| {
        entered.send(()).unwrap();
        std::future::pending()
    });
    let limits = Limits { drain_deadline: Duration::from_millis(50), ..Limits::default() };
    let server = TestServer::start(None, limits, stuck).await;
    let uri = server.uri("http", "/");
    let client = Client::new(ClientOptions::default());
    let inflight = stdx::spawn(async move { client.send(request(Method::GET, uri, "")).await });
    arrivals.recv().await.unwrap();
    assert_eq!(server.stop().await, Err(ServeError::Undrained { connections: 1 }));
    assert!(matches!(inflight.await.unwrap(), Err(ClientError::Exchange { .. })));
}

#[tokio::test]
async fn keeps_its_limits_on_heads_and_connections() {
    let limits = Limits {
        header_bytes_max: 4096,
        header_read_timeout: Duration::from_millis(100),
        connections_max: 1,
        ..Limits::default()
    };
    let server = TestServer::start(None, limits, describing()).await;
    let exchange = async |sent: &str| {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    // Each waits for the one before to be closed: there is room for one connection.
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n", "x".repeat(5000));
    let (slow, fast, long) = tokio::join!(
        exchange("GET / HTTP/1.1\r\nhost: never finished"),
        exchange("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        exchange(&long),
    );
    assert_eq!(slow, "", "a head that does not come ends the connection");
    assert!(fast.starts_with("HTTP/1.1 200 OK"), "{fast}");
    assert!(long.starts_with("HTTP/1.1 431 "), "{long}");
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn tells_a_plain_client_that_it_speaks_tls() {
    let slot = Authority::new("one").issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let server =
        TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), describing()).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n");
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn refuses_bodies_over_the_readers_limit() {
    let limited = service(async |mut request, _| {
        let status = match request.body_mut().read(10).await {
            Ok(_) => StatusCode::OK,
            Err(BodyError::TooLarge { limit: 10 }) => StatusCode::PAYLOAD_TOO_LARGE,
            Err(_) => StatusCode::BAD_REQUEST,
        };
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = status;
        response
    });
    let server = TestServer::start(None, Limits::default(), limited).await;
    let client = Client::new(ClientOptions::default());
    let streamed = |pieces: usize| Body::stream(stream::iter((0..pieces).map(|_| Ok(Bytes::from_static(b"12345")))));
    for (body, expected) in [
        (Body::from("1234567890"), StatusCode::OK),
        (Body::from("12345678901"), StatusCode::PAYLOAD_TOO_LARGE),
        (streamed(2), StatusCode::OK),
        (streamed(3), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let response = client.send(request(Method::POST, server.uri("http", "/"), body)).await.unwrap();
        assert_eq!(response.status(), expected);
    }
    assert_eq!(server.stop().await, Ok(()));
}

fn peer_of(description: &str) -> String {
    description.split("peer=").nth(1).unwrap().split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn uses_kept_connections_and_replaces_closed_ones() {
    let limits = Limits { header_read_timeout: Duration::from_millis(100), ..Limits::default() };
    let server = TestServer::start(None, limits, describing()).await;
    let client = Client::new(ClientOptions::default());
    let get = async || {
        let said = text(client.send(request(Method::GET, server.uri("http", "/"), "")).await).await;
        peer_of(&said)
    };
    let first = get().await;
    // The connection is put back by a task of its own, so the very next request may come too early.
    let mut reused = false;
    for _ in 0..50 {
        reused |= get().await == first;
    }
    assert!(reused);
    let before = get().await;
    stdx::sleep(Duration::from_millis(300)).await;
    assert_ne!(get().await, before, "the server closed the idle connection, and nobody noticed");
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn shares_one_http2_connection_between_concurrent_requests() {
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let server =
        TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), describing()).await;
    let client = client(&authority.trust(), None, Protocols::Negotiated);
    let requests = (0..100).map(|_| {
        let (client, uri) = (client.clone(), server.uri("https", "/"));
        async move { peer_of(&text(client.send(request(Method::GET, uri, "")).await).await) }
    });
    let peers: Vec<String> = futures_util::future::join_all(requests).await;
    assert!(peers.iter().all(|peer| *peer == peers[0]), "{peers:?}");
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn drops_the_answer_of_a_client_that_left() {
    struct Tell(mpsc::UnboundedSender<()>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    for protocols in [Protocols::Http2, Protocols::Http1] {
        let (left, mut departures) = mpsc::unbounded_channel();
        let endless = service(move |_, _| {
            let tell = Tell(left.clone());
            let pieces = stream::iter([Ok(Bytes::from_static(b"first"))]).chain(stream::pending()).map(move |piece| {
                let _alive = &tell;
                piece
            });
            std::future::ready(Response::new(Body::stream(pieces)))
        });
        let server =
            TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), endless).await;
        let client = client(&authority.trust(), None, protocols);
        let mut response = client.send(request(Method::GET, server.uri("https", "/"), "")).await.unwrap();
        assert_eq!(response.body_mut().next().await.unwrap().unwrap(), "first");
        drop(response);
        stdx::timeout(Duration::from_secs(10), departures.recv()).await.expect("the stream is dropped").unwrap();
        assert_eq!(server.stop().await, Ok(()));
    }
}

#[tokio::test]
async fn speaks_over_a_unix_socket_and_knows_its_user() {
    let path = std::env::temp_dir().join(format!("wire-loopback-{}.sock", stdx::random_u64()));
    let listener = UnixListener::bind(&path).unwrap();
    let cancel = Cancel::default();
    let telling =
        service(async |_, info: Arc<ConnectionInfo>| Response::new(Body::from(format!("{:?}", info.peer_uid))));
    let listeners = vec![Listener::Unix(listener)];
    let ended = stdx::spawn(wire::serve(listeners, None, telling, Limits::default(), cancel.clone()));
    let client = Client::new(ClientOptions { route: Route::Unix(path.clone()), ..ClientOptions::default() });
    let said = text(client.send(request(Method::GET, "http://agent/x".to_owned(), "")).await).await;
    std::fs::remove_file(path).unwrap();
    assert!(said.starts_with("Some("), "{said}");
    drop(client);
    cancel.cancel();
    assert_eq!(ended.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn says_why_no_connection_came_about() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(ClientOptions::default());
    let error = client.send(request(Method::GET, format!("http://{free}/"), "")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("dial tcp {free}: Connection refused (os error 111)"));
    let error = client.send(request(Method::GET, format!("https://{free}/"), "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error}");
    let error = client.send(request(Method::GET, "/relative".to_owned(), "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Uri { .. }), "{error}");
    let stuck = TestServer::start(None, Limits::default(), service(|_, _| std::future::pending())).await;
    let response_timeout = Some(Duration::from_millis(50));
    let hasty = Client::new(ClientOptions { response_timeout, ..ClientOptions::default() });
    let error = hasty.send(request(Method::GET, stuck.uri("http", "/"), "")).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert_eq!(stuck.stop().await, Ok(()));
}

/// Echoes messages until the client closes; tells what it met.
fn echoing(protocols: &'static [&'static str], limits: MessageLimits, met: Arc<Mutex<Vec<String>>>) -> Service {
    service(move |mut request, _| {
        let met = met.clone();
        async move {
            match websocket::accept(&mut request, protocols, limits) {
                Ok((response, accepted)) => {
                    drop(stdx::spawn(async move {
                        let (mut sender, mut receiver) = accepted.open().await.unwrap().split();
                        while let Some(message) = receiver.next().await {
                            match message {
                                Ok(Message::Close(reason)) => met.lock().unwrap().push(format!("closed {reason:?}")),
                                Ok(message) => sender.send(message).await.unwrap(),
                                Err(error) => return met.lock().unwrap().push(error.to_string()),
                            }
                        }
                    }));
                    response
                }
                Err(error) => {
                    Response::builder().status(StatusCode::BAD_REQUEST).body(Body::from(error.to_string())).unwrap()
                }
            }
        }
    })
}

#[tokio::test]
async fn carries_websocket_messages_over_tls() {
    let authority = Authority::new("one");
    let slot = authority.issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let met = Arc::new(Mutex::new(Vec::new()));
    let service = echoing(&["v4.channel", "v5.channel"], MessageLimits::default(), met.clone());
    let server = TestServer::start(server_tls(&slot, ClientCertificates::Ignored), Limits::default(), service).await;
    let client = client(&authority.trust(), None, Protocols::Negotiated);
    let handshake = || Request::get(server.uri("https", "/exec?x=1")).body(()).unwrap();
    let limits = MessageLimits::default();

    // The client's order decides.
    let mut socket =
        websocket::connect(&client, handshake(), &["v9.channel", "v5.channel", "v4.channel"], limits).await.unwrap();
    assert_eq!(socket.protocol(), Some("v5.channel"));
    for message in
        [Message::Text("hello".into()), Message::Binary(vec![7; 100_000].into()), Message::Binary(Bytes::new())]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket.send(Message::Close(Some((1000, "bye".into())))).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert!(socket.next().await.is_none());
    assert_eq!(*met.lock().unwrap(), ["closed Some((1000, \"bye\"))"]);

    let none = websocket::connect(&client, handshake(), &[], limits).await.unwrap();
    assert_eq!(none.protocol(), None);
    match websocket::connect(&client, handshake(), &["v1.channel"], limits).await {
        Err(WebSocketError::Refused(mut response)) => {
            let why = response.body_mut().read(1000).await.unwrap();
            assert_eq!(why, "unable to upgrade: v1.channel requested, but unable to find a match");
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
    drop((none, client));
    assert_eq!(server.stop().await, Ok(()));
}

#[tokio::test]
async fn ends_a_websocket_whose_peer_sends_too_much() {
    let met = Arc::new(Mutex::new(Vec::new()));
    let limits = MessageLimits { message_bytes_max: 1000, ..MessageLimits::default() };
    let server = TestServer::start(None, Limits::default(), echoing(&[], limits, met.clone())).await;
    let client = Client::new(ClientOptions::default());
    let handshake = Request::get(server.uri("http", "/")).body(()).unwrap();
    let mut socket = websocket::connect(&client, handshake, &[], MessageLimits::default()).await.unwrap();
    socket.send(Message::Binary(vec![0; 1001].into())).await.unwrap();
    assert!(!matches!(socket.next().await, Some(Ok(Message::Binary(_)))));
    let said = met.lock().unwrap().clone();
    assert!(said.len() == 1 && said[0].contains("1001 > 1000"), "{said:?}");
    assert_eq!(server.stop().await, Ok(()));
}

#[test]
fn requests_are_small_futures() {
    let client = Client::new(ClientOptions::default());
    let size = size_of_val(&client.send(request(Method::GET, "http://localhost/".to_owned(), "")));
    assert!(size <= 8 << 10, "{size} bytes");
}
