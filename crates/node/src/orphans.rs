//! What pods left on this node that nobody knows any more, and how it goes: folders of volumes and of logs, and control groups.
//!
//! A pod's worker takes all of that away. What is found here is of pods that were deleted while no agent ran to see it, or whose
//! agent was killed in the middle. Upstream: `HandlePodCleanups`, `cleanupOrphanedPodDirs`, `evictPodLogsDirectories`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cri::{ContainerFilter, PodSandboxFilter, Runtime};

use crate::agent::{Agent, Context};
use crate::pod::seen::POD_UID;
use crate::volume::{self, mounted};

/// Something that a pod has on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    uid: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// A folder with all it holds.
    Folder(PathBuf),
    /// Control groups, in whatever hierarchy.
    Groups,
}

/// Removes what is left of pods that neither the API nor the runtime nor the folder of static pods knows; nothing where one of
/// them has not been heard yet, or does not answer.
pub(crate) async fn remove(agent: &Agent) {
    // Looked at before anybody is asked: whoever begins meanwhile has nothing among it.
    let left = left(agent.context());
    if left.iter().all(|left| agent.knows(&left.uid)) {
        return;
    }
    let of_runtime = match of_runtime(&*agent.context().runtime).await {
        Ok(uids) => uids,
        Err(error) => return tracing::warn!(%error, "sandboxes or containers not listed: what pods left stays"),
    };
    for left in left.into_iter().filter(|left| !of_runtime.contains(&left.uid)) {
        if agent.knows(&left.uid) {
            continue;
        }
        tracing::info!(pod = left.uid, what = ?left.what, "what a pod left is removed");
        let (context, uid) = (agent.context().clone(), left.uid.clone());
        let removed = stdx::blocking(move || match left.what {
            What::Folder(folder) => mounted::remove(&folder),
            What::Groups => context.cgroups.remove(&left.uid),
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(pod = uid, %error, "what a pod left is not removed"),
            Err(error) => tracing::error!(pod = uid, %error, "what a pod left is not removed"),
        }
    }
}

/// What there is of pods, whosever it is.
fn left(context: &Context) -> Vec<Left> {
    let roots = [&context.roots.disk, &context.roots.memory];
    let volumes = roots.into_iter().flat_map(|root| folders(&volume::pods_folder(root), |name| Some(name)));
    let logs = folders(Path::new(&context.facts.log_root), uid_of_logs);
    let groups = context.cgroups.pods().into_iter().map(|uid| Left { uid, what: What::Groups });
    volumes.chain(logs).chain(groups).collect()
}

/// The folders in `root` whose names tell a pod.
fn folders(root: &Path, uid_of: impl Fn(&str) -> Option<&str>) -> Vec<Left> {
    let entries = match fs::read_dir(root).and_then(Iterator::collect::<io::Result<Vec<_>>>) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(folder = %root.display(), %error, "what pods left is not looked for");
            return Vec::new();
        }
    };
    // A link is nothing that an agent makes here.
    let folders = entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let of_pod = folders.filter_map(|entry| {
        let uid = uid_of(entry.file_name().to_str()?)?.to_owned();
        Some(Left { uid, what: What::Folder(entry.path()) })
    });
    of_pod.collect()
}

/// The uid in the name of a folder of logs: `NAMESPACE_NAME_UID`, of which none has an underscore.
fn uid_of_logs(name: &str) -> Option<&str> {
    let mut parts = name.split('_');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(name), Some(uid), None) if ![namespace, name, uid].contains(&"") => Some(uid),
        _ => None,
    }
}

/// The uids of pods of which the runtime has something.
async fn of_runtime(runtime: &dyn Runtime) -> cri::Result<BTreeSet<String>> {
    let sandboxes = runtime.list_pod_sandbox(PodSandboxFilter::default()).await?;
    let containers = runtime.list_containers(ContainerFilter::default()).await?;
    let labels = sandboxes.iter().map(|one| &one.labels).chain(containers.iter().map(|one| &one.labels));
    Ok(labels.filter_map(|labels| labels.get(POD_UID).cloned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_logs_tells_whose_it_is() {
        let check = |name: &str, expected: Option<&str>| assert_eq!(uid_of_logs(name), expected, "{name}");
        check("shop_web-1_0c1d", Some("0c1d"));
        for name in ["lost+found", "shop_web", "shop_web_", "_web_0c1d", "a_b_c_d"] {
            check(name, None);
        }
    }

    #[test]
    fn only_folders_are_found() {
        let root = std::env::temp_dir().join(format!("isopod-node-orphans-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        assert_eq!(folders(&root, |name| Some(name)), []);
        fs::create_dir_all(root.join("u-1")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/", root.join("link")).unwrap();
        assert_eq!(
            folders(&root, |name| Some(name)),
            [Left { uid: "u-1".into(), what: What::Folder(root.join("u-1")) }]
        );
        fs::remove_dir_all(&root).unwrap();
    }
}
