//! An API server on a simulated disk, and a client that speaks HTTP to it without sockets.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

pub mod clock;

use std::sync::Arc;

use apiserver::{ApiServer, Authentication, Config, Dialer, Network, NoNodes, SecretsSealed, Tokens, Version};
use bytes::Bytes;
use http::{Method, Request};
use pki::identity::ClientVerifier;
use pki::{Authority, Purpose, SealingKey, TokenKey};
use serde_json::Value as Json;
use store::disk::Sim;
use store::{Embedded, Options};
use wire::{Body, ConnectionInfo};

pub struct World {
    pub server: Arc<ApiServer>,
    pub store: Arc<Embedded>,
    admin: ConnectionInfo,
}

/// What came back.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// `CODE REASON MESSAGE` of a failure.
    #[track_caller]
    pub fn failure(&self) -> String {
        let status = self.json();
        assert_eq!(status["kind"], "Status", "{status}");
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(status["code"], self.code, "{status}");
        format!("{} {} {}", self.code, text("reason"), text("message"))
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.text());
        self
    }
}

impl World {
    pub async fn new() -> World {
        World::on(Sim::new(1)).await
    }

    pub async fn on(disk: Sim) -> World {
        World::with(disk, Arc::new(NoNodes)).await
    }

    /// A world whose nodes are reached by `dialer`.
    pub async fn with(disk: Sim, dialer: Arc<dyn Dialer>) -> World {
        let now = stdx::wall();
        let authority = Authority::generate("kubernetes", now).expect("an authority");
        let purpose = Purpose::Client { organization: Some("system:masters".into()) };
        let lifetime = pki::authority::LEAF_LIFETIME;
        let signed = authority.sign("kubernetes-admin", &purpose, now, lifetime).expect("a certificate");
        let chain = vec![der(&signed.certificate_pem)];
        let admin = ConnectionInfo { client_chain: chain, ..ConnectionInfo::default() };
        let seal = SecretsSealed::new(vec![SealingKey::new("key1", [7; 32]).expect("a key")]);
        let store = Embedded::open(Arc::new(disk), Options::default(), Arc::new(seal)).await.expect("a store");
        let store = Arc::new(store);
        let config = Config {
            store: store.clone(),
            dialer,
            authentication: Authentication {
                certificates: Some(ClientVerifier::new(authority.certificate_pem()).expect("a verifier")),
                anonymous: true,
            },
            tokens: Tokens::new(
                vec![Arc::new(TokenKey::generate().expect("a key"))],
                "https://kubernetes.default.svc.cluster.local",
            ),
            network: Network::default(),
            advertise: "192.0.2.1:6443".parse().expect("an address"),
            version: Version::isopod("0.1.0", "", ""),
        };
        let server = ApiServer::new(config).await.expect("an API server");
        World { server, store, admin }
    }

    /// Ends server and store.
    pub async fn close(&self) {
        self.server.stop().await;
        self.store.close().await;
    }

    /// A request of the administrator.
    pub async fn ask(&self, method: &str, target: &str, body: Json) -> Answer {
        self.send(method, target, &[("content-type", "application/json")], json_body(&body)).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, Json::Null).await
    }

    pub async fn create(&self, target: &str, body: Json) -> Answer {
        self.ask("POST", target, body).await
    }

    pub async fn patch(&self, target: &str, kind: &str, body: Json) -> Answer {
        let content_type = match kind {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            other => other,
        };
        self.send("PATCH", target, &[("content-type", content_type)], json_body(&body)).await
    }

    /// A request of the administrator as somebody else.
    pub async fn ask_as(&self, user: &str, method: &str, target: &str, body: Json) -> Answer {
        self.send(method, target, &[("content-type", "application/json"), ("impersonate-user", user)], json_body(&body))
            .await
    }

    /// A request of the administrator with headers.
    pub async fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.send_over(&self.admin, method, target, headers, body).await
    }

    /// A request over a connection without a client certificate.
    pub async fn send_bare(&self, method: &str, target: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        self.send_over(&ConnectionInfo::default(), method, target, headers, body).await
    }

    async fn send_over(
        &self,
        connection: &ConnectionInfo,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let response = self.server.handle(request(method, target, headers, body), connection).await;
        let (parts, mut body) = response.into_parts();
        let body = body.read(64 << 20).await.expect("a whole body");
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A request of the administrator with a body that comes as it comes.
    pub async fn send_body(&self, method: Method, target: &str, body: Body) -> Answer {
        let request = Request::builder().method(method).uri(target).header("content-type", "application/json");
        let response = self.server.handle(request.body(body).expect("a request"), &self.admin).await;
        let (parts, mut body) = response.into_parts();
        let body = body.read(64 << 20).await.expect("a whole body");
        Answer { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The code of an answer, and its body unless that is a watch, which has no end.
    pub async fn code(
        &self,
        admin: bool,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, String) {
        let stranger = ConnectionInfo::default();
        let connection = if admin { &self.admin } else { &stranger };
        let response = self.server.handle(request(method, target, headers, body), connection).await;
        let (parts, mut body) = response.into_parts();
        let code = parts.status.as_u16();
        if target.contains("watch") && code == 200 {
            return (code, String::new());
        }
        let body = body.read(64 << 20).await.expect("a whole body");
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    /// The head of an answer to somebody else, and its body before any of it was read.
    pub async fn begin_as(&self, user: &str, target: &str) -> (u16, Body) {
        let headers = [("impersonate-user", user)];
        let response = self.server.handle(request("GET", target, &headers, Vec::new()), &self.admin).await;
        let (parts, body) = response.into_parts();
        (parts.status.as_u16(), body)
    }

    /// A watch of the administrator.
    pub async fn watch(&self, target: &str, headers: &[(&str, &str)]) -> Watch {
        let response = self.server.handle(request("GET", target, headers, Vec::new()), &self.admin).await;
        assert_eq!(response.status(), 200);
        Watch { body: response.into_body(), rest: Vec::new() }
    }
}

/// Lines of a watch as they come.
pub struct Watch {
    body: Body,
    rest: Vec<u8>,
}

impl Watch {
    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Json> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a line of JSON"));
            }
            self.rest.extend_from_slice(&self.body.next().await?.expect("an unbroken stream"));
        }
    }

    /// `TYPE name` of the next event.
    pub async fn told(&mut self) -> String {
        let event = self.next().await.expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
        format!("{} {name}", event["type"].as_str().unwrap_or_default())
    }
}

fn json_body(body: &Json) -> Vec<u8> {
    if body.is_null() { Vec::new() } else { body.to_string().into_bytes() }
}

fn request(method: &str, target: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Request<Body> {
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).expect("a method")).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from(body)).expect("a request")
}

fn der(pem: &str) -> rustls_pki_types::CertificateDer<'static> {
    use rustls_pki_types::pem::PemObject;
    rustls_pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}
