//! Plants each bug of `crates/sim/planted` in a copy of the workspace, and expects the simulation to find it by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// A planted bug breaks its invariant in some of so many seeds.
const SEEDS: &str = "60";
/// What a copy does without.
const LEFT_OUT: [&str; 2] = [".git", "target"];

/// Plants all bugs, or the one of this name.
pub fn run(root: &Path, only: Option<&str>) -> anyhow::Result<()> {
    let list = root.join("crates/sim/planted/list.txt");
    let list = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let mut missed = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, invariant) = line.split_once(' ').with_context(|| format!("list.txt: {line:?}"))?;
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let found = found(root, name, invariant).with_context(|| format!("plant {name}"))?;
        println!("{name}: {invariant} {}", if found { "breaks, as it must" } else { "HOLDS" });
        if !found {
            missed.push(name);
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("the simulation does not find {}", missed.join(", ")) }
}

/// Whether the simulation of the workspace with this patch breaks the invariant.
fn found(root: &Path, name: &str, invariant: &str) -> anyhow::Result<bool> {
    let copy = Copy::of(root)?;
    let patch = root.join("crates/sim/planted").join(format!("{name}.patch"));
    let applied = Command::new("git").args(["apply", "--unsafe-paths", "--directory"]).arg(&copy.0).arg(&patch).current_dir("/").status();
    if !applied.context("run git")?.success() {
        bail!("{} does not apply", patch.display());
    }
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--package", "sim"]).current_dir(&copy.0).status();
    if !built.context("run cargo")?.success() {
        bail!("the workspace does not compile with {}", patch.display());
    }
    let played = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--package", "sim", "--", "--seeds", SEEDS])
        .current_dir(&copy.0)
        .stderr(Stdio::null())
        .output()
        .context("run the simulation")?;
    let text = String::from_utf8_lossy(&played.stdout);
    let marks = format!(": {invariant}: ");
    Ok(text.lines().any(|line| line.starts_with("seed ") && line.contains(&marks)))
}

/// A copy of the sources; gone after use.
struct Copy(PathBuf);

impl Copy {
    fn of(root: &Path) -> anyhow::Result<Copy> {
        // Always at the same place, so that what is built there is built once for all bugs.
        let copy = Copy(std::env::temp_dir().join("isopod-planted"));
        remove(&copy.0)?;
        std::fs::create_dir_all(&copy.0)?;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let copied = Command::new("cp").arg("-a").arg(entry.path()).arg(&copy.0).status().context("run cp")?;
            if !copied.success() {
                bail!("{} cannot be copied", entry.path().display());
            }
        }
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
