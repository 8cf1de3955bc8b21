//! The images of this machine on disk, shared by all processes that open the same folder.
//!
//! ```text
//! index.json      which images there are           blobs/sha256/   manifests and configurations
//! lock            held while index.json changes    layers/         unpacked layers by chain id
//! gc.lock         shared by who adds content       ingest/         blobs being written
//! uses/ID/HOLDER  who needs an image to stay       unpack/         layers being unpacked, folders being deleted
//! ```
//!
//! Content is durable before a name leads to it, and nothing is deleted that a name leads to, so a crash leaves at most
//! things that nobody refers to; the next collection takes them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tracing::warn;

use super::blobs::{Blobs, make_folder, sync_folder};
use super::digest::Digest;
use super::error::{ImageError, at, sys};
use super::index::{Index, Record, Removal, VERSION};
use super::manifest::{ImageConfig, Platform};
use super::pull::Pulls;
use super::registry::{Registry, RegistryConfig};
use super::unpack::{LayerLimits, unpack};

/// How long a broken-off download is kept for its continuation.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// An image that is present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names with tag, complete.
    pub repo_tags: Vec<String>,
    /// Names with digest, complete.
    pub repo_digests: Vec<String>,
    /// Bytes of manifest, configuration and packed layers, as the registry counts them.
    pub size_bytes: u64,
    /// How to run it.
    pub config: ImageConfig,
    /// Folders of its layers, bottom first; read only.
    pub layers: Vec<PathBuf>,
}

/// What removing a name did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The image has other tags and stays.
    Untagged(String),
    /// The image of this id is gone.
    Deleted(String),
}

/// How a store behaves.
#[derive(Clone, Debug, Default)]
pub struct ImageOptions {
    /// How registries are reached.
    pub registries: RegistryConfig,
    /// How much one layer may hold.
    pub layers: LayerLimits,
}

/// The images of this machine; clones share everything.
///
/// Methods that are not `async` block on files.
#[derive(Clone)]
pub struct ImageStore(pub(super) Arc<Inner>);

pub(super) struct Inner {
    root: PathBuf,
    pub(super) blobs: Blobs,
    cached: Mutex<Option<Cached>>,
    pub(super) registry: Registry,
    pub(super) host: Platform,
    layer_limits: LayerLimits,
    pub(super) pulls: Pulls,
}

/// The index as read, with what tells whether the file is still the same.
struct Cached {
    stamp: Stamp,
    index: Arc<Index>,
}

/// The index is only ever replaced by a new file, so another one is never taken for it.
type Stamp = Option<(u64, i64, i64, u64)>;

/// Keeps the collector away from content that no name leads to yet.
#[derive(Clone)]
pub(super) struct Adding(#[expect(dead_code, reason = "held for its lock")] Arc<File>);

impl ImageStore {
    /// Opens the store in `root`, making it when there is none.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        ImageStore::open_with(root, ImageOptions::default())
    }

    /// The same, with registries and limits of one's own.
    pub fn open_with(root: &Path, options: ImageOptions) -> Result<Self, ImageError> {
        for folder in ["layers", "unpack", "uses"] {
            make_folder(&root.join(folder))?;
        }
        let store = ImageStore(Arc::new(Inner {
            blobs: Blobs::open(root)?,
            root: root.to_owned(),
            cached: Mutex::new(None),
            registry: Registry::new(options.registries),
            host: Platform::of_host(),
            layer_limits: options.layers,
            pulls: Pulls::default(),
        }));
        store.index()?;
        Ok(store)
    }

    /// All images, by id.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let index = self.index()?;
        Ok(index.images.iter().map(|(id, record)| self.image_of(id, record)).collect())
    }

    /// The image that a reference, an id or the unique beginning of an id names.
    pub fn image(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let index = self.index()?;
        Ok(index.find(name).and_then(|id| Some(self.image_of(&id, index.images.get(&id)?))))
    }

    /// Keeps an image from being removed until `holder` (a container's id, say) releases it, across processes and
    /// restarts.
    pub fn hold(&self, name: &str, holder: &str) -> Result<Image, ImageError> {
        let _lock = self.lock()?;
        let Some(image) = self.image(name)? else { return Err(ImageError::NotFound { name: name.to_owned() }) };
        let folder = self.uses(&image.id)?;
        make_folder(&folder)?;
        let path = folder.join(checked_holder(holder)?);
        File::create(&path).and_then(|file| file.sync_all()).map_err(at("create", &path))?;
        sync_folder(&folder)?;
        Ok(image)
    }

    /// Takes [`ImageStore::hold`] back; releasing what is not held is fine.
    pub fn release(&self, image_id: &str, holder: &str) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        let path = self.uses(image_id)?.join(checked_holder(holder)?);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(at("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Who holds an image, by its id.
    pub fn holders(&self, image_id: &str) -> Result<Vec<String>, ImageError> {
        let names = names_in(&self.uses(image_id)?)?;
        Ok(names.into_iter().collect())
    }

    /// Removes a tag when the image has others, else (and by id or digest) the image with all its names.
    ///
    /// Refused while somebody holds the image. A tag may go even then.
    pub fn remove(&self, name: &str) -> Result<Removed, ImageError> {
        let removed = self.change(|index| {
            let not_found = || ImageError::NotFound { name: name.to_owned() };
            match index.removal(name).ok_or_else(not_found)? {
                Removal::Tag(id, tag) => {
                    let record = index.images.get_mut(&id).ok_or_else(not_found)?;
                    record.tags.remove(&tag);
                    Ok(Removed::Untagged(tag))
                }
                Removal::Image(id) => {
                    let holders = self.holders(&id.to_string())?;
                    if !holders.is_empty() {
                        return Err(ImageError::InUse { id: id.to_string(), holders });
                    }
                    index.images.remove(&id);
                    Ok(Removed::Deleted(id.to_string()))
                }
            }
        })?;
        self.collect()?;
        Ok(removed)
    }

    /// Removes an image with all its names, as the runtime contract wants it; by any of its names.
    pub fn remove_image(&self, name: &str) -> Result<Removed, ImageError> {
        match self.index()?.find(name) {
            Some(id) => self.remove(&id.to_string()),
            None => Err(ImageError::NotFound { name: name.to_owned() }),
        }
    }

    /// Deletes what no image refers to. Does nothing, and says `false`, while content is being added by anyone.
    pub fn collect(&self) -> Result<bool, ImageError> {
        let path = self.0.root.join("gc.lock");
        let file = lock_file(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(errno) => return Err(sys("lock", &path)(errno)),
        }
        // Nobody adds content now, and names only ever lead to present content, so the index cannot grow needs.
        let index = self.index()?;
        let layers: BTreeSet<String> =
            index.images.values().flat_map(|record| &record.chain).map(Digest::hex).collect();
        let manifests = index.images.values().flat_map(|record| &record.manifests);
        let blobs: BTreeSet<String> = manifests.chain(index.images.keys()).map(Digest::hex).collect();
        self.discard_layers(&layers)?;
        remove_files(self.0.blobs.folder(), |name, _| !blobs.contains(name))?;
        remove_files(self.0.blobs.ingest_folder(), |name, path| Digest::from_hex(name).is_err() || is_stale(path))?;
        self.discard_uses(&index)?;
        for name in names_in(&self.0.root.join("unpack"))? {
            let path = self.0.root.join("unpack").join(name);
            fs::remove_dir_all(&path).map_err(at("remove", &path))?;
        }
        Ok(true)
    }

    /// Bytes and inodes that the store takes on disk.
    pub fn usage(&self) -> Result<(u64, u64), ImageError> {
        let mut total = (0, 0);
        let mut folders = vec![self.0.root.clone()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                total = (total.0 + metadata.blocks() * 512, total.1 + 1);
                if metadata.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(total)
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Announces that content is about to be added; until it is dropped, nothing is collected.
    pub(super) fn adding(&self) -> Result<Adding, ImageError> {
        let path = self.0.root.join("gc.lock");
        let file = lock_file(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockShared).map_err(sys("lock", &path))?;
        Ok(Adding(Arc::new(file)))
    }

    /// Adds an image whose content is in place, and gives it back.
    pub(super) fn commit(&self, id: Digest, record: Record, _adding: &Adding) -> Result<Image, ImageError> {
        self.change(|index| {
            index.add(id, record);
            let record = index.images.get(&id).expect("it was just added");
            Ok(self.image_of(&id, record))
        })
    }

    /// The table of images as it is now.
    pub(super) fn index(&self) -> Result<Arc<Index>, ImageError> {
        let path = self.0.root.join("index.json");
        let stamp = stamp(&path)?;
        if let Some(cached) = &*self.0.cached.lock().expect("no holder of this lock panics")
            && cached.stamp == stamp
        {
            return Ok(cached.index.clone());
        }
        let index = Arc::new(read_index(&path)?);
        // Read between two replacements it may belong to neither stamp; then the next look reads it again.
        if stamp == self::stamp(&path)? {
            let cached = Cached { stamp, index: index.clone() };
            *self.0.cached.lock().expect("no holder of this lock panics") = Some(cached);
        }
        Ok(index)
    }

    /// Whether the layer of this chain id is unpacked.
    pub(super) fn has_layer(&self, chain_id: &Digest) -> bool {
        self.layer(chain_id).is_dir()
    }

    /// Unpacks the layer `chain[height]` from its blob. The layers below are in place.
    pub(super) fn unpack_layer(
        &self,
        blob: impl Read,
        diff_id: &Digest,
        chain: &[Digest],
        height: usize,
    ) -> Result<(), ImageError> {
        let layer = self.layer(&chain[height]);
        if layer.is_dir() {
            return Ok(());
        }
        let scratch = self.0.root.join("unpack").join(format!("layer-{:016x}", stdx::random_u64()));
        fs::create_dir(&scratch).map_err(at("create", &scratch))?;
        let parents: Vec<PathBuf> = chain[..height].iter().rev().map(|below| self.layer(below)).collect();
        let unpacked = unpack(blob, &scratch, &parents, self.0.layer_limits)
            .map_err(|error| ImageError::Invalid(format!("unpack layer {diff_id}: {error}")))
            .and_then(|actual| super::blobs::check("uncompressed layer", diff_id, &actual))
            .and_then(|()| self.place_layer(&scratch, &layer));
        if unpacked.is_err()
            && let Err(error) = fs::remove_dir_all(&scratch)
        {
            warn!(path = %scratch.display(), %error, "remove broken layer; the next collection will");
        }
        unpacked
    }

    fn place_layer(&self, scratch: &Path, layer: &Path) -> Result<(), ImageError> {
        let folder = File::open(scratch).map_err(at("open", scratch))?;
        rustix::fs::syncfs(&folder).map_err(sys("sync", scratch))?;
        match fs::rename(scratch, layer) {
            // Somebody else unpacked the same layer meanwhile.
            Err(_) if layer.is_dir() => fs::remove_dir_all(scratch).map_err(at("remove", scratch)),
            Err(error) => Err(at("move", scratch)(error)),
            Ok(()) => sync_folder(&self.0.root.join("layers")),
        }
    }

    fn image_of(&self, id: &Digest, record: &Record) -> Image {
        Image {
            id: id.to_string(),
            repo_tags: record.tags.iter().cloned().collect(),
            repo_digests: record.digests.iter().cloned().collect(),
            size_bytes: record.size_bytes,
            config: record.config.clone(),
            layers: record.chain.iter().map(|chain_id| self.layer(chain_id)).collect(),
        }
    }

    fn layer(&self, chain_id: &Digest) -> PathBuf {
        self.0.root.join("layers").join(chain_id.hex())
    }

    fn uses(&self, image_id: &str) -> Result<PathBuf, ImageError> {
        let id: Digest = image_id.parse().map_err(|_| ImageError::NotFound { name: image_id.to_owned() })?;
        Ok(self.0.root.join("uses").join(id.hex()))
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.0.root.join("lock");
        let file = lock_file(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(sys("lock", &path))?;
        Ok(file)
    }

    /// Changes the index under its lock, durably. An error changes nothing.
    fn change<R>(&self, change: impl FnOnce(&mut Index) -> Result<R, ImageError>) -> Result<R, ImageError> {
        let _lock = self.lock()?;
        let before = self.index()?;
        let mut index = Index::clone(&before);
        let result = change(&mut index)?;
        if index != *before {
            write_index(&self.0.root, &index)?;
        }
        Ok(result)
    }

    /// Moves unreferenced layers out of sight first: a half-deleted layer must not be taken for a whole one.
    fn discard_layers(&self, kept: &BTreeSet<String>) -> Result<(), ImageError> {
        let folder = self.0.root.join("layers");
        for name in names_in(&folder)? {
            if !kept.contains(&name) {
                let (from, to) = (folder.join(&name), self.0.root.join("unpack").join(format!("gone-{name}")));
                fs::rename(&from, &to).map_err(at("move", &from))?;
            }
        }
        sync_folder(&folder)
    }

    fn discard_uses(&self, index: &Index) -> Result<(), ImageError> {
        let folder = self.0.root.join("uses");
        for name in names_in(&folder)? {
            let gone = Digest::from_hex(&name).is_ok_and(|id| !index.images.contains_key(&id));
            let path = folder.join(name);
            // Somebody may hold an image that was added again meanwhile: only an empty folder goes.
            if gone && names_in(&path)?.is_empty() {
                fs::remove_dir(&path).map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }
}

fn lock_file(path: &Path) -> Result<File, ImageError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(at("open", path))
}

fn stamp(path: &Path) -> Result<Stamp, ImageError> {
    match fs::metadata(path) {
        Ok(file) => Ok(Some((file.ino(), file.mtime(), file.mtime_nsec(), file.len()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at("look at", path)(error)),
    }
}

fn read_index(path: &Path) -> Result<Index, ImageError> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(INDEX_BYTES_MAX).read_to_end(&mut text).map_err(at("read", path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Index::default()),
        Err(error) => return Err(at("open", path)(error)),
    };
    let unreadable = |error: serde_json::Error| ImageError::Invalid(format!("read {}: {error}", path.display()));
    let index: Index = serde_json::from_slice(&text).map_err(unreadable)?;
    if index.version != VERSION {
        let why = format!("{} has version {}, this program reads {VERSION}", path.display(), index.version);
        return Err(ImageError::Invalid(why));
    }
    Ok(index)
}

fn write_index(root: &Path, index: &Index) -> Result<(), ImageError> {
    let (scratch, path) = (root.join("index.json.new"), root.join("index.json"));
    let text = serde_json::to_vec(index).expect("an index is plain data");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&scratch, &path)
    };
    write().map_err(at("write", &path))?;
    sync_folder(root)
}

/// Entries of a folder; none when it does not exist.
fn names_in(folder: &Path) -> Result<BTreeSet<String>, ImageError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(at("list", folder)(error)),
    };
    let names: Result<BTreeSet<String>, _> =
        entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect();
    names.map_err(at("list", folder))
}

fn remove_files(folder: &Path, unwanted: impl Fn(&str, &Path) -> bool) -> Result<(), ImageError> {
    for name in names_in(folder)? {
        let path = folder.join(&name);
        if !unwanted(&name, &path) {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(at("remove", &path))?;
    }
    Ok(())
}

fn is_stale(path: &Path) -> bool {
    let now = stdx::wall().as_second();
    fs::metadata(path).is_ok_and(|file| now - file.mtime() > PARTIAL_KEPT.as_secs() as i64)
}

/// A holder's name becomes a file's.
fn checked_holder(holder: &str) -> Result<&str, ImageError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=128).contains(&holder.len()) && holder.bytes().all(plain) && !holder.starts_with('.') {
        return Ok(holder);
    }
    Err(ImageError::Invalid(format!("{holder:?} cannot name a holder of an image")))
}
