//! Of all agents of a shared ledger that may submit, one does: it counts what all hosts have sent, states and reports. The
//! others go on collecting, and stand by until it is gone. Whoever is followed has written nothing since.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::forward::blocking;
use super::stats::{LedgerWork, Stats};
use super::wait::WakeReason;
use super::{Agent, Part};
use crate::config::place::{Database, Place};
use crate::ledger::sent::lock::{Task, TaskLease};
use crate::ledger::{Ledger, LedgerError, LedgerErrorKind, SharedLedger};
use crate::submitter::told::tell_events;

/// How often an agent that stands by looks whether it is needed, and one at work whether it still is.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// How often what hosts have sent is counted, whether or not anything is due to be submitted.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

impl Part {
    /// Submits whenever it is this agent's turn, for ever.
    pub(super) async fn submit_in_turn(mut self, database: Database) {
        let place = Place::Database(database.clone());
        loop {
            let Some(lease) = self.take_task_lease(&database, &Task::Submit).await else { return };
            let books = match self.open_books(&place, lease.number()).await {
                Ok(books) => books,
                Err(error) => {
                    tracing::warn!("{error}");
                    // Not at once: what a ledger refuses now it refuses a moment later.
                    match self.pause(LOOKED_AT_EVERY).await {
                        WakeReason::Stopped => return,
                        _ => continue,
                    }
                }
            };
            tracing::info!("At work: this agent counts and submits for the ledger {place}.");
            self.stats.set_books(Some(books.clone()));
            let gone = lease.lost();
            let submitting = Part { ledger: books.clone(), ..self.clone() }.submit();
            let stopped = tokio::select! {
                () = submitting => true,
                () = count(&books, &self.agent, &self.stats) => false,
                () = lost(&gone) => false,
            };
            self.stats.set_books(None);
            // Where the database does not answer, what was asked last is waited for there.
            std::thread::spawn(move || drop(books));
            if stopped {
                return;
            }
            tracing::error!(
                "The turn on the ledger {place} is over: another agent has taken over, or the database does not answer. This one \
                 stands by."
            );
        }
    }

    /// Runs a collector that several agents may run, whenever it is this one's turn, for ever.
    pub(super) async fn collect_in_turn(mut self, index: usize, database: Database) {
        let definitions = self.agent.definitions.clone();
        let task = Task::Collect(definitions[index].name.clone());
        let place = Place::Database(database.clone());
        loop {
            // Nobody waits for what another agent does.
            self.due.send_modify(|due| due[index] = Timestamp::MAX);
            let Some(lease) = self.take_task_lease(&database, &task).await else { return };
            let (of, rulebook, number) = (place.clone(), (*self.agent.rulebook).clone(), lease.number());
            let (name, clock) = (definitions[index].name.clone(), self.agent.clock.clone());
            let opened =
                blocking(move || Ok(Ledger::open(&of, rulebook)?.of_collector(&name, number, &clock))).await;
            let ledger = match opened {
                Ok(ledger) => SharedLedger::new(ledger),
                Err(error) => {
                    tracing::warn!("{error}");
                    match self.pause(LOOKED_AT_EVERY).await {
                        WakeReason::Stopped => return,
                        _ => continue,
                    }
                }
            };
            tracing::info!("Collector {}: run by this agent.", definitions[index].name);
            let gone = lease.lost();
            tokio::select! {
                () = Part { ledger, ..self.clone() }.collect(index) => return,
                () = lost(&gone) => {}
            }
        }
    }

    /// Waits until no other agent has the task; `None`: it is to stop.
    async fn take_task_lease(&mut self, database: &Database, task: &Task) -> Option<TaskLease> {
        let mut said = String::new();
        loop {
            let (of, what) = (database.clone(), task.clone());
            let tried = blocking(move || match TaskLease::try_take(&of, &what)? {
                Some(lease) => Ok(Ok(lease)),
                None => Ok(Err(TaskLease::holder(&of, &what))),
            });
            let tried = tried.await;
            self.stats.note_ledger(LedgerWork::Submit, tried.as_ref().err());
            let words = match tried {
                Ok(Ok(lease)) => return Some(lease),
                Ok(Err(other)) => match task {
                    Task::Submit => {
                        let place = Place::Database(database.clone());
                        format!("Standing by: {other} is at work on the ledger {place}.")
                    }
                    Task::Collect(name) => format!("Collector {name}: run by {other}; this agent stands by."),
                },
                Err(error) => error.to_string(),
            };
            if said != words {
                tracing::info!("{words}");
                said = words;
            }
            if self.pause(LOOKED_AT_EVERY).await == WakeReason::Stopped {
                return None;
            }
        }
    }

    /// Opens the ledger for as long as the lease is held, and carries out this agent's rules.
    async fn open_books(&self, place: &Place, number: i64) -> Result<SharedLedger, LedgerError> {
        let (place, rulebook) = (place.clone(), (*self.agent.rulebook).clone());
        let clock = self.agent.clock.clone();
        let opened = blocking(move || {
            let mut ledger = Ledger::open(&place, rulebook)?;
            ledger.write_at(number);
            ledger.apply_rules(clock.now())?;
            tell_events(&mut ledger)?;
            ledger.measure_database_clock(&clock)?;
            Ok(SharedLedger::new(ledger))
        });
        opened.await
    }
}

/// Until another agent has taken this one's place.
async fn lost(gone: &AtomicBool) {
    while !gone.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOKED_AT_EVERY).await;
    }
}

/// Counts what hosts have sent, until this agent is no longer the one at work.
async fn count(books: &SharedLedger, agent: &Agent, stats: &Stats) {
    loop {
        let clock = agent.clock.clone();
        let counted = books.with(move |ledger| {
            ledger.measure_database_clock(&clock)?;
            ledger.count_some()
        });
        let counted = counted.await;
        stats.tick();
        match counted {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) if error.kind == LedgerErrorKind::Superseded => return,
            Err(error) => tracing::debug!("What hosts have sent is not counted now: {error}"),
        }
        tokio::time::sleep(COUNTED_EVERY).await;
    }
}
