//! What the agent has accepted, on the memory root: an agent that is restarted without an API goes on with it.
//!
//! One file a pod, versioned and replaced as a whole. It lies beside the pod's volumes in memory, goes with them, and
//! holds what containers are started with, Secrets' values among it; so it is never on disk and only root reads it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use cri::KeyValue;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::pod::memory::Memory;
use crate::pod::seen::Known;
use crate::volume::{pods_folder, put};

/// The version that is written; older ones that can still be read are listed in [`Checkpoint::parse`].
const VERSION: u32 = 1;
const NAME: &str = "checkpoint.json";
/// No pod that the API takes is longer.
const BYTES_MAX: u64 = 16 << 20;

/// A pod as it was accepted and told last, and what it takes to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    version: u32,
    /// With the status as told last.
    pub pod: Pod,
    /// Its volumes were in place.
    pub prepared: bool,
    /// What each container was last started with, by its name.
    pub environments: BTreeMap<String, Vec<(String, String)>>,
    /// What no runtime tells of its containers. Agents before this one did not write it.
    #[serde(default)]
    pub known: Known,
}

impl Checkpoint {
    /// The checkpoint of a pod.
    pub fn new(pod: Pod, memory: &Memory) -> Checkpoint {
        let pairs = |variables: &Vec<KeyValue>| {
            variables.iter().map(|variable| (variable.key.clone(), variable.value.clone())).collect()
        };
        let environments =
            memory.environments.iter().map(|(name, variables)| (name.clone(), pairs(variables))).collect();
        Checkpoint { version: VERSION, pod, prepared: memory.prepared, environments, known: memory.known.clone() }
    }

    /// The environments in the runtime's terms.
    pub fn variables(&self) -> BTreeMap<String, Vec<KeyValue>> {
        let variable = |(key, value): &(String, String)| KeyValue { key: key.clone(), value: value.clone() };
        self.environments.iter().map(|(name, pairs)| (name.clone(), pairs.iter().map(variable).collect())).collect()
    }

    /// Writes the file in place of the one before.
    ///
    /// # Errors
    /// When the memory root cannot be written.
    pub fn write(&self, root: &Path) -> io::Result<()> {
        put(root, &self.pod, NAME, &serde_json::to_vec(self)?)
    }

    fn read(path: &Path) -> io::Result<Checkpoint> {
        if fs::metadata(path)?.len() > BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "checkpoint is too long"));
        }
        Checkpoint::parse(&fs::read(path)?)
    }

    fn parse(bytes: &[u8]) -> io::Result<Checkpoint> {
        let checkpoint: Checkpoint = serde_json::from_slice(bytes)?;
        match checkpoint.version {
            VERSION => Ok(checkpoint),
            version => Err(io::Error::new(io::ErrorKind::Unsupported, format!("checkpoint version {version}"))),
        }
    }
}

/// Every pod that was accepted and is not yet cleaned up. What cannot be read is told and left out: the API has it, too.
pub fn all(root: &Path) -> Vec<Checkpoint> {
    let entries = match fs::read_dir(pods_folder(root)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(%error, "checkpoints not listed");
            return Vec::new();
        }
    };
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path().join(NAME)) {
        match Checkpoint::read(&path) {
            Ok(checkpoint) => found.push(checkpoint),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(path = %path.display(), %error, "checkpoint not read"),
        }
    }
    // In an order of their own, not the folder's.
    found.sort_by(|a, b| a.pod.metadata.uid.cmp(&b.pod.metadata.uid));
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Root {
            let root = std::env::temp_dir().join(format!("isopod-node-checkpoint-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&root));
            Root(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn checkpoint(uid: &str) -> Checkpoint {
        let pod = serde_json::from_str(&format!(
            r#"{{"metadata":{{"name":"p","namespace":"n","uid":"{uid}"}},"spec":{{"containers":[{{"name":"c"}}]}},"status":{{"phase":"Running"}}}}"#
        ));
        let variables = [("c".to_owned(), vec![KeyValue { key: "A".into(), value: "1".into() }])].into();
        let mut memory = Memory { prepared: true, environments: variables, ..Memory::default() };
        memory.known.memory_requests.insert("c".into(), 64 << 20);
        Checkpoint::new(pod.unwrap(), &memory)
    }

    #[test]
    fn what_was_written_is_read_and_only_by_root() {
        let root = Root::new("read");
        assert_eq!(all(&root.0), []);
        checkpoint("b").write(&root.0).unwrap();
        checkpoint("a").write(&root.0).unwrap();
        checkpoint("a").write(&root.0).unwrap();
        assert_eq!(all(&root.0), [checkpoint("a"), checkpoint("b")]);
        let mode = fs::metadata(root.0.join("pods/a/checkpoint.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(checkpoint("a").variables()["c"][0].value, "1");
    }

    #[test]
    fn what_an_older_agent_wrote_is_read() {
        let text = r#"{"version":1,"pod":{"metadata":{},"spec":{"containers":[]}},"prepared":true,"environments":{}}"#;
        assert_eq!(Checkpoint::parse(text.as_bytes()).unwrap().known, Known::default());
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let root = Root::new("torn");
        for (uid, text) in
            [("torn", "{\"version\":1,"), ("newer", r#"{"version":9,"pod":{},"prepared":true,"environments":{}}"#)]
        {
            fs::create_dir_all(root.0.join("pods").join(uid)).unwrap();
            fs::write(root.0.join("pods").join(uid).join(NAME), text).unwrap();
        }
        checkpoint("a").write(&root.0).unwrap();
        assert_eq!(all(&root.0).len(), 1);
    }
}
