//! A whole ledger, from one engine to another, table by table and row by row as it is. It counts nothing, and changes nothing but
//! whose it is: what the one agent of a file has measured has no name there.

use std::path::Path;

use super::error::LedgerError;
use super::sql::{self, Cell, Connection, Error, FromSql, Param, Params};
use super::{file, schema};
use crate::config::place::Place;

/// So many rows are read and written at once: with the longest rows, well below what either engine takes of parameters.
const AT_ONCE: usize = 200;

/// How many rows a table has.
pub(crate) type Counts = Vec<(&'static str, i64)>;

/// Copies the ledger to a file that is not there yet.
pub(super) fn to_file(from: &Connection, place: &Place, path: &Path) -> Result<(), LedgerError> {
    let to = file::open(path)?;
    copy(from, &to).map(drop).map_err(|error| LedgerError::from_sql(place, error))
}

/// Tables in which it is said whose a row is, and of which collector.
const OF_AGENTS: [(&str, &str); 6] = [
    ("collector", "name"),
    ("run", "collector"),
    ("quarantine", "collector"),
    ("series", "(SELECT collector FROM source WHERE source.id = series.source)"),
    ("identity", "(SELECT collector FROM source WHERE source.id = identity.source)"),
    (
        "compacted_id",
        "(SELECT collector FROM source JOIN series ON series.source = source.id WHERE series.id = compacted_id.series)",
    ),
];

/// Gives what this agent has measured to that one, which has measured nothing; but for these collectors.
pub(super) fn rename_agent(
    connection: &Connection,
    (from, to): (&str, &str),
    but: &[&str],
) -> sql::Result<()> {
    let transaction = connection.transaction()?;
    for (table, collector) in OF_AGENTS {
        let renamed = format!("UPDATE {table} SET agent = ?2 WHERE agent = ?1");
        transaction.execute(&renamed, [from, to])?;
        for but in but {
            transaction.execute(&format!("{renamed} AND {collector} = ?3"), [to, from, but])?;
        }
    }
    transaction.commit()
}

/// Copies all rows into tables that are there and empty, and counts them on both sides; all in one transaction each.
pub(super) fn copy(from: &Connection, to: &Connection) -> sql::Result<Counts> {
    from.begin_reading()?;
    let copied = to.transaction().and_then(|transaction| {
        for table in schema::tables() {
            if transaction.prepare(&format!("SELECT 1 FROM {table} LIMIT 1"))?.exists([])? {
                return Err(Error::NoWay(format!("it holds something already (in its table {table})")));
            }
            copy_table(from, &transaction, table)?;
        }
        transaction.number_on(&schema::tables().collect::<Vec<_>>())?;
        let counts = |of: &Connection| -> sql::Result<Counts> {
            let count = |table| {
                Ok((table, of.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?))
            };
            schema::tables().map(count).collect()
        };
        let (there, here) = (counts(from)?, counts(&transaction)?);
        if there != here {
            return Err(Error::NoWay(format!("what arrived is not what was sent: {there:?}, {here:?}")));
        }
        transaction.commit()?;
        Ok(here)
    });
    let ended = from.roll_back();
    copied.and_then(|counts| ended.map(|()| counts))
}

fn copy_table(from: &Connection, to: &Connection, table: &str) -> sql::Result<()> {
    let mut rows: Vec<Value> = Vec::new();
    let mut width = 0;
    from.each_row(table, &mut |row| {
        width = row.width();
        for column in 0..width {
            rows.push(row.get(column)?);
        }
        if rows.len() >= AT_ONCE * width {
            insert(to, table, width, &rows)?;
            rows.clear();
        }
        Ok(())
    })?;
    insert(to, table, width, &rows)
}

fn insert(to: &Connection, table: &str, width: usize, rows: &[Value]) -> sql::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let row = format!("({})", vec!["?"; width].join(", "));
    let all = vec![row; rows.len() / width].join(", ");
    to.prepare_cached(&format!("INSERT INTO {table} VALUES {all}"))?.execute(rows).map(drop)
}

/// A value as it is.
enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl FromSql for Value {
    fn from_sql(cell: Cell<'_>) -> sql::Result<Self> {
        Ok(match cell {
            Cell::Null => Value::Null,
            Cell::Integer(number) => Value::Integer(number),
            Cell::Text(text) => Value::Text(text.to_owned()),
            Cell::Bytes(bytes) => Value::Bytes(bytes.to_vec()),
        })
    }
}

impl Params for &[Value] {
    fn each(&self, bind: &mut dyn FnMut(Param<'_>) -> sql::Result<()>) -> sql::Result<()> {
        self.iter().try_for_each(|value| {
            bind(match value {
                Value::Null => Param::Null,
                Value::Integer(number) => Param::Integer(Some(*number)),
                Value::Text(text) => Param::Text(Some(text)),
                Value::Bytes(bytes) => Param::Bytes(Some(bytes)),
            })
        })
    }
}
