//! Where registries are and how they are spoken to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use cri::PullFailure;
use http::Uri;
use wire::tls::{ClientTls, Trust, certificates_from_pem};
use wire::{Client, ClientOptions};

use super::super::reference::DEFAULT_DOMAIN;
use super::PullFault;

/// Who really serves the default registry.
const DEFAULT_HOST: &str = "registry-1.docker.io";
/// Where distributions keep the authorities they trust; the first that exists counts.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const ROOTS_BYTES_MAX: u64 = 16 << 20;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);

/// How registries are reached; those not named here by HTTPS with the system's authorities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryConfig {
    /// By registry or other server: `host` or `host:port`, as it stands in image names and addresses.
    pub hosts: BTreeMap<String, HostConfig>,
}

/// How one host is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Plain HTTP in place of HTTPS.
    pub plain_http: bool,
    /// Authorities believed besides the system's, a PEM file.
    pub ca_file: Option<PathBuf>,
    /// Hosts asked first, in this order.
    pub mirrors: Vec<String>,
}

/// One server that may have an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    plain_http: bool,
    pub(super) is_mirror: bool,
}

impl Endpoint {
    pub(super) fn base(&self) -> String {
        format!("{}://{}", if self.plain_http { "http" } else { "https" }, self.host)
    }

    /// Whether an address that credentials are for means this server or the registry it stands for.
    pub(super) fn is_named(&self, address: &str, domain: &str) -> bool {
        let bare = address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
        let host = bare.split('/').next().unwrap_or_default();
        host == self.host || host == domain || (domain == DEFAULT_DOMAIN && host == "index.docker.io")
    }
}

/// The configured hosts and the clients made for them so far.
pub(super) struct Endpoints {
    config: RegistryConfig,
    /// One client per host with authorities of its own, and one (the empty name) for all others.
    clients: Mutex<BTreeMap<String, Client>>,
}

impl Endpoints {
    pub(super) fn new(config: RegistryConfig) -> Self {
        Endpoints { config, clients: Mutex::default() }
    }

    /// Whom to ask for images of a registry, in order; the registry itself last.
    pub(super) fn of(&self, domain: &str) -> Vec<Endpoint> {
        let configured = self.config.hosts.get(domain);
        let mirrors = configured.map(|host| host.mirrors.as_slice()).unwrap_or_default();
        let endpoint = |host: &str, is_mirror| Endpoint {
            host: host.to_owned(),
            plain_http: self.config.hosts.get(host).is_some_and(|host| host.plain_http),
            is_mirror,
        };
        let itself = Endpoint {
            host: if domain == DEFAULT_DOMAIN { DEFAULT_HOST } else { domain }.to_owned(),
            plain_http: configured.is_some_and(|host| host.plain_http),
            is_mirror: false,
        };
        mirrors.iter().map(|host| endpoint(host, true)).chain([itself]).collect()
    }

    /// The client for a URI. Plain HTTP is refused, redirects and token servers included, unless configured for the host.
    pub(super) fn client(&self, uri: &Uri) -> Result<Client, PullFault> {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let configured = self.config.hosts.get(&host);
        if uri.scheme_str() != Some("https") && !configured.is_some_and(|host| host.plain_http) {
            let why = format!("plain HTTP is not configured for {host}");
            return Err(PullFault::new(PullFailure::Other, why));
        }
        let ca_file = configured.and_then(|host| host.ca_file.as_deref());
        let name = if ca_file.is_some() { host } else { String::new() };
        let mut clients = self.clients.lock().expect("no holder of this lock panics");
        if let Some(client) = clients.get(&name) {
            return Ok(client.clone());
        }
        let client = client(ca_file).map_err(|why| PullFault::new(PullFailure::Other, why))?;
        clients.insert(name, client.clone());
        Ok(client)
    }
}

fn client(ca_file: Option<&Path>) -> Result<Client, String> {
    let mut roots = match SYSTEM_ROOTS.iter().find(|path| Path::new(path).is_file()) {
        Some(path) => certificates(Path::new(path))?,
        None => Vec::new(),
    };
    if let Some(path) = ca_file {
        roots.extend(certificates(path)?);
    }
    let tls = ClientTls::new(&Trust::Roots(roots), None).map_err(|error| error.to_string())?;
    Ok(Client::new(ClientOptions {
        tls: Some(tls),
        connect_timeout: Duration::from_secs(30),
        response_timeout: Some(RESPONSE_TIMEOUT),
        ..ClientOptions::default()
    }))
}

fn certificates(path: &Path) -> Result<Vec<wire::tls::CertificateDer<'static>>, String> {
    let failed = |error: String| format!("read certificates {}: {error}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > ROOTS_BYTES_MAX {
        return Err(failed(format!("larger than {ROOTS_BYTES_MAX} bytes")));
    }
    let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
    certificates_from_pem(&text).map_err(|error| failed(error.to_string()))
}

/// Where a redirect from `base` leads: an absolute address, or a path on the same server.
pub(super) fn join(base: &str, location: &str) -> Option<String> {
    let bare = location.split('#').next().unwrap_or_default();
    if bare.starts_with("https://") || bare.starts_with("http://") {
        return Some(bare.to_owned());
    }
    let (scheme, rest) = base.split_once("://")?;
    if let Some(other) = bare.strip_prefix("//") {
        return Some(format!("{scheme}://{other}"));
    }
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bare.starts_with('/') {
        return Some(format!("{scheme}://{host}{bare}"));
    }
    let path = path.split('?').next().unwrap_or_default();
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    (!bare.is_empty()).then(|| format!("{scheme}://{host}/{folder}/{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_redirects_of_every_form() {
        let base = "https://r:5000/v2/a/blobs/x?ns=1";
        for (location, expected) in [
            ("https://cdn/x?y#z", Some("https://cdn/x?y")),
            ("http://cdn/x", Some("http://cdn/x")),
            ("//cdn/x", Some("https://cdn/x")),
            ("/other", Some("https://r:5000/other")),
            ("y", Some("https://r:5000/v2/a/blobs/y")),
            ("", None),
        ] {
            assert_eq!(join(base, location).as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn asks_mirrors_first_and_plainly_only_where_told() {
        let plain = HostConfig { plain_http: true, ..HostConfig::default() };
        let mirrored = HostConfig { mirrors: vec!["m:1".into(), "n".into()], ..HostConfig::default() };
        let hosts = BTreeMap::from([("m:1".to_owned(), plain), ("docker.io".to_owned(), mirrored)]);
        let endpoints = Endpoints::new(RegistryConfig { hosts });
        let bases: Vec<String> = endpoints.of("docker.io").iter().map(Endpoint::base).collect();
        assert_eq!(bases, ["http://m:1", "https://n", "https://registry-1.docker.io"]);
        assert!(endpoints.client(&"http://m:1/v2/".parse().unwrap()).is_ok());
        let refused = endpoints.client(&"http://n/v2/".parse().unwrap()).err().unwrap();
        assert_eq!(refused.message, "plain HTTP is not configured for n");
    }

    #[test]
    fn gives_credentials_only_to_whom_they_are_for() {
        let endpoint = |host: &str| Endpoint { host: host.into(), plain_http: false, is_mirror: false };
        for (host, domain, address, expected) in [
            ("registry-1.docker.io", "docker.io", "https://index.docker.io/v1/", true),
            ("registry-1.docker.io", "docker.io", "docker.io", true),
            ("r:5000", "r:5000", "r:5000", true),
            ("r:5000", "r:5000", "http://r:5000/v2/", true),
            ("r:5000", "r:5000", "r", false),
            ("r:5000", "r:5000", "index.docker.io", false),
        ] {
            assert_eq!(endpoint(host).is_named(address, domain), expected, "{address} for {host}");
        }
    }
}
