//! The ledger: one SQLite file with every reading, what they amount to, and what Waldur is known to hold of it.
//! It is the only state of the agent.
//!
//! Durable before acknowledged (law 1): WAL with `synchronous=FULL`, and one transaction a collector run or an
//! outcome of a call. It never talks to the network and never asks for the time: callers pass instants in.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, current};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use tokio::sync::oneshot;

use crate::metering::meter::Rules;
use crate::metering::period::BillingZone;

pub mod adjustment;
pub mod carry;
pub mod catalog;
pub mod compact;
pub mod error;
pub mod explain;
mod future;
pub mod ingest;
mod lines;
pub mod lock;
mod makers;
pub mod outbox;
pub mod periods;
mod quantify;
pub mod recount;
pub mod report;
mod rows;
pub mod rules;
mod schema;
pub mod server;
pub mod statements;
mod store;
mod switched;
pub mod trouble;

pub use error::{LedgerError, LedgerTrouble};

/// The rules by which readings become amounts, all collectors' together.
#[derive(Debug, Clone)]
pub struct Rulebook {
    pub zone: BillingZone,
    pub rules: Vec<Rules>,
}

impl Rulebook {
    pub fn of(&self, collector: &str) -> Option<&Rules> {
        self.rules.iter().find(|rules| rules.collector == collector)
    }
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
    path: PathBuf,
    rulebook: Rulebook,
    /// The turn of submission that this process has, or had (lock.rs).
    turn: Option<i64>,
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
        connection.set_prepared_statement_cache_capacity(64);
        Ok(Ledger { connection, path: path.to_owned(), rulebook, turn: None })
    }

    /// A ledger that is gone when it is dropped: for looking without keeping.
    pub fn in_memory(rulebook: Rulebook) -> Result<Ledger, LedgerError> {
        let path = PathBuf::from(":memory:");
        let wrap = |error| LedgerError::from_sqlite(Path::new(":memory:"), error);
        let mut connection = Connection::open_in_memory().map_err(wrap)?;
        schema::migrate(&mut connection).map_err(wrap)?;
        Ok(Ledger { connection, path, rulebook, turn: None })
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
        Ok(Ledger { connection, path: path.to_owned(), rulebook, turn: None })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn rulebook(&self) -> &Rulebook {
        &self.rulebook
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

    /// Does something in one transaction: all of it, or nothing.
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&Connection, &Rulebook) -> rusqlite::Result<T>,
    ) -> Result<T, LedgerError> {
        let wrap = |error| LedgerError::from_sqlite(&self.path, error);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(wrap)?;
        let done = work(&transaction, &self.rulebook).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
        Ok(done)
    }

    /// Looks something up.
    fn look<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        work(&self.connection).map_err(|error| LedgerError::from_sqlite(&self.path, error))
    }
}

/// A piece of work for the ledger's thread.
type Work = Box<dyn FnOnce(&mut Ledger) + Send>;

/// The ledger as tasks share it: one piece of work at a time, in the order in which they were asked for, on a thread of
/// its own, so that a slow disk never stops the others. One thread and not whichever is free: each that ever worked for
/// SQLite would keep its own pool of memory.
#[derive(Debug, Clone)]
pub struct SharedLedger(Arc<Worker>);

#[derive(Debug)]
struct Worker {
    /// `None` only while it is dropped.
    work: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

/// The last to go waits for what was asked for, and for the ledger to be closed.
impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != current().id()) {
            // A panic has been told where the work was waited for.
            let _ = thread.join();
        }
    }
}

impl SharedLedger {
    pub fn new(mut ledger: Ledger) -> Self {
        let (work, orders) = mpsc::channel::<Work>();
        let thread = std::thread::spawn(move || {
            for work in orders {
                // Work that panics has left its transaction, which is thereby undone; the ledger is as before.
                let done = catch_unwind(AssertUnwindSafe(|| work(&mut ledger)));
                drop(done);
            }
        });
        SharedLedger(Arc::new(Worker { work: Some(work), thread: Some(thread) }))
    }

    /// Does the work, even if nobody waits for it any more.
    pub async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let interrupted = || LedgerError::interrupted("its thread gave no answer".to_owned());
        let (tell, answer) = oneshot::channel();
        let order: Work = Box::new(move |ledger| {
            // Whoever asked may have gone.
            let _ = tell.send(work(ledger));
        });
        let orders = self.0.work.as_ref().ok_or_else(interrupted)?;
        orders.send(order).map_err(|_| interrupted())?;
        answer.await.map_err(|_| interrupted())?
    }
}

/// How often to look whether a file without a mark gets one, before it is taken for a foreign one.
const LOOKS: u32 = 40;

/// Whether the file is a SQLite database that no program has marked as its own.
fn is_unmarked(path: &Path) -> bool {
    let mut header = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(100).read_to_end(&mut header));
    read.is_ok()
        && header.starts_with(b"SQLite format 3\0")
        && header.get(60..64) == Some(&[0; 4])
        && header.get(68..72) == Some(&[0; 4])
}

/// Looks at the first bytes of the file without opening it as a database, so that a foreign file stays untouched.
fn inspect(path: &Path) -> Result<(), LedgerError> {
    for _ in 0..LOOKS {
        if !is_unmarked(path) {
            break;
        }
        // Most likely another process of ours is just making it: its pages come before its mark.
        #[expect(
            clippy::disallowed_methods,
            reason = "at most a second, for a file that is about to be refused"
        )]
        std::thread::sleep(Duration::from_millis(25));
    }
    let mut header = Vec::new();
    match std::fs::File::open(path) {
        Ok(file) => {
            file.take(100).read_to_end(&mut header).map_err(|e| LedgerError::from_io(path, "read", &e))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LedgerError::from_io(path, "open", &error)),
    };
    if header.is_empty() {
        return Ok(());
    }
    let word = |at: usize| {
        header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes).unwrap_or(0)
    };
    if !header.starts_with(b"SQLite format 3\0") || header.len() < 100 {
        return Err(LedgerError::foreign(path, "it is not a SQLite database"));
    }
    let (pages, version, application) = (word(28), word(60), word(68));
    // Without a table yet, and nobody's: a ledger that another process is making now, or was killed while it did.
    if pages <= 1 && version == 0 && application == 0 {
        return Ok(());
    }
    if application != schema::APPLICATION_ID {
        return Err(LedgerError::foreign(path, "it is another program's SQLite database"));
    }
    if i64::from(version) > schema::VERSION {
        return Err(LedgerError::newer(path, version.into()));
    }
    Ok(())
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match check {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(LedgerError::damaged(path, &verdict)),
        Err(error) => Err(LedgerError::from_sqlite(path, error)),
    }
}

/// Whether an error of SQLite means that the disk has no room.
fn is_full(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull)
}

/// An instant as the ledger keeps it.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// An instant from the ledger.
pub(crate) fn instant(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
