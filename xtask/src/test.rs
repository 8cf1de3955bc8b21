//! `cargo xtask test`: every check and every test, in the order in which faults are cheapest to find.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{codegen, example, place, planted, release, software, tidy, tools};

/// What to run.
#[derive(clap::Args)]
pub struct Options {
    /// Only the end-to-end tests, against the release binary.
    #[arg(long)]
    end_to_end: bool,
    /// Options and filters for the test runner.
    #[arg(last = true)]
    runner: Vec<String>,
}

/// Ends with the test runner's own closing line.
pub fn run(options: &Options) -> Result<()> {
    tools::debian()?;
    if !options.end_to_end {
        checks()?;
    }
    let release = release::build()?;
    let mut kubectls = Vec::new();
    for version in tools::KUBECTLS {
        kubectls.push(tools::kubectl(version)?);
    }
    let mut tests = runner(options)?;
    tests.env("ISOPOD_BINARY", &release.isopod);
    tests.env("ISOPOD_EXAMPLE_IMAGE", example::archive(&release, example::IMAGE)?);
    tests.env("ISOPOD_BUSYBOX_IMAGE", example::busybox()?);
    tests.env("ISOPOD_KUBECTL_IMAGE", example::kubectl(&kubectls[1])?);
    tests.envs(software::archives()?);
    let containerds = tools::CONTAINERDS.iter().map(|(version, suite)| tools::containerd(version, suite));
    let containerds: Vec<_> = containerds.collect::<Result<_>>()?;
    tests.env("ISOPOD_CONTAINERDS", std::env::join_paths(containerds).context("name the containerds")?);
    tests.env("ISOPOD_PAUSE_IMAGE", example::pause()?);
    tests.env("ISOPOD_PYTHON", tools::python_client()?);
    tests.env("ISOPOD_NODE_MODULES", tools::javascript_client()?);
    tests.env("ISOPOD_KUBECTLS", std::env::join_paths(kubectls).context("name the kubectls")?);
    place::run(&mut tests)
}

/// What needs no running cluster: format, lints, the project's own rules, the supervisor's tests, licences.
fn checks() -> Result<()> {
    place::run(place::cargo().args(["fmt", "--all", "--check"]))?;
    let lints = ["clippy", "--workspace", "--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
    place::run(place::cargo().args(lints))?;
    tidy::run(&place::root())?;
    codegen::check()?;
    planted::check(&place::root())?;
    // The supervisor lies outside of the workspace, whose test runner therefore does not see it.
    place::run(place::cargo().args(["test", "--quiet", "--manifest-path", "crates/shim/Cargo.toml", "--lib"]))?;
    match tools::cargo_deny() {
        Ok(deny) => place::run(
            Command::new(deny).current_dir(place::root()).args(["--locked", "check", "licenses", "bans", "sources"]),
        ),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("licences and duplicates are not checked: {error:#}");
            Ok(())
        }
        Err(error) => Err(error).context("fetch cargo-deny"),
    }
}

fn runner(options: &Options) -> Result<Command> {
    let mut runner = tools::nextest().context("find cargo-nextest")?;
    let whole: &[&str] = if options.end_to_end { &["--package", "e2e"] } else { &["--workspace"] };
    runner.args(["run", "--locked"]).args(whole).args(&options.runner);
    Ok(runner)
}
