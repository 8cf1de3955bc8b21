//! Encryption at rest: which values are sealed on their way to the disk, and by which key.

use std::borrow::Cow;

use pki::SealingKey;
use store::Transform;

/// Seals Secrets with the first key; opens what any key sealed, and what was never sealed.
pub struct SecretsSealed {
    keys: Vec<SealingKey>,
}

/// What is sealed: as an `EncryptionConfiguration` that names `secrets` would.
const SEALED: &[u8] = b"/registry/secrets/";
/// What upstream's envelopes begin with, whoever wrote them.
const ENVELOPE: &[u8] = b"k8s:enc:";

impl SecretsSealed {
    /// The first key seals; the others still open what they sealed, so that keys can be rotated.
    pub fn new(keys: Vec<SealingKey>) -> SecretsSealed {
        SecretsSealed { keys }
    }
}

impl Transform for SecretsSealed {
    fn seal<'a>(&self, key: &[u8], plain: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        match self.keys.first() {
            Some(sealing) if key.starts_with(SEALED) => {
                sealing.seal(key, plain).map(Cow::Owned).map_err(|error| error.to_string())
            }
            _ => Ok(Cow::Borrowed(plain)),
        }
    }

    fn open<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        if !sealed.starts_with(ENVELOPE) {
            return Ok(Cow::Borrowed(sealed));
        }
        let opener = self.keys.iter().find(|candidate| candidate.sealed_by_me(sealed));
        let opener = opener.ok_or("no configured key sealed this value")?;
        opener.open(key, sealed).map(Cow::Owned).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_secrets_alone_and_opens_what_older_keys_sealed() {
        let old = || SealingKey::new("key1", [1; 32]).expect("a key");
        let new = || SealingKey::new("key2", [2; 32]).expect("a key");
        let before = SecretsSealed::new(vec![old()]);
        let after = SecretsSealed::new(vec![new(), old()]);
        let path = b"/registry/secrets/a/b";
        let sealed = before.seal(path, b"hunter2").expect("sealed").into_owned();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
        assert_eq!(&*after.open(path, &sealed).expect("opened"), b"hunter2");
        assert!(after.seal(path, b"x").expect("sealed").starts_with(b"k8s:enc:aesgcm:v1:key2:"));
        assert!(SecretsSealed::new(vec![new()]).open(path, &sealed).is_err());
        assert_eq!(&*before.seal(b"/registry/pods/a/b", b"plain").expect("left alone"), b"plain");
    }
}
