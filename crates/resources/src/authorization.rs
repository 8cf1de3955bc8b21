//! The group `authorization.k8s.io/v1`: questions about who may do what.

pub mod access_reviews;
