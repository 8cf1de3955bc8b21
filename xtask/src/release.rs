//! The static release binaries: what users run, what the end-to-end tests test and what the benches measure.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::place;

/// Functions that are the same, byte for byte, are there once: generic code makes many of them, the reading of objects above
/// all. And what has to be relocated at the start is written down in a bit each.
const FLAGS: [&str; 3] =
    ["-C target-feature=+crt-static", "-C link-arg=-Wl,--icf=all", "-C link-arg=-Wl,-z,pack-relative-relocs"];

/// The binaries of a release build.
pub struct Release {
    pub isopod: PathBuf,
    /// The example's server.
    pub example: PathBuf,
}

/// Builds them, or brings them up to date.
pub fn build() -> Result<Release> {
    let folder = packages(&["isopod", "example-api"])?;
    Ok(Release { isopod: folder.join("isopod"), example: folder.join("example-api") })
}

/// This very program as a release build; it shares what the others are compiled from.
pub fn xtask() -> Result<PathBuf> {
    Ok(packages(&["xtask"])?.join("xtask"))
}

/// Builds packages; returns the folder of their programs.
fn packages(names: &[&str]) -> Result<PathBuf> {
    let triple = match std::env::consts::ARCH {
        architecture @ ("x86_64" | "aarch64") => format!("{architecture}-unknown-linux-gnu"),
        other => bail!("isopod is not built for {other}"),
    };
    // Static binaries run in images that hold nothing else. The target is named although it is the host: flags would
    // otherwise reach proc macros as well, which cannot be static.
    let mut cargo = place::cargo();
    cargo.args(["build", "--release", "--locked", "--target", &triple]);
    for name in names {
        cargo.args(["--package", name]);
    }
    cargo.env("RUSTFLAGS", FLAGS.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    place::run(&mut cargo)?;
    Ok(place::target().join(triple).join("release"))
}
