//! Where a command records what it measures: in the ledger; on a host of a shared one first in the host's own file, from where
//! it is sent on; and what any of several agents may measure (`once`), in the shared ledger under the collector's lock.

use super::exit::{Exit, Failed};
use super::setup::Setup;
use crate::collectors::definition::Definition;
use crate::daemon::forward::Forwarder;
use crate::daemon::sample::sample;
use crate::ledger::sent::lock::{Task, TaskLease};
use crate::ledger::{Ledger, SharedLedger};

pub(super) struct Recorder {
    first: SharedLedger,
    forwarder: Option<Forwarder>,
}

/// Where the runs of one collector are recorded.
pub(super) struct Recording {
    pub(super) ledger: SharedLedger,
    /// Whose they are there.
    pub(super) agent: String,
    /// Held as long as it is recorded.
    _lease: Option<TaskLease>,
}

impl Recorder {
    /// `ledger`: the ledger, if it is open already.
    pub(super) fn of(setup: &Setup, ledger: Option<&SharedLedger>) -> Result<Recorder, Failed> {
        if setup.settings.ledger.file().is_some() {
            let first = match ledger {
                Some(ledger) => ledger.clone(),
                None => SharedLedger::new(setup.ledger()?),
            };
            return Ok(Recorder { first, forwarder: None });
        }
        let agent = setup.settings.agent_name().map_err(|why| Failed::new(Exit::Config, why))?;
        let forwarder = Forwarder::of(&setup.settings, &agent, &setup.definitions, &setup.clock);
        let rulebook = (*setup.rulebook).clone();
        let queue = match &forwarder {
            Some(forwarder) => forwarder.open_queue(rulebook)?,
            None => setup.ledger()?,
        };
        Ok(Recorder { first: SharedLedger::new(queue), forwarder })
    }

    /// Whether what is recorded is counted elsewhere.
    pub(super) fn is_shared(&self) -> bool {
        self.forwarder.is_some()
    }

    /// Where this collector's runs are recorded; or which other agent runs it.
    pub(super) fn at(
        &self,
        setup: &Setup,
        definition: &Definition,
    ) -> Result<Result<Recording, String>, Failed> {
        let Some(forwarder) = &self.forwarder else {
            return Ok(Ok(Recording { ledger: self.first.clone(), agent: String::new(), _lease: None }));
        };
        if !definition.once {
            let agent = forwarder.agent.clone();
            return Ok(Ok(Recording { ledger: self.first.clone(), agent, _lease: None }));
        }
        let task = Task::Collect(definition.name.clone());
        let Some(lease) = TaskLease::try_take(&forwarder.database, &task)? else {
            return Ok(Err(TaskLease::holder(&forwarder.database, &task)));
        };
        let ledger = Ledger::open(&setup.settings.ledger, (*setup.rulebook).clone())?;
        let ledger = SharedLedger::new(ledger.of_collector(&definition.name, lease.number(), &setup.clock));
        Ok(Ok(Recording { ledger, agent: String::new(), _lease: Some(lease) }))
    }

    /// Sends on what waits here.
    pub(super) async fn send(&self) -> Result<(), Failed> {
        if let Some(forwarder) = &self.forwarder {
            forwarder.send(&self.first).await?;
        }
        Ok(())
    }
}

/// The ledger. Where it is a shared one that can't be used now, what these collectors measure is kept in this host's file
/// before the error is returned: a level that is not read now is never known.
pub(super) async fn ledger_or_keep(
    setup: &Setup,
    definitions: &[&Definition],
    by: Option<tokio::time::Instant>,
) -> Result<Ledger, Failed> {
    let failed = match setup.ledger() {
        Ok(ledger) => return Ok(ledger),
        Err(failed) => failed,
    };
    if setup.settings.ledger.file().is_some() {
        return Err(failed);
    }
    let recorder = Recorder::of(setup, None)?;
    if recorder.is_shared() {
        for definition in definitions.iter().filter(|definition| !definition.elsewhere && !definition.once) {
            let name = &definition.name;
            let since = setup.since(definition);
            let run = sample(definition, &recorder.first, &setup.clock, since, setup.withhold());
            let ended = match by {
                Some(by) => tokio::time::timeout_at(by, run).await,
                None => Ok(run.await),
            };
            match ended {
                Ok(Ok(_)) => {
                    tracing::info!("Collector {name}: its run is kept on this host, and sent later.")
                }
                Ok(Err(error)) => tracing::warn!("Collector {name}: {error}"),
                Err(_) => tracing::warn!("Collector {name}: not done in time; this run is not recorded."),
            }
        }
    }
    Err(failed)
}
