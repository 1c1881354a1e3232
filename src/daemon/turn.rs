//! Of all agents of a shared ledger that may submit, one does: it counts what all hosts have sent, states and reports. The
//! others go on collecting, and stand by until it is gone. Whoever is followed has written nothing since.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Url;

use super::forward::blocking;
use super::stats::{LedgerWork, Stats};
use super::wait::WakeReason;
use super::{Agent, Part};
use crate::config::place::{Database, Place};
use crate::config::settings::Report;
use crate::ledger::sent::lock::{Task, TaskLease, is_awaited, note_live, note_waiting, refuse_shadow};
use crate::ledger::{Ledger, LedgerError, LedgerErrorKind, SharedLedger};
use crate::submitter::other_server::OtherServer;
use crate::submitter::pause::Cause;
use crate::submitter::told::tell_events;

/// How often an agent that stands by looks whether it is needed, and one at work whether it still is.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// An agent whose token is refused, or that does not reach Waldur, lets another try after so long; each time that is in vain for it
/// again, after twice as long, so that two that can't report don't take turns all the time.
const IN_VAIN: Duration = Duration::from_secs(60);
const IN_VAIN_AT_MOST: Duration = Duration::from_secs(3600);
/// Whoever waits looks more often than that.
const STANDS_ASIDE: Duration = Duration::from_secs(5);
/// How often what hosts have sent is counted, whether or not anything is due to be submitted.
const COUNTED_EVERY: Duration = Duration::from_secs(5);

/// Why an agent has no turn now.
enum Waits {
    /// Another has it.
    For(String),
    /// It is not one to report from this ledger.
    Refused(String),
}

impl Part {
    /// Submits whenever it is this agent's turn, for ever.
    pub(super) async fn submit_in_turn(mut self, database: Database) {
        let place = Place::Database(database.clone());
        let mut patience = IN_VAIN;
        let mut refused = String::new();
        loop {
            let Some(lease) = self.take_task_lease(&database, &Task::Submit).await else { return };
            let books = match self.open_books(&place, lease.number()).await {
                Ok(books) => books,
                Err(error) => {
                    if refused != error.to_string() {
                        refused = error.to_string();
                        tracing::warn!("{refused}");
                    }
                    // Not at once: what a ledger refuses now it refuses a moment later.
                    match self.pause(LOOKED_AT_EVERY).await {
                        WakeReason::Stopped => return,
                        _ => continue,
                    }
                }
            };
            refused.clear();
            tracing::info!("At work: this agent counts and submits for the ledger {place}.");
            self.stats.set_books(Some(books.clone()));
            let gone = lease.lost();
            let mut in_vain = false;
            let submitting = Part { ledger: books.clone(), ..self.clone() }.submit();
            let is_shadow = self.agent.settings.report == Report::Shadow;
            let stopped = tokio::select! {
                () = submitting => true,
                () = count(&books, &self.agent, &self.stats) => false,
                () = lost(&gone) => false,
                // Why is told when it tries to take the turn again.
                () = until_live(&database), if is_shadow => false,
                () = until_of_another_server(&books, self.agent.settings.api()) => false,
                () = until_in_vain(&books, &database, &mut patience), if !is_shadow => {
                    tracing::warn!(
                        "Waldur does not take what this agent reports, and another agent waits: it may try. This one stands by."
                    );
                    in_vain = true;
                    false
                }
            };
            self.stats.set_books(None);
            // Where the database does not answer, what was asked last is waited for there.
            std::thread::spawn(move || drop(books));
            if stopped {
                return;
            }
            if in_vain {
                drop(lease);
                match self.pause(STANDS_ASIDE).await {
                    WakeReason::Stopped => return,
                    _ => continue,
                }
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
        let settings = self.agent.settings.clone();
        let report = settings.report;
        let mut is_noted = false;
        loop {
            let (of, what) = (database.clone(), task.clone());
            let (settings, rulebook) = (settings.clone(), self.agent.rulebook.clone());
            let tried = blocking(move || {
                if what == Task::Submit {
                    let ledger = Ledger::open_to_read(&settings.ledger, (*rulebook).clone())?;
                    if let Some(other) = OtherServer::of(&ledger, settings.api())? {
                        return Ok(Err(Waits::Refused(other.words_and_remedy())));
                    }
                }
                match (&what, report) {
                    (Task::Submit, Report::Shadow) => refuse_shadow(&of)?,
                    (Task::Submit, Report::Live) if !is_noted => note_live(&of)?,
                    _ => {}
                }
                match TaskLease::try_take(&of, &what)? {
                    Some(lease) => Ok(Ok(lease)),
                    None => {
                        if (&what, report) == (&Task::Submit, Report::Live) {
                            note_waiting(&of)?;
                        }
                        Ok(Err(Waits::For(TaskLease::holder(&of, &what))))
                    }
                }
            });
            let tried = tried.await;
            is_noted |= matches!(&tried, Ok(Ok(_) | Err(Waits::For(_))));
            self.stats.note_ledger(LedgerWork::Submit, tried.as_ref().err());
            let is_wrong = match &tried {
                Ok(tried) => matches!(tried, Err(Waits::Refused(_))),
                Err(error) => error.kind == LedgerErrorKind::Unusable,
            };
            let words = match tried {
                Ok(Ok(lease)) => return Some(lease),
                Ok(Err(Waits::Refused(why))) => why,
                Ok(Err(Waits::For(other))) => match task {
                    Task::Submit => {
                        let place = Place::Database(database.clone());
                        format!("Standing by: {other} is at work on the ledger {place}.")
                    }
                    Task::Collect(name) => format!("Collector {name}: run by {other}; this agent stands by."),
                },
                Err(error) => error.to_string(),
            };
            if said != words {
                match is_wrong {
                    true => tracing::error!("{words}"),
                    false => tracing::info!("{words}"),
                }
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
            if let Place::Database(database) = &place {
                Ledger::refuse_lent_connections(database)?;
            }
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

/// Until others report from the ledger that this agent only compares.
async fn until_live(database: &Database) {
    loop {
        tokio::time::sleep(COUNTED_EVERY).await;
        let of = database.clone();
        if let Err(error) = blocking(move || refuse_shadow(&of)).await
            && error.kind == LedgerErrorKind::Unusable
        {
            return;
        }
    }
}

/// Until a person has said that the ledger's server has another address than this agent's file names.
async fn until_of_another_server(books: &SharedLedger, api: Option<&Url>) {
    loop {
        tokio::time::sleep(COUNTED_EVERY).await;
        let api = api.cloned();
        if matches!(books.with(move |ledger| OtherServer::of(ledger, api.as_ref())).await, Ok(Some(_))) {
            return;
        }
    }
}

/// Until Waldur has taken nothing from this agent for long, and another waits for its turn.
async fn until_in_vain(books: &SharedLedger, database: &Database, patience: &mut Duration) {
    let mut since: Option<Instant> = None;
    loop {
        tokio::time::sleep(COUNTED_EVERY).await;
        match books.with(|ledger| ledger.retry(None)).await {
            Ok(Some(retry)) if Cause::of(&retry) != Cause::Throttled => {
                let since = *since.get_or_insert_with(Instant::now);
                let of = database.clone();
                if since.elapsed() >= *patience && blocking(move || is_awaited(&of)).await.unwrap_or(false) {
                    *patience = (2 * *patience).min(IN_VAIN_AT_MOST);
                    return;
                }
            }
            Ok(_) => (since, *patience) = (None, IN_VAIN),
            Err(_) => {}
        }
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
