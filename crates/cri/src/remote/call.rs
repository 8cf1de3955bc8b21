//! One call to the runtime, and what its failure means.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use wire::client::{Protocols, Route};
use wire::grpc::{
    ALREADY_EXISTS, DEADLINE_EXCEEDED, FAILED_PRECONDITION, GrpcError, INVALID_ARGUMENT, Messages, NOT_FOUND,
    UNAVAILABLE, UNIMPLEMENTED, server_stream, unary,
};
use wire::{Client, ClientError, ClientOptions};

use crate::error::{Error, PullFailure};

/// What grpc-go names a server behind a unix socket.
const AUTHORITY: &str = "localhost";
/// The longest answer. Upstream: `maxMsgSize`.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long the socket may take to be connected to. Upstream: `maxBackoffDelay` of the kubelet's dialer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A way to the runtime's socket.
#[derive(Clone)]
pub(super) struct Connection(Client);

impl Connection {
    pub(super) fn new(socket: &Path) -> Connection {
        Connection(Client::new(ClientOptions {
            protocols: Protocols::Http2,
            route: Route::Unix(socket.into()),
            connect_timeout: CONNECT_TIMEOUT,
            window_bytes: 1 << 20,
            ..ClientOptions::default()
        }))
    }

    /// Calls `method` (`RuntimeService/Version`), which may take `limit`; without one, as long as it likes.
    pub(super) async fn ask<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
        limit: Option<Duration>,
    ) -> Result<A, GrpcError> {
        let (path, message) = (format!("/runtime.v1.{method}"), request.encode_to_vec());
        let answer = match limit {
            // A little later than the server's own deadline, whose answer says more.
            Some(limit) => {
                let asked = unary(&self.0, AUTHORITY, &path, &message, (ANSWER_BYTES_MAX, limit));
                let late =
                    || GrpcError::Status { code: DEADLINE_EXCEEDED, message: "context deadline exceeded".into() };
                stdx::timeout(limit + Duration::from_secs(1), asked).await.unwrap_or_else(|_| Err(late()))?
            }
            None => {
                let mut messages = server_stream(&self.0, AUTHORITY, &path, &message, ANSWER_BYTES_MAX).await?;
                messages.next().await?.ok_or_else(|| undecodable("no message"))?
            }
        };
        A::decode(answer).map_err(undecodable)
    }

    /// Calls `method`, which answers many times.
    pub(super) async fn listen(&self, method: &str, request: &impl Message) -> Result<Messages, GrpcError> {
        let path = format!("/runtime.v1.{method}");
        server_stream(&self.0, AUTHORITY, &path, &request.encode_to_vec(), ANSWER_BYTES_MAX).await
    }
}

pub(super) fn undecodable(why: impl std::fmt::Display) -> GrpcError {
    GrpcError::Status { code: 13, message: format!("grpc: failed to unmarshal the received message: {why}") }
}

/// Whether the runtime is too old for what it was asked.
pub(super) fn is_unknown(error: &GrpcError) -> bool {
    matches!(error, GrpcError::Status { code: UNIMPLEMENTED, .. })
}

fn is_not_found(error: &GrpcError) -> bool {
    matches!(error, GrpcError::Status { code: NOT_FOUND, .. })
}

/// What a failed call means. `subject` is what it was about: `sandbox`, `container` or `image`, and its id.
pub(super) fn fault(error: GrpcError, (what, id): (&'static str, &str)) -> Error {
    let text = told(&error);
    match error {
        GrpcError::Status { code, .. } => match code {
            NOT_FOUND => Error::NotFound { what, id: id.to_owned() },
            ALREADY_EXISTS => Error::AlreadyExists { what, id: id.to_owned() },
            INVALID_ARGUMENT => Error::InvalidArgument(text),
            FAILED_PRECONDITION => Error::FailedPrecondition(text),
            UNIMPLEMENTED => Error::Unsupported { field: text },
            UNAVAILABLE => Error::Unavailable(text),
            DEADLINE_EXCEEDED => Error::DeadlineExceeded(text),
            _ => Error::Internal(text),
        },
        GrpcError::Client(_) => Error::Unavailable(text),
        GrpcError::Body(_) => Error::Internal(text),
    }
}

/// What a failed removal means: what is not there needs none.
pub(super) fn gone(result: Result<(), GrpcError>, subject: (&'static str, &str)) -> Result<(), Error> {
    match result {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result.map_err(|error| fault(error, subject)),
    }
}

/// What a failed pull means. Runtimes tell in words what there is no code for.
pub(super) fn pull_fault(error: GrpcError) -> Error {
    let text = told(&error);
    let said = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let failure = match &error {
        // Upstream: `crierrors`, which containerd and CRI-O put in front of their words.
        _ if said(&["SignatureValidationFailed"]) => PullFailure::SignatureValidation,
        _ if said(&["RegistryUnavailable"]) => PullFailure::RegistryUnavailable,
        _ if said(&["authorization failed", "401 Unauthorized", "403 Forbidden", "insufficient_scope"]) => {
            PullFailure::Unauthorized
        }
        _ if is_not_found(&error) || said(&[": not found"]) => PullFailure::NotFound,
        _ if said(&["dial tcp", "i/o timeout", "connection refused", "no such host"]) => {
            PullFailure::RegistryUnavailable
        }
        GrpcError::Client(_) => return fault(error, ("image", "")),
        _ => PullFailure::Other,
    };
    Error::ImagePull { failure, message: text }
}

/// The error in Go's words.
fn told(error: &GrpcError) -> String {
    match error {
        GrpcError::Status { .. } => error.to_string(),
        GrpcError::Client(ClientError::Connect { target, source }) => {
            let why = format!("transport: Error while dialing: dial {target}: {source}");
            format!("rpc error: code = Unavailable desc = connection error: desc = {why:?}")
        }
        GrpcError::Client(error) => format!("rpc error: code = Unavailable desc = {}", stdx::told(error)),
        GrpcError::Body(error) => format!("rpc error: code = Internal desc = {}", stdx::told(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u32, message: &str) -> GrpcError {
        GrpcError::Status { code, message: message.into() }
    }

    #[test]
    fn codes_are_read_as_the_kubelet_reads_them() {
        let of = |code| fault(status(code, "words"), ("container", "c1"));
        assert_eq!(of(NOT_FOUND), Error::no_container("c1"));
        assert_eq!(of(ALREADY_EXISTS), Error::AlreadyExists { what: "container", id: "c1".into() });
        assert!(matches!(of(UNAVAILABLE), Error::Unavailable(_)));
        assert!(matches!(of(DEADLINE_EXCEEDED), Error::DeadlineExceeded(_)));
        assert!(matches!(of(FAILED_PRECONDITION), Error::FailedPrecondition(_)));
        assert!(matches!(of(UNIMPLEMENTED), Error::Unsupported { .. }));
        assert_eq!(of(2), Error::Internal("rpc error: code = Unknown desc = words".into()));
        assert_eq!(gone(Err(status(NOT_FOUND, "")), ("container", "c1")), Ok(()));
        assert!(gone(Err(status(2, "")), ("container", "c1")).is_err());
    }

    #[track_caller]
    fn check(code: u32, words: &str, expected: PullFailure) {
        let Error::ImagePull { failure, message } = pull_fault(status(code, words)) else {
            panic!("{words} is a failed pull")
        };
        assert_eq!(failure, expected, "{words}");
        assert!(message.starts_with("rpc error: code = ") && message.ends_with(words));
    }

    #[test]
    fn failed_pulls_are_told_apart_by_their_words() {
        check(
            NOT_FOUND,
            "failed to pull and unpack image \"a\": failed to resolve reference \"a\": a: not found",
            PullFailure::NotFound,
        );
        let refused = "failed to resolve reference \"a\": pull access denied, repository does not exist or may require \
            authorization: server message: insufficient_scope: authorization failed";
        check(2, refused, PullFailure::Unauthorized);
        check(
            2,
            "failed to do request: Head \"http://r/v2/a\": dial tcp 127.0.0.1:1: connect: connection refused",
            PullFailure::RegistryUnavailable,
        );
        check(2, "SignatureValidationFailed: no", PullFailure::SignatureValidation);
        check(2, "failed to extract layer", PullFailure::Other);
    }
}
