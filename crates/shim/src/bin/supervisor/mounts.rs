//! A container's view of the file system. Runs in the child, in a mount namespace that is not its own yet.
//!
//! Every path inside the container is opened below the container's root, whatever links the image has put there, and
//! mounts are moved onto what was opened: nothing is looked up twice.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use shim::spec::{ContainerSpec, DeviceSpec, MountKind, MountSpec, Propagation, RootSpec};

use crate::file::During;
use crate::sys::{self, CWD, Errno, Fd, MOUNT_ATTR_RDONLY};
use crate::users;

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_NO_SYMLINKS: u64 = 0x04;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_IN_ROOT: u64 = 0x10;

/// Links that every container has, where its image has nothing of that name.
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// How many links of an image are followed to where nothing is yet.
const LINKS_MAX: u32 = 16;

/// A mounted root file system that is not the root yet.
pub(crate) struct Root {
    root: Fd,
    /// Copies of what the container's binds show, in the order of the mounts. Those of the machine were taken while its
    /// mounts still had their propagation; those that follow the machine are taken when they are needed.
    binds: Vec<Option<Fd>>,
    /// The namespace of the pod's users.
    users: Option<i32>,
    /// The machine's number of the pod's user 0, to whom belongs what is made in here.
    owner: u32,
}

impl Root {
    /// Mounts the layers, with owners as in the namespace `users`. From here on nothing that is mounted is seen outside.
    pub(crate) fn mount(spec: &ContainerSpec, users: Option<i32>) -> Result<Root, String> {
        let mut binds = Vec::new();
        for mount in &spec.mounts {
            let early = mount.kind == MountKind::Bind && !follows(mount);
            binds.push(if early { Some(copy(mount, users)?) } else { None });
        }
        let flags = libc::MS_REC | libc::MS_SLAVE;
        sys::mount("", "/", "", flags, "").during(|| "keep mounts apart".into())?;
        for (mount, bind) in spec.mounts.iter().zip(&mut binds) {
            if mount.kind == MountKind::Layers {
                let error = |text| format!("error mounting image at {:?}: {text}", mount.target);
                let (layers, place) = mapped_layers(&mount.layers, &mount.source, users).map_err(error)?;
                let options = lower_layers(&layers).map_err(error)?;
                sys::mount("overlay", &place, "overlay", libc::MS_RDONLY, &options.text)
                    .during(|| format!("error mounting image at {:?}", mount.target))?;
                // Its layers are mapped already.
                *bind = Some(copy(&MountSpec { source: place, ..mount.clone() }, None)?);
            }
        }
        let place = mount_layers(&spec.root, users)?;
        let root = sys::open(CWD, &place, libc::O_PATH | libc::O_DIRECTORY, 0);
        let root = root.during(|| "open root file system".into())?;
        Ok(Root { root, binds, users, owner: spec.users.first })
    }

    /// Mounts and makes what the container sees besides its image.
    pub(crate) fn fill(&self, spec: &ContainerSpec) -> Result<(), String> {
        let mut readonly = Vec::new();
        for (mount, bind) in spec.mounts.iter().zip(&self.binds) {
            let new = self
                .attach(mount, bind.as_ref())
                .map_err(|text| format!("error mounting {:?} to rootfs at {:?}: {text}", mount.source, mount.target))?;
            readonly.extend(new.filter(|_| mount.attributes & MOUNT_ATTR_RDONLY != 0));
        }
        for device in &spec.devices {
            self.device(device).map_err(|text| format!("error creating device nodes: {}: {text}", device.path))?;
        }
        for (target, path) in LINKS {
            let (folder, name) = self.parent(path)?;
            match sys::symlink(target, folder.raw(), name) {
                Ok(()) => own(folder.raw(), name, self.owner)?,
                Err(Errno(libc::EEXIST)) => {}
                Err(error) => return Err(format!("symlink {path}: {error}")),
            }
        }
        for mount in readonly {
            sys::mount_setattr(mount.raw(), MOUNT_ATTR_RDONLY, 0, false).during(|| "make mount read-only".into())?;
        }
        for path in &spec.readonly_paths {
            self.make_readonly(path).during(|| format!("make {path} read-only"))?;
        }
        for path in &spec.masked_paths {
            self.mask(path).during(|| format!("mask {path}"))?;
        }
        Ok(())
    }

    /// Makes this the root of the calling process; the machine's file system is gone from its view.
    pub(crate) fn enter(self, readonly: bool) -> Result<(), String> {
        let error = || String::from("pivot_root");
        sys::fchdir(self.root.raw()).during(error)?;
        sys::pivot_root_here().during(error)?;
        sys::unmount(".").during(error)?;
        sys::chdir("/").during(error)?;
        if readonly {
            sys::mount_setattr(self.root.raw(), MOUNT_ATTR_RDONLY, 0, false)
                .during(|| "make root file system read-only".into())?;
        }
        Ok(())
    }

    fn open(&self, path: &str, flags: i32) -> sys::Result<Fd> {
        sys::open_within(self.root.raw(), path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    }

    /// Puts a mount into its place; answers it when it is a new file system.
    fn attach(&self, mount: &MountSpec, bind: Option<&Fd>) -> Result<Option<Fd>, String> {
        let error = || String::from("mount");
        let late = if follows(mount) { Some(copy(mount, self.users)?) } else { None };
        match bind.or(late.as_ref()) {
            Some(tree) => {
                let is_folder = is_folder(tree.raw()).during(|| "stat source".into())?;
                let target = self.target(&mount.target, is_folder)?;
                sys::move_mount(tree.raw(), target.raw()).during(error)?;
                Ok(None)
            }
            None => {
                // Still writable: mount points are made in it. `fill` makes it read-only in the end.
                let new = new_file_system(mount)?;
                let mut target = self.target(&mount.target, true)?;
                if ["proc", "sysfs"].contains(&mount.source.as_str()) {
                    target = self.ordinary(mount)?;
                }
                sys::move_mount(new.raw(), target.raw()).during(error)?;
                Ok(Some(new))
            }
        }
    }

    /// Where to mount the kernel's own files. An image could link their place to where another container of the pod reaches:
    /// it would move them away before they are masked (CVE-2023-27561).
    fn ordinary(&self, mount: &MountSpec) -> Result<Fd, String> {
        let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS;
        match sys::open_within(self.root.raw(), &mount.target, libc::O_PATH | libc::O_DIRECTORY, resolve) {
            Err(Errno(libc::ELOOP)) => {
                Err(format!("filesystem {:?} must be mounted on ordinary directory", mount.source))
            }
            found => found.during(|| "open mount point".into()),
        }
    }

    /// Where to mount at `path`, made when it is absent. A link of the image that leads to nothing is followed inside.
    fn target(&self, path: &str, folder: bool) -> Result<Fd, String> {
        let mut path = String::from(path);
        for _ in 0..LINKS_MAX {
            match self.open(&path, libc::O_PATH) {
                Err(Errno(libc::ENOENT)) => {}
                found => return found.during(|| "open mount point".into()),
            }
            let (parent, name) = self.parent(&path)?;
            let made = match folder {
                true => sys::mkdir(parent.raw(), name, 0o755),
                false => {
                    sys::open(parent.raw(), name, libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW, 0o644).map(drop)
                }
            };
            if !matches!(made, Err(Errno(libc::EEXIST))) {
                made.during(|| format!("create mount point {path}"))?;
                own(parent.raw(), name, self.owner)?;
                continue;
            }
            let link = sys::read_link(parent.raw(), name).during(|| format!("create mount point {path}"))?;
            path = if link.starts_with('/') { link } else { format!("{}{link}", &path[..path.len() - name.len()]) };
        }
        Err(Errno(libc::ELOOP)).during(|| format!("create mount point {path}"))
    }

    /// The folder that `path` is in, made when it is absent, and the path's last name.
    fn parent<'a>(&self, path: &'a str) -> Result<(Fd, &'a str), String> {
        let path = path.trim_end_matches('/');
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = self.open("/", libc::O_PATH | libc::O_DIRECTORY).during(|| "open root".into())?;
        for (end, _) in folders.match_indices('/').skip(1).chain([(folders.len(), "")]) {
            let prefix = &folders[..end];
            if prefix.is_empty() {
                continue;
            }
            at = match self.open(prefix, libc::O_PATH | libc::O_DIRECTORY) {
                Err(Errno(libc::ENOENT)) => {
                    let name = prefix.rsplit('/').next().unwrap_or(prefix);
                    sys::mkdir(at.raw(), name, 0o755).during(|| format!("mkdir {prefix}"))?;
                    own(at.raw(), name, self.owner)?;
                    self.open(prefix, libc::O_PATH | libc::O_DIRECTORY)
                }
                found => found,
            }
            .during(|| format!("open {prefix}"))?;
        }
        Ok((at, name))
    }

    fn device(&self, device: &DeviceSpec) -> Result<(), String> {
        let (folder, name) = self.parent(&device.path)?;
        let number = libc::makedev(device.major, device.minor);
        match sys::mknod(folder.raw(), name, device.mode, number) {
            // Mounted there by a volume, or part of the image.
            Err(Errno(libc::EEXIST)) => return Ok(()),
            made => made.during(|| "mknod".into())?,
        }
        let [uid, gid] = [device.uid, device.gid].map(|id| self.owner.saturating_add(id));
        sys::chown(folder.raw(), name, uid, gid).during(|| "chown".into())
    }

    fn make_readonly(&self, path: &str) -> sys::Result<()> {
        let target = match self.open(path, libc::O_PATH) {
            Err(Errno(libc::ENOENT)) => return Ok(()),
            found => found?,
        };
        let tree = sys::open_tree(target.raw(), "", true)?;
        sys::mount_setattr(tree.raw(), MOUNT_ATTR_RDONLY, 0, true)?;
        sys::move_mount(tree.raw(), target.raw())
    }

    fn mask(&self, path: &str) -> sys::Result<()> {
        let target = match self.open(path, libc::O_PATH) {
            Err(Errno(libc::ENOENT)) => return Ok(()),
            found => found?,
        };
        let cover = match is_folder(target.raw())? {
            true => sys::new_mount("tmpfs", &[("size", "0"), ("nr_inodes", "1")], MOUNT_ATTR_RDONLY)?,
            false => sys::open_tree(CWD, "/dev/null", false)?,
        };
        sys::move_mount(cover.raw(), target.raw())
    }
}

/// Gives what was made in a container to its pod's first user, by the machine's number; 0 is who made it.
pub(crate) fn own(folder: i32, name: &str, owner: u32) -> Result<(), String> {
    if owner == 0 {
        return Ok(());
    }
    sys::chown(folder, name, owner, owner).during(|| format!("chown {name}"))
}

fn is_folder(file: i32) -> sys::Result<bool> {
    Ok(sys::stat(file, "")?.0 & libc::S_IFMT == libc::S_IFDIR)
}

/// Whether what the machine mounts there later is seen. By now all of the machine's mounts are followed, but a copy that hangs
/// nowhere is not told of what happens: it would not have what is mounted between its making and its place in the container.
fn follows(mount: &MountSpec) -> bool {
    mount.kind == MountKind::Bind && mount.propagation == Propagation::Slave
}

/// A detached copy of what a bind shows, with its attributes and propagation.
fn copy(mount: &MountSpec, users: Option<i32>) -> Result<Fd, String> {
    let error = || format!("error mounting {:?} to rootfs at {:?}", mount.source, mount.target);
    let mut source = sys::open(CWD, &mount.source, libc::O_PATH, 0).during(error)?;
    if !mount.below.is_empty() {
        let resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
        source = sys::open_within(source.raw(), &mount.below, libc::O_PATH, resolve).during(error)?;
    }
    let tree = sys::open_tree(source.raw(), "", true).during(error)?;
    if let Some(namespace) = users.filter(|_| mount.mapped) {
        users::map(tree.raw(), namespace).map_err(|text| format!("{}: {text}", error()))?;
    }
    let propagation = match mount.propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Shared => libc::MS_SHARED,
    };
    sys::mount_setattr(tree.raw(), 0, propagation, true).during(error)?;
    if mount.attributes != 0 {
        sys::mount_setattr(tree.raw(), mount.attributes, 0, mount.recursive).during(error)?;
    }
    Ok(tree)
}

fn new_file_system(mount: &MountSpec) -> Result<Fd, String> {
    let mut options: Vec<(&str, &str)> =
        mount.options.iter().map(|option| (option.name.as_str(), option.value.as_str())).collect();
    let kind = match mount.kind {
        MountKind::CgroupV1 => {
            options.extend(mount.source.split(',').map(|name| name.split_once('=').unwrap_or((name, ""))));
            "cgroup"
        }
        MountKind::New | MountKind::Bind | MountKind::Layers => mount.source.as_str(),
    };
    sys::new_mount(kind, &options, mount.attributes & !MOUNT_ATTR_RDONLY).during(|| format!("make file system {kind}"))
}

/// Options for an overlay file system, and the files that they name.
struct Layers {
    text: String,
    _files: Vec<Fd>,
}

fn open_layer(path: &str) -> Result<Fd, String> {
    sys::open(CWD, path, libc::O_PATH | libc::O_DIRECTORY, 0).during(|| format!("open layer {path}"))
}

/// Layers are named by open files: short enough for any number of layers in one page of options, and no secret of the
/// machine's paths is told inside.
fn lower_layers(layers: &[String]) -> Result<Layers, String> {
    let mut files = Vec::new();
    for layer in layers.iter().rev() {
        files.push(open_layer(layer)?);
    }
    let mut text = String::from("lowerdir=");
    for (index, layer) in files.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        text.push_str(&format!("{colon}/proc/self/fd/{}", layer.raw()));
    }
    Ok(Layers { text, _files: files })
}

/// Where layers are found with owners as in the namespace `users`, and where to put them together: `folder`, or one in it. The
/// mounts in between are nobody's to see once the root is entered.
fn mapped_layers(layers: &[String], folder: &str, users: Option<i32>) -> Result<(Vec<String>, String), String> {
    let Some(namespace) = users else { return Ok((layers.to_vec(), folder.into())) };
    let error = || format!("prepare {folder}");
    sys::mount("layers", folder, "tmpfs", 0, "mode=711").during(error)?;
    let mut mapped = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let tree = sys::open_tree(CWD, layer, false).during(|| format!("open layer {layer}"))?;
        users::map(tree.raw(), namespace).map_err(|text| format!("layer {layer}: {text}"))?;
        let place = format!("{folder}/{number}");
        sys::mkdir(CWD, &place, 0o700).during(error)?;
        let target = sys::open(CWD, &place, libc::O_PATH | libc::O_DIRECTORY, 0).during(error)?;
        sys::move_mount(tree.raw(), target.raw()).during(error)?;
        mapped.push(place);
    }
    let place = format!("{folder}/root");
    sys::mkdir(CWD, &place, 0o755).during(error)?;
    Ok((mapped, place))
}

/// Mounts the layers on the root's target; where that is.
fn mount_layers(root: &RootSpec, users: Option<i32>) -> Result<String, String> {
    let (layers, place) = mapped_layers(&root.layers, &root.target, users)?;
    let layers = lower_layers(&layers)?;
    let (upper, work) = (open_layer(&root.upper)?, open_layer(&root.work)?);
    let options =
        format!("volatile,{},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}", layers.text, upper.raw(), work.raw());
    sys::mount("overlay", &place, "overlay", 0, &options).during(|| "error mounting image layers".into())?;
    Ok(place)
}
