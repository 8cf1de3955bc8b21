//! What a container sees besides its image: mounts and devices. Pure.

use cri::{Mount, MountPropagation};
use shim::spec::{DeviceSpec, MountKind, MountSpec, Pair, Propagation};

use crate::cgroup::DeviceRule;

const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOEXEC: u64 = 0x8;
const STRICTATIME: u64 = 0x20;

/// The group of terminals.
const TERMINALS: u32 = 5;

/// What decides about the standard mounts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standard<'a> {
    /// Whether nothing is kept read-only.
    pub(crate) privileged: bool,
    /// The folder of the host to see as `/dev/shm`.
    pub(crate) shm: &'a str,
    /// Names of version 1's hierarchies; empty with version 2.
    pub(crate) v1: &'a [&'a str],
    /// The machine's number of the pod's user 0; 0 without users of the pod's own.
    pub(crate) owner: u32,
}

fn new(source: &str, target: &str, attributes: u64, options: &[(&str, &str)]) -> MountSpec {
    let pair = |(name, value): &(&str, &str)| Pair { name: (*name).to_owned(), value: (*value).to_owned() };
    MountSpec {
        kind: MountKind::New,
        source: source.to_owned(),
        target: target.to_owned(),
        attributes,
        options: options.iter().map(pair).collect(),
        ..MountSpec::default()
    }
}

/// A file or folder of the host at `target`.
pub(crate) fn bind(source: &str, target: &str, attributes: u64) -> MountSpec {
    MountSpec {
        kind: MountKind::Bind,
        source: source.to_owned(),
        target: target.to_owned(),
        attributes,
        mapped: true,
        ..MountSpec::default()
    }
}

/// The attributes of a bind that may be read-only.
pub(crate) fn readonly(readonly: bool) -> u64 {
    if readonly { RDONLY } else { 0 }
}

fn standard(given: Standard<'_>) -> Vec<MountSpec> {
    let restricted = NOSUID | NOEXEC | NODEV;
    let system = restricted | readonly(!given.privileged);
    let (owner, terminals) = (given.owner.to_string(), given.owner.saturating_add(TERMINALS).to_string());
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", &*terminals)];
    let owned = [("uid", &*owner), ("gid", &*owner), ("mode", "755")];
    let dev = [owned[0], owned[1], owned[2], ("size", "65536k")];
    let mut mounts = vec![
        new("proc", "/proc", restricted, &[]),
        new("tmpfs", "/dev", NOSUID | STRICTATIME, &dev),
        new("devpts", "/dev/pts", NOSUID | NOEXEC, &pts),
        new("mqueue", "/dev/mqueue", restricted, &[]),
        new("sysfs", "/sys", system, &[]),
    ];
    if given.v1.is_empty() {
        mounts.push(new("cgroup2", "/sys/fs/cgroup", system, &[]));
    } else {
        mounts.push(new("tmpfs", "/sys/fs/cgroup", system, &owned));
        for name in given.v1 {
            let folder = name.strip_prefix("name=").unwrap_or(name);
            let mount = new(name, &format!("/sys/fs/cgroup/{folder}"), system, &[]);
            mounts.push(MountSpec { kind: MountKind::CgroupV1, ..mount });
        }
    }
    // Made for the pod alone, so its files have their owners already.
    mounts.push(MountSpec { mapped: false, ..bind(given.shm, "/dev/shm", restricted) });
    mounts
}

/// An image's files, put together on `folder`: read-only, and not to be executed, as upstream has it.
pub(crate) fn image(mount: &Mount, folder: &str, layers: Vec<String>) -> MountSpec {
    MountSpec {
        kind: MountKind::Layers,
        below: mount.sub_path.clone(),
        layers,
        ..bind(folder, &mount.container_path, RDONLY | NOSUID | NODEV | NOEXEC)
    }
}

/// Something of the host.
pub(crate) fn volume(mount: &Mount) -> MountSpec {
    let propagation = match mount.propagation {
        MountPropagation::Private => Propagation::Private,
        MountPropagation::HostToContainer => Propagation::Slave,
        MountPropagation::Bidirectional => Propagation::Shared,
    };
    MountSpec {
        below: mount.sub_path.clone(),
        recursive: mount.recursive_read_only,
        propagation,
        ..bind(&mount.host_path, &mount.container_path, readonly(mount.readonly))
    }
}

/// A path without `.`, `..` and repeated slashes.
fn clean(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// All mounts of a container in their order: `files` (such as `/etc/hosts`) and `volumes` hide standard mounts at the
/// same place, and what lies deeper comes later.
pub(crate) fn all(given: Standard<'_>, files: Vec<MountSpec>, mut volumes: Vec<MountSpec>) -> Vec<MountSpec> {
    volumes.iter_mut().for_each(|volume| volume.target = clean(&volume.target));
    let free = |mount: &MountSpec| !volumes.iter().any(|volume| volume.target == mount.target);
    let mut mounts: Vec<MountSpec> = standard(given).into_iter().chain(files).filter(free).collect();
    mounts.extend(volumes);
    // Stable: what is equally deep keeps its order.
    mounts.sort_by_key(|mount| mount.target.matches('/').count());
    mounts
}

/// Devices that every container has.
const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The device files that every container has.
pub(crate) fn devices() -> Vec<DeviceSpec> {
    let device = |(path, major, minor): (&str, u32, u32)| DeviceSpec {
        path: path.to_owned(),
        mode: libc::S_IFCHR | 0o666,
        major,
        minor,
        uid: 0,
        gid: 0,
    };
    DEVICES.into_iter().map(device).collect()
}

/// What every container may do with devices: make any, use the standard ones and terminals.
pub(crate) fn device_rules() -> Vec<DeviceRule> {
    let make = |kind| DeviceRule { kind, read: false, write: false, ..DeviceRule::ALL };
    let standard = DEVICES.iter().map(|(_, major, minor)| DeviceRule::character(*major, Some(*minor)));
    let terminals =
        [DeviceRule::character(136, None), DeviceRule::character(5, Some(2)), DeviceRule::character(5, Some(1))];
    [make('c'), make('b')].into_iter().chain(standard).chain(terminals).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: Standard<'_> = Standard { privileged: false, shm: "/run/shm", v1: &[], owner: 0 };

    fn mount(container_path: &str) -> MountSpec {
        volume(&Mount { container_path: container_path.into(), host_path: "/h".into(), ..Mount::default() })
    }

    #[test]
    fn deeper_mounts_come_later_and_volumes_win() {
        let files = vec![bind("/r/hosts", "/etc/hosts", 0), bind("/r/hostname", "/etc/hostname", 0)];
        let mounts =
            all(GIVEN, files, vec![mount("/data/deep/"), mount("//etc/./hosts"), mount("/data"), mount("/dev/shm")]);
        let targets: Vec<&str> = mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(
            targets,
            [
                "/proc",
                "/dev",
                "/sys",
                "/data",
                "/dev/pts",
                "/dev/mqueue",
                "/etc/hostname",
                "/data/deep",
                "/etc/hosts",
                "/dev/shm",
                "/sys/fs/cgroup"
            ]
        );
        let hosts = mounts.iter().find(|mount| mount.target == "/etc/hosts").unwrap();
        assert_eq!(hosts.source, "/h");
    }

    #[test]
    fn only_privileged_containers_write_to_sys() {
        let attributes = |privileged| {
            let mounts = all(Standard { privileged, ..GIVEN }, vec![], vec![]);
            mounts.iter().find(|mount| mount.target == "/sys").unwrap().attributes & RDONLY
        };
        assert_eq!((attributes(false), attributes(true)), (RDONLY, 0));
    }

    #[test]
    fn version_1_groups_are_seen_one_by_one() {
        let mounts = all(Standard { v1: &["cpu,cpuacct", "name=systemd"], ..GIVEN }, vec![], vec![]);
        let seen: Vec<(&str, &str)> = mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::CgroupV1)
            .map(|mount| (mount.source.as_str(), mount.target.as_str()))
            .collect();
        assert_eq!(seen, [("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"), ("name=systemd", "/sys/fs/cgroup/systemd")]);
    }
}
