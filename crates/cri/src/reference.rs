//! Image references: parsed and completed as Docker, containerd and the kubelet do.

use std::fmt;
use std::str::FromStr;

/// Where references without a registry lead.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// What the default registry was once called.
const LEGACY_DOMAIN: &str = "index.docker.io";
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;

/// A complete image reference: `docker.io/library/nginx:1.27`, `registry:5000/a/b@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// The text is no image reference; worded as the kubelet's events word it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{image}\": {fault}")]
pub struct ReferenceError {
    /// What was parsed.
    pub image: String,
    /// What is wrong with it.
    pub fault: ReferenceFault,
}

/// What may be wrong with a reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceFault {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Nothing but a registry, or nothing at all.
    #[error("repository name must have at least one component")]
    Empty,
    /// Capital letters in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Could be taken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// A repository of more than 255 characters.
    #[error("repository name must not be more than {NAME_BYTES_MAX} characters")]
    TooLong,
    /// A digest of an unknown algorithm.
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    /// A digest of the wrong length for its algorithm.
    #[error("invalid checksum digest length")]
    DigestLength,
    /// A digest with other than lower-case hexadecimal digits.
    #[error("invalid checksum digest format")]
    DigestFormat,
}

impl Reference {
    /// The registry: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/nginx`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one is given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is given; well-formed, of any algorithm.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same repository with this tag alone; `None` when the tag is malformed.
    pub fn with_tag(&self, tag: &str) -> Option<Self> {
        is_tag(tag).then(|| Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Tagged `latest` where neither tag nor digest is given; without its tag where both are, as containerd does.
    pub fn completed(mut self) -> Self {
        match (&self.tag, &self.digest) {
            (None, None) => self.tag = Some("latest".to_owned()),
            (Some(_), Some(_)) => self.tag = None,
            _ => {}
        }
        self
    }
}

/// The one form in which an image's name is kept and compared: `nginx` → `docker.io/library/nginx:latest`.
pub fn normalise(image: &str) -> Result<String, ReferenceError> {
    Ok(image.parse::<Reference>()?.completed().to_string())
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(image: &str) -> Result<Self, ReferenceError> {
        parse(image).map_err(|fault| ReferenceError { image: image.to_owned(), fault })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(formatter, "@{digest}"),
            None => Ok(()),
        }
    }
}

fn parse(image: &str) -> Result<Reference, ReferenceFault> {
    if image.is_empty() {
        return Err(ReferenceFault::Format);
    }
    if is_id(image) {
        return Err(ReferenceFault::LooksLikeId(image.to_owned()));
    }
    let (domain, remainder) = split_domain(image);
    let remote = remainder.split(':').next().unwrap_or_default();
    if remote.chars().any(char::is_uppercase) {
        return Err(ReferenceFault::Uppercase(remote.to_owned()));
    }
    let (named, digest) = match remainder.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (remainder.as_str(), None),
    };
    let (path, tag) = match named.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (named, None),
    };
    let shaped = is_domain(&domain) && path.split('/').all(is_path_component) && tag.is_none_or(is_tag);
    if !shaped || digest.is_some_and(|digest| !is_digest_shaped(digest)) {
        return Err(ReferenceFault::Format);
    }
    if path.len() > NAME_BYTES_MAX {
        return Err(ReferenceFault::TooLong);
    }
    digest.map_or(Ok(()), check_digest)?;
    Ok(Reference { domain, path: path.to_owned(), tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
}

/// The registry and the rest. The first component is a registry when it could be no Docker Hub user: it has a dot, a
/// port or a capital letter, or is `localhost`.
fn split_domain(image: &str) -> (String, String) {
    let Some((first, rest)) = image.split_once('/') else {
        return (DEFAULT_DOMAIN.to_owned(), format!("library/{image}"));
    };
    let is_registry = first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase);
    let (domain, rest) = if first == LEGACY_DOMAIN {
        (DEFAULT_DOMAIN, rest)
    } else if is_registry {
        (first, rest)
    } else {
        (DEFAULT_DOMAIN, image)
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        (domain.to_owned(), format!("library/{rest}"))
    } else {
        (domain.to_owned(), rest.to_owned())
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => {
                let fits = !address.is_empty() && address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
                return fits && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number));
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let is_component = |part: &str| {
        let ends = part.bytes().next().zip(part.bytes().last());
        ends.is_some_and(|(first, last)| first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(is_component) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Lower-case letters and digits, in pieces joined by one dot, one or two underscores, or dashes.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let joints = component.split(|letter: char| letter.is_ascii() && is_word(letter as u8));
    is_word(*first)
        && is_word(*last)
        && joints
            .into_iter()
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_BYTES_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

/// What the reference grammar takes for a digest, before anyone asks whether the algorithm exists.
fn is_digest_shaped(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn check_digest(digest: &str) -> Result<(), ReferenceFault> {
    let (algorithm, hex) = digest.split_once(':').ok_or(ReferenceFault::DigestFormat)?;
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(ReferenceFault::DigestAlgorithm),
    };
    if hex.len() != length {
        return Err(ReferenceFault::DigestLength);
    }
    if hex.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceFault::DigestFormat);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn completes_references_as_docker_does() {
        for (image, expected) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("my-registry/api:v1.2.3", "docker.io/my-registry/api:v1.2.3"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/a/b", "docker.io/a/b:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("Registry/x", "Registry/x:latest"),
            ("a__b/c-d.e---f_g", "docker.io/a__b/c-d.e---f_g:latest"),
            ("foo:5000", "docker.io/library/foo:5000"),
            (&format!("x@sha256:{HEX}"), &format!("docker.io/library/x@sha256:{HEX}")),
            (&format!("x:1@sha256:{HEX}"), &format!("docker.io/library/x@sha256:{HEX}")),
        ] {
            assert_eq!(normalise(image).as_deref(), Ok(expected), "{image}");
        }
    }

    #[test]
    fn refuses_what_docker_refuses_in_the_same_words() {
        let long = format!("a/{}", "b".repeat(255));
        for (image, fault) in [
            ("", "invalid reference format"),
            ("not a name", "invalid reference format"),
            ("nginx:", "invalid reference format"),
            ("nginx:la test", "invalid reference format"),
            ("nginx@", "invalid reference format"),
            ("nginx@sha256:12", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a..b", "invalid reference format"),
            ("host:port/x", "invalid reference format"),
            ("a.-b.c/x", "invalid reference format"),
            ("https://host/x", "invalid reference format"),
            ("Nginx", "invalid reference format: repository name (library/Nginx) must be lowercase"),
            ("a/Nginx:1", "invalid reference format: repository name (a/Nginx) must be lowercase"),
            (HEX, &format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")),
            (&long, "repository name must not be more than 255 characters"),
            (&format!("x@sha256:{}", &HEX[..63]), "invalid checksum digest length"),
            (&format!("x@sha1:{}", &HEX[..40]), "unsupported digest algorithm"),
            (&format!("x@sha256:{}", HEX.to_uppercase()), "invalid checksum digest format"),
        ] {
            let said = normalise(image).unwrap_err().to_string();
            assert_eq!(said, format!("couldn't parse image name \"{image}\": {fault}"));
        }
    }
}
