//! End-to-end tests: the release binary, real kubectl, real containers, on machines of the tests' own.
//!
//! Run by `cargo xtask test`, which builds and fetches what they use.

mod clock;
mod cluster;
mod load;
mod machine;
mod script;

mod crashes;
mod example;
mod faults;
mod kubectl;
mod lifecycle;
mod nodes;
mod pods;
mod podspec;
mod rollouts;
mod scheduling;
mod security;
mod services;
mod streams;
mod two_nodes;
