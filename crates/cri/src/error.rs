//! What a runtime may answer instead of a result.

/// A runtime's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a runtime could not do what it was asked; one variant per thing the caller may do differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such sandbox, container or image: for a removal, success.
    #[error("{what} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// A sandbox or container of this name and attempt exists already.
    #[error("{what} {id:?} already exists")]
    AlreadyExists {
        /// `sandbox` or `container`.
        what: &'static str,
        /// The one that exists.
        id: String,
    },
    /// The request can never succeed as it is.
    #[error("{0}")]
    InvalidArgument(String),
    /// The object is not in the state this needs, such as exec into a container that has ended.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A field is asked for that this runtime does not honour; the text names it.
    #[error("{field} is not supported by this runtime")]
    Unsupported {
        /// Path of the field in CRI's terms.
        field: String,
    },
    /// The runtime, or one pod's supervisor, does not answer now.
    #[error("{0}")]
    Unavailable(String),
    /// It took longer than the caller allowed.
    #[error("{0}")]
    DeadlineExceeded(String),
    /// What is to be mounted is not there, or is not what it should be.
    #[error("failed to prepare mount {container_path:?}: {message}")]
    Mount {
        /// Where in the container it was to be.
        container_path: String,
        /// Why not. It may tell of the host.
        message: String,
    },
    /// An image could not be had.
    #[error("{message}")]
    ImagePull {
        /// What kind of failure it was.
        failure: PullFailure,
        /// The whole story, for a pod's status.
        message: String,
    },
    /// Anything else; the text names the operation and its causes.
    #[error("{0}")]
    Internal(String),
}

/// Why an image could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullFailure {
    /// The registry knows no such image, or hides it.
    NotFound,
    /// The registry refused the credentials, or the lack of them.
    Unauthorized,
    /// The registry could not be reached.
    RegistryUnavailable,
    /// The reference is not a valid image name.
    InvalidReference,
    /// The image's signature was refused.
    SignatureValidation,
    /// What arrived was damaged, too large, or not an image for this machine.
    Other,
}

impl Error {
    /// A missing sandbox.
    pub fn no_sandbox(id: &str) -> Self {
        Error::NotFound { what: "sandbox", id: id.to_owned() }
    }

    /// A missing container.
    pub fn no_container(id: &str) -> Self {
        Error::NotFound { what: "container", id: id.to_owned() }
    }

    /// A missing image.
    pub fn no_image(id: &str) -> Self {
        Error::NotFound { what: "image", id: id.to_owned() }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}
