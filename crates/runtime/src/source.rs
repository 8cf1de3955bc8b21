//! Where the runtime gets images from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use cri::{ImageService, Result};
use stdx::BoxFuture;

pub use crate::image::ImageConfig;

/// An image to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageRoot {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// A name with digest where there is one, else the id.
    pub image_ref: String,
    /// Its unpacked layers, the lowest first.
    pub layers: Vec<PathBuf>,
    /// Its configuration.
    pub config: ImageConfig,
}

/// Images that containers can run: CRI's image service, and what only the runtime beside it needs.
pub trait ImageSource: ImageService {
    /// The present image that `reference` (a name or an id) means.
    fn root<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<ImageRoot>>>;
    /// Keeps an image's layers as long as `container` exists. Blocks on files.
    fn hold(&self, image_id: &str, container: &str);
    /// Ends what [`ImageSource::hold`] began. Blocks on files.
    fn release(&self, image_id: &str, container: &str);
    /// Ends it for all containers that are not in `containers`, a complete list. Blocks on files.
    fn retain(&self, containers: &BTreeSet<String>) -> Result<()>;
}
