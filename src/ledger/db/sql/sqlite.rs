//! The engine for one machine: SQLite, in the process.

use rusqlite::CachedStatement;
use rusqlite::types::{ToSqlOutput, ValueRef};

use super::error::{Error, Result};
use super::value::{Cell, Param, Params};

/// A statement, prepared now or before.
pub(in crate::ledger) enum Statement<'c> {
    Once(rusqlite::Statement<'c>),
    Cached(CachedStatement<'c>),
}

impl<'c> Statement<'c> {
    fn of(&mut self) -> &mut rusqlite::Statement<'c> {
        match self {
            Statement::Once(statement) => statement,
            Statement::Cached(statement) => statement,
        }
    }

    /// Gives the statement its parameters.
    fn bind(&mut self, params: &impl Params) -> Result<&mut rusqlite::Statement<'c>> {
        let statement = self.of();
        let mut bound = 0;
        params.each(&mut |param| {
            bound += 1;
            Ok(statement.raw_bind_parameter(bound, ToSqlOutput::Borrowed(value(param)))?)
        })?;
        match statement.parameter_count() {
            wanted if wanted == bound => Ok(statement),
            wanted => {
                Err(Error::unreadable(format!("{wanted} parameters are wanted, and {bound} are given")))
            }
        }
    }

    pub(super) fn query(&mut self, params: &impl Params) -> Result<rusqlite::Rows<'_>> {
        Ok(self.bind(params)?.raw_query())
    }

    pub(super) fn execute(&mut self, params: &impl Params) -> Result<usize> {
        Ok(self.bind(params)?.raw_execute()?)
    }
}

fn value(param: Param<'_>) -> ValueRef<'_> {
    match param {
        Param::Null => ValueRef::Null,
        Param::Integer(number) => number.map_or(ValueRef::Null, ValueRef::Integer),
        Param::Text(text) => text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())),
        Param::Bytes(bytes) => bytes.map_or(ValueRef::Null, ValueRef::Blob),
    }
}

/// A value of a row.
pub(super) fn cell<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> Result<Cell<'r>> {
    Ok(match row.get_ref(column)? {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Integer(number),
        ValueRef::Text(text) => Cell::Text(std::str::from_utf8(text).map_err(Error::unreadable)?),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes),
        ValueRef::Real(_) => return Err(Error::unreadable("it holds a float, which the ledger never keeps")),
    })
}
