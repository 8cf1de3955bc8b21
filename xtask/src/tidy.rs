//! Checks what no compiler checks: layers, module docs, function lengths, banned names, paths in documents.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Crates by layer, with what each may depend on inside the workspace. An arrow points down, and two crates of layer 4
/// never name one another; only the API server and the composing crates name `store` and `resources`.
const EDGES: &[(&str, &[&str])] = &[
    ("stdx", &[]),
    ("shim", &[]),
    ("api", &["stdx"]),
    ("wire", &["stdx"]),
    ("resources", &["stdx", "api"]),
    ("store", &["stdx"]),
    ("pki", &["stdx"]),
    ("client", &["stdx", "api", "wire"]),
    ("cri", &["stdx", "wire"]),
    ("cni", &["stdx"]),
    ("reconcile", &["stdx", "api", "client"]),
    ("apiserver", &["stdx", "api", "wire", "resources", "store", "pki", "client"]),
    ("controllers", &["stdx", "api", "client", "reconcile"]),
    ("scheduler", &["stdx", "api", "client", "reconcile"]),
    ("runtime", &["stdx", "shim", "wire", "cri", "cni"]),
    ("node", &["stdx", "api", "wire", "client", "cri", "reconcile"]),
    ("net", &["stdx", "api", "client", "cni"]),
    ("cli", &["stdx", "api", "wire", "client", "pki"]),
    (
        "isopod",
        &[
            "stdx",
            "api",
            "wire",
            "store",
            "resources",
            "pki",
            "client",
            "cri",
            "cni",
            "reconcile",
            "apiserver",
            "controllers",
            "scheduler",
            "runtime",
            "node",
            "net",
            "cli",
        ],
    ),
    (
        "sim",
        &[
            "stdx",
            "api",
            "store",
            "pki",
            "client",
            "cri",
            "cni",
            "reconcile",
            "apiserver",
            "controllers",
            "scheduler",
            "node",
            "net",
            "isopod",
        ],
    ),
    ("xtask", &["stdx", "api", "wire", "pki", "client", "runtime", "scheduler"]),
    ("example-api", &[]),
    ("e2e", &["pki", "stdx"]),
];

/// Longest function, in lines. STYLE: one screen.
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that are longer for now. May only shrink.
const LONG_FUNCTIONS: &[&str] = include!("long_functions.in");

/// Names that say nothing of what a thing is.
const BANNED_ENDINGS: &[&str] = &["Manager", "Helper", "Util", "Utils", "Handler"];
/// The field's own terms that end so.
const TERMS: &[&str] = &["RuntimeHandler"];
/// Words that belong to a workshop, not to the project.
const BANNED_WORDS: &[&str] = &["todo!(", "unimplemented!(", "#[ignore"];

/// Runs every check and lists all that is wrong.
pub fn run(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for manifest in manifests(root)? {
        edges(&manifest, &mut faults)?;
    }
    let sources = sources(root)?;
    for path in &sources {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
        source(&name, &text, &mut faults);
    }
    paths_in_documents(root, &mut faults)?;
    if faults.is_empty() {
        println!("tidy: {} files, nothing to mend", sources.len());
        return Ok(());
    }
    for fault in &faults {
        eprintln!("tidy: {fault}");
    }
    bail!("{} places to mend", faults.len())
}

fn manifests(root: &Path) -> Result<Vec<PathBuf>> {
    let mut manifests =
        vec![root.join("xtask/Cargo.toml"), root.join("examples/api/Cargo.toml"), root.join("tests/Cargo.toml")];
    for entry in fs::read_dir(root.join("crates"))? {
        manifests.push(entry?.path().join("Cargo.toml"));
    }
    manifests.sort();
    Ok(manifests)
}

/// Compares a crate's dependencies on its siblings with the table.
fn edges(manifest: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(manifest).with_context(|| format!("read {}", manifest.display()))?;
    let table: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("name = "))
        .map(|name| name.trim_matches('"'))
        .unwrap_or_default();
    let Some(allowed) = table.get(name) else {
        faults.push(format!("crate {name} is not in the table of layers"));
        return Ok(());
    };
    let mut section = "";
    for line in text.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        let ours = table.contains_key(dependency) && section == "[dependencies]";
        if ours && !allowed.contains(&dependency) {
            faults.push(format!("crate {name} must not depend on {dependency}"));
        }
    }
    Ok(())
}

fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("crates"), root.join("xtask"), root.join("examples"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn source(name: &str, text: &str, faults: &mut Vec<String>) {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if !first.starts_with("//!") && !first.starts_with("#![") {
        faults.push(format!("{name}: does not begin with what it is for (//!)"));
    }
    let allows_unsafe =
        text.lines().any(|line| line.starts_with("#![allow(unsafe_code") || line.trim_start().starts_with("unsafe {"));
    if allows_unsafe && !name.ends_with("/sys.rs") {
        faults.push(format!("{name}: unsafe code outside a file named sys.rs"));
    }
    if !name.ends_with("tidy.rs") {
        for word in BANNED_WORDS.iter().filter(|word| text.contains(**word)) {
            faults.push(format!("{name}: contains {word}"));
        }
    }
    for line in text.lines() {
        let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        let declared = ["struct ", "enum ", "trait "].iter().find_map(|keyword| line.strip_prefix(keyword));
        let Some(declared) = declared else { continue };
        let declared: String = declared.chars().take_while(|character| character.is_alphanumeric()).collect();
        let banned = BANNED_ENDINGS.iter().any(|ending| declared.ends_with(ending));
        if banned && !TERMS.contains(&declared.as_str()) {
            faults.push(format!("{name}: {declared} says nothing of what it is"));
        }
    }
    long_functions(name, text, faults);
}

/// Functions whose closing brace, at the indentation of their beginning, is too far away. rustfmt makes that exact.
fn long_functions(name: &str, text: &str, faults: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(position) = line.find("fn ") else { continue };
        let before = line[..position].trim_start();
        let is_declaration = before.split_whitespace().all(|word| {
            matches!(word, "pub" | "const" | "async" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub(")
        });
        if !is_declaration {
            continue;
        }
        let indentation = &line[..line.len() - line.trim_start().len()];
        let closing = format!("{indentation}}}");
        let Some(length) = lines[index..].iter().position(|line| *line == closing) else { continue };
        let function: String = line[position + 3..]
            .chars()
            .take_while(|character| character.is_alphanumeric() || *character == '_')
            .collect();
        let known = format!("{name}:{function}");
        if length + 1 > FUNCTION_LINES_MAX && !LONG_FUNCTIONS.contains(&known.as_str()) {
            faults.push(format!("{known}: {} lines, at most {FUNCTION_LINES_MAX}", length + 1));
        }
    }
}

/// Every path in backticks of ARCHITECTURE.md exists.
fn paths_in_documents(root: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    for word in text.split('`').skip(1).step_by(2) {
        let is_path =
            ["crates/", "xtask/", "examples/", "tests/", "docs/"].iter().any(|folder| word.starts_with(folder));
        if is_path && !word.contains(['*', '{', ' ']) && !root.join(word).exists() {
            faults.push(format!("ARCHITECTURE.md: there is no {word}"));
        }
    }
    Ok(())
}
