//! The ledger's file: opened, checked, and worked on in transactions.
//!
//! Durable before acknowledged (law 1): WAL with `synchronous=FULL`. Whoever writes gives all of it or nothing. It knows no
//! table but those of the rules in force, which every reader needs.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

pub(super) mod clock;
pub(super) mod columns;
pub mod error;
pub mod event;
mod inspect;
pub mod rules;
mod schema;
mod shared;

pub use error::{LedgerError, LedgerTrouble};
use inspect::{inspect, quick_check};
pub use rules::{InForce, Rulebook};
pub use shared::SharedLedger;

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

/// A ledger that is checked through when it is opened, up to this size; larger ones by `check` only, so that start-up
/// never depends on how much history there is.
const QUICK_CHECK_BYTES: u64 = 16 * 1024 * 1024;

impl Ledger {
    /// Opens the file, makes it if it is not there, and brings an older one up to date. A file that is not a ledger,
    /// a newer one and a damaged one are refused and left as they are.
    pub fn open(path: &Path, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        inspect(path)?;
        let wrap = |error| LedgerError::from_sqlite(path, error);
        if !path.exists() {
            // Made here so that nobody else can read it, not even for a moment; SQLite's side files follow its mode.
            let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            if let Err(error) = made
                && error.kind() != std::io::ErrorKind::AlreadyExists
            {
                return Err(LedgerError::from_io(path, "create", &error));
            }
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(wrap)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(wrap)?;
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
        if version > schema::VERSION {
            return Err(LedgerError::newer(path, version));
        }
        let size = std::fs::metadata(path).map(|data| data.len()).unwrap_or(0);
        if size <= QUICK_CHECK_BYTES {
            quick_check(&connection, path)?;
        }
        if version == 0 {
            // Incremental, so that compaction can give space back; can only be chosen before the first table.
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(wrap)?;
        }
        if version < schema::VERSION {
            schema::migrate(&mut connection).map_err(wrap)?;
        }
        connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
        // Who refers to whom is written in the schema and checked by `verify`; checking it again with each reading costs
        // a look-up each, and a journal of its own for each statement.
        connection.pragma_update(None, "foreign_keys", "OFF").map_err(wrap)?;
        // What one large run changes; it is given back after it.
        connection.pragma_update(None, "cache_size", -8192).map_err(wrap)?;
        // The same pages change again and again; moving them to the file every 16 MB instead of 4 writes them less often.
        connection.pragma_update(None, "wal_autocheckpoint", 4096).map_err(wrap)?;
        connection.pragma_update(None, "journal_size_limit", 4 * 1024 * 1024).map_err(wrap)?;
        connection.set_prepared_statement_cache_capacity(128);
        let in_force = rules::load_or_record(&mut connection, &rulebook).map_err(wrap)?;
        let told = last_event(&connection).map_err(wrap)?;
        Ok(Ledger { connection, path: path.to_owned(), rulebook, in_force, turn: None, told })
    }

    /// A ledger that is gone when it is dropped: for looking without keeping.
    pub fn in_memory(rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let path = PathBuf::from(":memory:");
        let wrap = |error| LedgerError::from_sqlite(Path::new(":memory:"), error);
        let mut connection = Connection::open_in_memory().map_err(wrap)?;
        schema::migrate(&mut connection).map_err(wrap)?;
        let in_force = rules::load_or_record(&mut connection, &rulebook).map_err(wrap)?;
        Ok(Ledger { connection, path, rulebook, in_force, turn: None, told: 0 })
    }

    /// Opens the file to read only: `status` beside a daemon, or as another user.
    pub fn open_to_read(path: &Path, rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        inspect(path)?;
        if !path.exists() {
            return Err(LedgerError::absent(path));
        }
        let wrap = |error| LedgerError::from_sqlite(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(wrap)?;
        connection.busy_timeout(Duration::from_secs(10)).map_err(wrap)?;
        let version: i64 =
            connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
        match version {
            version if version > schema::VERSION => return Err(LedgerError::newer(path, version)),
            version if version < schema::VERSION => return Err(LedgerError::absent(path)),
            _ => {}
        }
        let in_force = rules::load(&connection, &rulebook).map_err(wrap)?;
        let told = last_event(&connection).map_err(wrap)?;
        Ok(Ledger { connection, path: path.to_owned(), rulebook, in_force, turn: None, told })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rules that were recorded, by the months that they hold in.
    pub fn in_force(&self) -> &InForce {
        &self.in_force
    }

    /// Reads the whole file and says what is damaged.
    pub fn verify(&self) -> Result<(), LedgerError> {
        quick_check(&self.connection, &self.path)?;
        let dangling = self.look(|connection| {
            connection
                .query_row("PRAGMA foreign_key_check", [], |row| {
                    Ok(format!(
                        "a row of `{}` belongs to no `{}`",
                        row.get::<_, String>(0)?,
                        row.get::<_, String>(2)?
                    ))
                })
                .optional()
        })?;
        dangling.map_or(Ok(()), |what| Err(LedgerError::damaged(&self.path, &what)))
    }

    /// Copies the whole ledger, as it is now, to a file that is not there yet.
    pub fn copy_to(&self, path: &Path) -> Result<(), LedgerError> {
        self.look(|connection| connection.execute("VACUUM INTO ?", [path.to_string_lossy()]).map(drop))
    }

    /// Does something in one transaction: all of it, or nothing.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&Connection, &InForce) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        if !self.connection.is_autocommit() {
            return self.part_of_transaction(work);
        }
        let wrap = |error| LedgerError::from_sqlite(&self.path, error);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(wrap)?;
        // Another process may have recorded others since.
        if !rules::is_latest(&transaction, &self.in_force).map_err(wrap)? {
            self.in_force = rules::load(&transaction, &self.rulebook).map_err(wrap)?;
        }
        let done = work(&transaction, &self.in_force).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
        Ok(done)
    }

    /// The same within a transaction that has begun.
    fn part_of_transaction<T>(
        &mut self,
        work: impl FnOnce(&Connection, &InForce) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let wrap = |error| LedgerError::from_sqlite(&self.path, error);
        let savepoint = self.connection.savepoint().map_err(wrap)?;
        let done = work(&savepoint, &self.in_force).map_err(wrap)?;
        savepoint.commit().map_err(wrap)?;
        Ok(done)
    }

    /// Does several things in one transaction, so that they reach the disk together: all of them, or none.
    pub fn together<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let path = self.path.clone();
        let wrap = |error| LedgerError::from_sqlite(&path, error);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(wrap)?;
        let done = work(self);
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.connection.execute_batch(end).map_err(wrap)?;
        done
    }

    /// Does something in a transaction, lets the caller look at what the ledger then says, and takes it all back.
    pub(super) fn rehearse<T>(
        &mut self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let path = self.path.clone();
        let wrap = |error| LedgerError::from_sqlite(&path, error);
        self.connection.execute_batch("BEGIN IMMEDIATE").map_err(wrap)?;
        let done = work(self);
        self.connection.execute_batch("ROLLBACK").map_err(wrap)?;
        done
    }

    /// Looks something up.
    pub(super) fn look<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        work(&self.connection).map_err(|error| LedgerError::from_sqlite(&self.path, error))
    }
}

fn last_event(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(id), 0) FROM event", [], |row| row.get(0))
}
