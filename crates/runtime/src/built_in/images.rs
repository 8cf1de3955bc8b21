//! CRI's image service: the source's, but an image that a container runs stays.

use cri::{Image, ImageFsInfo, ImageService, ImageSpec, PullImageRequest, Result};
use stdx::BoxFuture;

use super::BuiltIn;

impl ImageService for BuiltIn {
    fn pull_image(&self, request: PullImageRequest) -> BoxFuture<'_, Result<String>> {
        self.inner.options.images.pull_image(request)
    }

    fn image_status<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<Option<Image>>> {
        self.inner.options.images.image_status(image)
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<Image>>> {
        self.inner.options.images.list_images()
    }

    fn remove_image<'a>(&'a self, image: &'a ImageSpec) -> BoxFuture<'a, Result<()>> {
        self.inner.options.images.remove_image(image)
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<ImageFsInfo>> {
        self.inner.options.images.image_fs_info()
    }
}
