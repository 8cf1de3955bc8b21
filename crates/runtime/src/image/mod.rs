//! Images: names, registries, archives, and the store that keeps them unpacked.

mod archive;
mod blobs;
mod compression;
mod digest;
mod error;
mod index;
pub mod keyring;
mod manifest;
pub mod pack;
mod pull;
pub mod registry;
mod service;
mod store;
mod tarball;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod unpack;

pub use archive::LoadOptions;
pub use cri::reference::{self, Reference, ReferenceError, normalise};
pub use digest::{Digest, DigestError};
pub use error::ImageError;
pub use keyring::Keyring;
pub use manifest::ImageConfig;
pub use registry::{HostConfig, RegistryConfig};
pub use store::{Image, ImageOptions, ImageStore, Removed};
pub use unpack::LayerLimits;
