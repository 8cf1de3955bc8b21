//! Debian's real registry: plain, with TLS and passwords, with tokens.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cri::{AuthConfig, PullFailure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use wire::ClientOptions;
use wire::tls::{ClientTls, Trust};

use super::server::*;
use super::*;

fn login(username: &str, password: &str) -> Option<AuthConfig> {
    Some(AuthConfig { username: username.into(), password: password.into(), ..AuthConfig::default() })
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

#[tokio::test]
async fn pulls_by_tag_and_digest_and_again_without_content() {
    let folder = Folder::new("plain");
    let registry = RealRegistry::start(&folder, "", "");
    let address = registry.address.clone();
    let archive = packed("x", "pulled");
    push(&client(), &format!("http://{address}"), "team/app", "v1", &archive, "").await;
    let store = store_with(&folder, &address, plain());
    let image = store.pull(&format!("{address}/team/app:v1"), None).await.unwrap();
    let digest = Digest::of(&blobs_of(&archive).1);
    assert_eq!(image.repo_tags, [format!("{address}/team/app:v1")]);
    assert_eq!(image.repo_digests, [format!("{address}/team/app@{digest}")]);
    assert_eq!((app_of(&image).as_str(), image.config.entrypoint.as_slice()), ("pulled", &["/bin/app".to_owned()][..]));
    assert_eq!(leftovers(&store), [""; 0]);
    let blobs = store.root().join("blobs/sha256");
    assert_eq!(fs::read_dir(&blobs).unwrap().count(), 2, "packed layers do not stay");

    assert_eq!(store.pull(&format!("{address}/team/app:v1"), None).await.unwrap(), image);
    let by_digest = store.pull(&format!("{address}/team/app@{digest}"), None).await.unwrap();
    assert_eq!(by_digest, image);
    let id = store.image(&image.repo_digests[0]).unwrap().unwrap().id;
    assert_eq!(id, image.id);

    // What a tag leads to may change; the old image stays, without it.
    push(&client(), &format!("http://{address}"), "team/app", "v1", &packed("x", "newer"), "").await;
    let newer = store.pull(&format!("{address}/team/app:v1"), None).await.unwrap();
    assert_eq!(app_of(&newer), "newer");
    assert_eq!(store.image(&image.id).unwrap().unwrap().repo_tags, [""; 0]);
}

#[tokio::test]
async fn words_its_failures_as_containerd_does() {
    let folder = Folder::new("words");
    let registry = RealRegistry::start(&folder, "", "");
    let address = registry.address.clone();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let hosts = [&address, &gone].map(|host| (host.clone(), plain()));
    let options = ImageOptions { registries: RegistryConfig { hosts: hosts.into() }, ..ImageOptions::default() };
    let store = ImageStore::open_with(&folder.path().join("images"), options).unwrap();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let story = |name: &str, why: &str| {
        format!("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {why}")
    };
    for (image, failure, expected) in [
        (
            format!("{address}/a/b:1"),
            PullFailure::NotFound,
            story(&format!("{address}/a/b:1"), &format!("{address}/a/b:1: not found")),
        ),
        (
            format!("{address}/a"),
            PullFailure::NotFound,
            story(&format!("{address}/a:latest"), &format!("{address}/a:latest: not found")),
        ),
        (
            format!("{address}/a@{zeros}"),
            PullFailure::NotFound,
            story(&format!("{address}/a@{zeros}"), &format!("{address}/a@{zeros}: not found")),
        ),
        (
            format!("{gone}/x:1"),
            PullFailure::RegistryUnavailable,
            story(
                &format!("{gone}/x:1"),
                &format!(
                    "failed to do request: Head \"http://{gone}/v2/x/manifests/1\": dial tcp {gone}: connect: connection refused"
                ),
            ),
        ),
        (
            "localhost:1/x".into(),
            PullFailure::RegistryUnavailable,
            story(
                "localhost:1/x:latest",
                "failed to do request: Head \"https://localhost:1/v2/x/manifests/latest\": dial tcp 127.0.0.1:1: connect: connection refused",
            ),
        ),
        (
            "Not A Name".into(),
            PullFailure::InvalidReference,
            "couldn't parse image name \"Not A Name\": invalid reference format: repository name (library/Not A Name) must be lowercase".into(),
        ),
    ] {
        let error = store.pull(&image, None).await.unwrap_err();
        assert_eq!((error.to_string(), error.failure()), (expected, failure));
    }
    // Plain HTTP must be asked for.
    let strict = ImageStore::open(&folder.path().join("strict")).unwrap();
    let error = strict.pull(&format!("{address}/a:1"), None).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        story(
            &format!("{address}/a:1"),
            &format!(
                "failed to do request: Head \"https://{address}/v2/a/manifests/1\": http: server gave HTTP response to HTTPS client"
            )
        )
    );
    assert!(store.list().unwrap().is_empty());
}

#[tokio::test]
async fn picks_the_manifest_for_this_machine() {
    let folder = Folder::new("index");
    let registry = RealRegistry::start(&folder, "", "");
    let (address, base) = (registry.address.clone(), format!("http://{}", registry.address));
    let mut manifests = Vec::new();
    let host = manifest::Platform::of_host().architecture;
    for (architecture, content) in [("s390x", "theirs"), (host.as_str(), "ours")] {
        let archive = packed("x", content);
        push(&client(), &base, "multi", architecture, &archive, "").await;
        let manifest = blobs_of(&archive).1;
        manifests.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(&manifest),
            "size": manifest.len(), "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let index = |manifests: &[serde_json::Value]| {
        serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests,
        })
        .to_string()
    };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let full = index(&manifests);
    push_manifest(&client(), &base, "multi", "1", media_type, full.as_bytes(), "").await;
    push_manifest(&client(), &base, "multi", "foreign", media_type, index(&manifests[..1]).as_bytes(), "").await;
    let store = store_with(&folder, &address, plain());
    let image = store.pull(&format!("{address}/multi:1"), None).await.unwrap();
    assert_eq!(app_of(&image), "ours");
    assert_eq!(image.repo_digests, [format!("{address}/multi@{}", Digest::of(full.as_bytes()))]);
    let error = store.pull(&format!("{address}/multi:foreign"), None).await.unwrap_err();
    assert!(error.to_string().contains("no match for platform in manifest"), "{error}");
    assert_eq!(error.failure(), PullFailure::NotFound);
}

/// A certificate for 127.0.0.1 with its key, and the authority that signed it.
struct Identity {
    authority: String,
    certificate: String,
    chain_der: Vec<u8>,
    key: KeyPair,
}

impl Identity {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "isopod image test");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        Identity { authority: authority.pem(), certificate: leaf.pem(), chain_der: leaf.der().to_vec(), key }
    }

    /// Writes everything into a folder.
    fn write(&self, folder: &Folder) {
        fs::write(folder.path().join("ca.pem"), &self.authority).unwrap();
        fs::write(folder.path().join("cert.pem"), &self.certificate).unwrap();
        fs::write(folder.path().join("key.pem"), self.key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn proves_itself_by_password_over_tls() {
    let folder = Folder::new("basic");
    let identity = Identity::new();
    identity.write(&folder);
    // Of the password "open sesame"; the registry takes bcrypt only.
    let hash = "$2b$04$3VtRm5wXPjmqZaCuF/s0h./grxTGLncE6j6Dta6T6WS0B6BruUbuW";
    fs::write(folder.path().join("htpasswd"), format!("ali:{hash}\n")).unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", at("cert.pem"), at("key.pem"));
    let auth = format!("auth:\n  htpasswd:\n    realm: cave\n    path: {}\n", at("htpasswd"));
    let registry = RealRegistry::start(&folder, &tls, &auth);
    let address = registry.address.clone();
    let trust = Trust::from_pem(identity.authority.as_bytes()).unwrap();
    let trusting = wire::Client::new(ClientOptions {
        tls: Some(ClientTls::new(&trust, None).unwrap()),
        ..ClientOptions::default()
    });
    let archive = packed("x", "secret");
    push(&trusting, &format!("https://{address}"), "private", "1", &archive, &basic("ali", "open sesame")).await;

    let own_ca = HostConfig { ca_file: Some(folder.path().join("ca.pem")), ..HostConfig::default() };
    let store = store_with(&folder, &address, own_ca);
    let name = format!("{address}/private:1");
    let denied = "pull access denied, repository does not exist or may require authorization";
    let url = format!("https://{address}/v2/private/manifests/1");
    for (credentials, expected) in [
        (None, format!("{denied}: no basic auth credentials: authorization failed")),
        (login("ali", "wrong"), format!("unexpected status from HEAD request to {url}: 401 Unauthorized")),
        (
            Some(AuthConfig { server_address: "other.example".into(), ..login("ali", "open sesame").unwrap() }),
            format!("{denied}: no basic auth credentials: authorization failed"),
        ),
    ] {
        let error = store.pull(&name, credentials.as_ref()).await.unwrap_err();
        assert!(error.to_string().ends_with(&expected), "{error}");
        assert_eq!(error.failure(), PullFailure::Unauthorized);
    }
    let encoded = AuthConfig { auth: STANDARD.encode("ali:open sesame"), ..AuthConfig::default() };
    for credentials in [login("ali", "open sesame"), Some(encoded)] {
        let image = store.pull(&name, credentials.as_ref()).await.unwrap();
        assert_eq!(app_of(&image), "secret");
        store.remove_image(&name).unwrap();
    }
    let stranger = ImageStore::open(&folder.path().join("stranger")).unwrap();
    let error = stranger.pull(&name, None).await.unwrap_err().to_string();
    assert!(error.ends_with("x509: certificate signed by unknown authority"), "{error}");
}

/// A token server as registries use them: whoever says the password may pull `private/app`, everybody `public/app`.
fn token_server(identity: &Identity, issuer: &'static str) -> Answering {
    let key = identity.key.serialize_der();
    let chain = STANDARD.encode(&identity.chain_der);
    Box::new(move |request, _| {
        let query =
            request.uri().query().unwrap_or_default().replace("%3A", ":").replace("%2F", "/").replace("%2C", ",");
        let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let response = match authorization.as_deref() {
            Some(value) if value != basic("ali", "open sesame") => answer(401, &[], ""),
            known => {
                let wanted = query.split('&').find_map(|pair| pair.strip_prefix("scope=repository:"));
                let (repository, actions) = wanted.and_then(|scope| scope.split_once(':')).unwrap_or_default();
                let granted = known.is_some() || repository == "public/app";
                let actions: Vec<&str> = if granted { actions.split(',').collect() } else { Vec::new() };
                let token = token(&key, &chain, issuer, repository, &actions);
                answer(200, &[("content-type", "application/json")], format!("{{\"token\":\"{token}\"}}"))
            }
        };
        Box::pin(std::future::ready(response))
    })
}

fn token(key: &[u8], chain: &str, issuer: &str, repository: &str, actions: &[&str]) -> String {
    let now = stdx::wall().as_second();
    let header = serde_json::json!({"typ": "JWT", "alg": "ES256", "x5c": [chain]});
    let claims = serde_json::json!({
        "iss": issuer, "sub": "ali", "aud": "the-registry", "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
        "access": [{"type": "repository", "name": repository, "actions": actions}],
    });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).unwrap();
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn proves_itself_by_token() {
    let folder = Folder::new("token");
    let identity = Identity::new();
    identity.write(&folder);
    let tokens = TestServer::start(token_server(&identity, "token-test")).await;
    let auth = format!(
        "auth:\n  token:\n    realm: http://{}/token\n    service: the-registry\n    issuer: token-test\n    rootcertbundle: {}\n",
        tokens.address,
        folder.path().join("ca.pem").display()
    );
    let registry = RealRegistry::start(&folder, "", &auth);
    let address = registry.address.clone();
    let base = format!("http://{address}");
    let chain = STANDARD.encode(&identity.chain_der);
    for repository in ["private/app", "public/app"] {
        let token = token(&identity.key.serialize_der(), &chain, "token-test", repository, &["pull", "push"]);
        push(&client(), &base, repository, "1", &packed("x", repository), &format!("Bearer {token}")).await;
    }
    let hosts = [&address, &tokens.address].map(|host| (host.clone(), plain()));
    let options = ImageOptions { registries: RegistryConfig { hosts: hosts.into() }, ..ImageOptions::default() };
    let store = ImageStore::open_with(&folder.path().join("images"), options).unwrap();

    assert_eq!(app_of(&store.pull(&format!("{address}/public/app:1"), None).await.unwrap()), "public/app");
    let private = format!("{address}/private/app:1");
    let error = store.pull(&private, None).await.unwrap_err();
    let expected = "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed";
    assert!(error.to_string().ends_with(expected), "{error}");
    assert_eq!(error.failure(), PullFailure::Unauthorized);
    let error = store.pull(&private, login("ali", "wrong").as_ref()).await.unwrap_err();
    assert!(
        error.to_string().contains(
            "failed to authorize: failed to fetch oauth token: unexpected status from GET request to http://"
        ),
        "{error}"
    );
    assert!(error.to_string().ends_with("401 Unauthorized"), "{error}");
    let image = store.pull(&private, login("ali", "open sesame").as_ref()).await.unwrap();
    assert_eq!(app_of(&image), "private/app");
    let asked = tokens.asked();
    assert_eq!(
        asked.last().unwrap(),
        "GET /token?service=the-registry&scope=repository%3Aprivate%2Fapp%3Apull  authorized"
    );

    // A token of one's own is used as it is.
    let own = token(&identity.key.serialize_der(), &chain, "token-test", "private/app", &["pull"]);
    store.remove_image(&private).unwrap();
    let auth = AuthConfig { registry_token: own, ..AuthConfig::default() };
    store.pull(&private, Some(&auth)).await.unwrap();
    assert_eq!(tokens.asked(), asked);
    tokens.stop().await;
}
