//! A pod's supervisor, and the first moments of each of its containers' processes.
//!
//! One thread. `start` turns the program that the agent ran into a supervisor apart from it; `supervisor` waits for
//! requests, ends of processes and output; `init` is what a child does between its birth and its program's start.
//!
//! Architecture Invariant: a supervisor needs nobody. It holds no connection that it could not lose, and what it alone
//! knows (exits) it writes down before it tells anyone.
#![no_std]
#![no_main]

extern crate alloc;

mod cgroup;
mod container;
mod exec;
mod file;
mod init;
mod log;
mod mounts;
mod process;
mod start;
mod supervisor;
mod sys;
mod users;

use core::ffi::CStr;

/// The program: `supervisor FOLDER`, with a sandbox's specification on standard input.
fn run(arguments: &[&'static CStr]) -> i32 {
    let folder = arguments.get(1).and_then(|folder| folder.to_str().ok());
    let outcome = folder.ok_or_else(|| alloc::string::String::from("usage: supervisor FOLDER")).and_then(start::start);
    match outcome {
        Ok(()) => 0,
        Err(text) => {
            // Standard error is the agent's pipe; when it is gone nobody is left to read this.
            drop(sys::write(2, text.as_bytes()));
            1
        }
    }
}
