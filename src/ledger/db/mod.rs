//! The ledger opened, and worked on in transactions: whoever writes gives all of it or nothing.
//!
//! It knows no table but those of the rules in force, which every reader needs. How it speaks to its engine: `sql`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use uuid::Uuid;

use crate::config::clock::SharedClock;
use crate::config::place::{Database, Place};
use crate::metering::period::BillingPeriod;

pub mod clock;
pub(super) mod columns;
mod copy;
pub mod error;
pub mod event;
mod file;
mod inspect;
pub(super) mod lease;
mod process;
pub mod rules;
mod schema;
mod server;
mod shared;
pub(super) mod sql;

pub use error::{LedgerError, LedgerErrorKind};
pub use rules::{InForce, Rulebook};
use server::Use;
pub use shared::SharedLedger;
use sql::Connection;

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    pub(super) connection: Connection,
    pub(super) place: Place,
    /// Whose runs are appended here: '' in a file, which has one agent.
    pub(super) agent: String,
    /// Whether runs are only appended here, and counted by another.
    pub(super) only_appends: bool,
    /// The lock of the collector whose runs are appended here, by its name, and its number.
    pub(super) lock: Option<(String, i64)>,
    /// By whose clock the runs are made that are appended here, where that may differ from the database's.
    pub(super) clock: Option<SharedClock>,
    /// What the configuration says now; it is recorded by `apply_rules`.
    pub(super) rulebook: Rulebook,
    /// What was recorded, and so counts.
    pub(super) in_force: InForce,
    /// The turn of submission that this process has, or had (sent/lock.rs).
    pub(super) turn: Option<i64>,
    /// Of a shared ledger: the turn that lasts as long as this agent is at work, by its name.
    pub(super) lease: Option<(String, i64)>,
    /// The number of the last event that was told in the log.
    pub(super) told: i64,
    /// Readings that were quarantined since this was asked last, after their runs were recorded, by collector.
    pub(super) put_aside: BTreeMap<String, usize>,
    /// What is pending, as it was asked for last: it takes a look at every line, and is asked for many times while nothing is
    /// written.
    pub(super) pending: RefCell<Option<(sql::Stamp, Vec<StatementPlace>)>>,
}

/// A statement: resource, billing period, and the first instant of its part.
pub(super) type StatementPlace = (Uuid, BillingPeriod, Timestamp);

impl Ledger {
    /// Opens the ledger to write. A file is made if it is not there, and an older one brought up to date; the tables of a
    /// database are made by `make`.
    pub fn open(place: impl Into<Place>, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let place = place.into();
        let connection = match &place {
            Place::File(path) => file::open(path)?,
            Place::Database(database) => {
                let connection = server::connect(database, Use::Write)
                    .map_err(|error| LedgerError::from_sql(&place, error))?;
                check_version(&connection, &place)?;
                connection
            }
        };
        Ledger::of(connection, place, rulebook, rules::load_or_record)
    }

    /// Makes what is not there of a ledger, and brings an older one up to date.
    pub fn make(place: &Place) -> Result<(), LedgerError> {
        match place {
            Place::File(path) => file::open(path).map(drop),
            Place::Database(database) => {
                let wrap = |error| LedgerError::from_sql(place, error);
                let connection = server::connect(database, Use::Write).map_err(wrap)?;
                match server::version(&connection).map_err(wrap)? {
                    Some(version) if version > schema::VERSION => Err(LedgerError::newer(place, version)),
                    _ => server::make(&connection).map_err(wrap),
                }
            }
        }
    }

    /// Refuses a database before which a pooler gives each transaction another connection.
    pub fn refuse_lent_connections(database: &Database) -> Result<(), LedgerError> {
        let place = Place::Database(database.clone());
        match server::lends_connections(database) {
            Ok(true) => Err(LedgerError::pooled(&place)),
            Ok(false) => Ok(()),
            Err(error) => Err(LedgerError::from_sql(&place, error)),
        }
    }

    /// The schema that the tables of a database are in.
    pub fn schema_of(place: &Place) -> Result<Option<String>, LedgerError> {
        let Place::Database(database) = place else { return Ok(None) };
        let schema = server::connect(database, Use::Read).and_then(|connection| server::schema(&connection));
        schema.map(Some).map_err(|error| LedgerError::from_sql(place, error))
    }

    /// The tables of a shared ledger that the configured role may not write, though who counts and submits has to.
    pub fn may_not_write(database: &Database) -> Result<Vec<String>, LedgerError> {
        let tables =
            server::connect(database, Use::Read).and_then(|connection| server::may_not_write(&connection));
        tables.map_err(|error| LedgerError::from_sql(&Place::Database(database.clone()), error))
    }

    /// Copies a whole ledger into one that is made or empty; returns how many rows each table has, on both sides. What the one
    /// agent of a file has measured is this agent's in a database, and the other way round; but for collectors that any agent
    /// may run (`once`), which are nobody's in either.
    pub fn copy(from: &Place, to: &Place, agent: &str, once: &[&str]) -> Result<copy::Counts, LedgerError> {
        let wrap = |place: &Place| {
            let place = place.clone();
            move |error| LedgerError::from_sql(&place, error)
        };
        let source = match from {
            Place::File(path) => file::open_to_read(path)?,
            Place::Database(database) => server::connect(database, Use::Read).map_err(wrap(from))?,
        };
        Ledger::make(to)?;
        let target = match to {
            Place::File(path) => file::open(path)?,
            Place::Database(database) => server::connect(database, Use::Write).map_err(wrap(to))?,
        };
        for (place, connection) in [(from, &source), (to, &target)] {
            if let Place::Database(_) = place {
                check_version(connection, place)?;
                if server::are_others_at_work(connection).map_err(wrap(place))? {
                    return Err(LedgerError::at_work(place));
                }
            }
        }
        if let (Place::Database(_), Place::File(_)) = (from, to) {
            let waiting = server::arrived(&source).map_err(wrap(from))?;
            if waiting > 0 {
                return Err(LedgerError::not_taken(from, waiting));
            }
        }
        let counts = copy::copy(&source, &target).map_err(wrap(to))?;
        let (old, new, but) = match (from, to) {
            (Place::File(_), Place::Database(_)) => ("", agent, once),
            // What is nobody's stays so: a file's one agent has no name either.
            (Place::Database(_), Place::File(_)) => (agent, "", [].as_slice()),
            _ => return Ok(counts),
        };
        copy::rename_agent(&target, (old, new), but).map_err(wrap(to))?;
        Ok(counts)
    }

    /// A ledger that is gone when it is dropped: for looking without keeping.
    pub fn in_memory(rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let place = Place::from(Path::new(":memory:"));
        let connection = file::in_memory().map_err(|error| LedgerError::from_sql(&place, error))?;
        Ledger::of(connection, place, rulebook, rules::load_or_record)
    }

    /// Opens the ledger to read only: `status` beside a daemon, or as another user.
    pub fn open_to_read(place: impl Into<Place>, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let place = place.into();
        let connection = match &place {
            Place::File(path) => file::open_to_read(path)?,
            Place::Database(database) => {
                let connection = server::connect(database, Use::Read)
                    .map_err(|error| LedgerError::from_sql(&place, error))?;
                check_version(&connection, &place)?;
                connection
            }
        };
        Ledger::of(connection, place, rulebook, rules::load)
    }

    fn of(
        connection: Connection,
        place: Place,
        rulebook: Rulebook,
        load: fn(&Connection, &Rulebook) -> sql::Result<InForce>,
    ) -> Result<Ledger, LedgerError> {
        let wrap = |error| LedgerError::from_sql(&place, error);
        let in_force = load(&connection, &rulebook).map_err(wrap)?;
        let told = last_event(&connection).map_err(wrap)?;
        Ok(Ledger {
            connection,
            place,
            agent: String::new(),
            only_appends: false,
            lock: None,
            clock: None,
            rulebook,
            in_force,
            turn: None,
            lease: None,
            told,
            put_aside: BTreeMap::new(),
            pending: RefCell::new(None),
        })
    }

    /// From here on, what is appended is this agent's.
    pub fn append_as(&mut self, agent: &str) {
        agent.clone_into(&mut self.agent);
    }

    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The rules that were recorded, by the months that they hold in.
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Reads the whole ledger and says what is damaged.
    pub fn verify(&self) -> Result<(), LedgerError> {
        match (self.connection.sqlite(), &self.place) {
            (Some(connection), Place::File(path)) => file::verify(connection, path),
            _ => check_version(&self.connection, &self.place),
        }
    }

    /// Copies the whole ledger, as it is now, to a file that is not there yet.
    pub fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        match self.connection.sqlite() {
            Some(_) => self
                .look(|connection| connection.execute("VACUUM INTO ?", [&*path.to_string_lossy()]).map(drop)),
            None => copy::to_file(&self.connection, &self.place, path),
        }
    }

    /// Does something in one transaction (or as a part of one that has begun): all of it, or nothing.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&Connection, &InForce) -> sql::Result<T>,
    ) -> Result<T, LedgerError> {
        let wrap = |error| LedgerError::from_sql(&self.place, error);
        if !self.connection.is_autocommit() {
            // A part of what is done together: where it fails, nothing of that is kept.
            return work(&self.connection, &self.in_force).map_err(wrap);
        }
        let transaction = self.connection.transaction().map_err(wrap)?;
        self.check_task_lease()?;
        // Another process may have recorded others since.
        if !rules::is_latest(&transaction, &self.in_force).map_err(wrap)? {
            self.in_force = rules::load(&transaction, &self.rulebook).map_err(wrap)?;
        }
        let done = work(&transaction, &self.in_force).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
        Ok(done)
    }

    /// Whether no transaction is open that others belong to, too.
    pub(super) fn is_between_transactions(&self) -> bool {
        self.connection.is_autocommit()
    }

    /// Does several things in one transaction, so that they reach the disk together: all of them, or none.
    pub fn together<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.look(Connection::begin)?;
        let done = self.check_task_lease().and_then(|()| work(self));
        self.look(if done.is_ok() { Connection::commit } else { Connection::roll_back })?;
        done
    }

    /// Does something in a transaction, lets the caller look at what the ledger then says, and takes it all back.
    pub(super) fn rehearse<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.look(Connection::begin)?;
        let done = work(self);
        self.look(Connection::roll_back)?;
        done
    }

    /// Looks at much of the ledger as it was at one instant, whatever others write meanwhile.
    pub(super) fn at_one_instant<T>(
        &self,
        work: impl FnOnce(&Connection) -> sql::Result<T>,
    ) -> Result<T, LedgerError> {
        if !self.connection.is_autocommit() {
            return self.look(work);
        }
        self.look(Connection::begin_reading)?;
        let done = self.look(work);
        self.look(Connection::roll_back)?;
        done
    }

    /// Whether this agent may still write: nothing of what one writes counts whose place another has taken.
    fn check_task_lease(&self) -> Result<(), LedgerError> {
        let Some((name, number)) = &self.lease else { return Ok(()) };
        match self.look(|connection| lease::is_current(connection, name, *number))? {
            true => Ok(()),
            false => Err(LedgerError::followed(&self.place)),
        }
    }

    /// Takes back what was begun and left without an end.
    fn undo(&mut self) {
        if !self.connection.is_autocommit() {
            // What can't be taken back now is when the connection closes.
            let undone = self.connection.roll_back();
            drop(undone);
        }
    }

    /// Looks something up.
    pub(super) fn look<T>(&self, work: impl FnOnce(&Connection) -> sql::Result<T>) -> Result<T, LedgerError> {
        work(&self.connection).map_err(|error| LedgerError::from_sql(&self.place, error))
    }
}

/// A connection to a shared ledger for whoever appends to it and does nothing else there.
pub(super) fn connect_to_append(database: &Database) -> Result<Connection, LedgerError> {
    let place = Place::Database(database.clone());
    let connection =
        server::connect(database, Use::Write).map_err(|error| LedgerError::from_sql(&place, error))?;
    check_version(&connection, &place)?;
    Ok(connection)
}

/// Whether the tables of a database are those that this program writes.
fn check_version(connection: &Connection, place: &Place) -> Result<(), LedgerError> {
    match server::version(connection).map_err(|error| LedgerError::from_sql(place, error))? {
        Some(schema::VERSION) => Ok(()),
        Some(version) if version > schema::VERSION => Err(LedgerError::newer(place, version)),
        _ => Err(LedgerError::not_made(place)),
    }
}

fn last_event(connection: &Connection) -> sql::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get(0))
}
