//! A ledger in a SQLite file: made, opened and looked through.
//!
//! Durable before acknowledged (law 1): WAL with `synchronous=FULL`. A file that is not a ledger, a newer one and a damaged
//! one are refused and left as they are.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::error::{LedgerError, has_no_room, is_read_only};
use super::inspect::inspect;
use super::{schema, sql};

/// A ledger that is checked through when it is opened, up to this size; larger ones by `check` only, so that start-up
/// never depends on how much history there is.
const QUICK_CHECK_BYTES: u64 = 16 * 1024 * 1024;
/// More statements than the ledger has: each is prepared once a connection.
const STATEMENTS: usize = 512;

/// Opens the file to write, makes it if it is not there, and brings an older one up to date.
pub(super) fn open(path: &Path) -> Result<sql::Connection, LedgerError> {
    inspect(path)?;
    let wrap = |error| LedgerError::from_sql(&path.into(), sql::Error::Sqlite(error));
    if !path.exists() {
        // Made here so that nobody else can read it, not even for a moment; SQLite's side files follow its mode.
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        if let Err(error) = made
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(LedgerError::from_io(path, "create", &error));
        }
    }
    let (connection, version) = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let size = std::fs::metadata(path).map(|data| data.len()).unwrap_or(0);
    if size <= QUICK_CHECK_BYTES {
        quick_check(&connection, path)?;
    }
    if version == 0 {
        // Incremental, so that compaction can give space back; can only be chosen before the first table.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(wrap)?;
    }
    if version < schema::VERSION {
        schema::migrate(&connection).map_err(|error| LedgerError::from_sql(&path.into(), error))?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(wrap)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(wrap)?;
    // Who refers to whom is written in the schema and checked by `verify`; checking it again with each reading costs
    // a look-up each, and a journal of its own for each statement.
    connection.pragma_update(None, "foreign_keys", "OFF").map_err(wrap)?;
    // Of what one large run changes the most; it is given back after it. Twice as much would save it a twentieth of its time.
    connection.pragma_update(None, "cache_size", -2048).map_err(wrap)?;
    // The same pages change again and again; moving them to the file every 16 MB instead of 4 writes them less often.
    connection.pragma_update(None, "wal_autocheckpoint", 4096).map_err(wrap)?;
    connection.pragma_update(None, "journal_size_limit", 4 * 1024 * 1024).map_err(wrap)?;
    Ok(connection.into())
}

/// Opens the file to read only: `status` beside a daemon, or as another user.
pub(super) fn open_to_read(path: &Path) -> Result<sql::Connection, LedgerError> {
    inspect(path)?;
    if !path.exists() {
        return Err(LedgerError::absent(path));
    }
    let opened = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .or_else(|error| unchanging(path).or_else(|| without_room(path)).ok_or(error)?);
    match opened? {
        (_, version) if version < schema::VERSION => Err(LedgerError::absent(path)),
        (connection, _) => Ok(connection.into()),
    }
}

/// The same where nobody can write to it: SQLite makes files beside it to read one that others write to. `None` where there is a
/// log that it would not read then.
fn unchanging(path: &Path) -> Option<Result<(Connection, i64), LedgerError>> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let no_log = std::fs::metadata(log).map_or(true, |log| log.len() == 0);
    if !no_log || !is_read_only(path) {
        return None;
    }
    let quoted = path.to_str()?.replace('%', "%25").replace('?', "%3f").replace('#', "%23");
    let uri = format!("file:{quoted}?immutable=1");
    Some(connect(Path::new(&uri), OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI))
}

/// The same on a full disk, where SQLite can't make the file by which those who have it open share what they know of its log:
/// this one keeps it in memory, which takes that nobody else has it open, and leaves the log as it is.
fn without_room(path: &Path) -> Option<Result<(Connection, i64), LedgerError>> {
    if !has_no_room(path) {
        return None;
    }
    let alone = |connection: &Connection| {
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
    };
    Some(connect_so(path, OpenFlags::SQLITE_OPEN_READ_WRITE, alone))
}

/// A ledger that is gone when it is dropped.
pub(super) fn in_memory() -> Result<sql::Connection, sql::Error> {
    let connection = Connection::open_in_memory()?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    schema::migrate(&connection)?;
    Ok(connection.into())
}

/// Reads the whole file and says what is damaged.
pub(super) fn verify(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    quick_check(connection, path)?;
    let dangling = connection.query_row("PRAGMA foreign_key_check", [], |row| {
        Ok(format!("a row of `{}` belongs to no `{}`", row.get::<_, String>(0)?, row.get::<_, String>(2)?))
    });
    match dangling.optional().map_err(|error| LedgerError::from_sql(&path.into(), error.into()))? {
        Some(what) => Err(LedgerError::damaged(path, &what)),
        None => Ok(()),
    }
}

/// A connection, and the version of what it leads to.
fn connect(path: &Path, how: OpenFlags) -> Result<(Connection, i64), LedgerError> {
    connect_so(path, how, |_| Ok(()))
}

/// The same, with what is to be said before the file is looked into.
fn connect_so(
    path: &Path,
    how: OpenFlags,
    first: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(Connection, i64), LedgerError> {
    let wrap = |error| LedgerError::from_sql(&path.into(), sql::Error::Sqlite(error));
    let connection =
        Connection::open_with_flags(path, how | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(wrap)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(wrap)?;
    first(&connection).map_err(wrap)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
    if version > schema::VERSION {
        return Err(LedgerError::newer(&path.into(), version));
    }
    Ok((connection, version))
}

fn quick_check(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let check = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match check {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(LedgerError::damaged(path, &verdict)),
        Err(error) => Err(LedgerError::from_sql(&path.into(), error.into())),
    }
}
