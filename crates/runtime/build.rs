//! Builds the pod supervisor with its own profile and linker flags, to be embedded.
use std::path::PathBuf;
use std::process::Command;

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let shim = manifest.join("../shim");
    for watched in ["src", "Cargo.toml", "Cargo.lock", "build.rs", ".cargo/config.toml"] {
        println!("cargo:rerun-if-changed={}", shim.join(watched).display());
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let target = variable("TARGET");
    let target_dir = out.join("shim");
    let mut cargo = Command::new(variable("CARGO"));
    cargo.args(["build", "--release", "--locked", "--bin", "supervisor", "--target", &target]).current_dir(&shim);
    cargo.arg("--target-dir").arg(&target_dir);
    // What is meant for the outer build, such as its flags, must not reach this one.
    for (name, _) in std::env::vars() {
        let outer = ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WORKSPACE_WRAPPER"];
        let prefixes = ["CARGO_PROFILE_", "CARGO_FEATURE_", "CARGO_TARGET_"];
        if outer.contains(&name.as_str()) || prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let status = cargo.status().expect("cargo runs: it runs this script");
    assert!(status.success(), "building the supervisor failed: {status}");
    let built = target_dir.join(target).join("release/supervisor");
    std::fs::copy(&built, out.join("supervisor")).expect("the build made this file");
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
