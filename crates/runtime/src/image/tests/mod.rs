//! Images end to end: packed, loaded, pushed to real registries and pulled again.

mod archives;
mod faults;
mod registries;
mod server;
mod shared;

use std::collections::BTreeMap;
use std::fs;

use super::pack::{PackEntry, PackSpec, pack};
use super::testing::Folder;
use super::*;

fn store(folder: &Folder) -> ImageStore {
    ImageStore::open(&folder.path().join("images")).unwrap()
}

fn store_with(folder: &Folder, host: &str, config: HostConfig) -> ImageStore {
    let registries = RegistryConfig { hosts: BTreeMap::from([(host.to_owned(), config)]) };
    let options = ImageOptions { registries, ..ImageOptions::default() };
    ImageStore::open_with(&folder.path().join("images"), options).unwrap()
}

fn plain() -> HostConfig {
    HostConfig { plain_http: true, ..HostConfig::default() }
}

/// A small image whose content tells it apart.
fn packed(name: &str, content: &str) -> Vec<u8> {
    pack(&PackSpec {
        name: name.into(),
        config: ImageConfig {
            user: "1000".into(),
            env: vec!["A=b".into()],
            entrypoint: vec!["/bin/app".into()],
            exposed_ports: vec!["3000/tcp".into()],
            ..ImageConfig::default()
        },
        entries: vec![
            PackEntry::file("/bin/app", 0o755, content),
            PackEntry::link("/bin/sh", "app"),
            PackEntry::folder("/tmp", 0o1777),
        ],
    })
    .unwrap()
}

/// The blobs of a packed image, by digest, and its manifest.
fn blobs_of(archive: &[u8]) -> (BTreeMap<String, Vec<u8>>, Vec<u8>) {
    let mut reader = tarball::Reader::new(archive);
    let mut blobs = BTreeMap::new();
    let mut index = Vec::new();
    while let Some(member) = reader.next().unwrap() {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        match String::from_utf8(member.path).unwrap().strip_prefix("blobs/sha256/") {
            Some(hex) => drop(blobs.insert(format!("sha256:{hex}"), content)),
            None if content.starts_with(b"{\"schemaVersion\"") => index = content,
            None => {}
        }
    }
    let index: manifest::Index = serde_json::from_slice(&index).unwrap();
    let manifest = blobs.remove(&index.manifests[0].digest.to_string()).unwrap();
    (blobs, manifest)
}

fn app_of(image: &Image) -> String {
    fs::read_to_string(image.layers[0].join("bin/app")).unwrap()
}

/// What is left in the folders that hold unfinished work.
fn leftovers(store: &ImageStore) -> Vec<String> {
    ["ingest", "unpack"]
        .iter()
        .flat_map(|folder| fs::read_dir(store.root().join(folder)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}
