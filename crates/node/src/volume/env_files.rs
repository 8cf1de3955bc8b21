//! Files of variables in a pod's volumes, which containers wrote: read without ever leaving the volume.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::{Roots, folder};
use crate::pod::spec;

/// The largest file that is read. Upstream has no limit; a container could leave anything.
const BYTES_MAX: u64 = 1 << 20;

/// The files that the container's variables are of, by volume and path; `None` for one that is not there or not text.
pub fn env_files(roots: &Roots, pod: &Pod, container: &Container) -> BTreeMap<(String, String), Option<String>> {
    let spec = spec(pod);
    let sources =
        container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.file_key_ref.as_ref());
    let mut files = BTreeMap::new();
    for source in sources {
        let named = spec.volumes.iter().flatten().find(|volume| volume.name == source.volume_name);
        let Some(volume) = named else { continue };
        let text = read(&folder(roots, pod, volume), &source.path)
            .inspect_err(|error| tracing::debug!(%error, path = source.path, "file of variables not read"));
        files.insert((source.volume_name.clone(), source.path.clone()), text.ok());
    }
    files
}

/// What is in a file of the volume; links are followed as if the volume were all there is.
fn read(volume: &Path, path: &str) -> io::Result<String> {
    let base = openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    // A pipe in the file's place must not make anybody wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat2(&base, path, flags, Mode::empty(), resolve)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut text = String::new();
    file.take(BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_outside() {
        let root = std::env::temp_dir().join(format!("isopod-node-env-files-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&root));
        std::fs::create_dir_all(root.join("volume")).unwrap();
        std::fs::write(root.join("secret"), "K='outside'").unwrap();
        std::fs::write(root.join("volume/file"), "K='inside'").unwrap();
        for (target, name) in [("../secret", "up"), ("/secret", "absolute"), ("/file", "in")] {
            std::os::unix::fs::symlink(target, root.join("volume").join(name)).unwrap();
        }
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(read(&root.join("volume"), path).ok().as_deref(), expected, "{path}");
        };
        check("file", Some("K='inside'"));
        check("in", Some("K='inside'"));
        check("up", None);
        check("absolute", None);
        check(".", None);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
