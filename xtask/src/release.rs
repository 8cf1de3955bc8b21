//! The static release binaries: what users run, what the end-to-end tests test and what the benches measure.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::place;

/// The binaries of a release build.
pub struct Release {
    pub isopod: PathBuf,
    /// The example's server.
    pub example: PathBuf,
}

/// Builds them, or brings them up to date.
pub fn build() -> Result<Release> {
    let triple = match std::env::consts::ARCH {
        architecture @ ("x86_64" | "aarch64") => format!("{architecture}-unknown-linux-gnu"),
        other => bail!("isopod is not built for {other}"),
    };
    // Static binaries run in images that hold nothing else. The target is named although it is the host: flags would
    // otherwise reach proc macros as well, which cannot be static.
    let mut cargo = place::cargo();
    cargo.args([
        "build",
        "--release",
        "--locked",
        "--package",
        "isopod",
        "--package",
        "example-api",
        "--target",
        &triple,
    ]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    place::run(&mut cargo)?;
    let folder = place::target().join(triple).join("release");
    Ok(Release { isopod: folder.join("isopod"), example: folder.join("example-api") })
}
