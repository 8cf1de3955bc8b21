//! Registries and networks that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cri::PullFailure;
use futures_util::{StreamExt, stream};
use stdx::Cancel;
use wire::{Body, BodyError};

use super::server::*;
use super::*;

async fn serving(
    answer: impl Fn(&http::Request<Body>, &str) -> http::Response<Body> + Send + Sync + 'static,
) -> TestServer {
    TestServer::start(Box::new(move |request, address| Box::pin(std::future::ready(answer(request, address))))).await
}

#[tokio::test]
async fn continues_a_download_that_broke_off() {
    let folder = Folder::new("resume");
    let served = Served::new(&"x".repeat(300_000));
    let layer = served.layer();
    let content = served.blobs[&layer].clone();
    let attempts = AtomicUsize::new(0);
    let path = format!("/blobs/{layer}");
    let server = serving(move |request, _| {
        if !request.uri().path().ends_with(&path) {
            return served.answer(request);
        }
        let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_owned());
        let start = range.map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
        let rest = Bytes::from(content[start..].to_vec());
        let length = rest.len().to_string();
        let span = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
        let headers = [("content-length", length.as_str()), ("content-range", &span)];
        let status = if start > 0 { 206 } else { 200 };
        // Two attempts break off after a part, the third goes through.
        if attempts.fetch_add(1, Ordering::Relaxed) >= 2 {
            return answer(status, &headers, Body::from(rest));
        }
        // Pending in between, which lets the part leave before the connection does.
        let torn = async {
            tokio::task::yield_now().await;
            Err(BodyError::Produce("cable pulled".into()))
        };
        let part = stream::iter([Ok(rest.slice(..100_000))]).chain(stream::once(torn));
        answer(status, &headers, Body::stream(part))
    })
    .await;
    let store = store_with(&folder, &server.address, plain());
    let image = store.pull(&format!("{}/x:1", server.address), None).await.unwrap();
    assert_eq!(app_of(&image).len(), 300_000);
    let asked = server.asked_for(&format!("/blobs/{layer}"));
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked[0].ends_with(&layer) && asked[1].contains("bytes=") && asked[2].contains("bytes="), "{asked:?}");
    server.stop().await;
}

#[tokio::test]
async fn takes_nothing_that_is_not_what_its_digest_says() {
    let folder = Folder::new("forged");
    let base = Served::new("good");
    let (layer, manifest) = (base.layer(), base.manifest.clone());
    let config = base.blobs.keys().find(|digest| **digest != layer).unwrap().clone();
    let size = base.blobs[&layer].len();
    let cases: [(&str, String, Vec<u8>, &str); 5] = [
        ("forged layer", layer.clone(), vec![7; size], "content: digest is"),
        ("long layer", layer.clone(), vec![7; size + 1], "bytes, not"),
        ("short layer", layer.clone(), vec![7; size - 1], "bytes, not"),
        ("forged configuration", config.clone(), vec![b' '; base.blobs[&config].len()], "content: digest is"),
        ("forged manifest", String::new(), [manifest, b" ".to_vec()].concat(), "unexpected commit digest"),
    ];
    for (name, digest, forged, expected) in cases {
        let served = Served::new("good");
        let server = serving(move |request, _| {
            let path = request.uri().path();
            let is_content = request.method() == http::Method::GET;
            let is_forged = if digest.is_empty() { path.contains("/manifests/") } else { path.ends_with(&digest) };
            if is_content && is_forged { answer(200, &[], forged.clone()) } else { served.answer(request) }
        })
        .await;
        let store = store_with(&folder, &server.address, plain());
        let error = store.pull(&format!("{}/x:1", server.address), None).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert_eq!(error.failure(), PullFailure::Other, "{name}");
        assert!(store.list().unwrap().is_empty() && leftovers(&store).is_empty(), "{name}");
        assert_eq!(fs::read_dir(store.root().join("blobs/sha256")).unwrap().count(), 0, "{name}");
        server.stop().await;
    }
}

#[tokio::test]
async fn shares_one_download_between_all_who_want_it() {
    let folder = Folder::new("together");
    let served = Arc::new(Served::new("shared"));
    let release = Cancel::default();
    let server = {
        let release = release.clone();
        TestServer::start(Box::new(move |request, _| {
            let response = served.answer(request);
            let (release, waits) = (release.clone(), request.uri().path().contains("/blobs/"));
            Box::pin(async move {
                if waits {
                    release.cancelled().await;
                }
                response
            })
        }))
        .await
    };
    let store = store_with(&folder, &server.address, plain());
    let name = format!("{}/x:1", server.address);
    let mut pulls: Vec<_> = (0..10)
        .map(|_| {
            let (store, name) = (store.clone(), name.clone());
            Box::pin(async move { store.pull(&name, None).await.map(|image| image.id) })
        })
        .collect();
    // All are waiting before any content comes.
    let mut waiting = futures_util::future::join_all(&mut pulls);
    assert!(stdx::timeout(std::time::Duration::from_millis(200), &mut waiting).await.is_err());
    // One who gives up takes nothing from the others.
    drop(waiting);
    drop(pulls.pop());
    release.cancel();
    let results = futures_util::future::join_all(pulls).await;
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(|id| *id == *results[0].as_ref().unwrap())));
    let asked = server.asked();
    assert_eq!(asked.len(), 4, "name, manifest, configuration, layer: {asked:?}");
    server.stop().await;
}

#[tokio::test]
async fn gives_up_when_nobody_waits_any_more() {
    let folder = Folder::new("abandoned");
    let served = Served::new("slow");
    let (asked, mut asking) = tokio::sync::mpsc::unbounded_channel();
    let server = TestServer::start(Box::new(move |request, _| {
        if request.uri().path().contains("/blobs/") {
            asked.send(()).unwrap();
            return Box::pin(std::future::pending());
        }
        let response = served.answer(request);
        Box::pin(std::future::ready(response))
    }))
    .await;
    let store = store_with(&folder, &server.address, plain());
    let name = format!("{}/x:1", server.address);
    tokio::select! {
        result = store.pull(&name, None) => panic!("{result:?}"),
        arrived = asking.recv() => arrived.unwrap(),
    }
    // The lock on additions comes free once the pull is gone, and only then.
    while !store.collect().unwrap() {
        tokio::task::yield_now().await;
    }
    assert!(store.list().unwrap().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn keeps_its_authorization_from_others_it_is_sent_to() {
    let folder = Folder::new("redirect");
    let served = Arc::new(Served::new("elsewhere"));
    let storage = {
        let served = served.clone();
        serving(move |request, _| served.answer(request)).await
    };
    let elsewhere = storage.address.clone();
    let server = serving(move |request, _| {
        if !request.headers().contains_key("authorization") {
            return answer(401, &[("www-authenticate", "Basic realm=x")], "");
        }
        if request.uri().path().contains("/blobs/") {
            return answer(307, &[("location", &format!("http://{elsewhere}{}", request.uri()))], "");
        }
        served.answer(request)
    })
    .await;
    let auth = cri::AuthConfig { username: "u".into(), password: "p".into(), ..Default::default() };
    let name = format!("{}/x:1", server.address);
    // A redirect to plain HTTP is followed only where that is configured as well.
    let strict = store_with(&folder, &server.address, plain());
    let error = strict.pull(&name, Some(&auth)).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("plain HTTP is not configured for {}", storage.address)), "{error}");
    let hosts = [&server.address, &storage.address].map(|host| (host.clone(), plain()));
    let options = ImageOptions { registries: RegistryConfig { hosts: hosts.into() }, ..ImageOptions::default() };
    let store = ImageStore::open_with(&folder.path().join("other"), options).unwrap();
    store.pull(&name, Some(&auth)).await.unwrap();
    assert!(server.asked_for("/blobs/").iter().all(|line| line.ends_with("authorized")));
    let elsewhere = storage.asked();
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|line| !line.ends_with("authorized")), "{elsewhere:?}");
    server.stop().await;
    storage.stop().await;
}

#[tokio::test]
async fn asks_mirrors_first_and_the_registry_when_they_fail() {
    let folder = Folder::new("mirror");
    let (origin, mirrored) = (Served::new("origin"), Served::new("mirror"));
    let origin = serving(move |request, _| origin.answer(request)).await;
    let mirror = serving(move |request, _| match request.uri().path().contains("/known/") {
        true => mirrored.answer(request),
        false => answer(404, &[], ""),
    })
    .await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mirrors = vec![gone.clone(), mirror.address.clone()];
    let hosts = [
        (origin.address.clone(), HostConfig { mirrors, ..plain() }),
        (mirror.address.clone(), plain()),
        (gone, plain()),
    ];
    let options = ImageOptions { registries: RegistryConfig { hosts: hosts.into() }, ..ImageOptions::default() };
    let store = ImageStore::open_with(&folder.path().join("images"), options).unwrap();
    for (repository, expected) in [("known/x", "mirror"), ("other/x", "origin")] {
        let image = store.pull(&format!("{}/{repository}", origin.address), None).await.unwrap();
        assert_eq!(app_of(&image), expected);
        assert_eq!(image.repo_tags, [format!("{}/{repository}:latest", origin.address)]);
    }
    assert!(mirror.asked()[0].contains(&format!("?ns={}", origin.address)));
    origin.stop().await;
    mirror.stop().await;
}

#[tokio::test]
async fn reads_the_digest_off_the_content_where_the_registry_does_not_say() {
    let folder = Folder::new("terse");
    let served = Served::new("terse");
    let server = serving(move |request, _| {
        let mut response = served.answer(request);
        response.headers_mut().remove("docker-content-digest");
        response.headers_mut().remove("content-type");
        response
    })
    .await;
    let store = store_with(&folder, &server.address, plain());
    let image = store.pull(&format!("{}/x", server.address), None).await.unwrap();
    assert_eq!(app_of(&image), "terse");
    server.stop().await;
}
