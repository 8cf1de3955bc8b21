//! Encryption at the boundary between memory and disk.

use std::borrow::Cow;

/// Turns plaintext values into what lies on disk, and back.
///
/// Memory holds plaintext; log segments and snapshots hold what `seal` made. Which keys are encrypted, and with what, is
/// the implementation's to decide by the key (it has the whole of it, so that a sealed value can be bound to its key). A
/// snapshot seals every value anew, so that after a change of keys a snapshot leaves nothing under the old one.
pub trait Transform: Send + Sync + 'static {
    /// The bytes for the disk.
    ///
    /// # Errors
    /// A reason, without secrets; the write is then refused.
    fn seal<'a>(&self, key: &[u8], plain: &'a [u8]) -> Result<Cow<'a, [u8]>, String>;

    /// The plaintext of what `seal` made, then or in an earlier run, for the same key.
    ///
    /// # Errors
    /// A reason, without secrets; the store then does not open.
    fn open<'a>(&self, key: &[u8], sealed: &'a [u8]) -> Result<Cow<'a, [u8]>, String>;
}

/// The transform that changes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Transform for Plain {
    fn seal<'a>(&self, _key: &[u8], plain: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        Ok(Cow::Borrowed(plain))
    }

    fn open<'a>(&self, _key: &[u8], sealed: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        Ok(Cow::Borrowed(sealed))
    }
}
