//! `waldur-usage-agent` measures what customers consume on a provider's machines and makes Waldur's bill agree with
//! it. Data flows one way, through these rooms; each imports only rooms above it (tests/house.rs checks).
//!
//! - [`config`]: the file that the operator writes, and the one clock. No room asks the system for the time but it.
//! - [`metering`]: from readings to amounts. Pure: no I/O, no clock, no float. Where the money is.
//! - [`wire`]: what every HTTP call needs, whoever makes it: secrets, TLS, words for people.
//! - [`collectors`]: what looks at the world and returns readings. They know nothing of Waldur.
//! - [`ledger`]: one SQLite file, or a database: readings, statements, and what Waldur is known to hold. The only state.
//! - [`waldur`]: the API's types, the client, and errors as the server means them.
//! - [`submitter`]: compares what should be with what Waldur was last known to hold, and closes the difference.
//! - [`daemon`]: the tasks, signals, systemd, health and metrics.
//! - [`cli`]: one file a command.
//!
//! It is a library only so that tests and benchmarks can reach the rooms; there is no promise about its items.

/// What this is: the version, and the commit that it was built of.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WALDUR_USAGE_AGENT_COMMIT"), ")");

// Helpers that all tests share name the library by its name.
#[cfg(test)]
extern crate self as waldur_usage_agent;

pub mod cli;
pub mod collectors;
pub mod config;
pub mod daemon;
pub mod ledger;
pub mod metering;
pub mod submitter;
pub mod waldur;
pub mod wire;

/// A place where a test may end the process as a power cut would: the one that `WALDUR_USAGE_AGENT_FAIL_POINT` names,
/// in debug builds only.
pub(crate) fn fail_point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var("WALDUR_USAGE_AGENT_FAIL_POINT").is_ok_and(|wanted| wanted == name) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
