//! Targets, and which resource each is, since when: Waldur may give a backend id to another resource.
//!
//! What was counted for a target belongs to the resource that it was at that time. A change takes nothing from a month that
//! is over. It never asks Waldur; it is told what was listed.

use jiff::Timestamp;
use uuid::Uuid;

use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::meter::Target;

/// Whether Waldur takes reports for a resource in this state (observed).
pub fn takes_reports(state: &str) -> bool {
    ["OK", "Updating", "Terminating"].contains(&state)
}

/// Which resource a target is from an instant on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Mapping {
    pub(in crate::ledger) since: Timestamp,
    pub(in crate::ledger) resource: String,
}

/// What a backend id is in Waldur.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    One(String),
    /// Several resources that live: nobody can say whose usage it is.
    Several(Vec<String>),
}

/// The resource of an offering with this backend id. Backend ids are not unique in Waldur (observed): of several, the one
/// that lives is meant.
pub(super) fn find(
    connection: &Connection,
    offering: Uuid,
    backend_id: &str,
    ignore_case: bool,
) -> sql::Result<Found> {
    let listed: Option<i64> = connection
        .prepare_cached("SELECT resources_refreshed FROM offering WHERE uuid = ?")?
        .query_row([offering.to_string()], |row| row.get(0))
        .optional()?
        .flatten();
    let mut found: Vec<(String, String, i64)> = connection
        .prepare_cached(match ignore_case {
            false => "SELECT uuid, state, refreshed FROM resource WHERE offering = ?1 AND backend_id = ?2",
            true => "SELECT uuid, state, refreshed FROM resource WHERE offering = ?1 AND lower(backend_id) = lower(?2)",
        })?
        .query_map(params![offering.to_string(), backend_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<sql::Result<_>>()?;
    if found.len() > 1 {
        // Of several, those that the last listing still has.
        let last =
            |(_, _, refreshed): &(String, String, i64)| listed.is_none_or(|listed| *refreshed >= listed);
        if found.iter().any(last) {
            found.retain(last);
        }
    }
    let lives: Vec<&String> =
        found.iter().filter(|(_, state, _)| takes_reports(state)).map(|(uuid, ..)| uuid).collect();
    let coming: Vec<&String> =
        found.iter().filter(|(_, state, _)| state != "Terminated").map(|(uuid, ..)| uuid).collect();
    Ok(match (lives.as_slice(), coming.as_slice(), found.as_slice()) {
        ([one], _, _) | ([], [one], _) => Found::One((*one).clone()),
        ([], [], [(one, ..)]) => Found::One(one.clone()),
        ([], [], _) => Found::Nothing,
        ([], several, _) | (several, _, _) => {
            Found::Several(several.iter().map(|uuid| (*uuid).clone()).collect())
        }
    })
}

/// The row of a target; it is made if it is new, with the resource that it is, if that is known.
pub(super) fn row_of(
    connection: &Connection,
    target: &Target,
    ignore_case: bool,
    now: Timestamp,
) -> sql::Result<i64> {
    let (offering, backend_id) = match target {
        Target::Resource(uuid) => (String::new(), uuid.to_string()),
        Target::BackendId { offering, backend_id } => (offering.to_string(), backend_id.clone()),
    };
    let known = connection
        .prepare_cached("SELECT id FROM target WHERE offering = ?1 AND backend_id = ?2 AND ignore_case = ?3")?
        .query_row(params![offering, backend_id, ignore_case], |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    let resource = match target {
        Target::Resource(uuid) => Some(uuid.to_string()),
        Target::BackendId { offering, backend_id } => {
            match find(connection, *offering, backend_id, ignore_case)? {
                Found::One(resource) => Some(resource),
                Found::Nothing | Found::Several(_) => None,
            }
        }
    };
    let unmatched_since = resource.is_none().then(|| micros(now));
    let id = connection
        .prepare_cached(
            "INSERT INTO target (offering, backend_id, ignore_case, unmatched_since) VALUES (?1, ?2, ?3, ?4)
             RETURNING id",
        )?
        .query_row(params![offering, backend_id, ignore_case, unmatched_since], |row| row.get(0))?;
    if let Some(resource) = resource {
        map(connection, id, Timestamp::MIN, &resource, false)?;
    }
    Ok(id)
}

/// Notes that a target is this resource from an instant on.
pub(super) fn map(
    connection: &Connection,
    target: i64,
    since: Timestamp,
    resource: &str,
    provisional: bool,
) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO target_resource (target, since, resource, provisional) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (target, since) DO UPDATE SET resource = ?3, provisional = ?4",
        )?
        .execute(params![target, micros(since), resource, provisional])?;
    connection.prepare_cached("UPDATE target SET unmatched_since = NULL WHERE id = ?")?.execute([target])?;
    Ok(())
}

/// The resources that a target was, in the order of time.
pub(in crate::ledger) fn mappings(connection: &Connection, target: i64) -> sql::Result<Vec<Mapping>> {
    connection
        .prepare_cached("SELECT since, resource FROM target_resource WHERE target = ? ORDER BY since")?
        .query_map([target], |row| Ok(Mapping { since: instant(row.get(0)?), resource: row.get(1)? }))?
        .collect()
}

/// Which of them it was at an instant.
pub(in crate::ledger) fn at(mappings: &[Mapping], instant: Timestamp) -> Option<&str> {
    mappings.iter().rev().find(|mapping| mapping.since <= instant).map(|mapping| mapping.resource.as_str())
}
