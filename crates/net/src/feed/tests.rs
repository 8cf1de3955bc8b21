//! The feed with a real kernel.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::*;
use crate::input::ServiceView;
use crate::testbed::{TestNode, call_tcp, endpoint, servers, service, slice, web, web_address};

async fn feed(node: &TestNode, tasks: &TaskTree) -> Feed {
    let options = FeedOptions { facts: node.facts(), netns: Some(node.namespace.path()), dataplane: None };
    Feed::start(options, tasks).await.unwrap()
}

fn uid(address: std::net::IpAddr) -> String {
    endpoint(&address.to_string()).pod_uid
}

#[tokio::test]
async fn rules_are_in_force_when_apply_resolves() {
    let node = TestNode::start().await;
    let (a, client) = (node.pod("a").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    let tasks = TaskTree::default();
    let feed = feed(&node, &tasks).await;
    for _ in 0..20 {
        feed.apply(web(&[a.address])).await.unwrap();
        assert!(call_tcp(&client.namespace, web_address()).is_ok());
        feed.apply(web(&[])).await.unwrap();
        let error = call_tcp(&client.namespace, web_address()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[tokio::test]
async fn an_ending_pod_leaves_the_rules_before_it_is_told_to_stop() {
    let node = TestNode::start().await;
    let (a, b) = (node.pod("a").await, node.pod("b").await);
    a.serve_tcp(3000, "a");
    b.serve_tcp(3000, "b");
    let tasks = TaskTree::default();
    let feed = feed(&node, &tasks).await;
    feed.apply(web(&[a.address, b.address])).await.unwrap();
    feed.exclude(&uid(a.address)).await.unwrap();
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    assert_eq!(servers(&node.namespace, web_address()), only("b"));
    // Lists that do not know it yet do not bring it back.
    feed.apply(web(&[a.address, b.address])).await.unwrap();
    assert_eq!(servers(&node.namespace, web_address()), only("b"));
    // The last one of a Service is used until it is gone.
    feed.exclude(&uid(b.address)).await.unwrap();
    assert_eq!(servers(&node.namespace, web_address()), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    feed.include(&uid(a.address)).unwrap();
    feed.apply(web(&[a.address, b.address])).await.unwrap();
    assert_eq!(servers(&node.namespace, web_address()), only("a"));
}

#[tokio::test]
async fn nothing_is_touched_and_nobody_answered_before_complete_lists() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let tasks = TaskTree::default();
    feed(&node, &tasks).await.apply(web(&[a.address])).await.unwrap();
    // A new process: rules of the old one hold, also while a pod is to be excluded.
    let feed = feed(&node, &tasks).await;
    let early = feed.clone();
    let pod = uid(a.address);
    let excluded = stdx::spawn(async move { early.exclude(&pod).await });
    assert!(call_tcp(&node.namespace, web_address()).is_ok());
    let other = endpoint("10.244.7.99");
    let state =
        NetState::new([service("web", "10.96.0.10")], [slice("web", [endpoint(&a.address.to_string()), other])]);
    feed.apply(state).await.unwrap();
    assert!(excluded.await.unwrap().is_ok());
    feed.apply(web(&[a.address])).await.unwrap();
    assert!(call_tcp(&node.namespace, web_address()).is_ok(), "it is the last one");
}

#[tokio::test]
async fn rules_stay_when_the_feed_ends_and_come_back_when_somebody_removes_them() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let tasks = TaskTree::default();
    let first = feed(&node, &tasks).await;
    first.apply(web(&[a.address])).await.unwrap();
    let mut other = node.namespace.run(|| Kernel::open().unwrap());
    other.remove(&node.facts().names).unwrap();
    let mut rounds = 0;
    while other.is_absent(&node.facts().names).unwrap() {
        rounds += 1;
        assert!(rounds < 200, "the rules did not come back");
        stdx::sleep(Duration::from_millis(20)).await;
    }
    assert!(call_tcp(&node.namespace, web_address()).is_ok());
    drop(first);
    assert!(call_tcp(&node.namespace, web_address()).is_ok());
}

#[tokio::test]
async fn a_firewall_that_comes_later_is_opened_for_pods() {
    let node = TestNode::start().await;
    let (a, client) = (node.pod("a").await, node.pod("client").await);
    a.serve_tcp(3000, "a");
    let tasks = TaskTree::default();
    let feed = feed(&node, &tasks).await;
    feed.apply(web(&[a.address])).await.unwrap();
    let firewall = node.namespace.run(|| Socket::netfilter().unwrap());
    crate::rules::tests::add_dropping_chain(&firewall, "late", 2);
    // A first packet that is dropped is sent again by TCP, after a second; by then the way is open.
    assert!(call_tcp(&client.namespace, web_address()).is_ok());
}

#[tokio::test]
async fn a_firewall_that_takes_no_rules_is_told_as_long_as_it_is_there_and_hinders_no_others() {
    let node = TestNode::start().await;
    let a = node.pod("a").await;
    a.serve_tcp(3000, "a");
    let [firewall, other] = [(); 2].map(|()| node.namespace.run(|| Socket::netfilter().unwrap()));
    crate::rules::tests::add_owned_dropping_chain(&firewall, "own", 2);
    crate::rules::tests::add_dropping_chain(&other, "others", 2);
    let tasks = TaskTree::default();
    let feed = feed(&node, &tasks).await;
    assert_eq!(feed.apply(web(&[a.address])).await.unwrap().foreign_chains, 1);
    let closed = feed.closed();
    assert!(closed.len() == 1 && closed[0].contains("\"ip own HOOK2\""), "{closed:?}");
    assert_eq!(feed.apply(web(&[a.address, [10, 244, 0, 99].into()])).await.unwrap().foreign_chains, 0);
    drop(firewall);
    let mut rounds = 0;
    while !feed.closed().is_empty() {
        rounds += 1;
        assert!(rounds < 1000, "{:?}", feed.closed());
        stdx::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn ignored_fields_are_told() {
    let node = TestNode::start().await;
    let tasks = TaskTree::default();
    let feed = feed(&node, &tasks).await;
    let view = ServiceView { unsupported: vec!["spec.externalIPs".into()], ..service("web", "10.96.0.10") };
    feed.apply(NetState::new([view.clone()], [])).await.unwrap();
    assert_eq!(feed.unsupported(), BTreeMap::from([(view.key, view.unsupported)]));
}

#[tokio::test]
async fn one_connection_to_the_data_plane_carries_every_change() {
    let folder = std::env::temp_dir().join(format!("isopod-net-feed-{}", std::process::id()));
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir(&folder).unwrap();
    let socket = folder.join("dataplane.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let (state, latest) = watch::channel(Some(Arc::new(web(&[]))));
    let forwarding = stdx::spawn(forward(socket, latest));
    let (mut stream, _) = listener.accept().await.unwrap();
    write_frame(&mut stream, &Greeting { version: VERSION }).await.unwrap();
    for part in complete(&web(&[])) {
        let received: serde_json::Value = read_frame(&mut stream).await.unwrap().expect("the connection stays open");
        assert_eq!(received, serde_json::to_value(part).unwrap());
    }
    for last in 1..4u8 {
        state.send_replace(Some(Arc::new(web(&[[10, 244, 0, last].into()]))));
        let change: Option<serde_json::Value> = read_frame(&mut stream).await.unwrap();
        assert!(change.is_some(), "change {last} comes on the same connection");
    }
    drop((state, forwarding, stream));
    std::fs::remove_dir_all(&folder).unwrap();
}
