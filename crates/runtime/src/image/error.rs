//! Why an image could not be had, kept or removed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use cri::PullFailure;

use super::digest::Digest;
use super::reference::ReferenceError;

/// A failed operation on images. Cheap to clone: everyone who waits for one pull gets its error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ImageError {
    /// The text is no image reference.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The image could not be fetched; the text is the whole story, worded as containerd words it.
    #[error("{message}")]
    Pull {
        /// What kind of failure it was.
        failure: PullFailure,
        /// The whole story.
        message: String,
    },
    /// No image of this name or id is here.
    #[error("image \"{name}\": not found")]
    NotFound {
        /// What was asked for.
        name: String,
    },
    /// Containers use the image.
    #[error("image {id} is in use by {}", holders.join(", "))]
    InUse {
        /// The image.
        id: String,
        /// Who uses it.
        holders: Vec<String>,
    },
    /// An archive, manifest, configuration or layer breaks its format or a limit.
    #[error("{0}")]
    Invalid(String),
    /// Content is not what its digest says.
    #[error("{what}: digest is {actual}, not {expected}")]
    Corrupt {
        /// What was checked.
        what: String,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// The system refused.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl ImageError {
    /// The kind of failure in the runtime contract's terms.
    pub fn failure(&self) -> PullFailure {
        match self {
            ImageError::Pull { failure, .. } => *failure,
            ImageError::Reference(_) => PullFailure::InvalidReference,
            ImageError::NotFound { .. } => PullFailure::NotFound,
            _ => PullFailure::Other,
        }
    }
}

/// Names the operation and path that an I/O error came from.
pub(super) fn at(operation: &str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let operation = format!("{operation} {}", path.display());
    move |source| ImageError::Io { operation, source: Arc::new(source) }
}

/// The same for raw system calls.
pub(super) fn sys(operation: &str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> ImageError {
    let named = at(operation, path);
    move |errno| named(errno.into())
}
