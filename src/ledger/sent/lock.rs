//! The submission lock: of all processes that share a ledger, one at a time talks to Waldur for it.
//!
//! Beside a file it is a lock on another file, so it dies with its process; in a shared database it is a row that lasts
//! for seconds unless its holder renews it (db/lease.rs). It protects no data of the ledger, which the engine does; it
//! keeps a daemon and a `flush` beside it, or the daemons of two hosts, from sending the same statement at once.
//!
//! A lock can be lost without its holder's knowing (a paused machine on a shared disk, a file that was removed). So
//! each holder takes the next turn, a number in the ledger, and nothing that is written in an older one is believed:
//! what such a process learns of its last call becomes a doubt, which is read back. It never takes a lock from a
//! process that is there: one that is stopped may still have a call on its way.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};

use crate::config::clock::SharedClock;
use crate::config::place::{Database, Place};
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::lease::{self, Lease};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{InForce, Ledger, LedgerError};

/// Held while submitting; released when dropped or when the process ends.
#[derive(Debug)]
pub struct SubmitLock {
    _held: Held,
}

#[derive(Debug)]
enum Held {
    File { _lock: Flock<File> },
    Row { _lease: Lease },
}

/// The name of the turn in a shared ledger.
const SUBMITTING: &str = "submit";

/// Whoever owns the ledger can open its lock, too, even if it was root who first submitted by hand: as SQLite does
/// with its files.
pub fn give_to_owner(file: &File, ledger: &Path) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = ledger.metadata() {
        let done = fchown(file, Some(owner.uid()), Some(owner.gid()));
        drop(done);
    }
}

impl SubmitLock {
    /// The lock, if nobody holds it.
    pub fn try_take(ledger: &Place) -> Result<Option<SubmitLock>, LedgerError> {
        let held = match ledger {
            Place::File(path) => lock(path)?.map(|lock| Held::File { _lock: lock }),
            Place::Database(database) => {
                Lease::try_take(database, SUBMITTING)?.map(|lease| Held::Row { _lease: lease })
            }
        };
        Ok(held.map(|held| SubmitLock { _held: held }))
    }

    /// Who holds it, for people: `process 4711`, and whether that was stopped.
    pub fn holder(ledger: &Place) -> String {
        match ledger {
            Place::File(path) => holder(path),
            Place::Database(database) => Lease::holder(database, SUBMITTING),
        }
    }
}

/// What one agent of a shared ledger does at a time; others stand by until it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// To count and submit.
    Submit,
    /// To run a collector that several may run (`once`).
    Collect(String),
}

impl Task {
    fn lease(&self) -> String {
        match self {
            Task::Submit => "agent".to_owned(),
            Task::Collect(collector) => format!("collector {collector}"),
        }
    }
}

/// Held by the one agent whose task it is.
#[derive(Debug)]
pub struct TaskLease(Lease);

impl TaskLease {
    pub fn try_take(database: &Database, task: &Task) -> Result<Option<TaskLease>, LedgerError> {
        Ok(Lease::try_take(database, &task.lease())?.map(TaskLease))
    }

    /// Who holds it, for people.
    pub fn holder(database: &Database, task: &Task) -> String {
        Lease::holder(database, &task.lease())
    }

    /// Each holder has the next one.
    pub fn number(&self) -> i64 {
        self.0.number()
    }

    /// Whether another has taken it since, as far as is known.
    pub fn lost(&self) -> Arc<AtomicBool> {
        self.0.lost()
    }
}

/// Notes that an agent reports from this ledger: from then on none with `report: shadow` takes its turn.
pub fn note_live(database: &Database) -> Result<(), LedgerError> {
    lease::note(database, lease::REPORTS).map_err(in_database(database))
}

/// An agent that only compares has no turn at a ledger that others report from: their months would wait for nothing.
pub fn refuse_shadow(database: &Database) -> Result<(), LedgerError> {
    match lease::who(database, lease::REPORTS).map_err(in_database(database))? {
        Some((holder, _)) => Err(LedgerError::is_live(&Place::Database(database.clone()), &holder)),
        None => Ok(()),
    }
}

/// Notes that this agent would submit if another did not.
pub fn note_waiting(database: &Database) -> Result<(), LedgerError> {
    lease::note(database, lease::WAITS).map_err(in_database(database))
}

/// Whether another agent would submit if this one did not.
pub fn is_awaited(database: &Database) -> Result<bool, LedgerError> {
    let waits = lease::who(database, lease::WAITS).map_err(in_database(database))?;
    Ok(waits.is_some_and(|(_, is_now)| is_now))
}

/// This process as others know it, for people.
pub fn this_process() -> String {
    lease::own_name()
}

fn in_database(database: &Database) -> impl FnOnce(sql::Error) -> LedgerError {
    let place = Place::Database(database.clone());
    move |error| LedgerError::from_sql(&place, error)
}

impl Ledger {
    /// From now on nothing is written once another agent has taken the lease that had this number.
    pub fn write_at(&mut self, number: i64) {
        self.lease = Some((Task::Submit.lease(), number));
    }

    /// The same ledger, to which runs of a collector are appended whose lock had this number, whoever's agent that is.
    pub fn of_collector(self, collector: &str, number: i64, clock: &SharedClock) -> Ledger {
        let lock = Some((Task::Collect(collector.to_owned()).lease(), number));
        Ledger { lock, only_appends: true, clock: Some(clock.clone()), ..self }
    }
}

/// A process for people: `process 4711`, and whether it is stopped.
pub fn process_named(process: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The state stands after the name, which may hold anything but ends with the last bracket.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    match state {
        Some('T' | 't') => {
            format!("process {process}, which is stopped (continue it with SIGCONT, or end it)")
        }
        _ => format!("process {process}"),
    }
}

fn lock(ledger: &Path) -> Result<Option<Flock<File>>, LedgerError> {
    let path = lock_file(ledger);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| LedgerError::from_io(&path, "create the lock file of", &error))?;
    give_to_owner(&file, ledger);
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            // For people only, so that a full disk does not matter.
            let told = held.set_len(0).and_then(|()| writeln!(held, "{}", std::process::id()));
            drop(told);
            Ok(Some(held))
        }
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(LedgerError::from_io(&path, "lock", &error.into())),
    }
}

fn holder(ledger: &Path) -> String {
    let written = std::fs::read_to_string(lock_file(ledger)).unwrap_or_default();
    written.trim().parse().map_or_else(|_| "another process".to_owned(), process_named)
}

fn lock_file(ledger: &Path) -> PathBuf {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

/// What is kept of turns: the number of the latest, and when it was taken.
const TURN: &str = "turn";

impl Ledger {
    /// Takes the next turn of submission. From now on whatever an earlier holder of the lock still writes is not
    /// believed. Returns when the turn before was taken.
    pub fn take_turn(&mut self, now: Timestamp) -> Result<Option<Timestamp>, LedgerError> {
        let (number, before) = self.transact(|connection, _| {
            let latest = latest(connection)?;
            let number = latest.map_or(0, |(number, _)| number) + 1;
            connection.execute(
                "INSERT INTO server (key, value, at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (key) DO UPDATE SET value = ?2, at = ?3",
                params![TURN, number.to_string(), micros(now)],
            )?;
            Ok((number, latest.map(|(_, at)| at)))
        })?;
        self.turn = Some(number);
        Ok(before)
    }

    /// Whether no other process has taken a later turn.
    pub fn has_turn(&self) -> Result<bool, LedgerError> {
        let turn = self.own_turn();
        self.look(|connection| is_current(connection, turn))
    }

    /// The turn in which this process writes; 0 where it has never submitted.
    pub fn own_turn(&self) -> i64 {
        self.turn.unwrap_or(0)
    }

    /// Does something in one transaction, unless another process has taken a later turn: then nothing is done.
    pub(super) fn transact_in_turn<T>(
        &mut self,
        work: impl FnOnce(&Connection, &InForce, i64) -> sql::Result<T>,
    ) -> Result<T, LedgerError> {
        let turn = self.own_turn();
        let done = self.transact(|connection, in_force| match is_current(connection, turn)? {
            true => work(connection, in_force, turn).map(Some),
            false => Ok(None),
        })?;
        self.in_turn(done)
    }

    /// What a transaction came to that was carried out only if no other process has taken a later turn.
    pub(super) fn in_turn<T>(&self, done: Option<T>) -> Result<T, LedgerError> {
        done.ok_or_else(|| LedgerError::superseded(self.own_turn()))
    }
}

/// Whether a process that has this turn (or 0: none) is the latest to have taken one.
pub(super) fn is_current(connection: &Connection, turn: i64) -> sql::Result<bool> {
    Ok(turn == 0 || latest(connection)?.is_none_or(|(number, _)| number <= turn))
}

fn latest(connection: &Connection) -> sql::Result<Option<(i64, Timestamp)>> {
    let turn = connection
        .prepare_cached("SELECT value, at FROM server WHERE key = ?")?
        .query_row([TURN], |row| Ok((row.get::<_, String>(0)?, instant(row.get(1)?))))
        .optional()?;
    Ok(turn.and_then(|(number, at)| Some((number.parse().ok()?, at))))
}
