//! Pulling: resolve, fetch what is missing, unpack, and only then let the name lead to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use cri::{AuthConfig, PullFailure};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Response;
use stdx::{Backoff, Cancel};
use tokio::sync::{Semaphore, mpsc, watch};
use tracing::debug;
use wire::Body;

use super::blobs::Partial;
use super::digest::Digest;
use super::error::ImageError;
use super::index::Record;
use super::manifest::{ConfigFile, Descriptor, Index, LAYERS_MAX, MANIFEST_TYPES, Manifest, chain_ids};
use super::reference::Reference;
use super::registry::{PullFault, Repository, Resolved, STALL_TIMEOUT, announced};
use super::store::{Adding, Image, ImageStore};

/// Layers of one image fetched at a time, as containerd does.
const DOWNLOADS_MAX: usize = 3;
/// Indexes within indexes.
const NESTING_MAX: usize = 4;
/// Bytes of a configuration.
pub(super) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Bytes of one packed layer.
const LAYER_BYTES_MAX: u64 = 64 << 30;
/// How often a download that breaks off is continued without having got any further.
const RETRIES_MAX: u32 = 5;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// Pulls going on, so that everyone who wants the same image waits for one.
#[derive(Default)]
pub(super) struct Pulls {
    images: Mutex<BTreeMap<Digest, Weak<Waiting>>>,
    /// Blobs being fetched, which several images may share.
    blobs: Mutex<BTreeMap<Digest, Weak<Semaphore>>>,
}

type Outcome = Option<Result<Image, ImageError>>;

/// Held by everyone who waits for a pull; when the last one gives up, so does the pull.
struct Waiting {
    outcome: watch::Receiver<Outcome>,
    cancel: Cancel,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl ImageStore {
    /// Fetches what `image` names now (the registry is always asked), unpacks it and gives it back.
    ///
    /// Concurrent calls for the same image with the same credentials share one download. Dropping the future gives up,
    /// unless somebody else waits too; what was fetched is kept for the next try.
    pub async fn pull(&self, image: &str, credentials: Option<&AuthConfig>) -> Result<Image, ImageError> {
        let reference = image.parse::<Reference>()?.completed();
        let waiting = self.join_pull(reference, credentials.cloned());
        let mut outcome = waiting.outcome.clone();
        let outcome = outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(ImageError::Invalid("pull ended without a result".into())),
        }
    }

    fn join_pull(&self, reference: Reference, credentials: Option<AuthConfig>) -> Arc<Waiting> {
        let key = Digest::of(format!("{reference}\n{}", secret_text(credentials.as_ref())).as_bytes());
        let mut images = self.0.pulls.images.lock().expect("no holder of this lock panics");
        if let Some(waiting) = images.get(&key).and_then(Weak::upgrade)
            && waiting.outcome.borrow().is_none()
        {
            return waiting;
        }
        images.retain(|_, waiting| waiting.strong_count() > 0);
        let (sender, outcome) = watch::channel(None);
        let cancel = Cancel::default();
        let waiting = Arc::new(Waiting { outcome, cancel: cancel.clone() });
        images.insert(key, Arc::downgrade(&waiting));
        let store = self.clone();
        // Owned by those who wait: the last of them cancels it.
        drop(stdx::spawn(async move {
            if let Some(result) = cancel.run(store.pull_alone(&reference, credentials.as_ref())).await {
                sender.send_replace(Some(result));
            }
        }));
        waiting
    }

    async fn pull_alone(&self, reference: &Reference, credentials: Option<&AuthConfig>) -> Result<Image, ImageError> {
        let adding = {
            let store = self.clone();
            blocking(move || store.adding()).await?
        };
        let pulled = self.pull_content(reference, credentials, &adding).await;
        drop(adding);
        let store = self.clone();
        // Packed layers have served their purpose, and so has what a moved tag led to.
        if let Err(error) = blocking(move || store.collect()).await {
            debug!(%error, "collect unreferenced image content");
        }
        pulled.map_err(|error| match error {
            Fault::Remote(fault) => {
                let fault = fault.within(&format!("failed to pull and unpack image \"{reference}\""));
                ImageError::Pull { failure: fault.failure, message: fault.message }
            }
            Fault::Local(error) => ImageError::Pull {
                failure: error.failure(),
                message: format!("failed to pull and unpack image \"{reference}\": {error}"),
            },
        })
    }

    async fn pull_content(
        &self,
        reference: &Reference,
        credentials: Option<&AuthConfig>,
        adding: &Adding,
    ) -> Result<Image, Fault> {
        let (resolved, repository) = self.0.registry.resolve(reference, credentials).await?;
        let mut record = Record::default();
        record.tags.extend(reference.tag().map(|_| reference.to_string()));
        record.digests.insert(format!("{}@{}", reference.repository(), resolved.digest));
        let known = self.index()?.by_manifest(&resolved.digest);
        if let Some(id) = known {
            // Present under another name, or under this one already.
            return self.commit_later(id, record, adding).await;
        }
        let (manifest, content) = self.fetch_manifest(&repository, resolved, &mut record).await?;
        record.size_bytes = content + manifest.config.size;
        record.size_bytes += manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        let config = self.fetch_config(&repository, &manifest).await?;
        let diff_ids = config.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != manifest.layers.len() {
            return Err(invalid("mismatched image rootfs and manifest layers".into()));
        }
        record.chain = chain_ids(&diff_ids);
        record.config = config.config.unwrap_or_default().into();
        self.fetch_layers(&repository, &manifest.layers, &diff_ids, &record.chain, adding).await?;
        self.commit_later(manifest.config.digest, record, adding).await
    }

    async fn commit_later(&self, id: Digest, record: Record, adding: &Adding) -> Result<Image, Fault> {
        let (store, adding) = (self.clone(), adding.clone());
        Ok(blocking(move || store.commit(id, record, &adding)).await?)
    }

    /// The manifest for this machine behind what a name resolved to, with its length; all on the way is kept.
    async fn fetch_manifest(
        &self,
        repository: &Repository<'_>,
        resolved: Resolved,
        record: &mut Record,
    ) -> Result<(Manifest, u64), Fault> {
        let Resolved { mut digest, mut media_type } = resolved;
        for _ in 0..NESTING_MAX {
            let content = match self.0.blobs.contains(&digest) {
                true => self.0.blobs.read(&digest, CONFIG_BYTES_MAX)?,
                false => repository.manifest(&digest).await?,
            };
            self.0.blobs.put(&content)?;
            record.manifests.insert(digest);
            let unreadable = |error| invalid(format!("read manifest {digest}: {error}"));
            if MANIFEST_TYPES.contains(&media_type.as_str()) {
                let manifest: Manifest = serde_json::from_slice(&content).map_err(unreadable)?;
                return Ok((manifest, content.len() as u64));
            }
            if !(Descriptor { media_type: media_type.clone(), digest, size: 0, platform: None, annotations: None })
                .is_index()
            {
                return Err(invalid(format!("media type \"{media_type}\" is not supported")));
            }
            let index: Index = serde_json::from_slice(&content).map_err(unreadable)?;
            let chosen = index.choose(&self.0.host).ok_or_else(|| no_match(&digest))?;
            (digest, media_type) = (chosen.digest, chosen.media_type.clone());
        }
        Err(invalid("indexes are nested too deeply".into()))
    }

    async fn fetch_config(&self, repository: &Repository<'_>, manifest: &Manifest) -> Result<ConfigFile, Fault> {
        let config = &manifest.config;
        if config.size > CONFIG_BYTES_MAX || manifest.layers.len() > LAYERS_MAX {
            let why =
                format!("image has {} layers and a configuration of {} bytes", manifest.layers.len(), config.size);
            return Err(invalid(format!("{why}; at most {LAYERS_MAX} and {CONFIG_BYTES_MAX} are allowed")));
        }
        self.fetch_blob(repository, config).await?;
        let content = self.0.blobs.read(&config.digest, CONFIG_BYTES_MAX)?;
        serde_json::from_slice(&content)
            .map_err(|error| invalid(format!("read image configuration {}: {error}", config.digest)))
    }

    /// Fetches the missing layers, some at a time, and unpacks them from the bottom as they come.
    async fn fetch_layers(
        &self,
        repository: &Repository<'_>,
        layers: &[Descriptor],
        diff_ids: &[Digest],
        chain: &[Digest],
        adding: &Adding,
    ) -> Result<(), Fault> {
        let missing: Vec<usize> = (0..layers.len()).filter(|height| !self.has_layer(&chain[*height])).collect();
        let (sender, mut fetched) = mpsc::channel(DOWNLOADS_MAX);
        let fetching = async {
            let mut downloads = stream::iter(missing)
                .map(|height| async move { self.fetch_blob(repository, &layers[height]).await.map(|()| height) })
                .buffered(DOWNLOADS_MAX);
            while let Some(height) = downloads.try_next().await? {
                if sender.send(height).await.is_err() {
                    break;
                }
            }
            drop(sender);
            Ok::<(), Fault>(())
        };
        let unpacking = async {
            while let Some(height) = fetched.recv().await {
                let (store, adding) = (self.clone(), adding.clone());
                let (layer, diff_id, chain) = (layers[height].digest, diff_ids[height], chain.to_vec());
                // The lock goes with the work: a pull given up must not let its half-made layer be collected while
                // this still writes it.
                blocking(move || {
                    let _adding = adding;
                    let blob = store.0.blobs.open_blob(&layer)?;
                    store.unpack_layer(blob, &diff_id, &chain, height)
                })
                .await?;
            }
            Ok(())
        };
        tokio::try_join!(fetching, unpacking).map(|_| ())
    }

    /// Fetches a blob unless it is here; one at a time of the same digest.
    async fn fetch_blob(&self, repository: &Repository<'_>, blob: &Descriptor) -> Result<(), Fault> {
        if blob.size > LAYER_BYTES_MAX {
            return Err(invalid(format!(
                "{} has {} bytes, at most {LAYER_BYTES_MAX} are allowed",
                blob.digest, blob.size
            )));
        }
        let turn = self.0.pulls.turn(&blob.digest);
        let _turn = turn.acquire().await.expect("the semaphore is never closed");
        if self.0.blobs.contains(&blob.digest) {
            return Ok(());
        }
        let (blobs, digest) = (self.0.blobs.clone(), blob.digest);
        let mut partial = blocking(move || Partial::resumed(&blobs, &digest)).await?;
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        loop {
            if partial.bytes() > blob.size {
                partial.restart()?;
            }
            let before = partial.bytes();
            let stopped;
            (partial, stopped) = continued(repository, blob, partial).await?;
            match stopped {
                None => break,
                Some(fault) => {
                    if partial.bytes() > before {
                        backoff.succeed();
                    }
                    let delay = backoff.fail();
                    let hopeless = fault.failure != PullFailure::RegistryUnavailable;
                    if hopeless || backoff.failures() > RETRIES_MAX {
                        if partial.bytes() == 0 {
                            partial.discard()?;
                        }
                        return Err(fault.within("failed to copy: httpReadSeeker: failed open").into());
                    }
                    debug!(digest = %blob.digest, why = fault.message, "download broke off, continuing");
                    stdx::sleep(delay).await;
                }
            }
        }
        let (blobs, digest) = (self.0.blobs.clone(), blob.digest);
        Ok(blocking(move || partial.finish(&blobs, &digest)).await?)
    }
}

impl Pulls {
    fn turn(&self, digest: &Digest) -> Arc<Semaphore> {
        let mut blobs = self.blobs.lock().expect("no holder of this lock panics");
        if let Some(turn) = blobs.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        blobs.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::new(Semaphore::new(1));
        blobs.insert(*digest, Arc::downgrade(&turn));
        turn
    }
}

/// One attempt at the rest of a blob: the blob so far, and what broke the attempt off.
async fn continued(
    repository: &Repository<'_>,
    blob: &Descriptor,
    mut partial: Partial,
) -> Result<(Partial, Option<PullFault>), Fault> {
    if partial.bytes() == blob.size && blob.size > 0 {
        return Ok((partial, None));
    }
    let (response, start) = match repository.blob(&blob.digest, partial.bytes()).await {
        Ok(answer) => answer,
        Err(fault) => return Ok((partial, Some(fault))),
    };
    if start != partial.bytes() {
        partial.restart()?;
    }
    let expected = blob.size - start;
    if announced(&response).is_some_and(|length| length != expected) {
        partial.discard()?;
        let why = format!("{} has {:?} bytes, not {expected}", blob.digest, announced(&response));
        return Err(invalid(why));
    }
    stored(response, blob, partial).await
}

async fn stored(
    mut response: Response<Body>,
    blob: &Descriptor,
    mut partial: Partial,
) -> Result<(Partial, Option<PullFault>), Fault> {
    let mut gathered = Vec::with_capacity(WRITE_BYTES);
    let stopped = loop {
        let broken = |why: String| Some(PullFault::new(PullFailure::RegistryUnavailable, why));
        let piece = match stdx::timeout(STALL_TIMEOUT, response.body_mut().next()).await {
            Ok(Some(Ok(piece))) => piece,
            Ok(Some(Err(error))) => break broken(error.to_string()),
            Ok(None) => break None,
            Err(stdx::Elapsed) => break broken(format!("no content for {} s", STALL_TIMEOUT.as_secs())),
        };
        if partial.bytes() + (gathered.len() + piece.len()) as u64 > blob.size {
            partial.discard()?;
            return Err(invalid(format!("{} is longer than the {} bytes announced", blob.digest, blob.size)));
        }
        gathered.extend_from_slice(&piece);
        if gathered.len() >= WRITE_BYTES {
            (partial, gathered) = written(partial, gathered).await?;
        }
    };
    (partial, _) = written(partial, gathered).await?;
    match stopped {
        None if partial.bytes() < blob.size => {
            let why = format!("{} ended after {} of {} bytes: unexpected EOF", blob.digest, partial.bytes(), blob.size);
            Ok((partial, Some(PullFault::new(PullFailure::RegistryUnavailable, why))))
        }
        stopped => Ok((partial, stopped)),
    }
}

/// Writes and hashes off the async threads; the emptied buffer comes back.
async fn written(mut partial: Partial, mut gathered: Vec<u8>) -> Result<(Partial, Vec<u8>), Fault> {
    if gathered.is_empty() {
        return Ok((partial, gathered));
    }
    Ok(blocking(move || {
        partial.write(&gathered)?;
        gathered.clear();
        Ok((partial, gathered))
    })
    .await?)
}

/// A failed pull: of the registry's making or of ours.
enum Fault {
    Remote(PullFault),
    Local(ImageError),
}

impl From<PullFault> for Fault {
    fn from(fault: PullFault) -> Self {
        Fault::Remote(fault)
    }
}

impl From<ImageError> for Fault {
    fn from(error: ImageError) -> Self {
        Fault::Local(error)
    }
}

fn invalid(why: String) -> Fault {
    Fault::Local(ImageError::Invalid(why))
}

fn no_match(digest: &Digest) -> Fault {
    Fault::Remote(PullFault::new(
        PullFailure::NotFound,
        format!("no match for platform in manifest {digest}: not found"),
    ))
}

/// Runs what blocks on files or burns CPU on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(ImageError::Invalid(format!("work on image content ended early: {error}"))),
    }
}

/// Distinguishes credentials without keeping them: only a digest of this text is kept.
fn secret_text(credentials: Option<&AuthConfig>) -> String {
    credentials.map_or_else(String::new, |auth| {
        let fields = [
            &auth.username,
            &auth.password,
            &auth.auth,
            &auth.server_address,
            &auth.identity_token,
            &auth.registry_token,
        ];
        fields.map(String::as_str).join("\n")
    })
}
