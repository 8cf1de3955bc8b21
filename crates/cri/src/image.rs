//! Images: what to pull, what is there.

use serde::{Deserialize, Serialize};

use crate::StringMap;

/// An image as asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageSpec {
    /// A reference (`registry/name:tag`, `name@sha256:…`) or an image id.
    pub image: String,
    /// The reference as the user wrote it, for messages.
    pub user_specified_image: String,
    /// Annotations of the request.
    pub annotations: StringMap,
}

impl ImageSpec {
    /// The image that `reference` names.
    pub fn named(reference: impl Into<String>) -> Self {
        let image = reference.into();
        ImageSpec { user_specified_image: image.clone(), image, annotations: StringMap::new() }
    }
}

/// An image that is present.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Digest of its configuration, `sha256:…`.
    pub id: String,
    /// Names with tag it is known by.
    pub repo_tags: Vec<String>,
    /// Names with digest it is known by.
    pub repo_digests: Vec<String>,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// The user it runs as when nobody says otherwise.
    pub user: ImageUser,
    /// The spec it was asked for by.
    pub spec: ImageSpec,
    /// Whether it must not be collected as garbage.
    pub pinned: bool,
}

/// The user an image's configuration names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ImageUser {
    /// None: root.
    #[default]
    Unset,
    /// By number.
    Uid(i64),
    /// By a name of the image's own `/etc/passwd`.
    Username(String),
}

/// Credentials for a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `user:password`, in place of the two above.
    pub auth: String,
    /// The registry they are for.
    pub server_address: String,
    /// A token to be exchanged for an access token.
    pub identity_token: String,
    /// A bearer token to be sent as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// What to pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullImageRequest {
    /// The image.
    pub image: ImageSpec,
    /// Credentials; `None` asks anonymously.
    pub auth: Option<AuthConfig>,
}

/// How full a file system is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// When this was measured, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Where it is mounted, or a path on it.
    pub mountpoint: String,
    /// Bytes used by what is asked about.
    pub used_bytes: u64,
    /// Inodes used by what is asked about.
    pub inodes_used: u64,
}

/// How much room images and containers take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFsInfo {
    /// Where images are kept.
    pub image_filesystems: Vec<FilesystemUsage>,
    /// Where containers' writable layers are kept.
    pub container_filesystems: Vec<FilesystemUsage>,
}
