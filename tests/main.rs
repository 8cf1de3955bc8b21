//! End-to-end tests: the release binary, real kubectl, real containers, on machines of the tests' own.
//!
//! Run by `cargo xtask test`, which builds and fetches what they use.

mod clock;
mod cluster;
mod load;
mod machine;
mod runtime;
mod script;

mod attacks;
mod containerd;
mod crashes;
mod example;
mod faults;
mod inside;
mod joined;
mod kubectl;
mod leaks;
mod lifecycle;
mod metrics;
mod nodes;
mod pods;
mod podspec;
mod pressure;
mod registry;
mod rollouts;
mod scheduling;
mod security;
mod services;
mod software;
mod streams;
mod two_nodes;
mod why;
