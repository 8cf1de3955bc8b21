//! `cargo xtask example`: build, pack, load, `isopod up` with the example's files.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use runtime::image::ImageConfig;
use runtime::image::pack::{PackEntry, PackSpec, pack};

use crate::place;
use crate::release::{self, Release};

/// The image that the example's manifest names.
pub const IMAGE: &str = "my-registry/api:v1.2.3";

/// Runs the example in place of this process.
pub fn run(options: &[String]) -> Result<()> {
    let release = release::build()?;
    let archive = archive(&release, IMAGE)?;
    let mut load = Command::new(&release.isopod);
    load.args(["image", "load"]).args(data_dir(options)).arg(&archive);
    place::run(&mut load)?;
    let files = place::root().join("examples");
    let mut up = Command::new(&release.isopod);
    up.args(["up", "-n", "production", "-f"]).arg(files.join("namespace.yaml"));
    up.arg("-f").arg(files.join("deployment.yaml")).args(options);
    Err(up.exec()).with_context(|| format!("run {}", release.isopod.display()))
}

/// Packs the example's server as an image of that name; returns the archive.
pub fn archive(release: &Release, name: &str) -> Result<PathBuf> {
    let server = std::fs::read(&release.example).with_context(|| format!("read {}", release.example.display()))?;
    let spec = PackSpec {
        name: name.into(),
        config: ImageConfig { entrypoint: vec!["/api".into()], ..ImageConfig::default() },
        entries: vec![PackEntry::file("/api", 0o755, server)],
    };
    let file = name.replace(['/', ':'], "-") + ".tar";
    write(&file, &pack(&spec)?)
}

/// Packs Debian's static busybox as an image, for tests that need a shell.
pub fn busybox() -> Result<PathBuf> {
    let busybox = std::fs::read("/bin/busybox").context("read /bin/busybox, of the package busybox-static")?;
    let applets = Command::new("/bin/busybox").arg("--list").output().context("run /bin/busybox")?.stdout;
    let applets = String::from_utf8(applets).context("busybox lists its applets")?;
    // A user with a group that only the image knows of.
    let users = "root:x:0:0::/:/bin/sh\ntold:x:1234:1234::/:/bin/sh\n";
    let groups = "root:x:0:\ntold:x:1234:\nextra:x:4321:told\n";
    let mut entries = vec![
        PackEntry::file("/bin/busybox", 0o755, busybox),
        PackEntry::file("/etc/group", 0o644, groups),
        PackEntry::file("/etc/passwd", 0o644, users),
        PackEntry::folder("/tmp", 0o1777),
    ];
    let links = applets.lines().filter(|name| *name != "busybox");
    entries.extend(links.map(|name| PackEntry::link(format!("/bin/{name}"), "busybox")));
    let path = "PATH=/bin".to_owned();
    let spec = PackSpec {
        name: "busybox:test".into(),
        config: ImageConfig { cmd: vec!["/bin/sh".into()], env: vec![path], ..ImageConfig::default() },
        entries,
    };
    write("busybox.tar", &pack(&spec)?)
}

/// Packs an image that does nothing, for the sandboxes of other runtimes than the built-in one.
pub fn pause() -> Result<PathBuf> {
    let busybox = std::fs::read("/bin/busybox").context("read /bin/busybox, of the package busybox-static")?;
    let spec = PackSpec {
        name: "pause:test".into(),
        config: ImageConfig {
            entrypoint: vec!["/busybox".into(), "sleep".into(), i32::MAX.to_string()],
            ..ImageConfig::default()
        },
        entries: vec![PackEntry::file("/busybox", 0o755, busybox)],
    };
    write("pause.tar", &pack(&spec)?)
}

/// Packs a kubectl with a shell around it, as a client in a pod.
pub fn kubectl(kubectl: &Path) -> Result<PathBuf> {
    let program = std::fs::read(kubectl).with_context(|| format!("read {}", kubectl.display()))?;
    let shell = std::fs::read("/bin/busybox").context("read /bin/busybox, of the package busybox-static")?;
    let entries = vec![
        PackEntry::file("/bin/kubectl", 0o755, program),
        PackEntry::file("/bin/sh", 0o755, shell),
        PackEntry::link("/bin/cat", "sh"),
        PackEntry::link("/bin/sleep", "sh"),
        PackEntry::folder("/tmp", 0o1777),
    ];
    let config = ImageConfig { cmd: vec!["/bin/sh".into()], env: vec!["PATH=/bin".into()], ..ImageConfig::default() };
    write("kubectl.tar", &pack(&PackSpec { name: "kubectl:test".into(), config, entries })?)
}

fn write(file: &str, bytes: &[u8]) -> Result<PathBuf> {
    let folder = place::cache().join("images");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(file);
    std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The options that say which cluster is meant.
fn data_dir(options: &[String]) -> Vec<&String> {
    let is_it = |option: &String| option == "--data-dir" || option.starts_with("--data-dir=");
    let Some(at) = options.iter().position(is_it) else { return Vec::new() };
    let words = if options[at].contains('=') { 1 } else { 2 };
    options[at..].iter().take(words).collect()
}
