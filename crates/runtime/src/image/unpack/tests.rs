//! Layers against a real file system: what must come out, and what must not get out.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;
use crate::image::testing::{Folder, Tar};

struct Case {
    folder: Folder,
    layers: Vec<PathBuf>,
}

impl Case {
    fn new() -> Self {
        let folder = Folder::new("unpack");
        fs::create_dir(folder.path().join("outside")).unwrap();
        fs::write(folder.path().join("outside/victim"), "untouched").unwrap();
        Case { folder, layers: Vec::new() }
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// Unpacks one more layer on top of those before.
    fn unpack(&mut self, tar: &Tar) -> Result<PathBuf, UnpackError> {
        self.unpack_limited(tar, LayerLimits::default())
    }

    fn unpack_limited(&mut self, tar: &Tar, limits: LayerLimits) -> Result<PathBuf, UnpackError> {
        let target = self.folder.path().join(format!("layer-{}", self.layers.len()));
        fs::create_dir(&target).unwrap();
        let parents: Vec<PathBuf> = self.layers.iter().rev().cloned().collect();
        let bytes = tar.bytes();
        let digest = unpack(bytes.as_slice(), &target, &parents, limits)?;
        assert_eq!(digest, Digest::of(&bytes));
        self.layers.push(target.clone());
        Ok(target)
    }
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    matches!(rustix::fs::lgetxattr(path, OPAQUE_XATTR, &mut value[..]), Ok(1) if value[0] == b'y')
}

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_char_device() && file.rdev() == 0)
}

#[test]
fn keeps_everything_an_entry_says() {
    let mut case = Case::new();
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00";
    let tar = Tar::default()
        .folder("./", 0o755)
        .owned((7, 8))
        .folder("d", 0o1777)
        .file("d/f", 0o4755, b"content")
        .owned((1000, 1001))
        .file("d/capable", 0o755, b"")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("SCHILY.xattr.user.note", b"n")])
        .symlink("d/s", "/anywhere/at/all")
        .hardlink("d/h", "d/f")
        .fifo("d/p", 0o600)
        .device("d/null", 0o666, (1, 3))
        .file("d/trusted", 0o644, b"")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")]);
    let root = case.unpack(&tar).unwrap();
    let stat = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!((stat("").uid(), stat("").gid()), (7, 8));
    assert_eq!(stat("d").permissions().mode() & 0o7777, 0o1777);
    let file = stat("d/f");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777, file.nlink()), (1000, 1001, 0o4755, 2));
    assert_eq!(fs::read(root.join("d/h")).unwrap(), b"content");
    assert_eq!((stat("d").mtime(), file.mtime(), stat("d/s").mtime()), (Tar::MTIME, Tar::MTIME, Tar::MTIME));
    assert_eq!(fs::read_link(root.join("d/s")).unwrap(), Path::new("/anywhere/at/all"));
    assert!(stat("d/p").file_type().is_fifo());
    assert!(stat("d/null").file_type().is_char_device());
    assert_eq!(stat("d/null").rdev(), rustix::fs::makedev(1, 3));
    let mut value = [0; 64];
    let count = rustix::fs::getxattr(root.join("d/capable"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..count], capability);
    assert_eq!(rustix::fs::getxattr(root.join("d/capable"), "user.note", &mut value[..]), Ok(1));
    let redirect = rustix::fs::getxattr(root.join("d/trusted"), "trusted.overlay.redirect", &mut value[..]);
    assert_eq!(redirect, Err(Errno::NODATA));
}

#[test]
fn lets_nothing_out_of_the_layer() {
    let mut case = Case::new();
    let outside = case.outside();
    let victim = outside.join("victim").display().to_string();
    let up = format!("{}outside", "../".repeat(30));
    let folder = outside.display().to_string();
    for (name, tar) in [
        ("parent", Tar::default().file("../outside/victim", 0o644, b"evil")),
        ("far parent", Tar::default().file(&format!("{up}/victim"), 0o644, b"evil")),
        ("inner parent", Tar::default().folder("a", 0o755).file("a/../../outside/victim", 0o644, b"evil")),
        ("absolute", Tar::default().file(&victim, 0o644, b"evil")),
        ("through absolute link", Tar::default().symlink("l", &folder).file("l/victim", 0o644, b"evil")),
        ("through relative link", Tar::default().symlink("l", &up).file("l/victim", 0o644, b"evil")),
        (
            "through link of a link",
            Tar::default().symlink("a", "..").symlink("b", "a/../outside").file("b/victim", 0o644, b"evil"),
        ),
        ("over a link", Tar::default().symlink("l", &victim).file("l", 0o644, b"evil")),
        (
            "folder over a link",
            Tar::default().symlink("l", &folder).folder("l", 0o777).file("l/victim", 0o644, b"evil"),
        ),
        ("whiteout through a link", Tar::default().symlink("l", &folder).file("l/.wh.victim", 0o644, b"")),
        ("opaque through a link", Tar::default().symlink("l", &folder).file("l/.wh..wh..opq", 0o644, b"")),
    ] {
        let root = case.unpack(&tar).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched", "{name}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{name}");
        assert!(!is_opaque(&outside), "{name}");
        assert!(fs::read_dir(root).unwrap().count() > 0, "{name}");
    }
}

#[test]
fn refuses_what_cannot_be_right() {
    let mut case = Case::new();
    let victim = case.outside().join("victim").display().to_string();
    let few = LayerLimits { entries_max: 2, ..LayerLimits::default() };
    let small = LayerLimits { bytes_max: 4096, ..LayerLimits::default() };
    let all = LayerLimits::default();
    let many = Tar::default().folder("a", 0o755).folder("b", 0o755).folder("c", 0o755);
    for (tar, limits, expected) in [
        (Tar::default().hardlink("h", &victim), all, "link \"h\": No such file or directory"),
        (Tar::default().symlink("l", "/").hardlink("h", &format!("l{victim}")), all, "link \"h\": No such file"),
        (
            Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", 0o644, b""),
            all,
            "Too many levels of symbolic",
        ),
        (Tar::default().file("f", 0o644, b"").file("f/x", 0o644, b""), all, "Not a directory"),
        (Tar::default().file("./", 0o644, b""), all, "only a folder can be the root"),
        (Tar::default().file(".wh.", 0o644, b""), all, "whiteout of no name"),
        (Tar::default().file("d/.wh...", 0o644, b""), all, "whiteout of no name"),
        (Tar::default().pax_file("x", &[("path", b"a\0b")]), all, "name holds a zero byte"),
        (Tar::default().pax_file("x", &[("path", &[b'a'; 5000])]), all, "name is too long"),
        (Tar::default().pax_file("x", &[("path", &[b'a'; 300])]), all, "File name too long"),
        (many, few, "layer holds more than 2 entries"),
        (Tar::default().file("f", 0o644, &[0; 10_000]), small, "more than 4096 bytes"),
    ] {
        // The bytes limit strikes while the archive reader reads.
        let error = case.unpack_limited(&tar, limits).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} where {expected} was expected");
        fs::remove_dir_all(case.folder.path().join(format!("layer-{}", case.layers.len()))).unwrap();
    }
    assert_eq!(fs::metadata(case.outside().join("victim")).unwrap().nlink(), 1);
}

#[test]
fn translates_whiteouts_and_never_applies_them_to_its_own_layer() {
    let mut case = Case::new();
    let tar = Tar::default()
        .folder("d", 0o755)
        .file("d/.wh.gone", 0o644, b"")
        .folder("o", 0o755)
        .file("o/new", 0o644, b"")
        .file("o/.wh..wh..opq", 0o644, b"")
        // A name that is hidden and made anew, in both orders.
        .file(".wh.first", 0o644, b"")
        .folder("first", 0o755)
        .folder("second", 0o755)
        .file(".wh.second", 0o644, b"")
        .file("kept", 0o644, b"mine")
        .file(".wh.kept", 0o644, b"")
        .file(".wh..wh.plnk", 0o644, b"");
    let root = case.unpack(&tar).unwrap();
    assert!(is_whiteout(&root.join("d/gone")));
    assert!(is_opaque(&root.join("o")) && root.join("o/new").exists());
    assert!(is_opaque(&root.join("first")) && is_opaque(&root.join("second")));
    assert!(!is_opaque(&root.join("d")));
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"mine");
    let mut names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["d", "first", "kept", "o", "second"]);
}

#[test]
fn lets_later_entries_replace_earlier_ones() {
    let mut case = Case::new();
    let tar = Tar::default()
        .folder("a", 0o755)
        .file("a/deep", 0o644, b"")
        .file("a", 0o644, b"now a file")
        .file("b", 0o644, b"")
        .folder("b", 0o755)
        .file("b/inner", 0o644, b"x")
        .folder("b", 0o700)
        .symlink("c", "b")
        .file("c", 0o644, b"now a file");
    let root = case.unpack(&tar).unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"now a file");
    assert_eq!(fs::read(root.join("b/inner")).unwrap(), b"x");
    assert_eq!(fs::metadata(root.join("b")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read(root.join("c")).unwrap(), b"now a file");
}

#[test]
fn gives_left_out_folders_what_they_have_below() {
    let mut case = Case::new();
    let below = Tar::default().folder("tmp", 0o1777).owned((3, 4)).folder("gone", 0o711).folder("gone/x", 0o711);
    case.unpack(&below).unwrap();
    case.unpack(&Tar::default().file(".wh.gone", 0o644, b"")).unwrap();
    let root = case
        .unpack(&Tar::default().file("tmp/f", 0o644, b"").file("gone/x/f", 0o644, b"").file("fresh/f", 0o644, b""))
        .unwrap();
    let stat = |path: &str| fs::metadata(root.join(path)).unwrap();
    assert_eq!((stat("tmp").mode() & 0o7777, stat("tmp").uid(), stat("tmp").gid()), (0o1777, 3, 4));
    assert_eq!((stat("gone/x").mode() & 0o7777, stat("fresh").mode() & 0o7777), (0o755, 0o755));
}

#[test]
fn follows_links_to_folders_of_the_layers_below() {
    let mut case = Case::new();
    case.unpack(&Tar::default().folder("usr", 0o755).folder("usr/lib", 0o750)).unwrap();
    let root = case.unpack(&Tar::default().symlink("lib", "usr/lib").file("lib/x", 0o644, b"x")).unwrap();
    assert!(root.join("lib").is_symlink());
    assert_eq!(fs::read(root.join("usr/lib/x")).unwrap(), b"x");
    assert_eq!(fs::metadata(root.join("usr/lib")).unwrap().mode() & 0o777, 0o750);
}

/// The kernel's own view of what was unpacked.
#[test]
fn is_understood_by_overlayfs() {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("the test mounted it");
        }
    }
    let mut case = Case::new();
    let below = Tar::default()
        .folder("d", 0o755)
        .file("d/gone", 0o644, b"")
        .file("d/stays", 0o644, b"")
        .folder("o", 0o755)
        .file("o/old", 0o644, b"")
        .folder("again", 0o755)
        .file("again/old", 0o644, b"");
    case.unpack(&below).unwrap();
    let above = Tar::default()
        .file("d/.wh.gone", 0o644, b"")
        .file("d/new", 0o644, b"")
        .file("o/.wh..wh..opq", 0o644, b"")
        .file("o/new", 0o644, b"")
        .file(".wh.again", 0o644, b"")
        .folder("again", 0o755)
        .file("again/new", 0o644, b"");
    case.unpack(&above).unwrap();
    let merged = case.folder.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let lower: Vec<String> = case.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let data = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("overlay", &merged, "overlay", flags, data.as_c_str()).expect("the kernel has overlayfs");
    let _mounted = Mounted(merged.clone());
    let names = |path: &str| {
        let mut names: Vec<String> = fs::read_dir(merged.join(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("d"), ["new", "stays"]);
    assert_eq!(names("o"), ["new"]);
    assert_eq!(names("again"), ["new"]);
}
