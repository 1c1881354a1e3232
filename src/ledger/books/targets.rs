//! Targets, and which resource each is, since when: Waldur may give a backend id to another resource.
//!
//! What was counted for a target belongs to the resource that it was at that time. A change takes nothing from a month that
//! is over. It never asks Waldur; it is told what was listed.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, ToSql, params};
use crate::metering::meter::Target;
use crate::metering::period::BillingZone;

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

/// A backend id in small letters: engines know those of their own scripts only.
pub(super) fn folded(backend_id: &str) -> String {
    backend_id.to_lowercase()
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
    let wanted = if ignore_case { folded(backend_id) } else { backend_id.to_owned() };
    let mut found: Vec<(String, String, i64)> = connection
        .prepare_cached(match ignore_case {
            false => "SELECT uuid, state, refreshed FROM resource WHERE offering = ?1 AND backend_id = ?2",
            true => "SELECT uuid, state, refreshed FROM resource WHERE offering = ?1 AND folded_id = ?2",
        })?
        .query_map(params![offering.to_string(), wanted], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
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
    zone: &BillingZone,
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
        map_first(connection, zone, id, &resource, now)?;
    }
    Ok(id)
}

/// Notes for the first time which resource a target is. One that is terminated and had the same backend id keeps what was
/// used before the other's plan periods began; until they are known, before this month. True: there is such a one.
pub(super) fn map_first(
    connection: &Connection,
    zone: &BillingZone,
    target: i64,
    resource: &str,
    now: Timestamp,
) -> sql::Result<bool> {
    let (offering, backend_id, ignore_case): (String, String, bool) = connection
        .prepare_cached("SELECT offering, backend_id, ignore_case FROM target WHERE id = ?")?
        .query_row([target], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let wanted = if ignore_case { folded(&backend_id) } else { backend_id };
    let predecessor: Option<String> = connection
        .prepare_cached(match ignore_case {
            false => {
                "SELECT uuid FROM resource WHERE offering = ?1 AND backend_id = ?2 AND state = 'Terminated'
                    AND EXISTS (SELECT 1 FROM resource AS one WHERE one.uuid = ?3 AND one.state <> 'Terminated')
                 ORDER BY refreshed DESC, uuid LIMIT 1"
            }
            true => {
                "SELECT uuid FROM resource WHERE offering = ?1 AND folded_id = ?2 AND state = 'Terminated'
                    AND EXISTS (SELECT 1 FROM resource AS one WHERE one.uuid = ?3 AND one.state <> 'Terminated')
                 ORDER BY refreshed DESC, uuid LIMIT 1"
            }
        })?
        .query_row([offering.as_str(), &wanted, resource], |row| row.get(0))
        .optional()?;
    let Some(predecessor) = predecessor else {
        map(connection, target, Timestamp::MIN, resource, false)?;
        return Ok(false);
    };
    let start: Option<i64> = connection
        .prepare_cached("SELECT min(start) FROM plan_period WHERE resource = ?")?
        .query_row([resource], |row| row.get(0))?;
    let since = start.map_or_else(|| zone.start(zone.period_of(now)), instant);
    map(connection, target, Timestamp::MIN, &predecessor, start.is_none())?;
    map(connection, target, since, resource, start.is_none())?;
    let words = format!(
        "its backend id was that of {} before, which is terminated: {}",
        named(connection, &predecessor)?,
        match start {
            Some(_) => format!("what was used before {since} is that one's"),
            None => "what was used before the plan periods of this one began is that one's".to_owned(),
        }
    );
    let period = zone.period_of(now).to_string();
    tell(connection, About { resource, period: &period, component: "" }, EventKind::Resource, &words, now)?;
    Ok(true)
}

/// Takes a look at the plan periods of a resource that has a backend id which a terminated one had: it is its from their
/// first start on (`first`), but never from before the last listing that still had it otherwise. Where there are none, it
/// stays as it was noted: what was billed by it is not moved later on. Returns the earliest instant for which anything
/// changes, and the resources that it changes for.
pub(super) fn settle_mappings(
    connection: &Connection,
    resource: &str,
    first: Option<Timestamp>,
) -> sql::Result<Option<(Timestamp, BTreeSet<String>)>> {
    let provisional: Vec<(i64, i64)> = connection
        .prepare_cached("SELECT target, since FROM target_resource WHERE resource = ? AND provisional = 1")?
        .query_map([resource], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<sql::Result<_>>()?;
    let mut earliest: Option<Timestamp> = None;
    let mut resources = BTreeSet::from([resource.to_owned()]);
    for (target, since) in provisional {
        let before: Option<(i64, bool, String)> = connection
            .prepare_cached(
                "SELECT since, provisional, resource FROM target_resource WHERE target = ?1 AND since < ?2
                 ORDER BY since DESC LIMIT 1",
            )?
            .query_row([target, since], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((before, is_new, other)) = before else { continue };
        let start = match first {
            None => since,
            // Nothing was billed by one that was noted together with it.
            Some(first) if is_new => micros(first),
            Some(first) => micros(first).max(since),
        };
        let from = start.max(before.saturating_add(1));
        connection.execute(
            "UPDATE target_resource SET since = ?3, provisional = 0 WHERE target = ?1 AND since = ?2",
            params![target, since, from],
        )?;
        connection.execute(
            "UPDATE target_resource SET provisional = 0 WHERE target = ?1 AND since = ?2",
            params![target, before],
        )?;
        if from != since {
            let changed = instant(from.min(since));
            earliest = Some(earliest.map_or(changed, |earliest| earliest.min(changed)));
            resources.insert(other);
        }
    }
    Ok(earliest.map(|earliest| (earliest, resources)))
}

/// A resource by name, with its UUID.
pub(super) fn named(connection: &Connection, uuid: &str) -> sql::Result<String> {
    let name: Option<String> = connection
        .prepare_cached("SELECT name FROM resource WHERE uuid = ?")?
        .query_row([uuid], |row| row.get(0))
        .optional()?;
    Ok(format!("{} ({uuid})", name.unwrap_or_default()))
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
    mappings_of_all(connection, &[target]).map(|mut found| found.remove(&target).unwrap_or_default())
}

/// The same of each of these targets; none of one that never was a resource.
pub(super) fn mappings_of_all(
    connection: &Connection,
    targets: &[i64],
) -> sql::Result<HashMap<i64, Vec<Mapping>>> {
    let mut all: HashMap<i64, Vec<Mapping>> = HashMap::new();
    let rows: Vec<[&dyn ToSql; 1]> = targets.iter().map(|target| [target as &dyn ToSql]).collect();
    connection.query_rows(
        "SELECT target_resource.target, target_resource.since, target_resource.resource
         FROM (VALUES {rows}) v CROSS JOIN target_resource WHERE target_resource.target = v.column1",
        &rows,
        |row| {
            let mapping = Mapping { since: instant(row.get(1)?), resource: row.get(2)? };
            all.entry(row.get(0)?).or_default().push(mapping);
            Ok(())
        },
    )?;
    for mappings in all.values_mut() {
        mappings.sort_unstable_by_key(|mapping| mapping.since);
    }
    Ok(all)
}

/// For how long it was this resource between two instants, in microseconds.
pub(super) fn time_as(mappings: &[Mapping], resource: &str, (start, end): (Timestamp, Timestamp)) -> i128 {
    let until = mappings.iter().skip(1).map(|next| next.since).chain([Timestamp::MAX]);
    let spans = mappings.iter().zip(until).filter(|(mapping, _)| mapping.resource == resource);
    let within = spans.map(|(mapping, until)| {
        i128::from(micros(until.min(end))) - i128::from(micros(mapping.since.max(start)))
    });
    within.filter(|time| *time > 0).sum()
}

/// Which of them it was at an instant.
pub(in crate::ledger) fn at(mappings: &[Mapping], instant: Timestamp) -> Option<&str> {
    mappings.iter().rev().find(|mapping| mapping.since <= instant).map(|mapping| mapping.resource.as_str())
}
