//! Finds the resources of targets, and counts what waited for them or belongs to another one now.

use jiff::Timestamp;
use uuid::Uuid;

use crate::ledger::books::count::{Changed, recount_from, restate};
use crate::ledger::books::cuts::is_cut;
use crate::ledger::books::targets::{self, Found};
use crate::ledger::books::unstated::{all_since, changed_components};
use crate::ledger::db::columns::uuid_column;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, params};
use crate::metering::period::BillingPeriod;

/// Finds the resources of targets: of those that had none, and of those that Waldur has given to another resource since it
/// was last asked (`listed`).
pub(super) fn match_targets(
    connection: &Connection,
    in_force: &InForce,
    listed: Option<Timestamp>,
    now: Timestamp,
) -> sql::Result<()> {
    let targets: Vec<(i64, Uuid, String, bool, Option<String>)> = connection
        .prepare("SELECT id, offering, backend_id, ignore_case, several FROM target WHERE offering <> ''")?
        .query_map([], |row| Ok((row.get(0)?, uuid_column(row, 1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
        .collect::<sql::Result<_>>()?;
    let month = in_force.zone.period_of(now);
    for (target, offering, backend_id, ignore_case, was_several) in targets {
        let known = targets::mappings(connection, target)?;
        let current = known.last();
        let found = targets::find(connection, offering, &backend_id, ignore_case)?;
        let several = match &found {
            Found::Several(uuids) => Some(names(connection, uuids)?),
            Found::Nothing | Found::One(_) => None,
        };
        if several != was_several {
            connection.execute("UPDATE target SET several = ?2 WHERE id = ?1", params![target, several])?;
            if let Some(current) = current {
                // Of all months: what was held while they were several is no longer.
                all_since(connection, &current.resource, "")?;
            }
        }
        let Found::One(resource) = found else { continue };
        match current {
            None => {
                let was_anothers = targets::map_first(connection, &in_force.zone, target, &resource, now)?;
                if was_anothers || is_cut(connection, &in_force.zone, &resource)? {
                    recount_resource(connection, in_force, &resource, None)?;
                } else {
                    restate_resource(connection, in_force, &resource)?;
                }
                // With the first listing all are new.
                if listed.is_some() && !was_anothers {
                    let about = About { resource: &resource, period: &month.to_string(), component: "" };
                    let words = format!(
                        "the backend id {backend_id}, which Waldur did not know before, is its: all that was used of it \
                         counts, also what was used in months before"
                    );
                    tell(connection, about, EventKind::Resource, &words, now)?;
                }
            }
            Some(current) if current.resource != resource => {
                // From the last listing on that still had it otherwise; never in a month that is over.
                let since = listed.unwrap_or(now).max(in_force.zone.start(month)).max(current.since);
                let gone: bool = connection
                    .prepare_cached("SELECT 1 FROM resource WHERE uuid = ? AND state = 'Terminated'")?
                    .exists([&current.resource])?;
                let old = current.resource.clone();
                targets::map(connection, target, since, &resource, gone)?;
                for one in [&old, &resource] {
                    recount_resource(connection, in_force, one, Some(month))?;
                    all_since(connection, one, &month.to_string())?;
                    let period = month.to_string();
                    let about = About { resource: one, period: &period, component: "" };
                    let words = format!(
                        "the backend id {backend_id} belongs to {} now, not to {} any more: what was used from {since} \
                         on is the former's, what was used before stays",
                        targets::named(connection, &resource)?,
                        targets::named(connection, &old)?
                    );
                    tell(connection, about, EventKind::Resource, &words, now)?;
                }
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Resources by name, with their UUIDs.
fn names(connection: &Connection, uuids: &[String]) -> sql::Result<String> {
    let named = uuids.iter().map(|uuid| targets::named(connection, uuid)).collect::<sql::Result<Vec<_>>>()?;
    Ok(named.join(", "))
}

/// Counts all series again that belong or belonged to a resource, from a month on (from the first, if `None`).
pub(in crate::ledger) fn recount_resource(
    connection: &Connection,
    in_force: &InForce,
    resource: &str,
    month: Option<BillingPeriod>,
) -> sql::Result<()> {
    let mut changed = Changed::new();
    recount_from(connection, in_force, &series_of(connection, resource)?, month, &mut changed)?;
    changed_components(connection, changed)?;
    Ok(())
}

/// Notes that all that was counted of a resource's series is to be stated.
fn restate_resource(connection: &Connection, in_force: &InForce, resource: &str) -> sql::Result<()> {
    let mut changed = Changed::new();
    restate(connection, in_force, &series_of(connection, resource)?, &mut changed)?;
    changed_components(connection, changed)?;
    Ok(())
}

/// All series that belong or belonged to a resource.
fn series_of(connection: &Connection, resource: &str) -> sql::Result<Vec<i64>> {
    connection
        .prepare_cached(
            "SELECT DISTINCT placed.series FROM placed WHERE placed.target IN
                (SELECT target FROM target_resource WHERE resource = ?)",
        )?
        .query_map([resource], |row| row.get(0))?
        .collect()
}
