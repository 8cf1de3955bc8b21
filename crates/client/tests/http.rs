//! The HTTP transport against a real TLS server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::projection::raw;
use api::value::Value;
use bytes::Bytes;
use client::config::{Credentials, Secret};
use client::{
    Client, ClientConfig, ClientError, DeleteOptions, HttpTransport, ListOptions, PatchKind, Propagation, Target,
    TransportError, WatchEvent, WatchOptions,
};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use stdx::{Cancel, Task};
use tokio::net::TcpListener;
use wire::tls::{CertificateSlot, ClientCertificates, ServerTls, certified_key};
use wire::{Body, Limits, Listener, ServeError, Service};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (Vec<u8>, Vec<u8>) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

/// What the server saw of a request.
#[derive(Clone, Debug)]
struct Seen {
    line: String,
    headers: HeaderMap,
    body: Bytes,
    certificates: usize,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

type Answers = Arc<Mutex<VecDeque<Response<Body>>>>;

/// A server that gives prepared answers and remembers the requests.
struct TestServer {
    address: SocketAddr,
    cancel: Cancel,
    ended: Task<Result<(), ServeError>>,
    answers: Answers,
    seen: Arc<Mutex<Vec<Seen>>>,
    authority: Authority,
}

impl TestServer {
    async fn start() -> TestServer {
        let authority = Authority::new();
        let (chain, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
        let slot = CertificateSlot::new(certified_key(&chain, &key).unwrap());
        let tls = ServerTls::new(Arc::new(slot), ClientCertificates::Requested).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, seen) = (Answers::default(), Arc::<Mutex<Vec<Seen>>>::default());
        let service = service(answers.clone(), seen.clone());
        let cancel = Cancel::default();
        let limits = Limits { drain_deadline: Duration::from_millis(200), ..Limits::default() };
        let ended = stdx::spawn(wire::serve(vec![Listener::Tcp(listener)], Some(tls), service, limits, cancel.clone()));
        TestServer { address, cancel, ended, answers, seen, authority }
    }

    fn answer(&self, code: u16, content_type: &str, body: impl Into<Body>) {
        self.answer_with(code, &[("content-type", content_type)], body);
    }

    fn answer_with(&self, code: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) {
        let mut response = Response::builder().status(code);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.answers.lock().unwrap().push_back(response.body(body.into()).unwrap());
    }

    fn config(&self, credentials: Credentials) -> ClientConfig {
        ClientConfig {
            server: format!("https://{}", self.address),
            ca_pem: Some(self.authority.0.pem().into_bytes()),
            credentials,
            ..ClientConfig::default()
        }
    }

    fn client(&self, credentials: Credentials) -> Client {
        Client::new(Arc::new(HttpTransport::new(&self.config(credentials), "test/1").unwrap()), "tester")
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    async fn stop(self) {
        self.cancel.cancel();
        // Watches that go on are cut off at the drain deadline.
        drop(self.ended.await.unwrap());
    }
}

fn service(answers: Answers, seen: Arc<Mutex<Vec<Seen>>>) -> Service {
    Arc::new(move |mut request: Request<Body>, info| {
        let (answers, seen) = (answers.clone(), seen.clone());
        Box::pin(async move {
            let body = request.body_mut().read(1 << 20).await.unwrap();
            let path = request.uri().path_and_query().unwrap();
            seen.lock().unwrap().push(Seen {
                line: format!("{} {path}", request.method()),
                headers: request.headers().clone(),
                body,
                certificates: info.client_chain.len(),
            });
            let answer = answers.lock().unwrap().pop_front();
            answer.unwrap_or_else(|| Response::builder().status(500).body(Body::from("no answer prepared")).unwrap())
        })
    })
}

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn message(name: &str, revision: &str) -> Vec<u8> {
    let mut metadata = Vec::new();
    for (number, text) in [(1, name), (3, "n"), (5, "u"), (6, revision)] {
        raw::put_bytes(&mut metadata, number, text.as_bytes());
    }
    let mut message = Vec::new();
    raw::put_bytes(&mut message, 1, &metadata);
    let mut entry = Vec::new();
    raw::put_bytes(&mut entry, 1, b"k");
    raw::put_bytes(&mut entry, 2, b"v");
    raw::put_bytes(&mut message, 2, &entry);
    message
}

fn enveloped(kind: &str, message: &[u8]) -> Vec<u8> {
    api::codec::envelope::wrap("v1", kind, message)
}

fn frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let (mut extension, mut event) = (Vec::new(), Vec::new());
    raw::put_bytes(&mut extension, 1, object);
    raw::put_bytes(&mut event, 1, kind.as_bytes());
    raw::put_bytes(&mut event, 2, &extension);
    [&(event.len() as u32).to_be_bytes()[..], &event].concat()
}

fn json_object(name: &str, revision: &str) -> String {
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"n","uid":"u","resourceVersion":"{revision}"}},"data":{{"k":"v"}}}}"#
    )
}

fn status(code: u16, reason: &str) -> String {
    format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"m","reason":"{reason}","code":{code}}}"#
    )
}

fn config_maps() -> Target {
    Target::of::<ConfigMap>().namespace("n")
}

#[tokio::test]
async fn gets_objects_in_protobuf_and_json() {
    let server = TestServer::start().await;
    let (chain_pem, key_pem) = server.authority.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let client = server.client(Credentials::Certificate { chain_pem, key_pem });
    server.answer(200, PROTOBUF, enveloped("ConfigMap", &message("a", "7")));
    server.answer(200, JSON, json_object("a", "7"));
    for _ in 0..2 {
        let object = client.get(config_maps().name("a")).await.unwrap();
        assert_eq!((object.name(), object.uid(), object.revision()), ("a", "u", 7));
        let typed: ConfigMap = object.typed().unwrap();
        assert_eq!(typed.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(typed.data.unwrap()["k"], "v");
        let tree = object.tree().unwrap();
        assert_eq!((api::meta::kind(&tree), api::meta::api_version(&tree)), ("ConfigMap", "v1"));
    }
    let seen = server.seen();
    assert_eq!(seen[0].line, "GET /api/v1/namespaces/n/configmaps/a");
    assert_eq!(seen[0].header("accept"), "application/vnd.kubernetes.protobuf, application/json");
    assert_eq!((seen[0].header("user-agent"), seen[0].header("authorization")), ("test/1", ""));
    assert_eq!(seen[0].certificates, 1);
    server.stop().await;
}

#[tokio::test]
async fn writes_carry_their_options() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Token(Secret("t0ken\n".to_owned())));
    for _ in 0..4 {
        server.answer(200, JSON, json_object("a", "8"));
    }
    let new: Value = serde_json::from_str(r#"{"metadata":{"name":"a"}}"#).unwrap();
    client.create(config_maps(), &new).await.unwrap();
    client.replace(config_maps().name("a"), &ConfigMap::default()).await.unwrap();
    client.patch_status(config_maps().name("a"), PatchKind::Merge, &new).await.unwrap();
    client.apply(config_maps().name("a"), &new, true).await.unwrap();
    server.answer(200, JSON, r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Success"}"#);
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::of_uid("u") };
    assert!(matches!(client.delete(config_maps().name("a"), options).await, Ok(client::verbs::Deleted::Gone)));
    let seen = server.seen();
    let told: Vec<(&str, &str)> = seen.iter().map(|seen| (seen.line.as_str(), seen.header("content-type"))).collect();
    assert_eq!(
        told,
        [
            ("POST /api/v1/namespaces/n/configmaps?fieldManager=tester", JSON),
            ("PUT /api/v1/namespaces/n/configmaps/a?fieldManager=tester", JSON),
            ("PATCH /api/v1/namespaces/n/configmaps/a/status?fieldManager=tester", "application/merge-patch+json"),
            ("PATCH /api/v1/namespaces/n/configmaps/a?fieldManager=tester&force=true", "application/apply-patch+yaml"),
            ("DELETE /api/v1/namespaces/n/configmaps/a", JSON),
        ]
    );
    assert_eq!(seen[0].header("authorization"), "Bearer t0ken");
    assert_eq!(seen[0].body, r#"{"metadata":{"name":"a"}}"#);
    let sent: Value = serde_json::from_slice(&seen[1].body).unwrap();
    assert_eq!((api::meta::kind(&sent), api::meta::api_version(&sent)), ("ConfigMap", "v1"));
    server.stop().await;
}

#[tokio::test]
async fn lists_all_pages_and_starts_over_when_they_expire() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Anonymous);
    let page = |name: &str, token: &str| {
        let (mut metadata, mut body) = (Vec::new(), Vec::new());
        raw::put_bytes(&mut metadata, 2, b"9");
        raw::put_bytes(&mut metadata, 3, token.as_bytes());
        raw::put_bytes(&mut body, 1, &metadata);
        raw::put_bytes(&mut body, 2, &message(name, "7"));
        enveloped("ConfigMapList", &body)
    };
    server.answer(200, PROTOBUF, page("a", "more"));
    server.answer(200, PROTOBUF, page("b", ""));
    let list = client.list_pages(config_maps(), ListOptions::default(), 1).await.unwrap();
    let names: Vec<&str> = list.items.iter().map(|object| object.name()).collect();
    assert_eq!((names, list.revision), (vec!["a", "b"], 9));
    server.answer(200, PROTOBUF, page("a", "more"));
    server.answer(410, JSON, status(410, "Expired"));
    server.answer(200, PROTOBUF, page("c", ""));
    let list = client.list_pages(config_maps(), ListOptions::default(), 1).await.unwrap();
    assert_eq!(list.items.iter().map(|object| object.name()).collect::<Vec<_>>(), ["c"]);
    let lines: Vec<String> = server.seen().into_iter().map(|seen| seen.line).collect();
    let base = "GET /api/v1/namespaces/n/configmaps";
    let expected = ["?limit=1", "?limit=1&continue=more", "?limit=1", "?limit=1&continue=more", ""];
    assert_eq!(lines, expected.map(|query| format!("{base}{query}")));
    server.stop().await;
}

#[tokio::test]
async fn watches_in_protobuf_and_json() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Anonymous);
    let frames = [
        frame("ADDED", &enveloped("ConfigMap", &message("a", "7"))),
        frame("DELETED", &enveloped("ConfigMap", &message("a", "8"))),
        frame("BOOKMARK", &enveloped("ConfigMap", &message("", "9"))),
    ]
    .concat();
    let lines = format!(
        "{{\"type\":\"ADDED\",\"object\":{}}}\n{{\"type\":\"DELETED\",\"object\":{}}}\n{{\"type\":\"BOOKMARK\",\"object\":{}}}\n",
        json_object("a", "7"),
        json_object("a", "8"),
        json_object("", "9"),
    );
    for (content_type, body) in
        [("application/vnd.kubernetes.protobuf;stream=watch", frames), (JSON, lines.into_bytes())]
    {
        // In pieces of seven bytes, so that no event comes whole.
        let pieces: Vec<_> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        server.answer(200, content_type, Body::stream(stream::iter(pieces)));
        let options =
            WatchOptions { resource_version: Some("6".into()), allow_bookmarks: true, ..WatchOptions::default() };
        let events: Vec<_> = client.watch(config_maps(), options).await.unwrap().collect().await;
        match events.as_slice() {
            [
                Ok(WatchEvent::Added(added)),
                Ok(WatchEvent::Deleted(deleted)),
                Ok(WatchEvent::Bookmark { revision: 9, .. }),
            ] => {
                assert_eq!((added.revision(), deleted.revision(), added.name()), (7, 8, "a"));
            }
            other => panic!("{other:?}"),
        }
    }
    let seen = server.seen();
    assert_eq!(seen[0].header("accept"), "application/vnd.kubernetes.protobuf;stream=watch, application/json");
    assert_eq!(
        seen[0].line,
        "GET /api/v1/namespaces/n/configmaps?watch=true&resourceVersion=6&allowWatchBookmarks=true"
    );
    server.stop().await;
}

#[tokio::test]
async fn watches_tell_how_they_ended() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Anonymous);
    server.answer(410, JSON, status(410, "Expired"));
    let error = client.watch(config_maps(), WatchOptions::default()).await.err().expect("compacted");
    assert!(error.is_expired());
    server.answer(200, JSON, format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(410, "Expired")));
    let mut events = client.watch(config_maps(), WatchOptions::default()).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(error)) if error.is_expired()));
    assert!(events.next().await.is_none());
    server.answer(200, JSON, "{\"type\":\"ADD");
    let mut events = client.watch(config_maps(), WatchOptions::default()).await.unwrap();
    assert!(matches!(events.next().await, Some(Err(ClientError::Transport(TransportError::Lost(_))))));
    assert!(events.next().await.is_none());
    server.stop().await;
}

#[tokio::test]
async fn failures_say_whether_the_write_may_have_happened() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Anonymous);
    let new: Value = serde_json::from_str("{}").unwrap();
    for (code, reason, holds) in [
        (404, "NotFound", ClientError::is_not_found as fn(&ClientError) -> bool),
        (409, "Conflict", ClientError::is_conflict),
        (409, "AlreadyExists", ClientError::is_already_exists),
        (403, "Forbidden", ClientError::is_forbidden),
        (422, "Invalid", ClientError::is_invalid),
    ] {
        server.answer(code, JSON, status(code, reason));
        let error = client.create(config_maps(), &new).await.expect_err(reason);
        assert!(holds(&error), "{error:?}");
        assert_eq!(error.status().map(|status| status.message.as_str()), Some("m"));
    }
    server.answer(404, JSON, status(404, "NotFound"));
    assert!(matches!(client.find(config_maps().name("x")).await, Ok(None)));
    // The answer breaks off: nobody knows whether the object was created.
    let torn =
        || Body::stream(stream::iter([Ok(Bytes::from_static(b"{")), Err(wire::BodyError::Produce("torn".into()))]));
    server.answer(201, JSON, torn());
    assert!(client.create(config_maps(), &new).await.expect_err("torn").is_unknown());
    server.answer(200, JSON, torn());
    assert!(matches!(client.get(config_maps().name("x")).await, Err(ClientError::Transport(_))));
    server.answer(504, JSON, status(504, "Timeout"));
    assert!(client.create(config_maps(), &new).await.expect_err("timeout").is_unknown());
    server.stop().await;
    // Nobody listens any more: it certainly did not happen.
    let refused = client.create(config_maps(), &new).await;
    assert!(matches!(refused, Err(ClientError::Transport(TransportError::Unreached(_)))), "{refused:?}");
}

#[tokio::test]
async fn comes_back_when_told_to() {
    let server = TestServer::start().await;
    let client = server.client(Credentials::Anonymous);
    server.answer_with(429, &[("retry-after", "0")], status(429, "TooManyRequests"));
    server.answer_with(429, &[("retry-after", "0")], status(429, "TooManyRequests"));
    server.answer(200, JSON, json_object("a", "7"));
    assert_eq!(client.get(config_maps().name("a")).await.unwrap().revision(), 7);
    assert_eq!(server.seen().len(), 3);
    // Without a time the answer is the caller's business, as for evictions that a budget forbids.
    server.answer(429, JSON, status(429, "TooManyRequests"));
    assert!(client.get(config_maps().name("a")).await.expect_err("refused").is_too_many_requests());
    server.stop().await;
}

#[tokio::test]
async fn believes_only_its_own_authority() {
    let server = TestServer::start().await;
    let config =
        ClientConfig { ca_pem: Some(Authority::new().0.pem().into_bytes()), ..server.config(Credentials::Anonymous) };
    let client = Client::new(Arc::new(HttpTransport::new(&config, "test/1").unwrap()), "tester");
    let error = client.get(config_maps().name("a")).await.expect_err("a stranger's certificate");
    assert!(matches!(error, ClientError::Transport(TransportError::Unreached(_))), "{error:?}");
    assert!(server.seen().is_empty());
    let config = ClientConfig { insecure: true, ..config };
    let client = Client::new(Arc::new(HttpTransport::new(&config, "test/1").unwrap()), "tester");
    server.answer(200, JSON, json_object("a", "7"));
    assert_eq!(client.get(config_maps().name("a")).await.unwrap().name(), "a");
    server.stop().await;
}

#[tokio::test]
async fn reads_its_token_from_a_file() {
    let server = TestServer::start().await;
    let path = std::env::temp_dir().join(format!("isopod-client-token-{}", std::process::id()));
    std::fs::write(&path, "first\n").unwrap();
    let client = server.client(Credentials::TokenFile(path.clone()));
    server.answer(200, JSON, json_object("a", "7"));
    client.get(config_maps().name("a")).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(server.seen()[0].header("authorization"), "Bearer first");
    let without = server.client(Credentials::TokenFile(path));
    let error = without.get(config_maps().name("a")).await.expect_err("no token");
    assert!(matches!(error, ClientError::Transport(TransportError::Unreached(_))), "{error:?}");
    server.stop().await;
}
