//! `cargo xtask codegen`: derives the schema table from the crates that carry its facts.
//!
//! Numbers, types and list and patch markers come from the sources of `k8s-pb`, JSON names and kinds from those of `k8s-openapi`, and
//! what neither has (presence, named Go types, enums, what is newer than `k8s-pb`) from `overlay.txt` beside the table.

mod definitions;
mod emit;
mod messages;
mod overlay;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The API level: the feature of `k8s-openapi` and what the table says of itself.
const LEVEL: &str = "1.36";

/// Writes the table.
pub(crate) fn run() -> Result<()> {
    let path = schema_folder().join("table.txt");
    std::fs::write(&path, table()?).with_context(|| format!("write {}", path.display()))
}

/// Fails if the checked-in table is not what its sources make.
pub(crate) fn check() -> Result<()> {
    let path = schema_folder().join("table.txt");
    let found = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let expected = table()?;
    if let Some((line, _)) =
        found.lines().zip(expected.lines()).enumerate().find(|(_, (found, expected))| found != expected)
    {
        bail!("{}:{}: not what `cargo xtask codegen` writes", path.display(), line + 1);
    }
    if found.len() != expected.len() {
        bail!("{}: not as long as what `cargo xtask codegen` writes", path.display());
    }
    Ok(())
}

fn table() -> Result<String> {
    let sources = Sources::locate()?;
    let path = schema_folder().join("overlay.txt");
    let overlay = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let overlay = overlay::parse(&overlay)?;
    let definitions =
        definitions::read(&sources.k8s_openapi.join("src").join(format!("v{}", LEVEL.replace('.', "_"))))?;
    let messages = messages::read(&sources.k8s_pb.join("src"))?;
    emit::table(messages, definitions, overlay)
}

fn schema_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/api/src/schema")
}

/// Where cargo has unpacked the dependencies that are read.
struct Sources {
    k8s_pb: PathBuf,
    k8s_openapi: PathBuf,
}

impl Sources {
    fn locate() -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
            .output()
            .context("run cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("parse cargo metadata")?;
        let folder = |name: &str| -> Result<PathBuf> {
            let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
            let package = packages.iter().find(|package| package["name"] == name);
            let manifest = package
                .and_then(|package| package["manifest_path"].as_str())
                .with_context(|| format!("find {name}"))?;
            Ok(Path::new(manifest).parent().context("a manifest lies in a folder")?.to_owned())
        };
        Ok(Self { k8s_pb: folder("k8s-pb")?, k8s_openapi: folder("k8s-openapi")? })
    }
}

/// Every file below a folder, in a fixed order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// A name without what differs between Go, JSON, protobuf and Rust spellings.
fn normalised(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_').map(|letter| letter.to_ascii_lowercase()).collect()
}
