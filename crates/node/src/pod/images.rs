//! Whether a container's image is pulled, and what is said about it. The decision is pure.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use cri::{AuthConfig, Error, PullFailure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Secret};
use serde::Deserialize;

use super::memory::{Memory, Waiting};
use super::pulled::SecretKey;

/// What to do about an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is there and good enough.
    Use,
    Pull,
    /// The container waits.
    Wait(Waiting, Option<Duration>),
}

/// Whether an image is there, and for this pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Absent,
    /// It was pulled with credentials that the pod has not shown: it has to pull it itself.
    Foreign,
    Usable,
}

/// Decides by pull policy, presence and earlier failures.
pub fn verdict(container: &Container, presence: Presence, memory: &Memory, now: Timestamp) -> Verdict {
    let image = container.image.as_deref().unwrap_or_default();
    let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
    match (policy, presence) {
        ("Never", Presence::Absent | Presence::Foreign) => {
            let how = match presence {
                Presence::Foreign => "present with pull policy of Never, but the pod has no credentials for it",
                _ => "not present with pull policy of Never",
            };
            let message = format!("Container image {image:?} is {how}");
            let waiting = Waiting { reason: "ErrImageNeverPull".into(), message };
            return Verdict::Wait(waiting, Some(Duration::from_secs(60)));
        }
        ("Never" | "IfNotPresent", Presence::Usable) => return Verdict::Use,
        _ => {}
    }
    match memory.pulls.get(image) {
        Some((tries, failed, why)) => match tries.left(*failed, now) {
            Some(left) => {
                let message = format!("Back-off pulling image {image:?}: {}: {}", why.reason, why.message);
                Verdict::Wait(Waiting { reason: "ImagePullBackOff".into(), message }, Some(left))
            }
            None => Verdict::Pull,
        },
        None => Verdict::Pull,
    }
}

/// How a failed pull is told in a container's status.
pub fn failure(image: &str, error: &Error) -> Waiting {
    match error {
        Error::ImagePull { failure: PullFailure::InvalidReference, message } => Waiting {
            reason: "InvalidImageName".into(),
            message: format!("Failed to apply default image tag {image:?}: {message}"),
        },
        Error::ImagePull { failure: PullFailure::RegistryUnavailable, message } => {
            Waiting { reason: "ErrImagePull".into(), message: message.clone() }
        }
        error => Waiting { reason: "ErrImagePull".into(), message: error.to_string() },
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials in pull secrets that are for the registry of `image`, most specific first, each with its secret.
pub fn credentials<'s>(image: &str, secrets: impl Iterator<Item = &'s Secret>) -> Vec<(SecretKey, AuthConfig)> {
    let mut found: Vec<(usize, (SecretKey, AuthConfig))> = Vec::new();
    for secret in secrets {
        for (registry, entry) in entries(secret) {
            if let Some(precision) = matches(&registry, image) {
                found.push((precision, (SecretKey::of(secret), auth(registry, entry))));
            }
        }
    }
    found.sort_by_key(|(precision, _)| std::cmp::Reverse(*precision));
    found.into_iter().map(|(_, sourced)| sourced).collect()
}

fn entries(secret: &Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let parsed = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .map(|bytes| serde_json::from_slice::<DockerConfig>(bytes).map(|config| config.auths)),
        Some("kubernetes.io/dockercfg") => data(".dockercfg").map(serde_json::from_slice),
        _ => None,
    };
    match parsed {
        Some(Ok(entries)) => entries,
        Some(Err(error)) => {
            tracing::warn!(secret = secret.metadata.name, %error, "pull secret cannot be read");
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    }
}

fn auth(registry: String, entry: Entry) -> AuthConfig {
    let decoded = base64::engine::general_purpose::STANDARD.decode(&entry.auth).ok();
    let pair = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = pair.as_deref().and_then(|pair| pair.split_once(':'));
    let (username, password) = pair.unwrap_or((&entry.username, &entry.password));
    AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        auth: String::new(),
        server_address: registry,
        identity_token: entry.identitytoken,
        registry_token: entry.registrytoken,
    }
}

/// Whether an entry (`host[:port][/path]`, with `*` within labels of the host) is for an image, and how precisely.
/// Upstream: `credentialprovider.URLsMatchStr`.
fn matches(registry: &str, image: &str) -> Option<usize> {
    let registry = registry.trim_start_matches("https://").trim_start_matches("http://");
    let registry = registry.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    let (host, path) = registry.split_once('/').unwrap_or((registry, ""));
    let first = image.split('/').next().unwrap_or_default();
    let named = image.contains('/') && (first.contains(['.', ':']) || first == "localhost");
    let (image_host, image_path) = if named { image.split_once('/')? } else { ("docker.io", image) };
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same_host = (hub(host) && hub(image_host)) || host_matches(host, image_host);
    (same_host && image_path.starts_with(path)).then_some(registry.len())
}

fn host_matches(pattern: &str, host: &str) -> bool {
    let split = |text: &str| {
        let (name, port) = text.split_once(':').unwrap_or((text, ""));
        (name.split('.').map(str::to_owned).collect::<Vec<_>>(), port.to_owned())
    };
    let ((pattern, pattern_port), (host, port)) = (split(pattern), split(host));
    pattern_port == port
        && pattern.len() == host.len()
        && pattern.iter().zip(&host).all(|(pattern, label)| match pattern.split_once('*') {
            None => pattern == label,
            Some((before, after)) => {
                label.len() >= before.len() + after.len() && label.starts_with(before) && label.ends_with(after)
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_for_its_host_and_path() {
        let check = |registry, image, expected: bool| {
            assert_eq!(matches(registry, image).is_some(), expected, "{registry} for {image}");
        };
        check("registry.example:5000", "registry.example:5000/app:v1", true);
        check("registry.example", "registry.example:5000/app:v1", false);
        check("https://registry.example:5000/v2/", "registry.example:5000/app", true);
        check("registry.example/team", "registry.example/team/app", true);
        check("registry.example/team", "registry.example/other/app", false);
        check("*.example", "registry.example/app", true);
        check("*.example", "a.registry.example/app", false);
        check("https://index.docker.io/v1/", "nginx", true);
        check("https://index.docker.io/v1/", "team/app", true);
        check("other.example", "nginx", false);
    }

    #[test]
    fn a_private_image_that_is_present_is_pulled_by_whom_it_is_not_for() {
        let check = |policy: &str, presence: Presence, expected: &str| {
            let container: Container =
                serde_json::from_str(&format!(r#"{{"name":"c","image":"i","imagePullPolicy":"{policy}"}}"#)).unwrap();
            let found = match verdict(&container, presence, &Memory::default(), Timestamp::UNIX_EPOCH) {
                Verdict::Use => "use".to_owned(),
                Verdict::Pull => "pull".to_owned(),
                Verdict::Wait(waiting, _) => waiting.reason,
            };
            assert_eq!(found, expected, "{policy} {presence:?}");
        };
        check("IfNotPresent", Presence::Usable, "use");
        check("IfNotPresent", Presence::Foreign, "pull");
        check("IfNotPresent", Presence::Absent, "pull");
        check("Always", Presence::Usable, "pull");
        check("Never", Presence::Usable, "use");
        check("Never", Presence::Foreign, "ErrImageNeverPull");
        check("Never", Presence::Absent, "ErrImageNeverPull");
    }

    #[test]
    fn reads_both_shapes_of_pull_secrets() {
        let secret: Secret = serde_json::from_value(serde_json::json!({
            "type": "kubernetes.io/dockerconfigjson",
            "data": {".dockerconfigjson": base64::engine::general_purpose::STANDARD.encode(r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#)}
        }))
        .unwrap();
        let found = credentials("r.example/app", [&secret].into_iter());
        assert_eq!((found[0].1.username.as_str(), found[0].1.password.as_str()), ("u", "p"));
        assert!(credentials("s.example/app", [&secret].into_iter()).is_empty());
    }
}
