//! Folders and files of the node that a pod asks for: what must be there, and what is made.
//!
//! Upstream: `pkg/volume/hostpath`, words included.

use std::fs::{self, DirBuilder, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Looks at the path, and makes what its type says is to be made.
pub fn prepare(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let found = match fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(format!("hostPath type check failed: {}: {error}", source.path)),
    };
    if found.is_none() && kind == "DirectoryOrCreate" {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
        return made.map_err(|error| format!("mkdir {}: {error}", source.path));
    }
    if found.is_none() && kind == "FileOrCreate" {
        let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path);
        return made.map(drop).map_err(|error| format!("open {}: {error}", source.path));
    }
    let (is, what): (fn(&FileType) -> bool, &str) = match kind {
        "" => return Ok(()),
        "Directory" | "DirectoryOrCreate" => (FileType::is_dir, "a directory"),
        "File" | "FileOrCreate" => (FileType::is_file, "a file"),
        "Socket" => (|kind| kind.is_socket(), "a socket file"),
        "CharDevice" => (|kind| kind.is_char_device(), "a character device"),
        "BlockDevice" => (|kind| kind.is_block_device(), "a block device"),
        other => return Err(format!("{other} is an invalid volume type")),
    };
    if found.as_ref().is_some_and(is) {
        Ok(())
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", source.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_what_may_be_made_is() {
        let root = std::env::temp_dir().join(format!("isopod-node-hostpath-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir(&root).unwrap();
        fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("/dev/null", root.join("link")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let check = |name: &str, kind: &str, expected: Result<(), &str>| {
            let path = root.join(name).to_string_lossy().into_owned();
            let found = prepare(&HostPathVolumeSource { path: path.clone(), type_: Some(kind.into()) });
            let expected = expected.map_err(|what| format!("hostPath type check failed: {path} is not {what}"));
            assert_eq!(found, expected, "{name} {kind}");
        };
        check("absent", "", Ok(()));
        check("absent", "Directory", Err("a directory"));
        check("absent", "File", Err("a file"));
        check("file", "Directory", Err("a directory"));
        check("file", "DirectoryOrCreate", Err("a directory"));
        check("file", "File", Ok(()));
        check(".", "FileOrCreate", Err("a file"));
        check("file", "Socket", Err("a socket file"));
        check("socket", "Socket", Ok(()));
        // As upstream, a link is what it leads to.
        check("link", "CharDevice", Ok(()));
        check("link", "BlockDevice", Err("a block device"));
        check("new/folder", "DirectoryOrCreate", Ok(()));
        check("new/file", "FileOrCreate", Ok(()));
        assert!(root.join("new/folder").is_dir() && root.join("new/file").is_file());
        drop(socket);
        fs::remove_dir_all(&root).unwrap();
    }
}
