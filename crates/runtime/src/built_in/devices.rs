//! Devices of the host that a container is given.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cri::{Device, Error, Result};
use shim::spec::DeviceSpec;

use crate::cgroup::DeviceRule;

/// How many devices a privileged container is given.
const DEVICES_MAX: usize = 4096;
/// Folders and files of `/dev` that containers have of their own.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".lxd-mounts"];

fn spec(host: &Path, inside: String) -> io::Result<Option<DeviceSpec>> {
    let metadata = std::fs::metadata(host)?;
    let kind = metadata.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return Ok(None);
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
    Ok(Some(DeviceSpec { path: inside, mode, major, minor, uid, gid }))
}

/// The devices asked for, and the rules that let them be used.
pub(super) fn asked(devices: &[Device]) -> Result<(Vec<DeviceSpec>, Vec<DeviceRule>)> {
    let (mut specs, mut rules) = (Vec::new(), Vec::new());
    for device in devices {
        let spec = spec(Path::new(&device.host_path), device.container_path.clone())
            .map_err(|error| Error::InvalidArgument(format!("open device {}: {error}", device.host_path)))?
            .ok_or_else(|| Error::InvalidArgument(format!("{} is not a device node", device.host_path)))?;
        let may = |letter| device.permissions.contains(letter);
        rules.push(DeviceRule {
            kind: if spec.mode & libc::S_IFMT == libc::S_IFBLK { 'b' } else { 'c' },
            major: Some(spec.major),
            minor: Some(spec.minor),
            read: may('r'),
            write: may('w'),
            mknod: may('m'),
        });
        specs.push(spec);
    }
    Ok((specs, rules))
}

/// All devices of the host, for a privileged container.
pub(super) fn all() -> Result<Vec<DeviceSpec>> {
    let mut specs = Vec::new();
    let mut folders = vec![Path::new("/dev").to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).map_err(super::failed("list devices"))?;
        for entry in entries {
            let entry = entry.map_err(super::failed("list devices"))?;
            let kind = entry.file_type().map_err(super::failed("list devices"))?;
            if OWN.iter().any(|own| entry.file_name() == *own) || specs.len() >= DEVICES_MAX {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if !kind.is_symlink() {
                let inside = entry.path().to_string_lossy().into_owned();
                // A device that went away since it was listed.
                specs.extend(spec(&entry.path(), inside).ok().flatten());
            }
        }
    }
    Ok(specs)
}
