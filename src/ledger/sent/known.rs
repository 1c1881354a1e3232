//! What is known of what the server holds: of each line what was accepted or read last, what is open, and what is planned.
//!
//! It only reads the record.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::amount::StatementKey;
use crate::ledger::db::columns::{decimal_in, instant, micros};
use crate::ledger::db::sql::{self, Connection, Row, ToSql, params};

/// What the server is known to hold, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    pub id: i64,
    pub amount: Decimal,
    /// `accepted` or `read`.
    pub how: &'static str,
    /// The call that told it, or `read`.
    pub call: &'static str,
    pub at: Timestamp,
    /// The last run that is counted in it; 0 where it was found in the server's rows.
    pub counted: i64,
}

/// A number that was sent and whose outcome is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub id: i64,
    pub amount: Decimal,
    pub at: Timestamp,
}

/// What is known of one line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) acknowledged: Option<Acknowledged>,
    pub(super) open: Vec<Open>,
    /// A share that belongs to the total that was sent last.
    pub(super) planned: Option<Decimal>,
}

impl Known {
    /// What of it is the server's: accepted, or still to be completed as part of what was.
    pub(super) fn held(&self) -> Decimal {
        let accepted = self.acknowledged.as_ref().map(|known| known.amount);
        self.planned.or(accepted).unwrap_or_default()
    }
}

/// How a current row of the record stands.
#[derive(Debug, Clone, Copy)]
enum Standing {
    Open,
    Planned,
    /// `accepted` or `read`.
    Known(&'static str),
}

impl Standing {
    fn of(outcome: &str) -> Standing {
        match outcome {
            "open" => Standing::Open,
            "planned" => Standing::Planned,
            "read" => Standing::Known("read"),
            _ => Standing::Known("accepted"),
        }
    }
}

/// The calls that tell what the server holds.
fn call(name: &str) -> &'static str {
    match name {
        "set_usage" => "set_usage",
        "set_user_usage" => "set_user_usage",
        "set_user_usages" => "set_user_usages",
        _ => "read",
    }
}

/// Which lines of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Whole,
    /// Not those of users.
    Totals,
}

/// Whether anything of the users of a statement was accepted or read, or is to be completed.
pub(super) fn has_shares(connection: &Connection, key: StatementKey) -> sql::Result<bool> {
    connection
        .prepare_cached(
            "SELECT 1 FROM sent WHERE resource = ?1 AND period = ?2 AND part = ?3 AND current = 1 AND username <> ''
             AND outcome IN ('accepted', 'read', 'planned') LIMIT 1",
        )?
        .exists(params![key.resource.to_string(), key.period.to_string(), micros(key.part)])
}

/// What is known of the lines of a statement, by component and user.
pub(super) fn known(
    connection: &Connection,
    key: StatementKey,
    which: Scope,
) -> sql::Result<BTreeMap<(String, String), Known>> {
    known_of_all(connection, &[key], which).map(|mut known| known.pop().unwrap_or_default())
}

/// The same of each of these statements, in their order.
pub(super) fn known_of_all(
    connection: &Connection,
    keys: &[StatementKey],
    which: Scope,
) -> sql::Result<Vec<BTreeMap<(String, String), Known>>> {
    struct Found {
        id: i64,
        statement: usize,
        place: (String, String),
        amount: Decimal,
        outcome: Standing,
        call: &'static str,
        at: Timestamp,
        counted: i64,
    }
    let mut found: Vec<Found> = Vec::new();
    each_of(
        connection,
        keys,
        match which {
            Scope::Whole => {
                "SELECT v.column4, component, username, amount, outcome, at, id, counted, call
                 FROM (VALUES {rows}) v CROSS JOIN sent
                 WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
                   AND sent.current = 1"
            }
            Scope::Totals => {
                "SELECT v.column4, component, username, amount, outcome, at, id, counted, call
                 FROM (VALUES {rows}) v CROSS JOIN sent
                 WHERE sent.resource = v.column1 AND sent.period = v.column2 AND sent.part = v.column3
                   AND sent.current = 1 AND sent.username = ''"
            }
        },
        |statement, row| {
            let Some(amount) = decimal_in(row, 3)? else { return Ok(()) };
            let (place, at) = ((row.get(1)?, row.get(2)?), instant(row.get(5)?));
            let outcome = Standing::of(row.get_ref(4)?.as_str()?);
            let (id, counted, call) = (row.get(6)?, row.get(7)?, call(row.get_ref(8)?.as_str()?));
            found.push(Found { id, statement, place, amount, outcome, call, at, counted });
            Ok(())
        },
    )?;
    // In the order in which they were written down.
    found.sort_unstable_by_key(|found| found.id);
    let mut all = vec![BTreeMap::new(); keys.len()];
    for Found { id, statement, place, amount, outcome, call, at, counted } in found {
        let Some(lines) = all.get_mut(statement) else { continue };
        let known: &mut Known = lines.entry(place).or_default();
        match outcome {
            Standing::Open => known.open.push(Open { id, amount, at }),
            Standing::Planned => known.planned = Some(amount),
            Standing::Known(how) => {
                known.acknowledged = Some(Acknowledged { id, amount, how, call, at, counted });
            }
        }
    }
    Ok(all)
}

/// Hands over what a query finds of each of these statements, with its place among them. In `FROM (VALUES {rows}) v` it has
/// resource, period, part, and that place, which is its first column.
pub(super) fn each_of(
    connection: &Connection,
    keys: &[StatementKey],
    sql: &str,
    mut take: impl FnMut(usize, &Row<'_>) -> sql::Result<()>,
) -> sql::Result<()> {
    let columns: Vec<(String, String, i64, i64)> = (0..)
        .zip(keys)
        .map(|(place, key)| (key.resource.to_string(), key.period.to_string(), micros(key.part), place))
        .collect();
    let rows: Vec<[&dyn ToSql; 4]> = columns
        .iter()
        .map(|(resource, period, part, place)| [resource as &dyn ToSql, period, part, place])
        .collect();
    connection
        .query_rows(sql, &rows, |row| take(usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX), row))
}
