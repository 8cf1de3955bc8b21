//! Plants each bug of `crates/sim/planted` in a copy of the workspace, and expects the simulation to find it by name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::place;

/// Seeds that are played with each bug at most; whoever needs more for one is not looking where it is.
const SEEDS: &str = "60";
/// What of the workspace a simulation cannot be built without. Programs of its members are not built.
const COPIED: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "clippy.toml", "crates", "examples", "rustfmt.toml", "tests", "xtask", ".cargo"];

/// A bug and the invariant that it breaks.
struct Bug {
    name: String,
    invariant: String,
    patch: PathBuf,
}

fn bugs(root: &Path) -> anyhow::Result<Vec<Bug>> {
    let folder = root.join("crates/sim/planted");
    let list = folder.join("list.txt");
    let list = std::fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let bug = |line: &str| {
        let (name, invariant) = line.split_once(' ').with_context(|| format!("list.txt: {line:?}"))?;
        let patch = folder.join(format!("{name}.patch"));
        Ok(Bug { name: name.to_owned(), invariant: invariant.to_owned(), patch })
    };
    lines.map(bug).collect()
}

/// Checks that each bug can still be planted: cheap, and the first to fail when what it is planted in changes.
pub fn check(root: &Path) -> anyhow::Result<()> {
    for bug in bugs(root)? {
        place::run(Command::new("git").args(["apply", "--check"]).arg(&bug.patch).current_dir(root))?;
    }
    Ok(())
}

/// Plants each bug of the list, or only one, and says whether the simulation finds it.
pub fn run(root: &Path, only: Option<&str>) -> anyhow::Result<()> {
    let copy = Copy::of(root)?;
    let mut missed = Vec::new();
    for Bug { name, invariant, patch } in bugs(root)? {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let begun = stdx::mono();
        copy.apply(&patch, &[])?;
        let found = copy.find(&invariant).with_context(|| format!("play with {name}"));
        // Taken out again rather than copied anew: what is built follows the times of files.
        copy.apply(&patch, &["--reverse"])?;
        let said = found?;
        println!("{name}: {} [{} s]", said.as_deref().unwrap_or("NOT FOUND"), (stdx::mono() - begun).as_secs());
        if said.is_none() {
            missed.push(name);
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("the simulation does not find {}", missed.join(", ")) }
}

/// A copy of the sources. It stays, so that the next run builds only what changed since.
struct Copy(PathBuf);

impl Copy {
    fn of(root: &Path) -> anyhow::Result<Copy> {
        let copy = Copy(place::target().join("planted"));
        std::fs::create_dir_all(&copy.0).with_context(|| format!("create {}", copy.0.display()))?;
        for name in COPIED.iter().filter(|name| root.join(name).exists()) {
            mirror(&root.join(name), &copy.0.join(name))?;
        }
        Ok(copy)
    }

    fn apply(&self, patch: &Path, more: &[&str]) -> anyhow::Result<()> {
        // Outside of any repository, `git apply` is a better `patch`.
        let applied = Command::new("git")
            .arg("apply")
            .args(more)
            .arg(patch)
            .current_dir(&self.0)
            .env("GIT_CEILING_DIRECTORIES", place::target())
            .status()
            .context("run git")?;
        if !applied.success() {
            bail!("{} does not apply", patch.display());
        }
        Ok(())
    }

    /// How the simulation of this copy tells that the invariant is broken; nothing when it does not.
    fn find(&self, invariant: &str) -> anyhow::Result<Option<String>> {
        let mut run = place::cargo();
        run.current_dir(&self.0).args(["run", "--quiet", "--locked", "--package", "sim", "--"]);
        // Others' crates are optimized anyway; of ours, only this much pays. To cargo the copy's crates are the workspace's
        // own, so whoever builds those at the same level in the same target directory may get a bug that was planted.
        run.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        run.args(["--seeds", SEEDS, "--once", "--find", invariant]);
        let played = run.stderr(std::process::Stdio::inherit()).output().context("run the simulation")?;
        let text = String::from_utf8_lossy(&played.stdout);
        if !text.lines().any(|line| line.contains(" seeds, ")) {
            bail!("the simulation was not built, or did not end");
        }
        // `seed 7: ceiling: 6 pods, at most 5: …`
        let mark = format!(": {invariant}: ");
        let told = |line: &&str| line.starts_with("seed ") && line.contains(&mark);
        Ok(text.lines().find(told).map(|line| line.split(" [").next().unwrap_or(line).to_owned()))
    }
}

/// Makes `to` what `from` is, touching nothing that is so already.
fn mirror(from: &Path, to: &Path) -> anyhow::Result<()> {
    let told = || format!("copy {} to {}", from.display(), to.display());
    if !from.is_dir() {
        let wanted = std::fs::read(from).with_context(told)?;
        if std::fs::read(to).ok().as_ref() != Some(&wanted) {
            std::fs::write(to, wanted).with_context(told)?;
        }
        return Ok(());
    }
    std::fs::create_dir_all(to).with_context(told)?;
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(from).with_context(told)? {
        let name = entry.with_context(told)?.file_name();
        if name != "target" {
            mirror(&from.join(&name), &to.join(&name))?;
            names.insert(name);
        }
    }
    for entry in std::fs::read_dir(to).with_context(told)? {
        let entry = entry.with_context(told)?;
        if names.contains(&entry.file_name()) {
            continue;
        }
        let stale = entry.path();
        let removed = if stale.is_dir() { std::fs::remove_dir_all(&stale) } else { std::fs::remove_file(&stale) };
        removed.with_context(|| format!("remove {}", stale.display()))?;
    }
    Ok(())
}
