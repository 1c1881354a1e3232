//! How the ledger speaks to its engine: connections, statements, rows and transactions, by the names that rusqlite gave
//! them. The SQL is one that SQLite and PostgreSQL take alike, so that there is one of each rule; what engines do
//! differently is said in their files here, in `schema`, and nowhere else. It knows one table: the one that writers wait at.
//!
//! What both take, and what is to be kept to: placeholders are `?` and `?1`; `ON CONFLICT` and not `OR REPLACE`; `IS
//! DISTINCT FROM` and not `IS NOT`; no `user` and no `end` as names; truth is compared (`closed = 1`), as it is an integer;
//! the sum of integers is cast to one; a query in FROM has a name; and an id that was just given is read with `RETURNING`.

pub(in crate::ledger) mod error;
mod placeholders;
mod postgres;
mod rows;
mod sqlite;
mod value;

use std::ops::Deref;
use std::time::Duration;

pub(in crate::ledger) use error::{Error, OptionalExtension, Result};
pub(super) use postgres::Connect;
pub(in crate::ledger) use value::{Cell, FromSql, Param, Params, ToSql, params};

/// A connection to the ledger's engine.
#[derive(Debug)]
pub(in crate::ledger) struct Connection(Engine);

#[derive(Debug)]
enum Engine {
    Sqlite(rusqlite::Connection),
    Postgres(postgres::Connection),
}

/// How much was written: rows by this connection, and commits by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::ledger) struct Stamp {
    own: u64,
    others: i64,
}

/// At PostgreSQL, writers wait here for each other, as SQLite's do by themselves.
const WAIT_FOR_WRITERS: &str = "SELECT 1 FROM writer FOR UPDATE";

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Connection(Engine::Sqlite(connection))
    }
}

impl Connection {
    /// A connection to a server of PostgreSQL's.
    pub(super) fn to_server(connect: Connect) -> Result<Connection> {
        postgres::Connection::open(connect).map(|connection| Connection(Engine::Postgres(connection)))
    }

    /// From now on, what a server does not answer in so long is given up.
    pub(in crate::ledger) fn set_answer_timeout(&self, patience: Duration) {
        if let Engine::Postgres(connection) = &self.0 {
            connection.set_answer_timeout(patience);
        }
    }

    /// What only SQLite has: pragmas, and copies of its file.
    pub(super) fn sqlite(&self) -> Option<&rusqlite::Connection> {
        match &self.0 {
            Engine::Sqlite(connection) => Some(connection),
            Engine::Postgres(_) => None,
        }
    }

    /// A statement that is seldom wanted.
    pub(in crate::ledger) fn prepare(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(match &self.0 {
            Engine::Sqlite(connection) => {
                Statement::Sqlite(sqlite::Statement::Once(connection.prepare(sql)?))
            }
            Engine::Postgres(connection) => Statement::Postgres(connection.prepare(sql)),
        })
    }

    /// A statement that is wanted often: it is prepared once.
    pub(in crate::ledger) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(match &self.0 {
            Engine::Sqlite(connection) => {
                Statement::Sqlite(sqlite::Statement::Cached(connection.prepare_cached(sql)?))
            }
            Engine::Postgres(connection) => Statement::Postgres(connection.prepare(sql)),
        })
    }

    /// Returns how many rows that changed. Preparing a statement takes longer than most take to be carried out.
    pub(in crate::ledger) fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.prepare_cached(sql)?.execute(params)
    }

    /// The first row.
    pub(in crate::ledger) fn query_row<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare_cached(sql)?.query_row(params, map)
    }

    /// Statements without parameters.
    pub(in crate::ledger) fn execute_batch(&self, sql: &str) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Engine::Postgres(connection) => connection.execute_batch(sql),
        }
    }

    /// Whether no transaction is open.
    pub(in crate::ledger) fn is_autocommit(&self) -> bool {
        match &self.0 {
            Engine::Sqlite(connection) => connection.is_autocommit(),
            Engine::Postgres(connection) => connection.is_autocommit(),
        }
    }

    /// What is other than before as soon as anything may have been written, by whoever; `None` where the engine can't tell, or
    /// while something is written that may be taken back.
    pub(in crate::ledger) fn stamp(&self) -> Result<Option<Stamp>> {
        match &self.0 {
            Engine::Sqlite(connection) if connection.is_autocommit() => {
                let own = connection.total_changes();
                let others = self.query_row("PRAGMA data_version", [], |row| row.get(0))?;
                Ok(Some(Stamp { own, others }))
            }
            _ => Ok(None),
        }
    }

    /// Gives back the memory that was needed for a while.
    pub(in crate::ledger) fn shrink_memory(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("PRAGMA shrink_memory")?),
            Engine::Postgres(_) => Ok(()),
        }
    }

    /// Gives back space of the disk that is free, as far as so many pages; a server sees to its own.
    pub(in crate::ledger) fn give_back(&self, pages: i64) -> Result<()> {
        let Engine::Sqlite(connection) = &self.0 else { return Ok(()) };
        // Each step of this statement gives back one page.
        let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
        Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// Begins to write: from here to the end no other process writes.
    pub(super) fn begin(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("BEGIN IMMEDIATE")?),
            Engine::Postgres(connection) => connection.begin(WAIT_FOR_WRITERS),
        }
    }

    /// Begins to write where the writers have no table to wait at yet, but by what is done `first`.
    pub(super) fn begin_with(&self, first: &str) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(_) => self.begin(),
            Engine::Postgres(connection) => connection.begin(first),
        }
    }

    /// Begins to add rows of a table whose writers wait for nobody.
    pub(in crate::ledger) fn begin_to_append(&self) -> Result<()> {
        self.begin_with("")
    }

    /// Begins to read what is there now, whatever others write.
    pub(super) fn begin_reading(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("BEGIN")?),
            Engine::Postgres(connection) => {
                connection.begin("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            }
        }
    }

    /// Hands over every row of a table, without holding all of them. In a transaction.
    pub(super) fn each_row(&self, table: &str, take: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut fetch = match &self.0 {
            Engine::Sqlite(_) => self.prepare(&format!("SELECT * FROM {table}"))?,
            Engine::Postgres(connection) => {
                connection.execute_batch(&format!("DECLARE all_{table} CURSOR FOR SELECT * FROM {table}"))?;
                self.prepare(&format!("FETCH 1000 FROM all_{table}"))?
            }
        };
        loop {
            let mut rows = fetch.query([])?;
            let mut some = false;
            while let Some(row) = rows.next()? {
                some = true;
                take(&row)?;
            }
            if !some || self.sqlite().is_some() {
                return Ok(());
            }
        }
    }

    /// Lets ids go on after the largest that each table holds, where rows came with theirs.
    pub(super) fn number_on(&self, tables: &[&str]) -> Result<()> {
        let Engine::Postgres(_) = &self.0 else { return Ok(()) };
        for table in tables {
            let numbered = "SELECT 1 FROM information_schema.columns
                WHERE table_schema = current_schema() AND table_name = ? AND column_name = 'id' AND is_identity = 'YES'";
            if self.prepare(numbered)?.exists([table])? {
                self.query_row(
                    &format!(
                        "SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 0) + 1, false) FROM {table}"
                    ),
                    [],
                    |_| Ok(()),
                )?;
            }
        }
        Ok(())
    }

    pub(in crate::ledger) fn commit(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("COMMIT")?),
            Engine::Postgres(connection) => connection.commit(),
        }
    }

    pub(in crate::ledger) fn roll_back(&self) -> Result<()> {
        match &self.0 {
            Engine::Sqlite(connection) => Ok(connection.execute_batch("ROLLBACK")?),
            Engine::Postgres(connection) => connection.roll_back(),
        }
    }

    /// A transaction. There is none within another.
    pub(super) fn transaction(&self) -> Result<Transaction<'_>> {
        self.begin()?;
        Ok(Transaction { connection: self, ended: false })
    }
}

/// What is done between its beginning and `commit` is done as a whole; dropped before, it is taken back.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    connection: &'c Connection,
    ended: bool,
}

impl Transaction<'_> {
    pub(super) fn commit(mut self) -> Result<()> {
        let done = self.connection.commit();
        // What could not be committed is taken back.
        self.ended = done.is_ok();
        done
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.ended || self.connection.is_autocommit() {
            return;
        }
        // An engine that can't answer has taken it back, or does when it can.
        drop(self.connection.roll_back());
    }
}

/// A statement of a connection.
pub(in crate::ledger) enum Statement<'c> {
    Sqlite(sqlite::Statement<'c>),
    Postgres(postgres::Statement<'c>),
}

impl Statement<'_> {
    pub(in crate::ledger) fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        Ok(match self {
            Statement::Sqlite(statement) => Rows::Sqlite(statement.query(&params)?),
            Statement::Postgres(statement) => {
                Rows::Postgres { rows: statement.query(&params)?.into_iter(), current: None }
            }
        })
    }

    pub(in crate::ledger) fn query_map<T, F>(
        &mut self,
        params: impl Params,
        map: F,
    ) -> Result<MappedRows<'_, F>>
    where
        F: FnMut(&Row<'_>) -> Result<T>,
    {
        Ok(MappedRows { rows: self.query(params)?, map })
    }

    /// The first row.
    pub(in crate::ledger) fn query_row<T>(
        &mut self,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        match self.query(params)?.next()? {
            Some(row) => map(&row),
            None => Err(Error::NoRow),
        }
    }

    /// Whether there is a row.
    pub(in crate::ledger) fn exists(&mut self, params: impl Params) -> Result<bool> {
        Ok(self.query(params)?.next()?.is_some())
    }

    /// Returns how many rows that changed.
    pub(in crate::ledger) fn execute(&mut self, params: impl Params) -> Result<usize> {
        match self {
            Statement::Sqlite(statement) => statement.execute(&params),
            Statement::Postgres(statement) => statement.execute(&params),
        }
    }
}

/// The rows of an answer, one after the other.
pub(in crate::ledger) enum Rows<'s> {
    Sqlite(rusqlite::Rows<'s>),
    Postgres { rows: std::vec::IntoIter<::postgres::Row>, current: Option<::postgres::Row> },
}

impl Rows<'_> {
    pub(in crate::ledger) fn next(&mut self) -> Result<Option<Row<'_>>> {
        Ok(match self {
            Rows::Sqlite(rows) => rows.next()?.map(Row::Sqlite),
            Rows::Postgres { rows, current } => {
                *current = rows.next();
                current.as_ref().map(Row::Postgres)
            }
        })
    }
}

/// The rows of an answer, each as `map` takes it.
pub(in crate::ledger) struct MappedRows<'s, F> {
    rows: Rows<'s>,
    map: F,
}

impl<T, F: FnMut(&Row<'_>) -> Result<T>> Iterator for MappedRows<'_, F> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.rows.next().map(|row| row.map(|row| (self.map)(&row))).transpose().map(Result::flatten)
    }
}

/// A row of an answer.
#[derive(Debug, Clone, Copy)]
pub(in crate::ledger) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r ::postgres::Row),
}

/// By what a column is named: its place, from 0.
pub(in crate::ledger) trait ColumnIndex {
    fn place(self) -> usize;
}

impl ColumnIndex for usize {
    fn place(self) -> usize {
        self
    }
}

impl Row<'_> {
    pub(in crate::ledger) fn get<I: ColumnIndex, T: FromSql>(&self, column: I) -> Result<T> {
        let column = column.place();
        T::from_sql(self.get_ref(column)?)
            .map_err(|error| Error::unreadable(format!("column {column}: {error}")))
    }

    /// How many columns it has.
    pub(super) fn width(&self) -> usize {
        match self {
            Row::Sqlite(row) => row.as_ref().column_count(),
            Row::Postgres(row) => row.len(),
        }
    }

    pub(in crate::ledger) fn get_ref(&self, column: usize) -> Result<Cell<'_>> {
        match self {
            Row::Sqlite(row) => sqlite::cell(row, column),
            Row::Postgres(row) => postgres::cell(row, column),
        }
    }
}
