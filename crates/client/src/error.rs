//! What can go wrong between a caller and an API server.

use api::status::Status;

/// The request got no usable response.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The request never reached the server: it certainly had no effect.
    #[error("connect to the API server: {0}")]
    Unreached(String),
    /// The connection ended or the deadline passed after the request was on its way: it may have had its effect.
    #[error("no response from the API server: {0}")]
    Lost(String),
    /// The response broke the protocol or a limit.
    #[error("unusable response from the API server: {0}")]
    Malformed(String),
}

/// Why a verb failed; a variant per thing a caller may do differently.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with a failure.
    #[error(transparent)]
    Status(Box<Status>),
    /// A write may or may not have happened: read before going on.
    #[error("outcome of the write is unknown")]
    Unknown(#[source] TransportError),
    /// The request had no effect, or was a read; it may be repeated.
    #[error("request failed")]
    Transport(#[source] TransportError),
    /// What came is not what this version of the API sends.
    #[error("decode {what}: {message}")]
    Decode { what: &'static str, message: String },
    /// What was to be sent cannot be written down.
    #[error("encode {what}: {message}")]
    Encode { what: &'static str, message: String },
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        ClientError::Status(Box::new(status))
    }
}

impl ClientError {
    /// The server's answer, if it answered.
    pub fn status(&self) -> Option<&Status> {
        match self {
            ClientError::Status(status) => Some(status),
            _ => None,
        }
    }

    fn has_reason(&self, reason: &str, code: u16) -> bool {
        // As upstream: the code decides only when the reason is one this release does not know or is missing.
        self.status().is_some_and(|status| status.reason == reason || (status.reason.is_empty() && status.code == code))
    }

    /// 404: no such object (or kind).
    pub fn is_not_found(&self) -> bool {
        self.has_reason("NotFound", 404)
    }

    /// 409: based on something that is no longer so. Not for names taken; see [`ClientError::is_already_exists`].
    pub fn is_conflict(&self) -> bool {
        self.has_reason("Conflict", 409)
    }

    /// 409: the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.has_reason("AlreadyExists", 0)
    }

    /// 403
    pub fn is_forbidden(&self) -> bool {
        self.has_reason("Forbidden", 403)
    }

    /// 422: the object has faults.
    pub fn is_invalid(&self) -> bool {
        self.has_reason("Invalid", 422)
    }

    /// 410: the revision or continue token asked for is gone; list anew.
    pub fn is_expired(&self) -> bool {
        self.has_reason("Expired", 410) || self.has_reason("Gone", 410)
    }

    /// 429: come back later; see `details.retry_after_seconds`.
    pub fn is_too_many_requests(&self) -> bool {
        self.has_reason("TooManyRequests", 429)
    }

    /// Whether a namespace that is being deleted refused the write.
    pub fn is_namespace_terminating(&self) -> bool {
        let causes = self.status().and_then(|status| status.details.as_ref()).map(|details| details.causes.as_slice());
        self.is_forbidden() && causes.unwrap_or_default().iter().any(|cause| cause.reason == "NamespaceTerminating")
    }

    /// Whether the write may have happened: no answer came, or one (504) that says that the server itself does not know.
    pub fn is_unknown(&self) -> bool {
        matches!(self, ClientError::Unknown(_)) || self.has_reason("Timeout", 504)
    }
}

/// A client's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("read {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("parse {path}: {message}")]
    Parse { path: String, message: String },
    #[error("kubeconfig: {0}")]
    Missing(String),
}
