//! `run`: the daemon.

use std::path::{Path, PathBuf};

use clap::Args;

use super::exit::{Exit, Failed};
use super::setup::Setup;
use crate::daemon::{Agent, Loader};

/// Run the daemon: measure and report on schedules.
///
/// SIGHUP reads the configuration again (a mistake in it leaves the old one at work), SIGUSR1 collects and submits now,
/// SIGTERM stops after what is under way, within ten seconds. Under systemd it says when it is ready and that it is
/// alive (Type=notify, WatchdogSec).
#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, path: Option<&Path>) -> Result<Exit, Failed> {
        let path: Option<PathBuf> = path.map(Path::to_owned);
        let load: Loader = Box::new(move || {
            let setup = Setup::load(path.as_deref()).map_err(|failed| failed.message)?;
            let client = setup.settings.waldur.as_ref().map(|_| setup.client()).transpose();
            let client = client.map_err(|failed| failed.message)?;
            let name = match setup.settings.ledger.file() {
                Some(_) => String::new(),
                None => setup.settings.agent_name()?,
            };
            Ok(Agent {
                name,
                settings: setup.settings.clone(),
                definitions: setup.definitions.clone(),
                rulebook: setup.rulebook.clone(),
                clock: setup.clock.clone(),
                client: client.map(std::sync::Arc::new),
            })
        });
        crate::daemon::run(load).await.map_err(|error| Failed::new(Exit::Config, error))?;
        Ok(Exit::Ok)
    }
}
