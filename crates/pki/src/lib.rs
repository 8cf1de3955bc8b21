//! Keys, certificates, tokens, kubeconfigs and their rotation.
//!
//! [`files::Files`] is what a cluster keeps on disk; the other modules make and check the single things. Keys are
//! ECDSA P-256; RSA is accepted where somebody else's key is read.

pub mod authority;
mod der;
pub mod detached;
pub mod files;
pub mod identity;
pub mod kubeconfig;
pub mod request;
pub mod seal;
pub mod token;

pub use authority::{Authority, Purpose, Signed};
pub use files::Files;
pub use identity::Identity;
pub use request::CertificateRequest;
pub use seal::SealingKey;
pub use token::{Claims, TokenKey};

/// Why a key, certificate or token could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a key or certificate of a kind that is known here.
    #[error("read {what}")]
    Malformed {
        what: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key or certificate could not be made.
    #[error("make {what}")]
    Make {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file could not be read or written.
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// A certificate or token is not (or no longer) to be trusted.
    #[error("{0}")]
    Untrusted(String),
}

impl Error {
    pub(crate) fn malformed(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Malformed { what: what.into(), source: source.into() }
    }

    pub(crate) fn make(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Make { what, source: source.into() }
    }
}
