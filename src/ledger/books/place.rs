//! Where each version of the rules places a series: which target, and which user's share it is.
//!
//! A series is placed once by each version that is in force in some month. It never looks at readings.

use jiff::Timestamp;

use super::targets;
use crate::ledger::db::rules::{InForce, Version};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::meter::Place;
use crate::metering::period::BillingZone;
use crate::metering::reading::Labels;

/// Where a series belongs, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::ledger) struct Placed {
    pub(in crate::ledger) target: Option<i64>,
    pub(in crate::ledger) user: Option<String>,
}

/// Places a series by all rules that are in force in some month.
pub(super) fn place_by_all(
    connection: &Connection,
    in_force: &InForce,
    series: i64,
    (collector, labels): (&str, &str),
    now: Timestamp,
) -> sql::Result<()> {
    for version in in_force.effective() {
        place(connection, (&in_force.zone, version), series, (collector, labels), now)?;
    }
    Ok(())
}

pub(super) fn place(
    connection: &Connection,
    (zone, version): (&BillingZone, &Version),
    series: i64,
    (collector, labels): (&str, &str),
    now: Timestamp,
) -> sql::Result<()> {
    let labels: Labels = serde_json::from_str(labels).unwrap_or_default();
    let mut placed = Placed::default();
    let mut nowhere = None;
    match version.of(collector) {
        None => nowhere = Some(String::new()),
        Some(rules) => match rules.place(&labels) {
            Place::At { target, user } => {
                placed.target = Some(targets::row_of(connection, zone, &target, rules.ignores_case(), now)?);
                placed.user = user;
            }
            Place::Ignored => nowhere = Some(String::new()),
            Place::Nowhere(why) => nowhere = Some(why),
        },
    }
    connection
        .prepare_cached(
            "INSERT INTO placed (rules, series, source, target, username, nowhere)
             SELECT ?1, id, source, ?3, ?4, ?5 FROM series WHERE id = ?2
             ON CONFLICT (rules, series) DO UPDATE SET target = ?3, username = ?4, nowhere = ?5",
        )?
        .execute(params![version.id, series, placed.target, placed.user, nowhere])?;
    Ok(())
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
