//! The answer to a request that did not do what was asked: `meta/v1 Status`.

use serde::{Deserialize, Serialize};

/// `Status` of group `meta/v1`, with the code, reason and wording clients act on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    pub kind: StatusKind,
    pub api_version: StatusVersion,
    pub metadata: StatusMeta,
    /// `Success` or `Failure`.
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// Always `Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusKind {
    #[default]
    Status,
}

/// Always `v1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusVersion {
    #[default]
    #[serde(rename = "v1")]
    V1,
}

/// `ListMeta` of a `Status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatusMeta {
    /// Where an expired list may be continued, inconsistently.
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}

/// `StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The kind for validation faults, else the plural resource name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// `StatusCause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What a request was about, for the texts and details of its `Status`: group and plural resource name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub group: &'a str,
    pub resource: &'a str,
    pub name: &'a str,
}

impl Target<'_> {
    fn qualified(&self) -> String {
        crate::field::qualified(self.resource, self.group)
    }

    fn details(&self) -> Details {
        Details { name: self.name.into(), group: self.group.into(), kind: self.resource.into(), ..Details::default() }
    }
}

// Upstream's texts: k8s.io/apimachinery/pkg/api/errors.
impl Status {
    /// A failure without details.
    pub fn failure(code: u16, reason: &str, message: &str) -> Status {
        Status { status: "Failure".into(), code, reason: reason.into(), message: message.into(), ..Status::default() }
    }

    fn about(target: Target<'_>, code: u16, reason: &str, message: String) -> Status {
        Status { details: Some(target.details()), ..Status::failure(code, reason, &message) }
    }

    /// 404: there is no such object.
    pub fn not_found(target: Target<'_>) -> Status {
        Self::about(target, 404, "NotFound", format!("{} {:?} not found", target.qualified(), target.name))
    }

    /// 409: an object of this name exists.
    pub fn already_exists(target: Target<'_>) -> Status {
        Self::about(target, 409, "AlreadyExists", format!("{} {:?} already exists", target.qualified(), target.name))
    }

    /// 409: the write was based on something that is no longer so.
    pub fn conflict(target: Target<'_>, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", target.qualified(), target.name);
        Self::about(target, 409, "Conflict", message)
    }

    /// 403: the user may not, or admission refused.
    pub fn forbidden(target: Target<'_>, why: &str) -> Status {
        let message = if target.resource.is_empty() && target.group.is_empty() {
            format!("forbidden: {why}")
        } else if target.name.is_empty() {
            format!("{} is forbidden: {why}", target.qualified())
        } else {
            format!("{} {:?} is forbidden: {why}", target.qualified(), target.name)
        };
        Self::about(target, 403, "Forbidden", message)
    }

    /// 401
    pub fn unauthorized() -> Status {
        Self::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: &str) -> Status {
        Self::failure(400, "BadRequest", message)
    }

    /// 500; the text goes to the client, so it must hold no secret.
    pub fn internal(message: &str) -> Status {
        let mut status = Self::failure(500, "InternalError", &format!("Internal error occurred: {message}"));
        let cause = Cause { message: message.into(), ..Cause::default() };
        status.details = Some(Details { causes: vec![cause], ..Details::default() });
        status
    }

    /// 410: the revision asked for is compacted.
    pub fn expired(message: &str) -> Status {
        Self::failure(410, "Expired", message)
    }

    /// 405
    pub fn method_not_allowed(target: Target<'_>, verb: &str) -> Status {
        let message = format!("{verb} is not supported on resources of kind {:?}", target.qualified());
        Self::about(target, 405, "MethodNotAllowed", message)
    }

    /// 415: a body type that is not served.
    pub fn unsupported_media_type(message: &str) -> Status {
        Self::failure(415, "UnsupportedMediaType", message)
    }

    /// 429: come back later; after so many seconds, unless 0.
    pub fn too_many_requests(message: &str, retry_after_seconds: u32) -> Status {
        let mut status = Self::failure(429, "TooManyRequests", message);
        let retry_after_seconds = Some(retry_after_seconds).filter(|seconds| *seconds > 0);
        status.details = Some(Details { retry_after_seconds, ..Details::default() });
        status
    }

    /// Whether the reason is `reason`.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_the_texts_clients_print() {
        let target = Target { group: "apps", resource: "deployments", name: "api" };
        assert_eq!(Status::not_found(target).message, "deployments.apps \"api\" not found");
        assert_eq!(Status::already_exists(target).message, "deployments.apps \"api\" already exists");
        let core = Target { group: "", resource: "pods", name: "x" };
        assert_eq!(Status::forbidden(core, "no").message, "pods \"x\" is forbidden: no");
        let json = serde_json::to_string(&Status::not_found(core)).expect("a status is JSON");
        assert_eq!(
            json,
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"pods \"x\" not found","reason":"NotFound","details":{"name":"x","kind":"pods"},"code":404}"#
        );
    }
}
