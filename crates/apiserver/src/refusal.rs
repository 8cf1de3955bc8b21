//! Why a request was not done: a `Status` on its way out.

use api::status::{Cause, Details, Status};

/// What a part of the pipeline gives, or the answer that ends the request.
pub(crate) type Outcome<T> = Result<T, Refusal>;

/// A failure `Status`; boxed, because it rides in every `Result`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub Box<Status>);

impl From<Status> for Refusal {
    fn from(status: Status) -> Refusal {
        Refusal(Box::new(status))
    }
}

impl Refusal {
    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// 400 with this text.
    pub fn bad_request(message: impl AsRef<str>) -> Refusal {
        Status::bad_request(message.as_ref()).into()
    }

    /// 500 with this text, which goes to the client and so must hold no secret.
    pub fn internal(message: impl std::fmt::Display) -> Refusal {
        Status::internal(&message.to_string()).into()
    }

    /// 500 without a reason: what upstream makes of an error it has no `Status` for.
    pub fn unknown(message: impl AsRef<str>) -> Refusal {
        Status::failure(500, "", message.as_ref()).into()
    }

    /// 410: the revision asked for is gone.
    pub fn expired(message: &str) -> Refusal {
        Status::expired(message).into()
    }

    /// 404 for a path that nothing serves.
    pub fn no_such_path() -> Refusal {
        let mut status = Status::failure(404, "NotFound", "the server could not find the requested resource");
        status.details = Some(Details::default());
        status.into()
    }

    /// 405 for a path that does not serve this method.
    pub fn no_such_method() -> Refusal {
        let mut status =
            Status::failure(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        status.details = Some(Details::default());
        status.into()
    }

    /// 413 for a body over the limit. Upstream: `NewRequestEntityTooLargeError`.
    pub fn too_large(limit_bytes: usize) -> Refusal {
        let message = format!("Request entity too large: limit is {limit_bytes}");
        Status::failure(413, "RequestEntityTooLarge", &message).into()
    }

    /// 406 that names what could have been accepted.
    pub fn not_acceptable(accepted: &[&str]) -> Refusal {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::failure(406, "NotAcceptable", &message).into()
    }

    /// 504: the store did not answer in time, so the write may or may not have happened.
    pub fn timeout(message: &str) -> Refusal {
        let mut status = Status::failure(504, "Timeout", &format!("Timeout: {message}"));
        status.details = Some(Details::default());
        status.into()
    }

    /// 504 with a hint when the cache has not reached a revision that the client has seen elsewhere.
    pub fn too_large_revision(wanted: u64, current: u64) -> Refusal {
        let message = format!("Too large resource version: {wanted}, current: {current}");
        let mut status = Status::failure(504, "Timeout", &format!("Timeout: {message}"));
        let cause = Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Cause::default()
        };
        status.details = Some(Details { causes: vec![cause], retry_after_seconds: Some(1), ..Details::default() });
        status.into()
    }
}
