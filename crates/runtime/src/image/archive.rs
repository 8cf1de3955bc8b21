//! Images from files: OCI layouts (folder or tar) and what `docker save` writes, compressed or not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use tar::EntryType;

use super::blobs::{Partial, check};
use super::compression::decompressed;
use super::digest::{Digest, Hasher};
use super::error::{ImageError, at, sys};
use super::index::Record;
use super::manifest::{
    CONFIG_TYPES, ConfigFile, Descriptor, Index, LAYER_TYPE, LAYERS_MAX, MANIFEST_TYPES, Manifest, chain_ids,
};
use super::pull::CONFIG_BYTES_MAX;
use super::reference::{Reference, normalise};
use super::store::{Adding, Image, ImageStore};
use super::tarball::Reader;

/// Where containerd's and Docker's exports put an image's complete name.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Where OCI tools put a tag, or a complete name.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const MEMBERS_MAX: usize = 65_536;
const ARCHIVE_BYTES_MAX: u64 = 256 << 30;
/// Links from one member of an archive to another, and indexes within indexes.
const STEPS_MAX: usize = 8;

/// How an archive is read.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The repository of images that the archive names by a bare tag (`latest`), as some OCI tools do. Without it such
    /// images get no name and are known by their id.
    pub repository: Option<String>,
}

impl ImageStore {
    /// Loads all images for this machine from an archive or from the folder of an OCI layout.
    pub fn load(&self, path: &Path, options: &LoadOptions) -> Result<Vec<Image>, ImageError> {
        if path.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = rustix::fs::open(path, flags, Mode::empty()).map_err(sys("open", path))?;
            return self.load_from(&Source::Folder(folder), options, &self.adding()?);
        }
        self.load_reader(File::open(path).map_err(at("open", path))?, options)
    }

    /// Loads all images for this machine from an archive, read once from front to back.
    pub fn load_reader(&self, archive: impl Read, options: &LoadOptions) -> Result<Vec<Image>, ImageError> {
        let adding = self.adding()?;
        let members = Members::read(self, archive);
        let loaded = match members {
            Ok(members) => self.load_from(&Source::Archive(members), options, &adding),
            Err(error) => Err(error),
        };
        drop(adding);
        // Takes what was written on the way; left to a later collection when somebody else is adding.
        self.collect()?;
        loaded
    }

    fn load_from(&self, source: &Source, options: &LoadOptions, adding: &Adding) -> Result<Vec<Image>, ImageError> {
        let mut found = Vec::new();
        if let Some(index) = source.json::<Index>("index.json")? {
            found = listed(source, &index, &self.0.host, options)?;
        }
        let named = found.iter().any(|found| !found.tags.is_empty());
        if !named && let Some(entries) = source.json::<Vec<DockerEntry>>("manifest.json")? {
            found = entries.into_iter().map(|entry| docker_image(source, entry)).collect::<Result<_, _>>()?;
        }
        if found.is_empty() {
            let why = "no image for this machine found: neither in an OCI index.json nor in a docker manifest.json";
            return Err(ImageError::Invalid(why.into()));
        }
        found.into_iter().map(|found| self.add(source, found, adding)).collect()
    }

    fn add(&self, source: &Source, found: Found, adding: &Adding) -> Result<Image, ImageError> {
        let unreadable = |error| ImageError::Invalid(format!("read image configuration {}: {error}", found.id));
        let config: ConfigFile = serde_json::from_slice(&found.config).map_err(unreadable)?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != found.layers.len() || diff_ids.len() > LAYERS_MAX {
            return Err(ImageError::Invalid("mismatched image rootfs and manifest layers".into()));
        }
        let mut record = Record { tags: found.tags, chain: chain_ids(&diff_ids), ..Record::default() };
        record.config = config.config.unwrap_or_default().into();
        let mut layers = Vec::new();
        for (height, (path, expected)) in found.layers.iter().enumerate() {
            let (file, digest, size) = source.open(path)?;
            if let Some(expected) = expected {
                check(path, expected, &digest)?;
            }
            self.unpack_layer(file, &diff_ids[height], &record.chain, height)?;
            layers.push(described(LAYER_TYPE, digest, size));
        }
        let config = described(CONFIG_TYPES[0], found.id, found.config.len() as u64);
        let manifest = match found.manifest {
            Some(manifest) => manifest,
            None => manifest_of(config.clone(), layers.clone()),
        };
        record.size_bytes = manifest.len() as u64 + config.size + layers.iter().map(|layer| layer.size).sum::<u64>();
        record.manifests.insert(self.0.blobs.put(&manifest)?);
        self.0.blobs.put(&found.config)?;
        self.commit(found.id, record, adding)
    }
}

/// An image in an archive.
struct Found {
    tags: BTreeSet<String>,
    id: Digest,
    config: Vec<u8>,
    /// Its manifest, where the archive has one.
    manifest: Option<Vec<u8>>,
    /// Bottom first: where they are, and what their digest has to be where the archive says.
    layers: Vec<(String, Option<Digest>)>,
}

/// One image of a docker archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

fn listed(
    source: &Source,
    index: &Index,
    host: &super::manifest::Platform,
    options: &LoadOptions,
) -> Result<Vec<Found>, ImageError> {
    let mut found: Vec<Found> = Vec::new();
    for entry in &index.manifests {
        let only = Index { manifests: vec![entry.clone()], ..Index::default() };
        let Some(manifest) = manifest_for(source, &only, host)? else { continue };
        let content = source.blob(&manifest)?;
        let unreadable = |error| ImageError::Invalid(format!("read manifest {}: {error}", manifest.digest));
        let parsed: Manifest = serde_json::from_slice(&content).map_err(unreadable)?;
        let tags = name_of(entry, options)?.into_iter().collect();
        // One image under several names is listed once for each.
        if let Some(same) = found.iter_mut().find(|found| found.id == parsed.config.digest) {
            same.tags.extend::<BTreeSet<String>>(tags);
            continue;
        }
        let layers = parsed.layers.iter().map(|layer| (blob_path(&layer.digest), Some(layer.digest))).collect();
        let config = source.blob(&parsed.config)?;
        found.push(Found { tags, id: parsed.config.digest, config, manifest: Some(content), layers });
    }
    Ok(found)
}

/// The manifest for `host` behind an index, through nested ones; `None` when there is none, or it was left out of the
/// archive as those for other machines are.
fn manifest_for(
    source: &Source,
    index: &Index,
    host: &super::manifest::Platform,
) -> Result<Option<Descriptor>, ImageError> {
    let mut index = index.clone();
    for _ in 0..STEPS_MAX {
        let Some(chosen) = index.choose(host).cloned() else { return Ok(None) };
        if !source.has(&blob_path(&chosen.digest))? {
            return Ok(None);
        }
        if !chosen.is_index() {
            return Ok(MANIFEST_TYPES.contains(&chosen.media_type.as_str()).then_some(chosen));
        }
        let unreadable = |error| ImageError::Invalid(format!("read index {}: {error}", chosen.digest));
        index = serde_json::from_slice(&source.blob(&chosen)?).map_err(unreadable)?;
    }
    Err(ImageError::Invalid("indexes are nested too deeply".into()))
}

fn name_of(entry: &Descriptor, options: &LoadOptions) -> Result<Option<String>, ImageError> {
    if let Some(name) = entry.annotation(NAME_ANNOTATION) {
        return Ok(Some(normalise(name)?));
    }
    let Some(name) = entry.annotation(REF_ANNOTATION) else { return Ok(None) };
    if name.contains(['/', ':']) {
        return Ok(Some(normalise(name)?));
    }
    let Some(repository) = &options.repository else { return Ok(None) };
    let repository: Reference = repository.parse()?;
    let tagged = repository.with_tag(name);
    tagged
        .map(|tagged| Some(tagged.to_string()))
        .ok_or_else(|| ImageError::Invalid(format!("{name:?} in {REF_ANNOTATION} is no tag")))
}

fn docker_image(source: &Source, entry: DockerEntry) -> Result<Found, ImageError> {
    let config = source.read(&entry.config, CONFIG_BYTES_MAX)?;
    let tags = entry.repo_tags.unwrap_or_default();
    Ok(Found {
        tags: tags.iter().map(|tag| normalise(tag)).collect::<Result<_, _>>()?,
        id: Digest::of(&config),
        config,
        manifest: None,
        layers: entry.layers.unwrap_or_default().into_iter().map(|path| (path, None)).collect(),
    })
}

/// The manifest that an image without one gets.
pub(super) fn manifest_of(config: Descriptor, layers: Vec<Descriptor>) -> Vec<u8> {
    let manifest = Manifest { schema_version: 2, media_type: MANIFEST_TYPES[0].into(), config, layers };
    serde_json::to_vec(&manifest).expect("a manifest is plain data")
}

/// A pointer to content of a media type.
pub(super) fn described(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: None }
}

/// Where an OCI layout keeps a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Where an archive's files are.
enum Source {
    Archive(Members),
    Folder(OwnedFd),
}

impl Source {
    fn has(&self, path: &str) -> Result<bool, ImageError> {
        match self {
            Source::Archive(members) => Ok(members.find(path).is_some()),
            Source::Folder(folder) => match open_below(folder, path) {
                Ok(_) => Ok(true),
                Err(rustix::io::Errno::NOENT) => Ok(false),
                Err(errno) => Err(sys("open", Path::new(path))(errno)),
            },
        }
    }

    /// A file from its beginning, with its digest and size.
    fn open(&self, path: &str) -> Result<(File, Digest, u64), ImageError> {
        match self {
            Source::Archive(members) => {
                let stored = members.find(path).ok_or_else(|| absent(path))?;
                let file = File::open(&stored.0).map_err(at("open", &stored.0))?;
                Ok((file, stored.1, stored.2))
            }
            Source::Folder(folder) => {
                let opened = open_below(folder, path).map_err(sys("open", Path::new(path)))?;
                let mut file = File::from(opened);
                let mut hashing = Hashing(Hasher::default());
                let size = io::copy(&mut file, &mut hashing).map_err(at("read", Path::new(path)))?;
                file.rewind().map_err(at("read", Path::new(path)))?;
                Ok((file, hashing.0.finish(), size))
            }
        }
    }

    fn read(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, ImageError> {
        let (file, _, size) = self.open(path)?;
        if size > bytes_max {
            return Err(ImageError::Invalid(format!("{path} is larger than {bytes_max} bytes")));
        }
        let mut content = Vec::with_capacity(size as usize);
        file.take(bytes_max).read_to_end(&mut content).map_err(at("read", Path::new(path)))?;
        Ok(content)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let path = blob_path(&descriptor.digest);
        let content = self.read(&path, CONFIG_BYTES_MAX)?;
        check(&path, &descriptor.digest, &Digest::of(&content))?;
        Ok(content)
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<Option<T>, ImageError> {
        if !self.has(path)? {
            return Ok(None);
        }
        let content = self.read(path, CONFIG_BYTES_MAX)?;
        let unreadable = |error| ImageError::Invalid(format!("read {path}: {error}"));
        serde_json::from_slice(&content).map(Some).map_err(unreadable)
    }
}

fn absent(path: &str) -> ImageError {
    ImageError::Invalid(format!("archive lacks {path}"))
}

fn open_below(folder: &OwnedFd, path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let resolving = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    // Non-blocking, lest a pipe in the folder keep us waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::openat2(folder, path, flags, Mode::empty(), resolving)
}

struct Hashing(Hasher);

impl io::Write for Hashing {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        self.0.update(content);
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The files of an archive, written apart while it streams by.
#[derive(Default)]
struct Members {
    files: BTreeMap<String, (PathBuf, Digest, u64)>,
    /// Older docker archives share layers by links.
    links: BTreeMap<String, String>,
}

impl Members {
    fn read(store: &ImageStore, archive: impl Read) -> Result<Self, ImageError> {
        let broken = |error: io::Error| ImageError::Invalid(format!("read archive: {error}"));
        let mut reader = Reader::new(decompressed(archive).map_err(broken)?);
        let mut members = Members::default();
        let mut bytes = 0;
        while let Some(member) = reader.next().map_err(broken)? {
            if members.files.len() + members.links.len() >= MEMBERS_MAX {
                return Err(ImageError::Invalid(format!("archive holds more than {MEMBERS_MAX} files")));
            }
            let path = clean(&String::from_utf8_lossy(&member.path));
            match member.kind {
                EntryType::Regular | EntryType::Continuous => {
                    bytes += member.size;
                    if bytes > ARCHIVE_BYTES_MAX {
                        return Err(ImageError::Invalid(format!("archive holds more than {ARCHIVE_BYTES_MAX} bytes")));
                    }
                    let stored = written(store, &mut reader)?;
                    members.links.remove(&path);
                    if let Some((replaced, ..)) = members.files.insert(path, stored) {
                        fs::remove_file(&replaced).map_err(at("remove", &replaced))?;
                    }
                }
                EntryType::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let target = clean(&format!("{folder}/{}", String::from_utf8_lossy(&member.link)));
                    members.links.insert(path, target);
                }
                EntryType::Link => drop(members.links.insert(path, clean(&String::from_utf8_lossy(&member.link)))),
                _ => {}
            }
        }
        Ok(members)
    }

    fn find(&self, path: &str) -> Option<&(PathBuf, Digest, u64)> {
        let mut path = clean(path);
        for _ in 0..STEPS_MAX {
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => return self.files.get(&path),
            }
        }
        None
    }
}

fn written(store: &ImageStore, content: &mut impl Read) -> Result<(PathBuf, Digest, u64), ImageError> {
    let mut partial = Partial::fresh(&store.0.blobs)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = content.read(&mut buffer).map_err(|error| ImageError::Invalid(format!("read archive: {error}")))?;
        if count == 0 {
            return Ok(partial.leave());
        }
        partial.write(&buffer[..count])?;
    }
}

/// A path in an archive without `.`, `..` and leading slashes.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}
