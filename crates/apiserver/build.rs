//! Takes the descriptions of kinds and fields, which `kubectl explain` shows, out of the sources of `k8s-openapi`.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The API level that is served; a feature of `k8s-openapi` and a folder of its sources.
const LEVEL: &str = "v1_36";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    // The version of the dependency stands there.
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let mut text = String::new();
    let mut sources = sources(&folder()?.join("src").join(LEVEL))?;
    sources.sort();
    for source in sources {
        describe(&std::fs::read_to_string(source)?, &mut text)?;
    }
    if text.is_empty() {
        return Err("the sources of k8s-openapi hold no descriptions where they used to".into());
    }
    let file = std::fs::File::create(PathBuf::from(std::env::var("OUT_DIR")?).join("descriptions.zlib"))?;
    let mut packed = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    packed.write_all(text.as_bytes())?;
    packed.finish()?;
    Ok(())
}

/// Where cargo keeps the sources of `k8s-openapi`.
fn folder() -> Result<PathBuf, Box<dyn Error>> {
    // Packages of other platforms may not have been fetched.
    let platform = std::env::var("TARGET")?;
    let metadata = Command::new(std::env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .output()?;
    if !metadata.status.success() {
        return Err(String::from_utf8_lossy(&metadata.stderr).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let package = packages.iter().find(|package| package["name"] == "k8s-openapi");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    Ok(Path::new(manifest.ok_or("cargo metadata does not name k8s-openapi")?).with_file_name(""))
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Writes a line `=DEFINITION TEXT` and one `FIELD TEXT` per field, as far as they are described. The texts stay JSON strings.
///
/// The sources hold a schema as JSON, indented in a fixed way: what describes the definition stands two steps inside of it,
/// what describes a field further in, in one of two forms.
fn describe(source: &str, text: &mut String) -> Result<(), Box<dyn Error>> {
    const OWN: &str = "            \"";
    const FIELD: &str = "                \"";
    let Some(name) = source.strip_prefix("// Generated from definition ").and_then(|rest| rest.lines().next()) else {
        return Ok(());
    };
    let Some((_, schema)) = source.split_once("json_schema!({\n") else { return Ok(()) };
    let (mut own, mut fields, mut field) = (String::from("\"\""), String::new(), None);
    for line in schema.lines().take_while(|line| *line != "        })") {
        if let Some(rest) = line.strip_prefix(FIELD) {
            field = rest.split_once("\": ").map(|(name, _)| name);
        } else if line.starts_with(OWN) {
            own = described(line).unwrap_or(own);
        } else if let (Some(name), Some(text)) = (field, described(line)) {
            // The first is the field's; others are of what is inside of it.
            writeln!(fields, "{name} {text}")?;
            field = None;
        }
    }
    writeln!(text, "={name} {own}")?;
    text.push_str(&fields);
    Ok(())
}

/// The description on a line, as a JSON string: Rust's escapes of these texts are JSON's.
fn described(line: &str) -> Option<String> {
    let (_, after) =
        line.split_once("\"description\": ").or_else(|| line.split_once("insert(\"description\".into(), "))?;
    let text = serde_json::Deserializer::from_str(after).into_iter::<String>().next()?.ok()?;
    serde_json::to_string(&text).ok()
}
