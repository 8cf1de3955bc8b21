//! Registries for tests: Debian's real one, and one that misbehaves on request.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use stdx::{BoxFuture, Cancel, Task};
use tokio::net::TcpListener;
use wire::{Body, Client, ClientOptions, Limits, Listener, ServeError};

use super::*;

/// Debian's `docker-registry` on a port of its own, ended with the test.
pub(super) struct RealRegistry {
    child: Child,
    pub(super) address: String,
}

impl RealRegistry {
    /// Starts it with more configuration (YAML) of the test's, `http` settings indented below `http:`.
    pub(super) fn start(folder: &Folder, http: &str, rest: &str) -> Self {
        let data = folder.path().join("registry");
        let config = folder.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{rest}",
            data.display()
        );
        fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("this test needs docker-registry: {error}"));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("docker-registry ended: {said:#?}") };
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split([' ', ',', '"']).next().unwrap().to_owned();
            }
            said.push(line);
        };
        // Its log goes on, and must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        RealRegistry { child, address }
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().expect("the test started it");
        self.child.wait().expect("the test started it");
    }
}

/// Uploads a packed image under a name; `authorization` as the header's value.
pub(super) async fn push(
    client: &Client,
    base: &str,
    repository: &str,
    tag: &str,
    archive: &[u8],
    authorization: &str,
) {
    let (blobs, manifest) = blobs_of(archive);
    for (digest, content) in &blobs {
        push_blob(client, base, repository, digest, content, authorization).await;
    }
    push_manifest(
        client,
        base,
        repository,
        tag,
        "application/vnd.oci.image.manifest.v1+json",
        &manifest,
        authorization,
    )
    .await;
}

async fn push_blob(client: &Client, base: &str, repository: &str, digest: &str, content: &[u8], authorization: &str) {
    let start = Request::post(format!("{base}/v2/{repository}/blobs/uploads/"))
        .header("authorization", authorization)
        .body(Body::Empty)
        .unwrap();
    let started = client.send(start).await.unwrap();
    assert_eq!(started.status(), StatusCode::ACCEPTED);
    let location = started.headers()["location"].to_str().unwrap();
    let location = if location.starts_with('/') { format!("{base}{location}") } else { location.to_owned() };
    let joint = if location.contains('?') { '&' } else { '?' };
    let put = Request::put(format!("{location}{joint}digest={digest}"))
        .header("authorization", authorization)
        .body(Body::from(content.to_vec()))
        .unwrap();
    assert_eq!(client.send(put).await.unwrap().status(), StatusCode::CREATED);
}

pub(super) async fn push_manifest(
    client: &Client,
    base: &str,
    repository: &str,
    tag: &str,
    media_type: &str,
    content: &[u8],
    authorization: &str,
) {
    let put = Request::put(format!("{base}/v2/{repository}/manifests/{tag}"))
        .header("content-type", media_type)
        .header("authorization", authorization)
        .body(Body::from(content.to_vec()))
        .unwrap();
    let mut response = client.send(put).await.unwrap();
    let said = response.body_mut().read(10_000).await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED, "{}", String::from_utf8_lossy(&said));
}

pub(super) fn client() -> Client {
    Client::new(ClientOptions::default())
}

/// A server whose answers the test writes; it remembers what it was asked.
pub(super) struct TestServer {
    pub(super) address: String,
    asked: Arc<Mutex<Vec<String>>>,
    cancel: Cancel,
    ended: Task<Result<(), ServeError>>,
}

pub(super) type Answering = Box<dyn Fn(&Request<Body>, &str) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

impl TestServer {
    /// `answer` gets the request and the server's own address.
    pub(super) async fn start(answer: Answering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let cancel = Cancel::default();
        let service: wire::Service = {
            let (asked, address) = (asked.clone(), address.clone());
            Arc::new(move |request, _| {
                let range = request.headers().get("range").map_or("", |range| range.to_str().unwrap());
                let authorized = request.headers().contains_key("authorization");
                let target = request.uri().path_and_query().unwrap();
                let line =
                    format!("{} {target} {range} {}", request.method(), if authorized { "authorized" } else { "" });
                asked.lock().unwrap().push(line.trim().to_owned());
                answer(&request, &address)
            })
        };
        let limits = Limits { drain_deadline: std::time::Duration::ZERO, ..Limits::default() };
        let listeners = vec![Listener::Tcp(listener)];
        let ended = stdx::spawn(wire::serve(listeners, None, service, limits, cancel.clone()));
        TestServer { address, asked, cancel, ended }
    }

    /// `METHOD /path range authorized` of each request so far.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    pub(super) fn asked_for(&self, part: &str) -> Vec<String> {
        self.asked().into_iter().filter(|line| line.contains(part)).collect()
    }

    pub(super) async fn stop(self) {
        self.cancel.cancel();
        // Whether connections were still busy does not matter to a test that is over.
        drop(self.ended.await.unwrap());
    }
}

pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response<Body> {
    let builder = Response::builder().status(status);
    headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value)).body(body.into()).unwrap()
}

/// An obedient registry of one image: what it answers to each path.
pub(super) struct Served {
    pub(super) manifest: Vec<u8>,
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
}

impl Served {
    pub(super) fn new(content: &str) -> Self {
        let (blobs, manifest) = blobs_of(&packed("x", content));
        Served { manifest, blobs }
    }

    /// The layer's digest; the other blob is the configuration.
    pub(super) fn layer(&self) -> String {
        let manifest: manifest::Manifest = serde_json::from_slice(&self.manifest).unwrap();
        manifest.layers[0].digest.to_string()
    }

    pub(super) fn answer(&self, request: &Request<Body>) -> Response<Body> {
        let path = request.uri().path();
        let name = path.rsplit('/').next().unwrap();
        if path.contains("/manifests/") {
            let digest = Digest::of(&self.manifest).to_string();
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            let headers = [("content-type", media_type), ("docker-content-digest", digest.as_str())];
            let is_head = request.method() == http::Method::HEAD;
            return answer(200, &headers, if is_head { Vec::new() } else { self.manifest.clone() });
        }
        match self.blobs.get(name) {
            Some(content) => answer(200, &[], content.clone()),
            None => answer(404, &[], ""),
        }
    }
}
