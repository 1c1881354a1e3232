//! How the ledger speaks to its engine: connections, statements, rows and transactions, by the names that rusqlite gave
//! them. The SQL is one that SQLite and PostgreSQL take alike, so that there is one of each rule; what engines do
//! differently is said in their files here, in `schema`, and nowhere else. It knows no table.
//!
//! What both take, and what is to be kept to: placeholders are `?` and `?1`; `ON CONFLICT` and not `OR REPLACE`; `IS
//! DISTINCT FROM` and not `IS NOT`; no `user` and no `end` as names; truth is compared (`closed = 1`), as it is an integer;
//! the sum of integers is cast to one; a parameter is asked for NULL with its type (`CAST(?1 AS TEXT) IS NULL`); a query in
//! FROM has a name; and an id that was just given is read with `RETURNING`.

pub(in crate::ledger) mod error;
mod sqlite;
mod value;

use std::ops::Deref;

pub(in crate::ledger) use error::{Error, OptionalExtension, Result};
pub(in crate::ledger) use value::{Cell, FromSql, Params, ToSql, params};

/// A connection to the ledger's engine.
#[derive(Debug)]
pub(in crate::ledger) struct Connection(rusqlite::Connection);

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Connection(connection)
    }
}

impl Connection {
    /// What only SQLite has: pragmas, and copies of its file.
    pub(super) fn sqlite(&self) -> &rusqlite::Connection {
        &self.0
    }

    /// A statement that is seldom wanted.
    pub(in crate::ledger) fn prepare(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(Statement(sqlite::Statement::Once(self.0.prepare(sql)?)))
    }

    /// A statement that is wanted often: it is prepared once.
    pub(in crate::ledger) fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>> {
        Ok(Statement(sqlite::Statement::Cached(self.0.prepare_cached(sql)?)))
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
        Ok(self.0.execute_batch(sql)?)
    }

    /// Whether no transaction is open.
    pub(in crate::ledger) fn is_autocommit(&self) -> bool {
        self.0.is_autocommit()
    }

    /// Gives back the memory that was needed for a while.
    pub(in crate::ledger) fn shrink_memory(&self) -> Result<()> {
        self.execute_batch("PRAGMA shrink_memory")
    }

    /// Gives back space of the disk that is free, as far as so many pages.
    pub(in crate::ledger) fn give_back(&self, pages: i64) -> Result<()> {
        // Each step of this statement gives back one page.
        let mut vacuum = self.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
        self.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Begins to write: from here to the end no other process writes.
    pub(super) fn begin(&self) -> Result<()> {
        self.execute_batch("BEGIN IMMEDIATE")
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.execute_batch("COMMIT")
    }

    pub(super) fn roll_back(&self) -> Result<()> {
        self.execute_batch("ROLLBACK")
    }

    /// A transaction; within one, a part of it that can be taken back by itself.
    pub(super) fn transaction(&self) -> Result<Transaction<'_>> {
        let part = !self.is_autocommit();
        if part {
            self.execute_batch("SAVEPOINT part")?;
        } else {
            self.begin()?;
        }
        Ok(Transaction { connection: self, part, ended: false })
    }
}

/// What is done between its beginning and `commit` is done as a whole; dropped before, it is taken back.
#[derive(Debug)]
pub(super) struct Transaction<'c> {
    connection: &'c Connection,
    part: bool,
    ended: bool,
}

impl Transaction<'_> {
    pub(super) fn commit(mut self) -> Result<()> {
        let done = match self.part {
            true => self.connection.execute_batch("RELEASE SAVEPOINT part"),
            false => self.connection.commit(),
        };
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
        let undone = match self.part {
            true => self.connection.execute_batch("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part"),
            false => self.connection.roll_back(),
        };
        // An engine that can't answer has taken it back, or does when it can.
        drop(undone);
    }
}

/// A statement of a connection.
pub(in crate::ledger) struct Statement<'c>(sqlite::Statement<'c>);

impl Statement<'_> {
    pub(in crate::ledger) fn query(&mut self, params: impl Params) -> Result<Rows<'_>> {
        Ok(Rows(self.0.query(&params)?))
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
        self.0.execute(&params)
    }
}

/// The rows of an answer, one after the other.
pub(in crate::ledger) struct Rows<'s>(rusqlite::Rows<'s>);

impl Rows<'_> {
    pub(in crate::ledger) fn next(&mut self) -> Result<Option<Row<'_>>> {
        Ok(self.0.next()?.map(Row))
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
pub(in crate::ledger) struct Row<'r>(&'r rusqlite::Row<'r>);

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

    pub(in crate::ledger) fn get_ref(&self, column: usize) -> Result<Cell<'_>> {
        sqlite::cell(self.0, column)
    }
}
