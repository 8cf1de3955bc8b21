//! Manifests, indexes and configurations, in OCI's and Docker's dialects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hasher};

/// Media types of an index (a list of manifests by platform).
pub(super) const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// Media types of one image's manifest.
pub(super) const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of an image's configuration.
pub(super) const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Media type of an uncompressed layer.
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// Layers of one image; overlayfs itself stacks no more than 500.
pub(super) const LAYERS_MAX: usize = 256;

/// A pointer to content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    pub(super) fn is_index(&self) -> bool {
        INDEX_TYPES.contains(&self.media_type.as_str())
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// What machine an image is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) variant: String,
}

impl Platform {
    /// This machine, in the registries' words.
    pub(super) fn of_host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: variant.into() }
    }

    /// Whether an image for `self` runs on `host`. An arm64 image without variant is a v8 one.
    fn fits(&self, host: &Platform) -> bool {
        let variant_fits = self.variant.is_empty() || self.variant == host.variant || self.variant == "v1";
        self.os == host.os && self.architecture == host.architecture && variant_fits
    }
}

/// An index or an OCI layout's `index.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    #[serde(default = "two")]
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

fn two() -> u32 {
    2
}

impl Index {
    /// The manifest for `host`; one that names no platform serves when none fits by name.
    pub(super) fn choose(&self, host: &Platform) -> Option<&Descriptor> {
        let fitting = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|platform| platform.fits(host));
        self.manifests.iter().find(fitting).or_else(|| self.manifests.iter().find(|entry| entry.platform.is_none()))
    }
}

/// One image's manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default = "two")]
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

/// The configuration blob, as far as it is read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ConfigFile {
    #[serde(default)]
    pub(super) architecture: String,
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) config: Option<RunConfig>,
    pub(super) rootfs: RootFs,
}

/// The unpacked layers' digests, bottom first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) diff_ids: Option<Vec<Digest>>,
}

/// A set, written as an object of empty objects.
type Keys = Option<BTreeMap<String, serde_json::Value>>;

/// The defaults for running, as the blob spells them. Docker writes `null` for every empty list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RunConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Keys,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Keys,
}

/// What an image says about how to run it; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// The program and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// The default arguments, or the program when there is no entrypoint.
    pub cmd: Vec<String>,
    /// Where the program starts.
    pub working_dir: String,
    /// The signal that asks the program to end, `SIGTERM` or `15`.
    pub stop_signal: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `port/protocol`.
    pub exposed_ports: Vec<String>,
    /// Paths that want a volume.
    pub volumes: Vec<String>,
}

impl From<RunConfig> for ImageConfig {
    fn from(raw: RunConfig) -> Self {
        let keys = |keys: Keys| keys.unwrap_or_default().into_keys().collect();
        ImageConfig {
            user: raw.user.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            working_dir: raw.working_dir.unwrap_or_default(),
            stop_signal: raw.stop_signal.unwrap_or_default(),
            labels: raw.labels.unwrap_or_default(),
            exposed_ports: keys(raw.exposed_ports),
            volumes: keys(raw.volumes),
        }
    }
}

impl From<&ImageConfig> for RunConfig {
    fn from(config: &ImageConfig) -> Self {
        let text = |text: &String| (!text.is_empty()).then(|| text.clone());
        let list = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let keys = |list: &Vec<String>| -> Keys {
            let object = || serde_json::Value::Object(serde_json::Map::new());
            (!list.is_empty()).then(|| list.iter().map(|key| (key.clone(), object())).collect())
        };
        RunConfig {
            user: text(&config.user),
            env: list(&config.env),
            entrypoint: list(&config.entrypoint),
            cmd: list(&config.cmd),
            working_dir: text(&config.working_dir),
            stop_signal: text(&config.stop_signal),
            labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
            exposed_ports: keys(&config.exposed_ports),
            volumes: keys(&config.volumes),
        }
    }
}

/// The names of stacks of layers, bottom first: each depends on all below it, since what an archive leaves out (a parent
/// folder's mode) comes from there.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => {
                let mut hasher = Hasher::default();
                hasher.update(format!("{below} {diff_id}").as_bytes());
                hasher.finish()
            }
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digit: char, platform: Option<(&str, &str, &str)>) -> Descriptor {
        Descriptor {
            media_type: MANIFEST_TYPES[0].into(),
            digest: Digest::from_hex(&digit.to_string().repeat(64)).unwrap(),
            size: 1,
            platform: platform.map(|(os, architecture, variant)| Platform {
                architecture: architecture.into(),
                os: os.into(),
                variant: variant.into(),
            }),
            annotations: None,
        }
    }

    #[test]
    fn chooses_the_manifest_for_the_machine() {
        let amd64 = Platform { architecture: "amd64".into(), os: "linux".into(), variant: String::new() };
        let arm64 = Platform { architecture: "arm64".into(), os: "linux".into(), variant: "v8".into() };
        let full = vec![
            entry('0', Some(("unknown", "unknown", ""))),
            entry('1', Some(("windows", "amd64", ""))),
            entry('2', Some(("linux", "arm64", "v9"))),
            entry('3', Some(("linux", "arm64", "v8"))),
            entry('4', Some(("linux", "amd64", ""))),
        ];
        for (manifests, host, expected) in [
            (full.clone(), &amd64, Some('4')),
            (full, &arm64, Some('3')),
            (vec![entry('5', Some(("linux", "arm64", "")))], &arm64, Some('5')),
            (vec![entry('5', Some(("linux", "arm64", "")))], &amd64, None),
            (vec![entry('6', None)], &amd64, Some('6')),
            (vec![], &amd64, None),
        ] {
            let index = Index { manifests, ..Index::default() };
            let chosen = index.choose(host).map(|chosen| chosen.digest.hex().chars().next().unwrap());
            assert_eq!(chosen, expected);
        }
    }

    #[test]
    fn reads_dockers_nulls_as_nothing() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Labels":null,
            "ExposedPorts":{"80/tcp":{},"53/udp":{}},"Volumes":null,"OnBuild":null,"User":"1000:1000"},
            "rootfs":{"type":"layers","diff_ids":null},"history":[{}]}"#;
        let file: ConfigFile = serde_json::from_str(text).unwrap();
        let config = ImageConfig::from(file.config.unwrap());
        let expected = ImageConfig {
            user: "1000:1000".into(),
            cmd: vec!["sh".into()],
            exposed_ports: vec!["53/udp".into(), "80/tcp".into()],
            ..ImageConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(file.rootfs.diff_ids, None);
    }

    #[test]
    fn names_stacks_by_all_their_layers() {
        let digests: Vec<Digest> = ["a", "b"].iter().map(|text| Digest::of(text.as_bytes())).collect();
        let chain = chain_ids(&digests);
        assert_eq!(chain[0], digests[0]);
        assert_eq!(chain[1], Digest::of(format!("{} {}", digests[0], digests[1]).as_bytes()));
        assert!(chain_ids(&[]).is_empty());
    }
}
