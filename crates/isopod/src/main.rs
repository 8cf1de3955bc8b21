//! The isopod binary: parses arguments, composes components, drains on shutdown.

mod agent;
mod cni;
mod control;
mod dataplane;
mod dialer;
mod down;
mod image;
mod join;
mod local_node;
mod machine;
mod membership;
mod node_dns;
mod open_files;
mod paths;
mod peers;
mod preflight;
mod remote;
mod roles;
mod routes;
mod runtime;
mod token;
mod up;
mod why;

use std::io::IsTerminal as _;

use clap::Parser as _;
use cli::{Args, Command};

/// Gives memory back well enough and costs a fifth less processor time than the system's under churn.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    if let Some(invocation) = cni::called() {
        return cni::plugin(&invocation);
    }
    let args = Args::parse();
    small_pages();
    start_log(&args.command);
    let result = match args.command {
        Command::Up(up) => on_threads(up::run(*up)),
        Command::Agent(agent) => on_threads(agent::run(*agent)),
        Command::Down(down) => on_threads(down::run(&down)),
        Command::Image(image) => image::run(&image),
        Command::Token(token) => on_threads(token::run(token)),
        Command::Why(why) => on_threads(why::run(why)),
        Command::Kubeconfig(place) => paths::Paths::new(&place.data_dir).map(|paths| {
            println!("{}", paths.kubeconfig().display());
        }),
        Command::Dataplane(options) => dataplane::serve(options),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

/// Runs the cluster on two worker threads: the work is small, and each thread costs memory.
fn on_threads(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(16).enable_all().build()?;
    runtime.block_on(future)
}

/// The allocator asks for huge pages, of which a small process fills a fraction: twice the memory for no measurable speed.
fn small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        eprintln!("huge pages stay on: {error}");
    }
}

fn start_log(command: &Command) {
    let default =
        if matches!(command, Command::Up(_) | Command::Agent(_) | Command::Dataplane(_)) { "warn" } else { "error" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("ISOPOD_LOG").unwrap_or_else(|_| default.into());
    // Colours are for people: a file or a program that reads the log gets none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(std::io::stderr).init();
}
