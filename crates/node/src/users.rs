//! Users of pods' own (`hostUsers: false`): each such pod gets a range of the machine's users and groups that no other pod has.
//!
//! The range stands in a file in the pod's folder in memory, in upstream's form: the next agent finds it there, and it is free again
//! when the folder goes, which is after the last of the pod's processes. Upstream: `pkg/kubelet/userns`.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;

use cri::IdRange;
use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::pod::{spec, uid};
use crate::volume::{pods_folder, put};

const NAME: &str = "userns";
/// As many as a pod's images may name. Upstream: `userNsUnitLength`.
const LENGTH: u32 = 65_536;
/// Ranges there are besides the machine's own, the first: all that the kernel has numbers for.
const RANGES: u32 = u32::MAX / LENGTH;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

/// Gives ranges, one pod after the other.
#[derive(Debug, Default)]
pub struct Ranges(Mutex<()>);

impl Ranges {
    /// The users that a pod has of its own, if it asks for that: those that it had before, or some that nobody has.
    ///
    /// # Errors
    /// When there are none left, or the memory root cannot be read or written.
    pub fn of(&self, root: &Path, pod: &Pod) -> io::Result<Option<IdRange>> {
        if spec(pod).host_users != Some(false) {
            return Ok(None);
        }
        let _one_at_a_time = self.0.lock().expect("no holder of this lock panics");
        if let Some(range) = read(root, uid(pod))? {
            return Ok(Some(range));
        }
        let range = free(&taken(root)?).ok_or_else(|| io::Error::other("no range of users is left"))?;
        write(root, pod, range)?;
        Ok(Some(range))
    }
}

/// The lowest range that nobody has. Pure.
fn free(taken: &[IdRange]) -> Option<IdRange> {
    let firsts = (1..RANGES).map(|number| number * LENGTH);
    let range = |first| IdRange { first, length: LENGTH };
    firsts.map(range).find(|range| !taken.iter().any(|other| overlap(range, other)))
}

fn overlap(one: &IdRange, other: &IdRange) -> bool {
    let end = |range: &IdRange| u64::from(range.first) + u64::from(range.length);
    u64::from(one.first) < end(other) && u64::from(other.first) < end(one)
}

/// What pods have that are on this node. What cannot be read is an error: its pod may still run.
fn taken(root: &Path) -> io::Result<Vec<IdRange>> {
    let entries = match fs::read_dir(pods_folder(root)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut taken = Vec::new();
    for entry in entries {
        taken.extend(read(root, &entry?.file_name().to_string_lossy())?);
    }
    Ok(taken)
}

fn read(root: &Path, uid: &str) -> io::Result<Option<IdRange>> {
    let path = pods_folder(root).join(uid).join(NAME);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    let record: Record = serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
    match (&record.uid_mappings[..], &record.gid_mappings[..]) {
        ([users], [groups]) if users == groups && users.container_id == 0 && users.host_id >= LENGTH => {
            Ok(Some(IdRange { first: users.host_id, length: users.length }))
        }
        _ => Err(invalid("not one range from 0 on, the same for users and groups".into())),
    }
}

fn write(root: &Path, pod: &Pod, range: IdRange) -> io::Result<()> {
    let mapping = Mapping { host_id: range.first, container_id: 0, length: range.length };
    let record = Record { uid_mappings: vec![mapping], gid_mappings: vec![mapping] };
    put(root, pod, NAME, &serde_json::to_vec(&record)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_keeps_its_range_and_leaves_it_with_its_folder() {
        let root = std::env::temp_dir().join(format!("isopod-node-users-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        let pod = |uid: &str, fields: &str| -> Pod {
            serde_json::from_str(&format!(r#"{{"metadata":{{"uid":"{uid}"}},"spec":{{"containers":[]{fields}}}}}"#))
                .unwrap()
        };
        let first = |uid: &str| {
            Ranges::default().of(&root, &pod(uid, r#","hostUsers":false"#)).unwrap().map(|range| range.first)
        };
        assert_eq!(Ranges::default().of(&root, &pod("n", "")).unwrap(), None);
        assert_eq!([first("a"), first("b"), first("a")], [Some(65_536), Some(131_072), Some(65_536)]);
        fs::remove_dir_all(root.join("pods/a")).unwrap();
        assert_eq!([first("c"), first("d")], [Some(65_536), Some(196_608)]);
        fs::write(root.join("pods/b/userns"), "{}").unwrap();
        assert!(Ranges::default().of(&root, &pod("e", r#","hostUsers":false"#)).is_err(), "it may be anybody's");
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn ranges_end() {
        let all: Vec<IdRange> = (1..RANGES).map(|number| IdRange { first: number * LENGTH, length: LENGTH }).collect();
        assert_eq!(free(&all), None);
        assert_eq!(free(&all[1..]).map(|range| range.first), Some(LENGTH));
    }
}
