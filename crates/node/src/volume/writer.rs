//! Files that change as a whole: readers see all of the old or all of the new.
//!
//! Upstream: `pkg/volume/util/atomic_writer.go`. Files lie in a folder of their own, reached through the link `..data`.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Component, Path, PathBuf};

/// A file of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// Below the volume's folder.
    pub path: String,
    pub bytes: Vec<u8>,
    pub mode: u32,
    /// Whose it is, when it is one user's alone.
    pub user: Option<u32>,
}

/// The link to the folder of what is shown.
const DATA: &str = "..data";
/// The link on its way to become that.
const DATA_NEXT: &str = "..data_tmp";
/// What a group of the pod may do with files that are not to be written. Upstream: `roMask`.
const GROUP_READS: u32 = 0o440;
/// And what with folders: `roMask`, `execMask` and the bit that hands the group on.
const GROUP_ENTERS: u32 = 0o2550;

/// Makes `folder` show exactly `files`: a new data folder is filled, and then the link moves to it. Everything is of the
/// pod's group, when it has one.
pub fn write(folder: &Path, files: &[File], group: Option<u32>) -> io::Result<()> {
    own_folder(folder, group)?;
    let data = folder.join(DATA);
    if same(&data, files, group) {
        return sweep(folder);
    }
    let fresh = format!("..{:016x}", stdx::random_u64());
    fill(&folder.join(&fresh), files, group)?;
    let moving = folder.join(DATA_NEXT);
    match fs::remove_file(&moving) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&fresh, &moving)?;
    if let Some(group) = group {
        lchown(&moving, None, Some(group))?;
    }
    fs::rename(&moving, &data)?;
    link_names(folder, files)?;
    sweep(folder)
}

fn fill(target: &Path, files: &[File], group: Option<u32>) -> io::Result<()> {
    fs::create_dir(target)?;
    // Whatever this process's mask.
    fs::set_permissions(target, fs::Permissions::from_mode(0o755))?;
    own_folder(target, group)?;
    for file in files {
        let path = target.join(inside(&file.path)?);
        make_parents(target, &path, group)?;
        fs::write(&path, &file.bytes)?;
        if file.user.is_some() || group.is_some() {
            chown(&path, file.user, group)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(mode(file, group)))?;
    }
    Ok(())
}

fn make_parents(target: &Path, path: &Path, group: Option<u32>) -> io::Result<()> {
    let parents: Vec<&Path> = path.ancestors().skip(1).take_while(|parent| *parent != target).collect();
    for parent in parents.into_iter().rev() {
        match fs::create_dir(parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            made => made?,
        }
        fs::set_permissions(parent, fs::Permissions::from_mode(0o755))?;
        own_folder(parent, group)?;
    }
    Ok(())
}

fn own_folder(folder: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    let metadata = fs::metadata(folder)?;
    let wanted = metadata.mode() & 0o7777 | GROUP_ENTERS;
    if metadata.gid() != group {
        chown(folder, None, Some(group))?;
    }
    // A change of owner takes such bits away.
    fs::set_permissions(folder, fs::Permissions::from_mode(wanted))
}

fn mode(file: &File, group: Option<u32>) -> u32 {
    if group.is_some() { file.mode | GROUP_READS } else { file.mode }
}

/// A path that stays below its folder; validation refuses others, and this is the second look.
pub fn inside(path: &str) -> io::Result<&Path> {
    let path = Path::new(path);
    let plain = path.components().all(|component| matches!(component, Component::Normal(_)));
    if plain { Ok(path) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "path leaves its volume")) }
}

/// Links every first path element through `..data`, and removes links of files that are no more.
fn link_names(folder: &Path, files: &[File]) -> io::Result<()> {
    let mut names: Vec<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    names.sort_unstable();
    names.dedup();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(&name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        let link = folder.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

/// Removes data folders that nothing leads to: the one before, and what an agent that was killed left half done.
fn sweep(folder: &Path) -> io::Result<()> {
    let shown = fs::read_link(folder.join(DATA))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("..") && entry.file_type()?.is_dir() && Path::new(&name) != shown {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn same(data: &Path, files: &[File], group: Option<u32>) -> bool {
    let mut count = 0;
    let mut folders: Vec<PathBuf> = vec![data.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { return false };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                _ => count += 1,
            }
        }
    }
    let equal = |file: &File| {
        let path = data.join(&file.path);
        let Ok(metadata) = fs::metadata(&path) else { return false };
        metadata.mode() & 0o7777 == mode(file, group)
            && file.user.is_none_or(|user| user == metadata.uid())
            && group.is_none_or(|group| group == metadata.gid())
            && fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
    };
    count == files.len() && files.iter().all(equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let folder = std::env::temp_dir().join(format!("isopod-node-writer-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&folder));
            fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn file(path: &str, text: &str, mode: u32) -> File {
        File { path: path.into(), bytes: text.into(), mode, user: None }
    }

    #[test]
    fn a_change_is_seen_as_a_whole_and_leaves_nothing_behind() {
        let folder = Folder::new("change");
        write(&folder.0, &[file("a", "1", 0o644), file("deep/er/b", "2", 0o400)], None).unwrap();
        let first = fs::read_link(folder.0.join(DATA)).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("deep/er/b")).unwrap(), "2");
        write(&folder.0, &[file("a", "1", 0o644), file("deep/er/b", "2", 0o400)], None).unwrap();
        assert_eq!(fs::read_link(folder.0.join(DATA)).unwrap(), first, "equal content is not written again");
        // What an agent left that was killed while it wrote.
        fs::create_dir(folder.0.join("..half")).unwrap();
        write(&folder.0, &[file("a", "3", 0o644)], None).unwrap();
        assert_eq!(fs::read_to_string(folder.0.join("a")).unwrap(), "3");
        for gone in ["deep", "..half", DATA_NEXT, &first.to_string_lossy()] {
            assert!(fs::symlink_metadata(folder.0.join(gone)).is_err(), "{gone} is left");
        }
        write(&folder.0, &[], None).unwrap();
        assert!(fs::symlink_metadata(folder.0.join("a")).is_err());
        assert!(folder.0.join(DATA).is_dir());
    }

    #[test]
    fn the_group_reads_what_only_the_owner_could() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("not root: owners cannot be changed, so this is not tested");
        }
        let folder = Folder::new("group");
        let token = File { user: Some(1000), ..file("token", "secret", 0o600) };
        write(&folder.0, &[file("d/a", "1", 0o400), token], Some(7)).unwrap();
        let seen = |path: &str| {
            let metadata = fs::metadata(folder.0.join(path)).unwrap();
            (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
        };
        assert_eq!(seen("d/a"), (0o440, 0, 7));
        assert_eq!(seen("token"), (0o640, 1000, 7));
        assert_eq!(seen("d"), (0o2755, 0, 7));
        assert_eq!(seen("."), (0o2755, 0, 7));
    }

    #[test]
    fn paths_that_leave_the_volume_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b"] {
            assert!(inside(path).is_err(), "{path}");
        }
        assert!(inside("a/b").is_ok());
    }
}
