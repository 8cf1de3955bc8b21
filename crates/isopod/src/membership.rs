//! What a machine has to know of its cluster before it can be a node of it: published for those who join, and remembered.

use anyhow::{Context as _, bail};
use client::{Client, Target};
use cni::Cidr;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Map, Value, json};

use crate::machine::{Membership, Settings};
use crate::paths::Paths;
use crate::roles;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "isopod-config";
/// The range of a node that was never told one.
const DEFAULT_RANGE: &str = "10.244.0.0/24";

/// Tells those who join where pods and Services are. The names of the keys are kubeadm's.
pub async fn publish(client: &Client, settings: &Settings) -> anyhow::Result<()> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"podSubnet": settings.cluster_cidr.to_string(), "serviceSubnet": settings.service_cidr.to_string()},
    });
    roles::put_in(client, target(), NAME, &map).await.context("publish what nodes have to know")?;
    roles::ensure_membership(client, NAMESPACE, NAME).await
}

fn target() -> Target {
    Target::new("", "v1", "configmaps").namespace(NAMESPACE)
}

/// Where pods and Services are, as the cluster publishes it.
pub async fn published(client: &Client) -> anyhow::Result<(Cidr, Cidr)> {
    let map: ConfigMap =
        client.get(target().name(NAME)).await.context("read what the cluster tells its nodes")?.typed()?;
    let data = map.data.unwrap_or_default();
    let range = |key: &str| -> anyhow::Result<Cidr> {
        let text = data.get(key).with_context(|| format!("{NAME} does not tell {key}"))?;
        text.parse().with_context(|| format!("{NAME}: {key}"))
    };
    Ok((range("podSubnet")?, range("serviceSubnet")?))
}

/// What an agent remembers of the cluster that it joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Where the API is.
    pub server: String,
    pub node_name: String,
    /// Nothing until it has got a range.
    pub member: Option<Membership>,
}

impl Joined {
    /// What was remembered; nothing if the machine has joined none.
    pub fn read(paths: &Paths) -> anyhow::Result<Option<Joined>> {
        let settings = settings(paths)?;
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        let (Some(server), Some(node_name)) = (text("server"), text("nodeName")) else { return Ok(None) };
        let range = |key: &str| text(key).map(str::parse::<Cidr>).transpose();
        let ranges = (range("podSubnet")?, range("serviceSubnet")?, range("podCidr")?);
        let member = match ranges {
            (Some(pods), Some(services), Some(range)) => Some(Membership { pods, services, range }),
            _ => None,
        };
        Ok(Some(Joined { server: server.to_owned(), node_name: node_name.to_owned(), member }))
    }

    /// Remembers it.
    pub fn write(&self, paths: &Paths) -> anyhow::Result<()> {
        amend(paths, |settings| {
            settings.insert("server".into(), self.server.clone().into());
            settings.insert("nodeName".into(), self.node_name.clone().into());
            if let Some(member) = &self.member {
                settings.insert("podSubnet".into(), member.pods.to_string().into());
                settings.insert("serviceSubnet".into(), member.services.to_string().into());
                settings.insert("podCidr".into(), member.range.to_string().into());
            }
        })
    }
}

/// Remembers what `down` and the next `up` have to know.
pub fn remember(paths: &Paths, settings: &Settings) -> anyhow::Result<()> {
    amend(paths, |known| drop(known.insert("podCidr".into(), settings.pod_cidr.to_string().into())))
}

/// Remembers more of this machine, or something else than before.
pub fn amend(paths: &Paths, change: impl FnOnce(&mut Map<String, Value>)) -> anyhow::Result<()> {
    let mut known = match settings(paths)? {
        Value::Object(known) => known,
        _ => Map::new(),
    };
    known.insert("version".into(), 1.into());
    change(&mut known);
    Ok(pki::files::write_private(&paths.settings(), &Value::Object(known).to_string())?)
}

/// Why what is remembered here does not go with what `up` was told.
pub fn conflict(paths: &Paths, settings: &Settings) -> Option<String> {
    match (Joined::read(paths), own_range(paths)) {
        (Err(error), _) | (_, Err(error)) => Some(format!("the data folder: {error:#}")),
        (Ok(Some(joined)), _) => Some(format!(
            "the data folder: this machine is a node of the cluster at {} (`isopod down --purge` makes it leave)",
            joined.server
        )),
        (Ok(None), Ok(range)) if paths.settings().exists() && range != settings.pod_cidr => Some(format!(
            "--pod-cidr {}: the node's pods have addresses of {range}, which cannot be changed",
            settings.pod_cidr
        )),
        _ => None,
    }
}

/// Where this node's pods are, as it was remembered.
pub fn own_range(paths: &Paths) -> anyhow::Result<Cidr> {
    let settings = settings(paths)?;
    let range = settings.get("podCidr").and_then(Value::as_str).unwrap_or(DEFAULT_RANGE);
    range.parse().with_context(|| format!("{}: {range}", paths.settings().display()))
}

/// Everything that is remembered; null if nothing is.
pub fn settings(paths: &Paths) -> anyhow::Result<Value> {
    let path = paths.settings();
    match std::fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => bail!("read {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_knows_of_its_cluster_is_remembered() {
        let folder = std::env::temp_dir().join(format!("isopod-membership-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let paths = Paths::new(&folder).unwrap();
        assert_eq!(Joined::read(&paths).unwrap(), None);
        assert_eq!(own_range(&paths).unwrap().to_string(), DEFAULT_RANGE);
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        let member =
            Membership { pods: range("10.1.0.0/16"), services: range("10.2.0.0/16"), range: range("10.1.7.0/24") };
        for member in [None, Some(member)] {
            let joined = Joined { server: "https://192.0.2.1:6443".into(), node_name: "two".into(), member };
            joined.write(&paths).unwrap();
            assert_eq!(Joined::read(&paths).unwrap(), Some(joined));
        }
        assert_eq!(own_range(&paths).unwrap(), member.range);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
