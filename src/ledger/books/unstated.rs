//! Which components of which resources' months are to be stated anew: noted when something under them changes, and done
//! when somebody asks what is to be sent or shown (`statements`).

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::count::Changed;
use crate::ledger::db::columns::micros;
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, ToSql, params};

/// Notes what is to be stated anew; returns how much that is.
pub(in crate::ledger) fn changed_components(connection: &Connection, changed: Changed) -> sql::Result<usize> {
    let rows: Vec<[&dyn ToSql; 3]> = changed
        .iter()
        .map(|(resource, period, component)| [resource as &dyn ToSql, period, component])
        .collect();
    connection.execute_rows(
        "INSERT INTO unstated (resource, period, component) VALUES {rows}
         ON CONFLICT (resource, period, component) DO NOTHING",
        &rows,
    )?;
    Ok(changed.len())
}

/// Notes all that was ever stated of a resource's month (of all resources, if `None`).
pub(in crate::ledger) fn all_of_month(
    connection: &Connection,
    resource: Option<&str>,
    period: &str,
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO unstated (resource, period, component)
             SELECT DISTINCT resource, period, component FROM line WHERE period = ?1 AND (?2 IS NULL OR resource = ?2)
             ON CONFLICT (resource, period, component) DO NOTHING",
        )?
        .execute(params![period, resource])?;
    Ok(())
}

/// Notes all that was ever stated of a resource, from a month on ('': of all months).
pub(super) fn all_since(connection: &Connection, resource: &str, period: &str) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO unstated (resource, period, component)
             SELECT DISTINCT resource, period, component FROM line WHERE resource = ?1 AND period >= ?2
             ON CONFLICT (resource, period, component) DO NOTHING",
        )?
        .execute(params![resource, period])?;
    Ok(())
}

/// What a collector has counted from this instant on: it may not be stated, because nothing was read so far back before.
pub(super) fn counted_from(
    connection: &Connection,
    in_force: &InForce,
    collector: &str,
    since: Timestamp,
) -> sql::Result<Changed> {
    let measured: BTreeSet<(String, String)> = connection
        .prepare(
            "SELECT DISTINCT target_resource.resource, quantity.period FROM source
             JOIN series ON series.source = source.id JOIN placed ON placed.series = series.id
             JOIN target_resource ON target_resource.target = placed.target JOIN quantity ON quantity.series = series.id
             WHERE source.collector = ?1 AND quantity.segment >= ?2",
        )?
        .query_map(params![collector, micros(since)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    let mut changed = Changed::new();
    for (resource, period) in measured {
        let Ok(month) = period.parse() else { continue };
        let rules = in_force.in_month(month).of(collector);
        for meter in rules.map(|rules| rules.meters.as_slice()).unwrap_or_default() {
            changed.insert((resource.clone(), period.clone(), meter.component.clone()));
        }
    }
    Ok(changed)
}
