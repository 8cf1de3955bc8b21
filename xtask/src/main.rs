//! The project's own chores: `cargo xtask {example,test,tidy,codegen,bench,planted}`.

mod codegen;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next().as_deref()) {
        (Some("codegen"), None) => codegen::run(),
        (Some("codegen"), Some("--check")) => codegen::check(),
        (other, _) => anyhow::bail!("cargo xtask knows no chore {}", other.unwrap_or("without a name")),
    }
}
