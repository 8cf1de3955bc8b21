//! The data-plane process with a real feed.

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::AsyncWriteExt;

use super::*;
use crate::feed::{Feed, FeedOptions};
use crate::input::NetState;
use crate::rules::NodeFacts;
use crate::scratch::{Namespace, Scratch};
use crate::testbed::{endpoint, service, slice};

/// A namespace in which data-plane processes come and go.
struct Place {
    namespace: Namespace,
    scratch: Scratch,
}

impl Place {
    fn new(label: &str) -> Place {
        let namespace = Namespace::new();
        namespace.run(|| crate::netlink::Socket::route().unwrap().set_up(1).unwrap());
        Place { namespace, scratch: Scratch::new(label) }
    }

    fn options(&self) -> DataplaneOptions {
        DataplaneOptions {
            socket: self.scratch.path().join("control"),
            checkpoint: self.scratch.path().join("names.json"),
            listen: vec!["127.0.0.1:53".parse().unwrap()],
            domain: "cluster.local".into(),
            resolvers: self.scratch.path().join("resolv.conf"),
            own_addresses: Vec::new(),
            upstreams: Vec::new(),
            stub_domains: Vec::new(),
            metrics: Some("127.0.0.1:9153".parse().unwrap()),
            node_name: "node".into(),
        }
    }

    /// Runs a data plane for as long as `body` does, which has a runtime of its own.
    fn with_dataplane<T: Send>(&self, body: impl AsyncFnOnce() -> T + Send) -> T {
        let cancel = Cancel::default();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| {
                let cancel = cancel.clone();
                self.namespace.run_async(async || serve(self.options(), cancel).await)
            });
            let outcome = scope.spawn(|| self.namespace.run_async(body)).join();
            cancel.cancel();
            server.join().unwrap().unwrap();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    async fn feed(&self, tasks: &TaskTree) -> Feed {
        let options = FeedOptions {
            facts: NodeFacts::default(),
            netns: Some(self.namespace.path()),
            dataplane: Some(self.options().socket),
        };
        Feed::start(options, tasks).await.unwrap()
    }
}

fn state(address: &str) -> NetState {
    NetState::new([service("web", address)], [slice("web", [endpoint("10.0.0.1")])])
}

/// The address of `web`, once it is `expected`; panics when it does not become that.
async fn resolves_to(expected: Option<&str>) {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect("127.0.0.1:53").await.unwrap();
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii("web.default.svc.cluster.local.").unwrap(), RecordType::A));
    let question = message.to_vec().unwrap();
    let mut last = String::new();
    for _ in 0..250 {
        let mut buffer = [0; 512];
        let asked = async {
            socket.send(&question).await?;
            socket.recv(&mut buffer).await
        };
        // Nobody may be listening yet.
        if let Ok(Ok(length)) = stdx::timeout(Duration::from_millis(500), asked).await {
            let reply = Message::from_vec(&buffer[..length]).unwrap();
            let found = reply.answers.first().map(|record| record.data.to_string());
            if found.as_deref() == expected {
                return;
            }
            last = format!("{found:?}");
        }
        stdx::sleep(Duration::from_millis(20)).await;
    }
    panic!("expected {expected:?}, last was {last}");
}

#[test]
fn follows_the_feed_and_remembers_without_it() {
    let place = Place::new("dataplane");
    place.with_dataplane(async || {
        let tasks = TaskTree::default();
        let feed = place.feed(&tasks).await;
        resolves_to(None).await;
        feed.apply(state("10.96.0.10")).await.unwrap();
        resolves_to(Some("10.96.0.10")).await;
        feed.apply(state("10.96.0.11")).await.unwrap();
        resolves_to(Some("10.96.0.11")).await;
        drop(feed);
        tasks.drain(Duration::from_secs(1)).await.unwrap();
        resolves_to(Some("10.96.0.11")).await;
    });
    place.with_dataplane(async || resolves_to(Some("10.96.0.11")).await);
}

/// The first line of the answer to a request to `address`.
async fn told(address: &str) -> String {
    use tokio::io::AsyncReadExt as _;
    for _ in 0..250 {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            return text;
        }
        stdx::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens at {address}");
}

#[test]
fn counts_and_health_are_told_and_the_latter_without_an_agent() {
    let place = Place::new("told");
    let balanced = crate::input::ServiceView {
        external_local: true,
        health_check_node_port: 30_100,
        ..service("web", "10.96.0.10")
    };
    place.with_dataplane(async || {
        let tasks = TaskTree::default();
        let feed = place.feed(&tasks).await;
        feed.apply(NetState::new([balanced.clone()], [slice("web", [])])).await.unwrap();
        resolves_to(Some("10.96.0.10")).await;
        assert!(told("127.0.0.1:30100").await.starts_with("HTTP/1.1 503 "));
        feed.apply(NetState::new([balanced.clone()], [slice("web", [endpoint("10.0.0.1")])])).await.unwrap();
        for round in 0.. {
            assert!(round < 250, "the endpoint is not told");
            if told("127.0.0.1:30100").await.starts_with("HTTP/1.1 200 ") {
                break;
            }
            stdx::sleep(Duration::from_millis(20)).await;
        }
        assert!(told("127.0.0.1:9153").await.contains("coredns_dns_requests_total{"));
        drop(feed);
        tasks.drain(Duration::from_secs(1)).await.unwrap();
    });
    place.with_dataplane(async || {
        let text = told("127.0.0.1:30100").await;
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.contains("X-Load-Balancing-Endpoint-Weight: 1\r\n"),
            "{text}"
        );
    });
}

#[test]
fn the_feed_finds_a_restarted_data_plane_again() {
    let place = Place::new("restart");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let tasks = TaskTree::default();
    let feed = runtime.block_on(place.feed(&tasks));
    runtime.block_on(feed.apply(state("10.96.0.10"))).unwrap();
    place.with_dataplane(async || resolves_to(Some("10.96.0.10")).await);
    runtime.block_on(feed.apply(state("10.96.0.12"))).unwrap();
    place.with_dataplane(async || resolves_to(Some("10.96.0.12")).await);
    runtime.block_on(feed.apply(NetState::default())).unwrap();
    place.with_dataplane(async || resolves_to(None).await);
    runtime.block_on(tasks.drain(Duration::from_secs(1))).unwrap();
}

#[test]
fn an_incomplete_list_changes_nothing() {
    let place = Place::new("parts");
    checkpoint::write(&place.options().checkpoint, &state("10.96.0.10")).unwrap();
    place.with_dataplane(async || {
        resolves_to(Some("10.96.0.10")).await;
        let mut stream = UnixStream::connect(place.options().socket).await.unwrap();
        let greeting: Greeting = read_frame(&mut stream).await.unwrap().unwrap();
        assert_eq!(greeting.version, VERSION);
        let part = Received { complete: true, more: true, ..Received::default() };
        write_frame(&mut stream, &part).await.unwrap();
        drop(stream);
        let mut stream = UnixStream::connect(place.options().socket).await.unwrap();
        read_frame::<Greeting>(&mut stream).await.unwrap();
        stream.write_all(&[0, 0, 0, 2, b'{', b'x']).await.unwrap();
        // The other side ends a conversation that it does not understand.
        assert!(read_frame::<Greeting>(&mut stream).await.unwrap().is_none());
        resolves_to(Some("10.96.0.10")).await;
    });
}

#[test]
fn a_file_in_the_sockets_place_is_not_removed() {
    let place = Place::new("occupied");
    let options = place.options();
    std::fs::write(&options.socket, "precious").unwrap();
    let outcome = place.namespace.run_async(async || serve(options.clone(), Cancel::default()).await);
    assert!(matches!(outcome, Err(NetError::Occupied(path)) if path == options.socket));
    assert_eq!(std::fs::read_to_string(&options.socket).unwrap(), "precious");
}
