//! Encryption at rest in upstream's `aesgcm` envelope, bound to the key path of the value.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine as _;

use crate::Error;

/// What every value sealed by upstream's `aesgcm` provider begins with; the key's name and a colon follow.
const PREFIX: &str = "k8s:enc:aesgcm:v1:";

/// A named AES-256-GCM key.
///
/// A value is `k8s:enc:aesgcm:v1:NAME:`, 12 bytes of nonce, and the ciphertext with its tag; the store path of the value is
/// authenticated with it, so that a sealed value moved to another path does not open.
pub struct SealingKey {
    name: String,
    secret: [u8; 32],
    key: LessSafeKey,
}

impl SealingKey {
    /// Makes a new key named `name`.
    pub fn generate(name: &str) -> Result<SealingKey, Error> {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|error| Error::make("encryption key", error))?;
        SealingKey::new(name, secret)
    }

    /// A key from its 32 secret bytes.
    pub fn new(name: &str, secret: [u8; 32]) -> Result<SealingKey, Error> {
        let key = UnboundKey::new(&AES_256_GCM, &secret).map_err(|error| Error::malformed("encryption key", error))?;
        Ok(SealingKey { name: name.into(), secret, key: LessSafeKey::new(key) })
    }

    /// Reads what [`SealingKey::text`] wrote.
    pub fn read(text: &str) -> Result<SealingKey, Error> {
        let (name, secret) =
            text.trim().split_once(':').ok_or_else(|| Error::malformed("encryption key", "not NAME:BASE64"))?;
        let secret = base64::engine::general_purpose::STANDARD
            .decode(secret)
            .map_err(|error| Error::malformed("encryption key", error))?;
        let secret = secret.try_into().map_err(|_| Error::malformed("encryption key", "not 32 bytes"))?;
        SealingKey::new(name, secret)
    }

    /// `NAME:BASE64`, for a file that only root may read.
    pub fn text(&self) -> String {
        format!("{}:{}\n", self.name, base64::engine::general_purpose::STANDARD.encode(self.secret))
    }

    /// Encrypts `plain` for the store path `path`.
    pub fn seal(&self, path: &[u8], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|error| Error::make("nonce", error))?;
        let head = [PREFIX.as_bytes(), self.name.as_bytes(), b":", &nonce].concat();
        let mut sealed = Vec::with_capacity(head.len() + plain.len() + 16);
        sealed.extend_from_slice(&head);
        sealed.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(path), &mut sealed[head.len()..])
            .map_err(|error| Error::make("sealed value", error))?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Whether `value` was sealed by the key of this name.
    pub fn sealed_by_me(&self, value: &[u8]) -> bool {
        value
            .strip_prefix(PREFIX.as_bytes())
            .and_then(|rest| rest.strip_prefix(self.name.as_bytes()))
            .is_some_and(|rest| rest.first() == Some(&b':'))
    }

    /// Decrypts what [`SealingKey::seal`] made for the same path.
    pub fn open(&self, path: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        let untrusted = || Error::Untrusted(format!("value at {} does not open", String::from_utf8_lossy(path)));
        if !self.sealed_by_me(sealed) {
            return Err(untrusted());
        }
        let body = &sealed[PREFIX.len() + self.name.len() + 1..];
        let (nonce, body) = body.split_at_checked(NONCE_LEN).ok_or_else(untrusted)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| untrusted())?;
        let mut body = body.to_vec();
        let plain_len = self.key.open_in_place(nonce, Aad::from(path), &mut body).map_err(|_| untrusted())?.len();
        body.truncate(plain_len);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_at_its_own_path_and_only_untouched() {
        let key = SealingKey::generate("key1").unwrap();
        let sealed = key.seal(b"/registry/secrets/a/b", b"hunter2").unwrap();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(key.open(b"/registry/secrets/a/b", &sealed).unwrap(), b"hunter2");
        assert!(key.open(b"/registry/secrets/a/c", &sealed).is_err());
        let mut torn = sealed.clone();
        *torn.last_mut().unwrap() ^= 1;
        assert!(key.open(b"/registry/secrets/a/b", &torn).is_err());
        assert!(key.open(b"/registry/secrets/a/b", &sealed[..30]).is_err());
        let again = SealingKey::read(&key.text()).unwrap();
        assert_eq!(again.open(b"/registry/secrets/a/b", &sealed).unwrap(), b"hunter2");
    }
}
