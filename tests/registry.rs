//! A registry that asks who is there, and pods that get their image from it with their own credentials.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{Cluster, named, ran};
use crate::faults::waits;
use crate::machine::Machine;
use crate::nodes::base64;

const ADDRESS: &str = "127.0.0.1:5000";
const IMAGE: &str = "127.0.0.1:5000/private/busybox:1";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The blobs of one image, and who may have them.
struct Registry {
    blobs: PathBuf,
    manifest: String,
    authorization: String,
}

impl Registry {
    /// Serves the image of an archive in a machine until the test ends.
    fn start(machine: &Machine, archive: &Path, user: &str, password: &str) {
        let folder = machine.folder.join("registry");
        std::fs::create_dir(&folder).expect("make a folder");
        let unpacked = ran(std::process::Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&folder));
        assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
        let index = std::fs::read_to_string(folder.join("index.json")).expect("an archive has an index");
        let index: Value = serde_json::from_str(&index).expect("the index is JSON");
        let registry = Registry {
            blobs: folder.join("blobs/sha256"),
            manifest: index["manifests"][0]["digest"].as_str().expect("a digest").to_owned(),
            authorization: format!("Basic {}", base64(format!("{user}:{password}").as_bytes())),
        };
        let (registry, listener) = (Arc::new(registry), TcpListener::bind(ADDRESS).expect("listen"));
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let registry = registry.clone();
                std::thread::spawn(move || {
                    if let Err(error) = registry.serve(connection) {
                        eprintln!("registry: {error}");
                    }
                });
            }
        });
    }

    /// Answers one request.
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(&connection);
        let (mut first, mut authorized) = (String::new(), false);
        reader.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            authorized |= name.eq_ignore_ascii_case("authorization") && value == self.authorization;
        }
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, more, body) = if authorized { self.answer(path) } else { refused() };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}Docker-Distribution-Api-Version: registry/2.0\r\n\r\n",
            body.len()
        );
        (&connection).write_all(head.as_bytes())?;
        if method == "HEAD" { Ok(()) } else { (&connection).write_all(&body) }
    }

    fn answer(&self, path: &str) -> (&'static str, String, Vec<u8>) {
        let (place, reference) = path.rsplit_once('/').unwrap_or_default();
        let is_manifest = place.ends_with("/manifests");
        let digest = if is_manifest && !reference.contains(':') { &self.manifest } else { reference };
        let blob = std::fs::read(self.blobs.join(digest.trim_start_matches("sha256:")));
        match blob {
            _ if path == "/v2/" => ("200 OK", String::new(), b"{}".to_vec()),
            Ok(blob) => {
                let kind = if is_manifest { MANIFEST } else { "application/octet-stream" };
                ("200 OK", format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n"), blob)
            }
            Err(_) => ("404 Not Found", String::new(), Vec::new()),
        }
    }
}

fn refused() -> (&'static str, String, Vec<u8>) {
    ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n".into(), Vec::new())
}

fn pod(name: &str, secret: Option<&str>) -> String {
    let secrets: Vec<Value> = secret.iter().map(|name| json!({"name": name})).collect();
    let container = json!({"name": "main", "image": IMAGE, "command": ["sleep", "1000"]});
    let spec = json!({"terminationGracePeriodSeconds": 0, "imagePullSecrets": secrets, "containers": [container]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[test]
pub fn an_image_is_pulled_with_the_credentials_of_its_pod_and_not_without() {
    let mut cluster = Cluster::absent();
    Registry::start(&cluster.machine, &named("ISOPOD_BUSYBOX_IMAGE"), "jane", "secret");
    // Another runtime has its own words for that.
    match &cluster.containerd {
        Some(containerd) => {
            containerd.plain_registry(ADDRESS);
            cluster.up(&[]);
        }
        None => cluster.up(&["--insecure-registry", ADDRESS]),
    }
    cluster.node_is_ready();
    for (name, password) in [("right", "secret"), ("wrong", "other")] {
        let password = format!("--docker-password={password}");
        let server = format!("--docker-server={ADDRESS}");
        cluster.kubectl(&["create", "secret", "docker-registry", name, &server, "--docker-username=jane", &password]);
    }
    let failed = format!("Failed to pull image \"{IMAGE}\"");
    for (name, secret) in [("nobody", None), ("stranger", Some("wrong"))] {
        cluster.apply(&pod(name, secret));
        waits(&cluster, name, "ErrImagePull|ImagePullBackOff", &failed);
    }
    cluster.apply(&pod("known", Some("right")));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/known", "--timeout=30s"]);
    let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=known"]);
    assert!(events.contains(&format!("Successfully pulled image \"{IMAGE}\"")), "{events}");
    // What one pod was given is not everybody's because it is there.
    cluster.apply(&pod("late", None));
    waits(&cluster, "late", "ErrImagePull|ImagePullBackOff", &failed);
}
