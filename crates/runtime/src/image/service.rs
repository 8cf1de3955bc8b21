//! The store behind the runtime contract: CRI's image service, and images as containers' roots.

use std::collections::BTreeSet;

use cri::{
    AuthConfig, Error, FilesystemUsage, ImageFsInfo, ImageService, ImageSpec, ImageUser, PullImageRequest, Result,
};
use stdx::BoxFuture;
use tracing::warn;

use super::error::ImageError;
use super::reference::normalise;
use super::store::{Image, ImageStore};
use crate::source::{ImageRoot, ImageSource};

impl ImageService for ImageStore {
    fn pull_image(&self, request: PullImageRequest) -> BoxFuture<'_, Result<String>> {
        Box::pin(async move {
            let auth: Option<AuthConfig> = request.auth.filter(|auth| *auth != AuthConfig::default());
            let image = self.pull(&request.image.image, auth.as_ref()).await.map_err(of_pull)?;
            Ok(image.id)
        })
    }

    fn image_status<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<Option<cri::Image>>> {
        let found = self.image(&image.image).map(|found| found.map(contract)).map_err(internal);
        // What cannot be a name is said to be none, rather than absent.
        let found = match normalise(&image.image) {
            Err(error) if matches!(found, Ok(None)) => Err(of_pull(ImageError::Reference(error))),
            _ => found,
        };
        Box::pin(std::future::ready(found))
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<cri::Image>>> {
        let listed = self.list().map(|images| images.into_iter().map(contract).collect()).map_err(internal);
        Box::pin(std::future::ready(listed))
    }

    fn remove_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<()>> {
        let name = image.image.clone();
        Box::pin(self.blocking(move |store| match store.remove_image(&name) {
            Ok(_) | Err(ImageError::NotFound { .. }) => Ok(()),
            Err(error @ ImageError::InUse { .. }) => Err(Error::FailedPrecondition(error.to_string())),
            Err(error) => Err(internal(error)),
        }))
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<ImageFsInfo>> {
        Box::pin(self.blocking(|store| {
            let (used_bytes, inodes_used) = store.usage().map_err(internal)?;
            let timestamp = i64::try_from(stdx::wall().as_nanosecond()).unwrap_or(i64::MAX);
            let mountpoint = store.root().display().to_string();
            let usage = FilesystemUsage { timestamp, mountpoint, used_bytes, inodes_used };
            Ok(ImageFsInfo { image_filesystems: vec![usage], container_filesystems: Vec::new() })
        }))
    }
}

impl ImageSource for ImageStore {
    fn root<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<ImageRoot>>> {
        let found = self.image(reference).map(|found| found.map(root)).map_err(internal);
        Box::pin(std::future::ready(found))
    }

    fn hold(&self, image_id: &str, container: &str) {
        if let Err(error) = ImageStore::hold(self, image_id, container) {
            warn!(image_id, container, %error, "hold image");
        }
    }

    fn release(&self, image_id: &str, container: &str) {
        if let Err(error) = ImageStore::release(self, image_id, container) {
            warn!(image_id, container, %error, "release image");
        }
    }

    fn retain(&self, containers: &BTreeSet<String>) -> Result<()> {
        for image in self.list().map_err(internal)? {
            for holder in self.holders(&image.id).map_err(internal)? {
                if !containers.contains(&holder) {
                    ImageStore::release(self, &image.id, &holder).map_err(internal)?;
                }
            }
        }
        Ok(())
    }
}

impl ImageStore {
    /// Runs what waits for the disk on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ImageStore) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let store = self.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(Error::Internal(format!("image store: {error}"))),
        }
    }
}

fn internal(error: ImageError) -> Error {
    Error::Internal(error.to_string())
}

fn of_pull(error: ImageError) -> Error {
    Error::ImagePull { failure: error.failure(), message: error.to_string() }
}

/// A name with digest where there is one, else the id: what a container's status calls its image.
fn image_ref(image: &Image) -> String {
    image.repo_digests.first().unwrap_or(&image.id).clone()
}

fn contract(image: Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let user = match user.parse() {
        Ok(uid) => ImageUser::Uid(uid),
        Err(_) if user.is_empty() => ImageUser::Unset,
        Err(_) => ImageUser::Username(user.to_owned()),
    };
    cri::Image {
        spec: ImageSpec::named(image.id.clone()),
        id: image.id,
        repo_tags: image.repo_tags,
        repo_digests: image.repo_digests,
        size_bytes: image.size_bytes,
        user,
        pinned: false,
    }
}

fn root(image: Image) -> ImageRoot {
    let image_ref = image_ref(&image);
    ImageRoot { id: image.id, image_ref, layers: image.layers, config: image.config }
}
