//! Makes an image out of files, without any container tool: the same input gives the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use tar::{EntryType, Header};

use super::archive::{blob_path, described, manifest_of};
use super::digest::Digest;
use super::error::ImageError;
use super::manifest::{
    CONFIG_TYPES, ConfigFile, INDEX_TYPES, ImageConfig, Index, LAYER_TYPE, MANIFEST_TYPES, Platform, RootFs,
};
use super::reference::{Reference, normalise};

/// An image to be made, of one layer.
#[derive(Clone, Debug, Default)]
pub struct PackSpec {
    /// Its name; completed as every image name is.
    pub name: String,
    /// How to run it.
    pub config: ImageConfig,
    /// What is in it. Folders above an entry are made (mode 0755) where they are not listed.
    pub entries: Vec<PackEntry>,
}

/// A file, link or folder of an image.
#[derive(Clone, Debug)]
pub struct PackEntry {
    /// Absolute or relative path, the same either way.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// What it is.
    pub content: PackContent,
}

/// What an entry of an image is.
#[derive(Clone, Debug)]
pub enum PackContent {
    /// A file with this content.
    File(Vec<u8>),
    /// A symbolic link to this target.
    Link(String),
    /// A folder.
    Folder,
}

impl PackEntry {
    /// A file owned by root.
    pub fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        PackEntry { path: path.into(), mode, owner: (0, 0), content: PackContent::File(content.into()) }
    }

    /// A symbolic link.
    pub fn link(path: impl Into<String>, target: impl Into<String>) -> Self {
        PackEntry { path: path.into(), mode: 0o777, owner: (0, 0), content: PackContent::Link(target.into()) }
    }

    /// A folder owned by root.
    pub fn folder(path: impl Into<String>, mode: u32) -> Self {
        PackEntry { path: path.into(), mode, owner: (0, 0), content: PackContent::Folder }
    }
}

/// An archive that is an OCI layout and at the same time what `docker load` reads.
pub fn pack(spec: &PackSpec) -> Result<Vec<u8>, ImageError> {
    let layer = layer(&spec.entries)?;
    let host = Platform::of_host();
    let diff_id = Digest::of(&layer);
    let config = ConfigFile {
        architecture: host.architecture,
        os: host.os,
        config: Some((&spec.config).into()),
        rootfs: RootFs { kind: "layers".into(), diff_ids: Some(vec![diff_id]) },
    };
    let config = json(&config);
    let layer_at = described(LAYER_TYPE, diff_id, layer.len() as u64);
    let config_at = described(CONFIG_TYPES[0], Digest::of(&config), config.len() as u64);
    let manifest = manifest_of(config_at.clone(), vec![layer_at.clone()]);
    let name = normalise(&spec.name)?;
    let reference: Reference = name.parse()?;
    let mut manifest_at = described(MANIFEST_TYPES[0], Digest::of(&manifest), manifest.len() as u64);
    let tag = reference.tag().unwrap_or("latest").to_owned();
    manifest_at.annotations = Some(BTreeMap::from([
        ("io.containerd.image.name".to_owned(), name.clone()),
        ("org.opencontainers.image.ref.name".to_owned(), tag),
    ]));
    let index = Index { schema_version: 2, media_type: INDEX_TYPES[0].into(), manifests: vec![manifest_at.clone()] };
    let docker = serde_json::json!([{
        "Config": blob_path(&config_at.digest), "RepoTags": [name], "Layers": [blob_path(&diff_id)],
    }]);
    let mut archive = Archive::default();
    archive.add(&PackEntry::file(blob_path(&config_at.digest), 0o644, config))?;
    archive.add(&PackEntry::file(blob_path(&layer_at.digest), 0o644, layer))?;
    archive.add(&PackEntry::file(blob_path(&manifest_at.digest), 0o644, manifest))?;
    archive.add(&PackEntry::file("index.json", 0o644, json(&index)))?;
    archive.add(&PackEntry::file("manifest.json", 0o644, json(&docker)))?;
    archive.add(&PackEntry::file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()))?;
    Ok(archive.finish())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("image metadata is plain data")
}

/// The layer's archive: entries by path, folders before what they hold.
fn layer(entries: &[PackEntry]) -> Result<Vec<u8>, ImageError> {
    let mut by_path: BTreeMap<String, PackEntry> = BTreeMap::new();
    for entry in entries {
        let path = entry.path.trim_matches('/').to_owned();
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(ImageError::Invalid(format!("{:?} is no path for an image's file", entry.path)));
        }
        let entry = PackEntry { path: path.clone(), ..entry.clone() };
        if let Some(twice) = by_path.insert(path, entry) {
            return Err(ImageError::Invalid(format!("{:?} is given twice", twice.path)));
        }
    }
    let above: BTreeSet<String> =
        by_path.keys().flat_map(|path| path.match_indices('/').map(|(end, _)| path[..end].to_owned())).collect();
    for folder in above {
        match by_path.get(&folder).map(|entry| &entry.content) {
            None => drop(by_path.insert(folder.clone(), PackEntry::folder(folder, 0o755))),
            Some(PackContent::Folder) => {}
            Some(_) => return Err(ImageError::Invalid(format!("{folder:?} is both a folder and not"))),
        }
    }
    let mut archive = Archive::default();
    for entry in by_path.values() {
        archive.add(entry)?;
    }
    Ok(archive.finish())
}

/// A tar archive in memory, all times zero.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, entry: &PackEntry) -> Result<(), ImageError> {
        let (kind, data, target): (_, &[u8], _) = match &entry.content {
            PackContent::File(data) => (EntryType::Regular, data, None),
            PackContent::Link(target) => (EntryType::Symlink, &[], Some(target)),
            PackContent::Folder => (EntryType::Directory, &[], None),
        };
        let mut header = Header::new_ustar();
        let too_long = |error| ImageError::Invalid(format!("{}: {error}", entry.path));
        header.set_path(&entry.path).map_err(too_long)?;
        if let Some(target) = target {
            header.set_link_name_literal(target).map_err(too_long)?;
        }
        header.set_entry_type(kind);
        header.set_mode(entry.mode & 0o7777);
        header.set_uid(entry.owner.0.into());
        header.set_gid(entry.owner.1.into());
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
