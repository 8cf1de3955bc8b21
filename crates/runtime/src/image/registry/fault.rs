//! Failures of talking to a registry, in the words of Go's and containerd's.

use std::io;

use cri::PullFailure;
use http::{Method, StatusCode};
use wire::ClientError;

/// Why something could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct PullFault {
    pub(in super::super) failure: PullFailure,
    pub(in super::super) message: String,
}

impl PullFault {
    pub(in super::super) fn new(failure: PullFailure, message: String) -> Self {
        PullFault { failure, message }
    }

    /// The same failure, told as part of a larger operation.
    pub(in super::super) fn within(self, operation: &str) -> Self {
        PullFault { message: format!("{operation}: {}", self.message), ..self }
    }

    pub(super) fn of_client(error: &ClientError) -> Self {
        let message = match error {
            ClientError::Connect { target, source } => match source.kind() {
                io::ErrorKind::TimedOut => format!("dial {target}: i/o timeout"),
                _ => format!("dial {target}: connect: {}", lower(source)),
            },
            ClientError::Resolve(error) => format!("dial tcp: {error}"),
            ClientError::Tls { source } => tls(source),
            ClientError::Timeout { .. } => "net/http: timeout awaiting response headers".into(),
            ClientError::Exchange { source, .. } => source.to_string(),
            ClientError::Uri { .. } => error.to_string(),
        };
        PullFault { failure: PullFailure::RegistryUnavailable, message }
    }
}

/// The system's text without its number, uncapitalised: `connection refused`.
fn lower(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn tls(error: &io::Error) -> String {
    let text = error.to_string();
    let known = [
        ("UnknownIssuer", "tls: failed to verify certificate: x509: certificate signed by unknown authority"),
        ("Expired", "tls: failed to verify certificate: x509: certificate has expired or is not yet valid"),
        (
            "certificate not valid for name",
            "tls: failed to verify certificate: x509: certificate is valid for other names",
        ),
        ("InvalidContentType", "http: server gave HTTP response to HTTPS client"),
    ];
    let spoken = known.iter().find(|(sign, _)| text.contains(sign)).map(|(_, spoken)| (*spoken).to_owned());
    spoken.unwrap_or_else(|| format!("tls: {text}"))
}

/// How Go prints a status: `404 Not Found`.
pub(super) fn status(status: StatusCode) -> String {
    format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default()).trim_end().to_owned()
}

/// How Go names a request's method in errors: `Head`.
pub(super) fn verb(method: &Method) -> String {
    let (first, rest) = method.as_str().split_at(1);
    format!("{first}{}", rest.to_ascii_lowercase())
}
