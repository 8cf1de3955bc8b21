//! The fake's images.

use stdx::BoxFuture;

use super::FakeRuntime;
use crate::error::{Error, PullFailure, Result};
use crate::image::{Image, ImageFsInfo, ImageSpec, PullImageRequest};
use crate::service::ImageService;

/// A stable id for a name: not a digest, but shaped like one and different for different names.
pub(super) fn image_id(name: &str) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in name.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("sha256:{hash:064x}")
}

fn image(name: &str) -> Image {
    Image {
        id: image_id(name),
        repo_tags: vec![name.to_owned()],
        size_bytes: 1 << 20,
        spec: ImageSpec::named(name),
        ..Image::default()
    }
}

impl FakeRuntime {
    async fn pull(&self, request: PullImageRequest) -> Result<String> {
        let name = request.image.image;
        self.call("pull_image", &name)?;
        let known = self.lock().images.get(&name).map(|image| (image.pull_takes, image.pull_error.clone()));
        let Some((pull_takes, pull_error)) = known else {
            let message = format!("failed to pull and unpack image {name:?}: {name}: not found");
            return Err(Error::ImagePull { failure: PullFailure::NotFound, message });
        };
        stdx::sleep(pull_takes).await;
        if let Some(error) = pull_error {
            return Err(error);
        }
        if let Some(image) = self.lock().images.get_mut(&name) {
            image.present = true;
        }
        Ok(image_id(&name))
    }

    /// The name of a present image that `reference` names, by name or id.
    pub(super) fn present(&self, reference: &str) -> Option<String> {
        let world = self.lock();
        let found = world
            .images
            .iter()
            .find(|(name, image)| image.present && (*name == reference || image_id(name) == reference));
        found.map(|(name, _)| name.clone())
    }
}

impl ImageService for FakeRuntime {
    fn pull_image(&self, request: PullImageRequest) -> BoxFuture<'_, Result<String>> {
        Box::pin(self.pull(request))
    }

    fn image_status<'a>(&'a self, spec: &'a ImageSpec) -> BoxFuture<'a, Result<Option<Image>>> {
        Box::pin(async move { Ok(self.present(&spec.image).map(|name| image(&name))) })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        let world = self.lock();
        let mut images: Vec<Image> =
            world.images.iter().filter(|(_, image)| image.present).map(|(name, _)| image(name)).collect();
        images.sort_by(|left, right| left.id.cmp(&right.id));
        Box::pin(async move { Ok(images) })
    }

    fn remove_image<'a>(&'a self, spec: &'a ImageSpec) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.call("remove_image", &spec.image)?;
            if let Some(name) = self.present(&spec.image)
                && let Some(image) = self.lock().images.get_mut(&name)
            {
                image.present = false;
            }
            Ok(())
        })
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<ImageFsInfo>> {
        Box::pin(async { Ok(ImageFsInfo::default()) })
    }
}
