//! Where each version of the rules places a series: which target, and which user's share it is.
//!
//! A series is placed once by each version that is in force in some month. It never looks at readings.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use jiff::Timestamp;

use super::targets;
use crate::ledger::db::rules::{InForce, Version};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, ToSql};
use crate::metering::meter::{Place, Target};
use crate::metering::period::BillingZone;
use crate::metering::reading::Labels;

/// Where a series belongs, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::ledger) struct Placed {
    pub(in crate::ledger) target: Option<i64>,
    pub(in crate::ledger) user: Option<String>,
}

/// A series that is to be placed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unplaced<'s> {
    pub(super) series: i64,
    pub(super) source: i64,
    pub(super) collector: &'s str,
    pub(super) labels: &'s str,
}

/// Places series by all rules that are in force in some month.
pub(super) fn place_by_all(
    connection: &Connection,
    in_force: &InForce,
    series: &[Unplaced<'_>],
    now: Timestamp,
) -> sql::Result<()> {
    for version in in_force.effective() {
        place(connection, (&in_force.zone, version), series, now)?;
    }
    Ok(())
}

pub(super) fn place(
    connection: &Connection,
    (zone, version): (&BillingZone, &Version),
    series: &[Unplaced<'_>],
    now: Timestamp,
) -> sql::Result<()> {
    let mut targets: HashMap<(Target, bool), i64> = HashMap::new();
    let mut places: Vec<(Placed, Option<String>)> = Vec::with_capacity(series.len());
    for one in series {
        let labels: Labels = serde_json::from_str(one.labels).unwrap_or_default();
        let mut placed = Placed::default();
        let mut nowhere = None;
        match version.of(one.collector) {
            None => nowhere = Some(String::new()),
            Some(rules) => match rules.place(&labels) {
                Place::At { target, user } => {
                    let target = match targets.entry((target, rules.ignores_case())) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let (target, ignores_case) = new.key();
                            let row = targets::row_of(connection, zone, target, *ignores_case, now)?;
                            *new.insert(row)
                        }
                    };
                    (placed.target, placed.user) = (Some(target), user);
                }
                Place::Ignored => nowhere = Some(String::new()),
                Place::Nowhere(why) => nowhere = Some(why),
            },
        }
        places.push((placed, nowhere));
    }
    let rows: Vec<[&dyn ToSql; 6]> = series
        .iter()
        .zip(&places)
        .map(|(one, (placed, nowhere))| {
            [&version.id as &dyn ToSql, &one.series, &one.source, &placed.target, &placed.user, nowhere]
        })
        .collect();
    connection.execute_rows(
        "INSERT INTO placed (rules, series, source, target, username, nowhere) VALUES {rows}
         ON CONFLICT (rules, series) DO UPDATE SET target = excluded.target, username = excluded.username,
            nowhere = excluded.nowhere",
        &rows,
    )
}

/// Where a version of the rules has placed a series.
pub(in crate::ledger) fn placed(
    connection: &Connection,
    version: &Version,
    series: i64,
) -> sql::Result<Placed> {
    let found = connection
        .prepare_cached("SELECT target, username FROM placed WHERE rules = ?1 AND series = ?2")?
        .query_row([version.id, series], |row| Ok(Placed { target: row.get(0)?, user: row.get(1)? }))
        .optional()?;
    Ok(found.unwrap_or_default())
}
