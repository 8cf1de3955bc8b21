//! Another Kubernetes' API server with its etcd, started so that it does the same work as ours.

pub mod node;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use client::ClientConfig;
use client::config::Credentials;
use pki::authority::LEAF_LIFETIME;
use pki::{Authority, Purpose, Signed};

use super::server::{Cores, Server};
use super::stage::Stage;

/// Secrets are sealed at rest, as ours are.
const ENCRYPTION: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox:
      keys: [{name: bench, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]
";

const SERVER: &str = "https://127.0.0.1:6444";
const ETCD: &str = "http://127.0.0.1:2379";

/// Starts `etcd` and `kube-apiserver` out of a folder, with certificates, RBAC and admission as ours has them.
pub async fn start(stage: &Stage, binaries: &Path, cores: Cores) -> Result<Server> {
    start_in(stage, binaries, new_folder(stage)?, cores, Vec::new()).await
}

fn new_folder(stage: &Stage) -> Result<PathBuf> {
    let folder = stage.folder().join("peer");
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Starts store and API server beside what was started just before, and waits until the API is ready.
async fn start_in(stage: &Stage, binaries: &Path, folder: PathBuf, cores: Cores, before: Vec<Child>) -> Result<Server> {
    let keys = Keys::write(&folder)?;
    node::write_kubeconfig(&folder, &keys)?;
    stage.pin(cores)?;
    let started = stdx::mono();
    let mut children = before;
    children.extend([etcd(binaries, &folder)?, apiserver(binaries, &folder)?]);
    stage.pin(Cores::All)?;
    let config = ClientConfig {
        server: SERVER.into(),
        ca_pem: Some(keys.authority.certificate_pem().into()),
        credentials: Credentials::Certificate {
            chain_pem: keys.admin.certificate_pem.into(),
            key_pem: keys.admin.key_pem.into(),
        },
        ..ClientConfig::default()
    };
    let place = Place { folder, binaries: binaries.to_owned() };
    let server = Server::peer(config, &keys.authority, children, place, started).await;
    server.with_context(|| stage.log("peer/kube-apiserver.log"))
}

/// Where a peer's files are.
pub struct Place {
    pub folder: PathBuf,
    pub binaries: PathBuf,
}

struct Keys {
    authority: Authority,
    admin: Signed,
}

impl Keys {
    fn write(folder: &Path) -> Result<Keys> {
        let now = stdx::wall();
        let authority = Authority::generate("bench", now)?;
        let client = Purpose::Client { organization: Some("system:masters".into()) };
        let admin = authority.sign("admin", &client, now, LEAF_LIFETIME)?;
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let serving = Purpose::Server { names: vec!["localhost".into()], addresses };
        let serving = authority.sign("kube-apiserver", &serving, now, LEAF_LIFETIME)?;
        for (name, text) in [
            ("ca.crt", authority.certificate_pem()),
            ("tls.crt", &serving.certificate_pem),
            ("tls.key", &serving.key_pem),
            ("encryption.yaml", ENCRYPTION),
        ] {
            pki::files::write_private(&folder.join(name), text)?;
        }
        Ok(Keys { authority, admin })
    }
}

fn etcd(binaries: &Path, folder: &Path) -> Result<Child> {
    let mut etcd = Command::new(binaries.join("etcd"));
    etcd.arg("--data-dir").arg(folder.join("etcd"));
    etcd.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
    etcd.args(["--listen-peer-urls", "http://127.0.0.1:2380", "--quota-backend-bytes", "8589934592"]);
    spawn(etcd, &folder.join("etcd.log"))
}

fn apiserver(binaries: &Path, folder: &Path) -> Result<Child> {
    let mut server = Command::new(binaries.join("kube-apiserver"));
    let file = |name: &str| folder.join(name).display().to_string();
    server.args([
        format!("--etcd-servers={ETCD}"),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("tls.crt")),
        format!("--tls-private-key-file={}", file("tls.key")),
        format!("--service-account-key-file={}", file("tls.crt")),
        format!("--service-account-signing-key-file={}", file("tls.key")),
        format!("--encryption-provider-config={}", file("encryption.yaml")),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--service-cluster-ip-range=10.97.0.0/16".into(),
        "--bind-address=127.0.0.1".into(),
        "--advertise-address=127.0.0.1".into(),
        "--secure-port=6444".into(),
        // Its limits are for fairness between users; there is one here.
        "--max-requests-inflight=0".into(),
        "--max-mutating-requests-inflight=0".into(),
        "--enable-priority-and-fairness=false".into(),
    ]);
    spawn(server, &folder.join("kube-apiserver.log"))
}

fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.spawn().with_context(|| format!("start {}", command.get_program().display()))
}
