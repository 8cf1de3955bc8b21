//! Registry credentials out of docker configurations, and which of them an image gets.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use cri::AuthConfig;
use serde::Deserialize;

/// What Docker's own clients call the default registry in their configuration.
const DEFAULT_REGISTRY_KEY: &str = "index.docker.io";

/// A docker configuration that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Not the expected JSON.
    #[error("read docker configuration")]
    Json(#[from] serde_json::Error),
    /// An `auth` field that is not base64 of `user:password`.
    #[error("unable to parse auth field, must be formatted as base64(username:password)")]
    AuthField,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigJson {
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

/// Credentials by registry, host pattern and path, as gathered from pull secrets in their order.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, Vec<AuthConfig>>);

impl Keyring {
    /// Adds what a `.dockerconfigjson` (a Secret of type `kubernetes.io/dockerconfigjson`) holds.
    pub fn add_config_json(&mut self, text: &[u8]) -> Result<(), KeyringError> {
        let config: ConfigJson = serde_json::from_slice(text)?;
        self.add(config.auths)
    }

    /// Adds what a `.dockercfg` (a Secret of type `kubernetes.io/dockercfg`) holds.
    pub fn add_config(&mut self, text: &[u8]) -> Result<(), KeyringError> {
        self.add(serde_json::from_slice(text)?)
    }

    /// All credentials for an image's repository (`docker.io/library/nginx`, without tag), the ones for the longest match
    /// first: each is to be tried until one works. None found means to try anonymously.
    pub fn credentials(&self, repository: &str) -> Vec<AuthConfig> {
        let matching = self.0.iter().rev().filter(|(key, _)| matches(key, repository));
        let found: Vec<AuthConfig> = matching.flat_map(|(_, credentials)| credentials.iter().cloned()).collect();
        if found.is_empty() && is_default_registry(repository) {
            return self.0.get(DEFAULT_REGISTRY_KEY).cloned().unwrap_or_default();
        }
        found
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), KeyringError> {
        for (location, entry) in entries {
            let credentials = credentials(entry)?;
            if credentials != AuthConfig::default() {
                self.0.entry(key(&location)).or_default().push(credentials);
            }
        }
        Ok(())
    }
}

fn credentials(entry: Entry) -> Result<AuthConfig, KeyringError> {
    let (mut username, mut password) = (entry.username, entry.password);
    if !entry.auth.is_empty() {
        let engine = if entry.auth.trim().ends_with('=') { &STANDARD } else { &STANDARD_NO_PAD };
        let decoded = engine.decode(entry.auth.trim()).map_err(|_| KeyringError::AuthField)?;
        let text = String::from_utf8(decoded).map_err(|_| KeyringError::AuthField)?;
        let (user, secret) = text.split_once(':').ok_or(KeyringError::AuthField)?;
        (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Ok(AuthConfig { username, password, ..AuthConfig::default() })
}

/// Host and path of a location. `/v1/` and `/v2/` are what clients append to a registry's address, so they mean the host.
fn key(location: &str) -> String {
    let bare = location.strip_prefix("https://").or_else(|| location.strip_prefix("http://")).unwrap_or(location);
    let (host, path) = bare.split_once('/').map_or((bare, ""), |(host, path)| (host, path));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    if path.is_empty() { host.to_owned() } else { format!("{host}/{path}") }
}

/// Whether a key is for this repository: same port, host parts matched one by one as patterns, path a prefix.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_once('/').map_or((text, ""), |(host, path)| (host, path));
        let (host, port) = host.rsplit_once(':').map_or((host, ""), |(host, port)| (host, port));
        (host.to_owned(), port.to_owned(), path.to_owned())
    };
    let ((wanted_host, wanted_port, wanted_path), (host, port, path)) = (split(key), split(repository));
    let (patterns, parts): (Vec<&str>, Vec<&str>) = (wanted_host.split('.').collect(), host.split('.').collect());
    wanted_port == port
        && patterns.len() == parts.len()
        && path.starts_with(&wanted_path)
        && patterns.iter().zip(parts).all(|(pattern, part)| glob(pattern.as_bytes(), part.as_bytes()))
}

/// Whether `text` matches a shell pattern of `*`, `?`, `[a-z]`, `[^a]` and `\`; a malformed pattern matches nothing.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', rest @ ..] => (0..=text.len()).any(|skipped| glob(rest, &text[skipped..])),
        [b'?', rest @ ..] => !text.is_empty() && glob(rest, &text[1..]),
        [b'[', rest @ ..] => match (class(rest), text) {
            (Some((ranges, negated, rest)), [letter, text @ ..]) => {
                let inside = ranges.iter().any(|(low, high)| (low..=high).contains(&letter));
                inside != negated && glob(rest, text)
            }
            _ => false,
        },
        [b'\\', letter, rest @ ..] | [letter, rest @ ..] => text.first() == Some(letter) && glob(rest, &text[1..]),
    }
}

type Ranges = Vec<(u8, u8)>;

/// The ranges of a class, whether it is negated, and what follows it.
fn class(pattern: &[u8]) -> Option<(Ranges, bool, &[u8])> {
    let (negated, body) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let end = body.iter().skip(1).position(|byte| *byte == b']')? + 1;
    let mut ranges = Vec::new();
    let mut members = &body[..end];
    while let Some((low, rest)) = members.split_first() {
        members = match rest {
            [b'-', high, rest @ ..] => {
                ranges.push((*low, *high));
                rest
            }
            rest => {
                ranges.push((*low, *low));
                rest
            }
        };
    }
    Some((ranges, negated, &body[end + 1..]))
}

fn is_default_registry(repository: &str) -> bool {
    match repository.split_once('/') {
        None => !repository.is_empty(),
        Some((first, _)) => {
            first == "docker.io" || first == DEFAULT_REGISTRY_KEY || !(first.is_empty() || first.contains(['.', ':']))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(locations: &[&str]) -> Keyring {
        let auths: Vec<String> = locations
            .iter()
            .map(|location| format!("{location:?}:{{\"auth\":\"{}\"}}", STANDARD.encode(format!("{location}:secret"))))
            .collect();
        let mut keyring = Keyring::default();
        keyring.add_config_json(format!("{{\"auths\":{{{}}}}}", auths.join(",")).as_bytes()).unwrap();
        keyring
    }

    #[test]
    fn gives_an_image_what_matches_its_host_and_path() {
        for (locations, repository, expected) in [
            (&["host"][..], "host/x", &["host"][..]),
            (&["https://reg.example/v1/"], "reg.example/x", &["https"]),
            (&["reg.example", "reg.example/team"], "reg.example/team/x", &["reg.example/team", "reg.example"]),
            (&["reg.example/team"], "reg.example/other", &[]),
            (&["*.example"], "reg.example/x", &["*.example"]),
            (&["*.example"], "a.reg.example/x", &[]),
            (&["r[a-f]g.*"], "reg.example/x", &["r[a-f]g.*"]),
            (&["r[^a-f]g.*"], "reg.example/x", &[]),
            (&["reg.example"], "reg.example:5000/x", &[]),
            (&["https://index.docker.io/v1/"], "docker.io/library/nginx", &["https"]),
            (&["docker.io"], "docker.io/library/nginx", &["docker.io"]),
            (&["https://index.docker.io/v1/"], "quay.example/x", &[]),
        ] {
            let found = keyring(locations).credentials(repository);
            let users: Vec<&str> = found.iter().map(|found| found.username.as_str()).collect();
            assert_eq!(users, expected, "{locations:?} for {repository}");
        }
    }

    #[test]
    fn reads_both_formats_and_refuses_broken_ones() {
        let mut ring = Keyring::default();
        ring.add_config(br#"{"r.example":{"username":"u","password":"p","email":"e"}}"#).unwrap();
        ring.add_config_json(br#"{"auths":{"r.example":{"auth":"dTI6cDpx"},"empty.example":{}}}"#).unwrap();
        let found = ring.credentials("r.example/x");
        let pairs: Vec<_> = found.iter().map(|found| (found.username.as_str(), found.password.as_str())).collect();
        assert_eq!(pairs, [("u", "p"), ("u2", "p:q")]);
        assert!(ring.credentials("empty.example/x").is_empty());
        for broken in [&b"{"[..], br#"{"auths":{"x":{"auth":"%"}}}"#, br#"{"auths":{"x":{"auth":"bm9jb2xvbg=="}}}"#] {
            assert!(ring.add_config_json(broken).is_err());
        }
    }
}
