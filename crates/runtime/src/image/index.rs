//! The table of images: which names lead to which image, and what an image is made of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::ImageConfig;
use super::reference::Reference;

/// Format of the file; a reader refuses others.
pub(super) const VERSION: u32 = 1;
/// Digits of an id that suffice to name an image, when they are unique.
const ID_PREFIX_MIN: usize = 6;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) version: u32,
    /// By id, which is the digest of the configuration.
    pub(super) images: BTreeMap<Digest, Record>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// `docker.io/library/nginx:latest`.
    pub(super) tags: BTreeSet<String>,
    /// `docker.io/library/nginx@sha256:…`, of what the registry resolved the name to.
    pub(super) digests: BTreeSet<String>,
    /// Index and manifest, as far as there were any.
    pub(super) manifests: BTreeSet<Digest>,
    /// Chain ids of the unpacked layers, bottom first.
    pub(super) chain: Vec<Digest>,
    /// Manifest, configuration and packed layers.
    pub(super) size_bytes: u64,
    pub(super) config: ImageConfig,
}

impl Default for Index {
    fn default() -> Self {
        Index { version: VERSION, images: BTreeMap::new() }
    }
}

impl Index {
    /// The image that a reference, an id or the unique beginning of an id names.
    pub(super) fn find(&self, name: &str) -> Option<Digest> {
        if let Ok(id) = name.parse::<Digest>().or_else(|_| Digest::from_hex(name)) {
            return self.images.contains_key(&id).then_some(id);
        }
        if let Ok(reference) = name.parse::<Reference>() {
            let name = reference.completed().to_string();
            let named = |record: &Record| record.tags.contains(&name) || record.digests.contains(&name);
            if let Some((id, _)) = self.images.iter().find(|(_, record)| named(record)) {
                return Some(*id);
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let mut starting = self.images.keys().filter(|id| id.hex().starts_with(prefix));
        match (starting.next(), starting.next()) {
            (Some(id), None) if prefix.len() >= ID_PREFIX_MIN => Some(*id),
            _ => None,
        }
    }

    /// The image whose index or manifest has this digest.
    pub(super) fn by_manifest(&self, digest: &Digest) -> Option<Digest> {
        self.images.iter().find(|(_, record)| record.manifests.contains(digest)).map(|(id, _)| *id)
    }

    /// Adds an image, or names and manifests to the one that is there. A tag leads to one image: others lose it.
    pub(super) fn add(&mut self, id: Digest, record: Record) {
        for (other, known) in &mut self.images {
            if *other != id {
                known.tags.retain(|tag| !record.tags.contains(tag));
            }
        }
        match self.images.get_mut(&id) {
            None => drop(self.images.insert(id, record)),
            Some(known) => {
                known.tags.extend(record.tags);
                known.digests.extend(record.digests);
                known.manifests.extend(record.manifests);
                known.size_bytes = known.size_bytes.max(record.size_bytes);
            }
        }
    }

    /// What removing `name` comes to: the image loses one of several tags, or goes altogether.
    pub(super) fn removal(&self, name: &str) -> Option<Removal> {
        let id = self.find(name)?;
        let tag = name.parse::<Reference>().ok().map(|reference| reference.completed().to_string());
        let record = self.images.get(&id)?;
        match tag {
            Some(tag) if record.tags.contains(&tag) && record.tags.len() > 1 => Some(Removal::Tag(id, tag)),
            _ => Some(Removal::Image(id)),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    Tag(Digest, String),
    Image(Digest),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(tags: &[&str], digests: &[&str]) -> Record {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Record { tags: owned(tags), digests: owned(digests), ..Record::default() }
    }

    #[test]
    fn finds_images_by_every_kind_of_name() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let by_digest = format!("docker.io/library/a@{two}");
        let mut index = Index::default();
        index.add(one, record(&["docker.io/library/a:latest", "localhost/b:1"], &[&by_digest]));
        index.add(two, record(&["docker.io/library/c:2"], &[]));
        for (name, expected) in [
            ("a", Some(one)),
            ("docker.io/a:latest", Some(one)),
            ("a:2", None),
            ("localhost/b:1", Some(one)),
            (&format!("a@{two}"), Some(one)),
            (&format!("a:ignored@{two}"), Some(one)),
            (&one.to_string(), Some(one)),
            (&one.hex(), Some(one)),
            (&one.hex()[..12], Some(one)),
            (&one.to_string()[..20], Some(one)),
            (&one.hex()[..5], None),
            (&Digest::of(b"3").to_string(), None),
            ("", None),
            ("not a name", None),
        ] {
            assert_eq!(index.find(name), expected, "{name}");
        }
    }

    #[test]
    fn moves_a_tag_and_removes_the_last_with_its_image() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut index = Index::default();
        index.add(one, record(&["r/a:1", "r/a:2"], &[]));
        assert_eq!(index.removal("r/a:1"), None, "names are kept whole, so this one is docker.io/r/a:1");
        index.add(one, record(&["docker.io/r/a:1", "docker.io/r/a:2"], &[]));
        assert_eq!(index.removal("r/a:1"), Some(Removal::Tag(one, "docker.io/r/a:1".into())));
        index.add(two, record(&["docker.io/r/a:1"], &[]));
        assert_eq!(index.find("r/a:1"), Some(two));
        assert_eq!(index.removal("r/a:1"), Some(Removal::Image(two)));
        assert_eq!(index.removal(&one.to_string()), Some(Removal::Image(one)));
    }
}
