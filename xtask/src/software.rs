//! Images of real software, made of Debian's packages: what people run on a cluster, as they would get it.
//!
//! The packages and what they depend on are downloaded and unpacked, never installed: none of their scripts runs.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use runtime::image::ImageConfig;
use runtime::image::pack::{PackContent, PackEntry, PackSpec, pack};
use tar::EntryType;

use crate::{place, tools};

/// How an image is made. Whoever changes one counts `edition` up: made images are kept.
struct Recipe {
    name: &'static str,
    edition: u32,
    packages: &'static [&'static str],
    /// Users besides root, each with a group of the same number and name.
    users: &'static [(&'static str, u32)],
    /// Folders that the packages' scripts would make: whose they are.
    folders: &'static [(&'static str, u32)],
    path: &'static str,
}

const BIN: &str = "/usr/sbin:/usr/bin";

/// The images, each with the variable by which tests find its archive.
const RECIPES: &[(&str, Recipe)] = &[
    (
        "ISOPOD_NGINX_IMAGE",
        Recipe {
            name: "nginx",
            edition: 1,
            packages: &["nginx-light", "dash", "coreutils"],
            users: &[("www-data", 33)],
            folders: &[("/var/log/nginx", 33), ("/var/lib/nginx", 33)],
            path: BIN,
        },
    ),
    (
        "ISOPOD_REDIS_IMAGE",
        Recipe {
            name: "redis",
            edition: 1,
            packages: &["redis-server", "dash", "coreutils"],
            users: &[("redis", 999)],
            folders: &[("/data", 999)],
            path: BIN,
        },
    ),
    (
        "ISOPOD_POSTGRES_IMAGE",
        Recipe {
            name: "postgres",
            edition: 1,
            packages: &["postgresql-15", "dash", "coreutils"],
            users: &[("postgres", 999)],
            folders: &[("/var/lib/postgresql", 999), ("/var/run/postgresql", 999)],
            path: "/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin",
        },
    ),
];

/// Packages that others name as needed but that no server here uses while it runs: what installs and configures, and
/// the compiler of PostgreSQL's queries, which goes without.
const UNUSED: &[&str] = &[
    "adduser_",
    "debconf_",
    "dpkg_",
    "iproute2_",
    "libc-l10n_",
    "libllvm",
    "libperl",
    "libz3-",
    "locales_",
    "passwd_",
    "perl",
    "postgresql-client-common_",
    "postgresql-common_",
    "ssl-cert_",
    "tar_",
];

/// What only people and compilers read.
const UNREAD: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/bug",
    "usr/share/i18n",
    "usr/share/bash-completion",
    "usr/share/postgresql/15/man",
    "usr/lib/postgresql/15/lib/bitcode",
    "usr/lib/postgresql/15/lib/llvmjit.so",
    "usr/lib/postgresql/15/lib/llvmjit_types.bc",
    "usr/lib/x86_64-linux-gnu/gconv",
];

/// Every image as an archive, with the variable by which tests find it.
pub fn archives() -> Result<Vec<(&'static str, PathBuf)>> {
    RECIPES.iter().map(|(variable, recipe)| Ok((*variable, recipe.archive()?))).collect()
}

/// Says where they are, for a shell.
pub fn print() -> Result<()> {
    archives()?.iter().for_each(|(variable, path)| println!("export {variable}={}", path.display()));
    Ok(())
}

impl Recipe {
    /// The image's archive, made unless it is there.
    fn archive(&self) -> Result<PathBuf> {
        let folder = place::cache().join("images");
        let path = folder.join(format!("{}-{}.tar", self.name, self.edition));
        if path.exists() {
            return Ok(path);
        }
        let made = self.pack().with_context(|| format!("make an image of {}", self.name))?;
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        // Whole or not at all: what is there is taken for complete the next time.
        let partial = folder.join(format!(".{}-{}", self.name, std::process::id()));
        std::fs::write(&partial, &made).with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, &path).with_context(|| format!("move {}", path.display()))?;
        Ok(path)
    }

    fn pack(&self) -> Result<Vec<u8>> {
        let downloads = tools::Folder::new(self.name)?;
        download(self.packages, &downloads)?;
        let mut files = Files::default();
        for package in packages(&downloads)? {
            files.add(&package).with_context(|| format!("read {}", package.display()))?;
        }
        self.complete(&mut files);
        let config = ImageConfig { env: vec![format!("PATH={}", self.path)], ..ImageConfig::default() };
        let spec = PackSpec { name: format!("{}:test", self.name), config, entries: files.0.into_values().collect() };
        Ok(pack(&spec)?)
    }

    /// What scripts of the packages would have made.
    fn complete(&self, files: &mut Files) {
        let users = || [("root", 0)].into_iter().chain(self.users.iter().copied());
        let passwd: String = users().map(|(name, id)| format!("{name}:x:{id}:{id}::/:/bin/sh\n")).collect();
        let group: String = users().map(|(name, id)| format!("{name}:x:{id}:\n")).collect();
        files.put(PackEntry::file("etc/passwd", 0o644, passwd));
        files.put(PackEntry::file("etc/group", 0o644, group));
        files.put(PackEntry::folder("tmp", 0o1777));
        // One tree of programs, as Debian has it.
        for name in ["bin", "sbin", "lib", "lib64"] {
            files.put(PackEntry::link(name, format!("usr/{name}")));
        }
        files.put(PackEntry::link("usr/bin/sh", "dash"));
        for (path, owner) in self.folders {
            let folder = PackEntry { owner: (*owner, *owner), ..PackEntry::folder(path.trim_matches('/'), 0o755) };
            files.put(folder);
        }
    }
}

/// Downloads packages and all that they need, as if nothing were installed; Debian's tools check the signatures.
fn download(packages: &[&str], to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.join("archives/partial")).context("make a folder for packages")?;
    std::fs::write(to.join("status"), "").context("make an empty list of installed packages")?;
    let option = |name: &str, path: &str| format!("{name}={}", to.join(path).display());
    let mut get = Command::new("apt-get");
    get.args(["install", "--yes", "--quiet=2", "--no-install-recommends", "--download-only"]);
    get.args(["-o", &option("Dir::State::status", "status"), "-o", &option("Dir::Cache::archives", "archives")]);
    get.args(["-o", "APT::Sandbox::User=root"]).args(packages);
    if place::run(&mut get).is_ok() {
        return Ok(());
    }
    // Lists that are absent, or older than what the mirror still has.
    place::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    place::run(&mut get)
}

/// The downloaded packages that the image is made of, in a fixed order.
fn packages(downloads: &Path) -> Result<Vec<PathBuf>> {
    let folder = downloads.join("archives");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".deb") && !UNUSED.iter().any(|unused| name.starts_with(unused)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// An image's files by path.
#[derive(Default)]
struct Files(BTreeMap<String, PackEntry>);

impl Files {
    fn put(&mut self, entry: PackEntry) {
        self.0.insert(entry.path.clone(), entry);
    }

    /// Puts in what a package holds.
    fn add(&mut self, package: &Path) -> Result<()> {
        let output = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).output().context("run dpkg-deb")?;
        if !output.status.success() {
            bail!("dpkg-deb: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut archive = tar::Archive::new(output.stdout.as_slice());
        for entry in archive.entries()? {
            let mut entry = entry?;
            let Some(path) = placed(&entry.path()?.to_string_lossy()) else { continue };
            let header = entry.header();
            let (mode, owner) = (header.mode()?, (u32::try_from(header.uid()?)?, u32::try_from(header.gid()?)?));
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            let content = match (header.entry_type(), target) {
                (EntryType::Directory, _) => PackContent::Folder,
                (EntryType::Symlink, Some(target)) => PackContent::Link(target),
                (EntryType::Link, Some(target)) => self.linked(&target)?,
                (EntryType::Regular, _) => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content)?;
                    PackContent::File(content)
                }
                (other, _) => bail!("{path} is {other:?}"),
            };
            self.put(PackEntry { path, mode, owner, content });
        }
        Ok(())
    }

    /// What a hard link stands for: images made here have none, and get a copy.
    fn linked(&self, target: &str) -> Result<PackContent> {
        let known = placed(target).and_then(|path| self.0.get(&path));
        Ok(known.with_context(|| format!("{target} is linked to before it is there"))?.content.clone())
    }
}

/// Where a package's file lies in an image; `None` for what is left out.
fn placed(path: &str) -> Option<String> {
    let path = path.trim_start_matches("./").trim_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    let path = if ["bin", "sbin", "lib", "lib64"].contains(&top) { format!("usr/{path}") } else { path.to_owned() };
    let unread = |folder: &&str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (!path.is_empty() && !UNREAD.iter().any(unread)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_in_one_tree_without_what_is_only_read() {
        let check = |path, expected: Option<&str>| assert_eq!(placed(path).as_deref(), expected, "{path}");
        check("./", None);
        check("./bin/dash", Some("usr/bin/dash"));
        check("./lib64/ld-linux-x86-64.so.2", Some("usr/lib64/ld-linux-x86-64.so.2"));
        check("./library/x", Some("library/x"));
        check("./usr/share/doc/dash/copyright", None);
        check("./usr/share/docs", Some("usr/share/docs"));
    }
}
