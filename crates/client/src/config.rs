//! Where an API server is and who one is to it: from a kubeconfig, from a pod's service account, or put together by hand.

use std::path::{Path, PathBuf};

use api::value::Value;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::ConfigError;

/// Who one is to the server.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// Nobody in particular.
    #[default]
    Anonymous,
    /// A client certificate with its key, in PEM.
    Certificate { chain_pem: Vec<u8>, key_pem: Vec<u8> },
    /// A client certificate that somebody replaces when it gets old.
    CertificateSlot(wire::tls::CertificateSlot),
    /// A bearer token.
    Token(Secret),
    /// A bearer token in a file that somebody renews.
    TokenFile(PathBuf),
}

/// Text that is not to be seen in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret")
    }
}

/// How an API server is reached.
#[derive(Clone, Debug, Default)]
pub struct ClientConfig {
    /// Such as `https://127.0.0.1:6443`; without a path.
    pub server: String,
    /// The roots that the server's certificate must lead to, in PEM.
    pub ca_pem: Option<Vec<u8>>,
    /// The name to expect in the server's certificate, if not the host of `server`.
    pub server_name: Option<String>,
    /// Believe any server. For tests and the like.
    pub insecure: bool,
    pub credentials: Credentials,
    /// The namespace meant when none is named.
    pub namespace: Option<String>,
}

/// Where the files of a pod's service account are.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// More than any kubeconfig or certificate needs.
const FILE_BYTES_MAX: u64 = 4 << 20;

impl ClientConfig {
    /// Reads a kubeconfig file; `context` in place of its current one, if given.
    pub fn from_kubeconfig(path: &Path, context: Option<&str>) -> Result<ClientConfig, ConfigError> {
        let text = read(path)?;
        let shown = path.display().to_string();
        let parsed = api::codec::yaml::parse(&text, &api::codec::Limits::default())
            .map_err(|error| ConfigError::Parse { path: shown.clone(), message: error.to_string() })?;
        let config: Kubeconfig = api::value::from_value(&parsed.value)
            .map_err(|error| ConfigError::Parse { path: shown, message: error.to_string() })?;
        config.resolve(context, path.parent().unwrap_or(Path::new(".")))
    }

    /// The configuration of a process in a pod, from the files and addresses every pod is given.
    pub fn in_cluster() -> Result<ClientConfig, ConfigError> {
        let variable = |name: &str| {
            std::env::var(name).map_err(|_| ConfigError::Missing(format!("environment variable {name} is not set")))
        };
        let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
        ClientConfig::of_service_account(Path::new(SERVICE_ACCOUNT), &host, &port)
    }

    fn of_service_account(folder: &Path, host: &str, port: &str) -> Result<ClientConfig, ConfigError> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let namespace = String::from_utf8_lossy(&read(&folder.join("namespace"))?).trim().to_owned();
        Ok(ClientConfig {
            server: format!("https://{host}:{port}"),
            ca_pem: Some(read(&folder.join("ca.crt"))?),
            credentials: Credentials::TokenFile(folder.join("token")),
            namespace: Some(namespace),
            ..ClientConfig::default()
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    use std::io::Read as _;
    let failed = |source| ConfigError::Read { path: path.display().to_string(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<Named>,
    contexts: Vec<Named>,
    users: Vec<Named>,
}

/// An entry of any of the three lists; one of the three is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Cluster,
    context: Context,
    user: User,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    proxy_url: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    // In camel case, unlike its neighbours.
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<Value>,
    auth_provider: Option<Value>,
    username: Option<String>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("User")
    }
}

impl Kubeconfig {
    fn resolve(self, context: Option<&str>, folder: &Path) -> Result<ClientConfig, ConfigError> {
        let missing = |what: &str, name: &str| ConfigError::Missing(format!("{what} {name:?} does not exist"));
        let find = |list: &'_ [Named], name: &str| list.iter().position(|entry| entry.name == name);
        let name = context.unwrap_or(&self.current_context);
        let context = find(&self.contexts, name).ok_or_else(|| missing("context", name))?;
        let context = &self.contexts[context].context;
        let cluster = find(&self.clusters, &context.cluster).ok_or_else(|| missing("cluster", &context.cluster))?;
        let cluster = &self.clusters[cluster].cluster;
        let user = match find(&self.users, &context.user) {
            Some(user) => self.users[user].user.clone(),
            None if context.user.is_empty() => User::default(),
            None => return Err(missing("user", &context.user)),
        };
        if cluster.proxy_url.is_some() {
            return Err(unsupported("cluster", "proxy-url"));
        }
        let roots = (cluster.certificate_authority_data.as_deref(), cluster.certificate_authority.as_deref());
        Ok(ClientConfig {
            server: cluster.server.trim_end_matches('/').to_owned(),
            ca_pem: data_or_file("certificate-authority", roots, folder)?,
            server_name: cluster.tls_server_name.clone(),
            insecure: cluster.insecure_skip_tls_verify,
            credentials: user.credentials(folder)?,
            namespace: context.namespace.clone(),
        })
    }
}

impl User {
    fn credentials(self, folder: &Path) -> Result<Credentials, ConfigError> {
        for (field, is_set) in [
            ("exec", self.exec.is_some()),
            ("auth-provider", self.auth_provider.is_some()),
            ("username", self.username.is_some()),
            ("as", self.impersonate.is_some()),
        ] {
            if is_set {
                return Err(unsupported("user", field));
            }
        }
        let chain = (self.client_certificate_data.as_deref(), self.client_certificate.as_deref());
        let key = (self.client_key_data.as_deref(), self.client_key.as_deref());
        let chain = data_or_file("client-certificate", chain, folder)?;
        let key = data_or_file("client-key", key, folder)?;
        Ok(match (chain, key, self.token_file, self.token) {
            (Some(chain_pem), Some(key_pem), ..) => Credentials::Certificate { chain_pem, key_pem },
            (_, _, Some(file), _) => Credentials::TokenFile(folder.join(file)),
            (_, _, None, Some(token)) => Credentials::Token(Secret(token)),
            _ => Credentials::Anonymous,
        })
    }
}

/// Better refused than taken for somebody else.
fn unsupported(entry: &str, field: &str) -> ConfigError {
    ConfigError::Missing(format!("{entry} field {field} is not supported"))
}

/// Base64 in the kubeconfig wins over a path, which is relative to the kubeconfig's folder.
fn data_or_file(
    what: &str,
    (data, file): (Option<&str>, Option<&Path>),
    folder: &Path,
) -> Result<Option<Vec<u8>>, ConfigError> {
    match (data.filter(|data| !data.is_empty()), file.filter(|file| !file.as_os_str().is_empty())) {
        (Some(data), _) => match STANDARD.decode(data.trim()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(ConfigError::Missing(format!("{what}-data: {error}"))),
        },
        (None, Some(file)) => read(&folder.join(file)).map(Some),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own, removed after.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("isopod-client-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a temporary folder");
            Folder(path)
        }

        fn write(&self, name: &str, content: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, content).expect("a temporary file");
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    const KUBECONFIG: &str = "
apiVersion: v1
kind: Config
current-context: one
clusters:
- name: c
  cluster:
    server: https://127.0.0.1:6443/
    certificate-authority: ca.pem
contexts:
- name: one
  context: {cluster: c, user: u, namespace: team}
- name: two
  context: {cluster: c, user: t}
- name: odd
  context: {cluster: none, user: t}
- name: plugin
  context: {cluster: c, user: p}
users:
- name: u
  user:
    client-certificate-data: Y2hhaW4=
    client-key-data: a2V5
- name: t
  user: {token: secret}
- name: p
  user: {exec: {command: login}}
";

    #[test]
    fn reads_a_kubeconfig() {
        let folder = Folder::new("kubeconfig");
        folder.write("ca.pem", "roots");
        let path = folder.write("config", KUBECONFIG);
        let config = ClientConfig::from_kubeconfig(&path, None).expect("a configuration");
        assert_eq!(config.server, "https://127.0.0.1:6443");
        assert_eq!(config.ca_pem.as_deref(), Some(&b"roots"[..]));
        assert_eq!(config.namespace.as_deref(), Some("team"));
        assert!(matches!(
            &config.credentials,
            Credentials::Certificate { chain_pem, key_pem } if chain_pem == b"chain" && key_pem == b"key"
        ));
        let config = ClientConfig::from_kubeconfig(&path, Some("two")).expect("a configuration");
        assert!(matches!(&config.credentials, Credentials::Token(Secret(token)) if token == "secret"));
        assert!(!format!("{config:?}").contains("secret"));
        let error = ClientConfig::from_kubeconfig(&path, Some("odd")).expect_err("no such cluster");
        assert_eq!(error.to_string(), "kubeconfig: cluster \"none\" does not exist");
        let error = ClientConfig::from_kubeconfig(&path, Some("plugin")).expect_err("no plugins");
        assert_eq!(error.to_string(), "kubeconfig: user field exec is not supported");
        let error = ClientConfig::from_kubeconfig(&path, Some("three")).expect_err("no such context");
        assert_eq!(error.to_string(), "kubeconfig: context \"three\" does not exist");
    }

    #[test]
    fn reads_a_service_account() {
        let folder = Folder::new("account");
        folder.write("ca.crt", "roots");
        folder.write("namespace", "n\n");
        let config = ClientConfig::of_service_account(&folder.0, "fd00::1", "443").expect("a configuration");
        assert_eq!((config.server.as_str(), config.namespace.as_deref()), ("https://[fd00::1]:443", Some("n")));
        assert!(matches!(config.credentials, Credentials::TokenFile(path) if path == folder.0.join("token")));
    }
}
