//! The project's own chores: `cargo xtask {example,test,images,tidy,codegen,bench,planted}`.

mod bench;
mod codegen;
mod example;
mod place;
mod planted;
mod release;
mod software;
mod test;
mod tidy;
mod tools;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Builds everything, packs and loads the example's image, and runs the example until interrupted.
    Example {
        /// Options for `isopod up`.
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Runs every check and every test.
    Test(test::Options),
    /// Makes the images of real software that tests use, and prints the variables by which they find them.
    Images,
    /// Checks what no compiler checks.
    Tidy,
    /// Plants known bugs in a copy and expects the simulation to find each.
    Planted {
        /// Only this one.
        name: Option<String>,
    },
    /// Writes the schema table.
    Codegen {
        /// Only says whether the checked-in table is right.
        #[arg(long)]
        check: bool,
    },
    /// Measures what the budgets speak of, on the release binary.
    Bench(bench::Options),
}

fn main() -> anyhow::Result<()> {
    match Args::parse().chore {
        Chore::Example { options } => example::run(&options),
        Chore::Test(options) => test::run(&options),
        Chore::Images => software::print(),
        Chore::Tidy => tidy::run(&place::root()),
        Chore::Planted { name } => planted::run(&place::root(), name.as_deref()),
        Chore::Codegen { check: true } => codegen::check(),
        Chore::Codegen { check: false } => codegen::run(),
        Chore::Bench(options) => bench::run(&options),
    }
}
