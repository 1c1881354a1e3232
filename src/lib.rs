//! placeholder
pub mod cli;
pub mod collectors;
pub mod config;
pub mod ledger;
pub mod metering;
pub mod submitter;
pub mod waldur;

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
