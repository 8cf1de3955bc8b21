//! The group `authentication.k8s.io/v1`: who somebody is.

pub mod reviews;
pub mod token_request;
