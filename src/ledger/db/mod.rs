//! The ledger opened, and worked on in transactions: whoever writes gives all of it or nothing.
//!
//! It knows no table but those of the rules in force, which every reader needs. How it speaks to its engine: `sql`.

use std::path::{Path, PathBuf};

pub(super) mod clock;
pub(super) mod columns;
pub mod error;
pub mod event;
mod file;
mod inspect;
pub mod rules;
mod schema;
mod shared;
pub(super) mod sql;

pub use error::{LedgerError, LedgerTrouble};
pub use rules::{InForce, Rulebook};
pub use shared::SharedLedger;
use sql::Connection;

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    pub(super) connection: Connection,
    pub(super) path: PathBuf,
    /// What the configuration says now; it is recorded by `apply_rules`.
    pub(super) rulebook: Rulebook,
    /// What was recorded, and so counts.
    pub(super) in_force: InForce,
    /// The turn of submission that this process has, or had (sent/lock.rs).
    pub(super) turn: Option<i64>,
    /// The number of the last event that was told in the log.
    pub(super) told: i64,
}

impl Ledger {
    /// Opens the ledger, makes it if it is not there, and brings an older one up to date.
    pub fn open(path: &Path, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let connection = file::open(path)?;
        let wrap = |error| LedgerError::from_sql(path, error);
        let in_force = rules::load_or_record(&connection, &rulebook).map_err(wrap)?;
        Ledger::of(connection, path, rulebook, in_force)
    }

    /// A ledger that is gone when it is dropped: for looking without keeping.
    pub fn in_memory(rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let path = Path::new(":memory:");
        let wrap = |error| LedgerError::from_sql(path, error);
        let connection = file::in_memory().map_err(wrap)?;
        let in_force = rules::load_or_record(&connection, &rulebook).map_err(wrap)?;
        Ledger::of(connection, path, rulebook, in_force)
    }

    /// Opens the ledger to read only: `status` beside a daemon, or as another user.
    pub fn open_to_read(path: &Path, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let connection = file::open_to_read(path)?;
        let in_force =
            rules::load(&connection, &rulebook).map_err(|error| LedgerError::from_sql(path, error))?;
        Ledger::of(connection, path, rulebook, in_force)
    }

    fn of(
        connection: Connection,
        path: &Path,
        rulebook: Rulebook,
        in_force: InForce,
    ) -> Result<Ledger, LedgerError> {
        let told = last_event(&connection).map_err(|error| LedgerError::from_sql(path, error))?;
        Ok(Ledger { connection, path: path.to_owned(), rulebook, in_force, turn: None, told })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rules that were recorded, by the months that they hold in.
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Reads the whole ledger and says what is damaged.
    pub fn verify(&self) -> Result<(), LedgerError> {
        file::verify(self.connection.sqlite(), &self.path)
    }

    /// Copies the whole ledger, as it is now, to a file that is not there yet.
    pub fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        self.look(|connection| connection.execute("VACUUM INTO ?", [&*path.to_string_lossy()]).map(drop))
    }

    /// Does something in one transaction (or as a part of one that has begun): all of it, or nothing.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&Connection, &InForce) -> sql::Result<T>,
    ) -> Result<T, LedgerError> {
        let wrap = |error| LedgerError::from_sql(&self.path, error);
        let begins = self.connection.is_autocommit();
        let transaction = self.connection.transaction().map_err(wrap)?;
        // Another process may have recorded others since.
        if begins && !rules::is_latest(&transaction, &self.in_force).map_err(wrap)? {
            self.in_force = rules::load(&transaction, &self.rulebook).map_err(wrap)?;
        }
        let done = work(&transaction, &self.in_force).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
        Ok(done)
    }

    /// Does several things in one transaction, so that they reach the disk together: all of them, or none.
    pub fn together<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.look(Connection::begin)?;
        let done = work(self);
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
        work(&self.connection).map_err(|error| LedgerError::from_sql(&self.path, error))
    }
}

fn last_event(connection: &Connection) -> sql::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get(0))
}
