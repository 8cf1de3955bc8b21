//! Which images were pulled with whose credentials: a private image that is present is for those pods only that may pull it.
//!
//! Upstream: `pkg/kubelet/images/pullmanager` with its default policy, `NeverVerifyPreloadedImages`: an image that this agent never
//! pulled is for everybody. The records outlive the agent; what cannot be recorded is pulled again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
/// Secrets remembered of an image. Upstream: `writeRecordWhileMatchingLimit`.
const SECRETS_MAX: usize = 100;

/// A pull secret as it is told from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretKey {
    namespace: String,
    name: String,
    uid: String,
}

impl SecretKey {
    /// The key of a secret.
    pub fn of(secret: &Secret) -> SecretKey {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &secret.metadata;
        SecretKey { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
    }
}

/// Who may use an image under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    /// It was pulled without credentials.
    everyone: bool,
    secrets: Vec<SecretKey>,
}

/// The records. Pure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    version: u32,
    /// By image id, and by name without tag and digest.
    images: BTreeMap<String, BTreeMap<String, Access>>,
    /// Names whose pull has begun: if its end is not recorded, it counts as pulled by nobody knows whom.
    intents: BTreeSet<String>,
}

impl Pulled {
    /// Whether this agent pulled the image, so that it matters who asks.
    pub fn is_ours(&self, image: &str, id: &str) -> bool {
        self.images.contains_key(id) || self.intents.contains(image)
    }

    /// Whether a pod with these secrets may use the image that is present.
    pub fn may_use(&self, image: &str, id: &str, secrets: &[SecretKey]) -> bool {
        if !self.is_ours(image, id) {
            return true;
        }
        let access = self.images.get(id).and_then(|names| names.get(without_tag(image)));
        access.is_some_and(|access| access.everyone || access.secrets.iter().any(|known| secrets.contains(known)))
    }

    fn intend(&mut self, image: &str) {
        self.intents.insert(image.to_owned());
    }

    fn fail(&mut self, image: &str) {
        self.intents.remove(image);
    }

    /// The image was pulled with this secret, or with none.
    fn succeed(&mut self, image: &str, id: &str, by: Option<SecretKey>) {
        self.intents.remove(image);
        let names = self.images.entry(id.to_owned()).or_default();
        let access = names.entry(without_tag(image).to_owned()).or_default();
        match by {
            None => access.everyone = true,
            Some(secret) if access.secrets.contains(&secret) => {}
            Some(secret) => {
                // The oldest makes room; its pods pull again.
                if access.secrets.len() == SECRETS_MAX {
                    access.secrets.remove(0);
                }
                access.secrets.push(secret);
            }
        }
    }

    /// Forgets images of `known` that are not present; others may have come since.
    fn keep(&mut self, known: &BTreeSet<String>, present: &BTreeSet<String>) {
        self.images.retain(|id, _| present.contains(id) || !known.contains(id));
    }
}

/// An image's name without tag and digest.
fn without_tag(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => name,
    }
}

/// The records with their file.
pub struct Records {
    path: PathBuf,
    pulled: Mutex<Pulled>,
}

impl Records {
    /// Reads the records of earlier agents. Without them what is present counts as there before: this is told.
    pub fn open(root: &Path) -> Records {
        let path = root.join("image_pulls.json");
        let pulled = match std::fs::read(&path).map(|bytes| serde_json::from_slice::<Pulled>(&bytes)) {
            Ok(Ok(pulled)) if pulled.version == VERSION => pulled,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Pulled::default(),
            unread => {
                tracing::error!(path = %path.display(), ?unread, "records of pulled images not read");
                Pulled::default()
            }
        };
        Records { path, pulled: Mutex::new(Pulled { version: VERSION, ..pulled }) }
    }

    /// See [`Pulled::is_ours`].
    pub fn is_ours(&self, image: &str, id: &str) -> bool {
        self.lock().is_ours(image, id)
    }

    /// See [`Pulled::may_use`].
    pub fn may_use(&self, image: &str, id: &str, secrets: &[SecretKey]) -> bool {
        self.lock().may_use(image, id, secrets)
    }

    /// A pull begins.
    ///
    /// # Errors
    /// When that cannot be recorded: then it must not begin.
    pub fn intend(&self, image: &str) -> io::Result<()> {
        self.change(|pulled| pulled.intend(image))
    }

    /// A pull failed.
    pub fn fail(&self, image: &str) {
        self.change_or_tell(|pulled| pulled.fail(image));
    }

    /// A pull succeeded.
    pub fn succeed(&self, image: &str, id: &str, by: Option<SecretKey>) {
        self.change_or_tell(|pulled| pulled.succeed(image, id, by));
    }

    /// The ids of images that there are records of.
    pub fn known(&self) -> BTreeSet<String> {
        self.lock().images.keys().cloned().collect()
    }

    /// Of the images that were known before the present ones were listed, only these are left.
    pub fn keep(&self, known: &BTreeSet<String>, present: &BTreeSet<String>) {
        self.change_or_tell(|pulled| pulled.keep(known, present));
    }

    fn change_or_tell(&self, change: impl FnOnce(&mut Pulled)) {
        if let Err(error) = self.change(change) {
            tracing::warn!(%error, "records of pulled images not written");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Pulled)) -> io::Result<()> {
        let mut pulled = self.lock();
        let mut changed = pulled.clone();
        change(&mut changed);
        if changed == *pulled {
            return Ok(());
        }
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let fresh = self.path.with_extension("new");
        let mut file = std::fs::File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&changed)?)?;
        file.sync_data()?;
        std::fs::rename(fresh, &self.path)?;
        *pulled = changed;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Pulled> {
        self.pulled.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> SecretKey {
        SecretKey { namespace: "n".into(), name: name.into(), uid: format!("{name}-uid") }
    }

    #[test]
    fn a_private_image_is_for_those_who_may_pull_it() {
        let mut pulled = Pulled::default();
        assert!(pulled.may_use("r/private:v1", "sha256:1", &[]), "there before: for everybody");
        pulled.intend("r/private:v1");
        assert!(!pulled.may_use("r/private:v1", "sha256:1", &[secret("a")]), "nobody knows yet who may");
        pulled.succeed("r/private:v1", "sha256:1", Some(secret("a")));
        assert!(pulled.may_use("r/private:v1", "sha256:1", &[secret("b"), secret("a")]));
        assert!(pulled.may_use("r/private@sha256:9", "sha256:1", &[secret("a")]));
        assert!(!pulled.may_use("r/private:v1", "sha256:1", &[secret("b")]));
        assert!(!pulled.may_use("other:5000/private", "sha256:1", &[secret("a")]), "another name of the same image");
        pulled.succeed("r/private:v1", "sha256:1", None);
        assert!(pulled.may_use("r/private:v1", "sha256:1", &[]), "the registry gives it to everybody by now");
        pulled.keep(&BTreeSet::new(), &BTreeSet::new());
        assert!(pulled.is_ours("r/private:v1", "sha256:1"), "it came after the list was asked for");
        pulled.keep(&["sha256:1".to_owned()].into(), &BTreeSet::new());
        assert!(!pulled.is_ours("r/private:v1", "sha256:1"));
    }

    #[test]
    fn names_lose_their_tags_but_not_their_ports() {
        for (image, expected) in
            [("a:v1", "a"), ("r:5000/a", "r:5000/a"), ("r:5000/a:v1", "r:5000/a"), ("a:v1@sha256:0", "a")]
        {
            assert_eq!(without_tag(image), expected);
        }
    }

    #[test]
    fn records_outlive_the_agent() {
        let root = std::env::temp_dir().join(format!("isopod-node-pulled-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let records = Records::open(&root);
        records.intend("i").unwrap();
        records.succeed("i", "sha256:1", Some(secret("a")));
        let later = Records::open(&root);
        assert!(later.may_use("i", "sha256:1", &[secret("a")]) && !later.may_use("i", "sha256:1", &[]));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
