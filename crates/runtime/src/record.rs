//! What the runtime writes down of sandboxes and containers, so that its next life finds them.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::Path;

use cri::{ContainerConfig, ContainerImage, PodSandboxConfig};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The version of what is written; a later one must read this one, too.
pub(crate) const VERSION: u32 = 1;

/// The file in a sandbox's or container's folder.
const FILE: &str = "record.json";

/// A sandbox.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SandboxRecord {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Its id.
    pub(crate) id: String,
    /// What was asked for.
    pub(crate) config: PodSandboxConfig,
    /// When, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Its addresses, the primary one first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether it was made completely and not stopped since.
    pub(crate) ready: bool,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerRecord {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// Its id.
    pub(crate) id: String,
    /// Its sandbox.
    pub(crate) sandbox_id: String,
    /// What was asked for, without the environment; limits are the current ones.
    pub(crate) config: ContainerConfig,
    /// Its image.
    pub(crate) image: ContainerImage,
    /// Ids of the images that it has as volumes.
    pub(crate) volume_images: Vec<String>,
    /// When it was made, in nanoseconds since 1970.
    pub(crate) created_at: i64,
    /// Its log file; empty for none.
    pub(crate) log_path: String,
    /// The signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// An end that its supervisor does not know of.
    pub(crate) ending: Option<Ending>,
}

impl ContainerRecord {
    /// Ids of all images that must stay as long as this container does.
    pub(crate) fn images(&self) -> Vec<String> {
        std::iter::once(&self.image.image_id).chain(&self.volume_images).cloned().collect()
    }
}

/// An end that a supervisor does not know of: a failed start, or the loss of the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// When, in nanoseconds since 1970.
    pub(crate) finished_at: i64,
    /// Exit code.
    pub(crate) exit_code: i32,
    /// `StartError` or `Unknown`.
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

/// Writes `record` into `folder`; a reader sees the old one or the new one. The folder is in memory, so nothing is
/// synchronised.
pub(crate) fn write(folder: &Path, record: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    replace(&folder.join(FILE), &text)
}

/// Puts `content` in place of a file.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut new = path.to_owned().into_os_string();
    new.push(".new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    std::fs::rename(&new, path)
}

/// Reads the record in `folder`.
pub(crate) fn read<T: DeserializeOwned>(folder: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join(FILE))?)?)
}

#[cfg(test)]
mod tests {
    use cri::KeyValue;

    use super::*;

    #[test]
    fn secrets_are_not_written() {
        let mut record = ContainerRecord { version: VERSION, id: "c".into(), ..ContainerRecord::default() };
        record.config.envs = vec![KeyValue { key: "PASSWORD".into(), value: "hunter2".into() }];
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("hunter2"));
        record.config.envs.clear();
        assert_eq!(serde_json::from_str::<ContainerRecord>(&text).unwrap(), record);
    }

    #[test]
    fn records_with_fields_missing_are_read() {
        let record: SandboxRecord = serde_json::from_str(r#"{"version":1,"id":"s"}"#).unwrap();
        assert_eq!(record, SandboxRecord { version: 1, id: "s".into(), ..SandboxRecord::default() });
    }
}
