//! What Waldur was last seen to have: offerings, components, resources, offering users and plan periods, so that a
//! run asks nothing that is known. A resource that becomes known finds the readings that waited for it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::ingest::Restate;
use super::rows::uuid_column;
use super::switched::file_under_new_part;
use super::{Ledger, LedgerError, Rulebook, instant, micros, quantify, statements};
use crate::metering::meter::Rules;

/// A resource as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownResource {
    pub uuid: Uuid,
    pub offering: Uuid,
    pub name: String,
    pub backend_id: String,
    /// In Waldur's words: OK, Updating, Terminating, Terminated, Creating, Erred.
    pub state: String,
    pub plan: Option<Uuid>,
    pub customer: String,
    pub project: String,
}

/// A component of an offering as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownComponent {
    pub name: String,
    /// The type, which is what usage is reported by.
    pub component: String,
    /// In Waldur's words: usage, limit, fixed, one, few.
    pub billing_type: String,
    pub measured_unit: String,
    pub limit_period: Option<String>,
    pub limit_amount: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPlanPeriod {
    pub uuid: Uuid,
    pub start: Timestamp,
    pub end: Option<Timestamp>,
}

/// When the parts of an offering's catalogue were last read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    pub components: Option<Timestamp>,
    pub resources: Option<Timestamp>,
    pub users: Option<Timestamp>,
}

/// The resource of an offering with this backend id. Backend ids are not unique in Waldur (observed): of several, one
/// that is not terminated is meant; if that leaves several, none is.
pub(super) fn resource_of(
    connection: &Connection,
    offering: Uuid,
    backend_id: &str,
    ignore_case: bool,
) -> rusqlite::Result<Option<String>> {
    let found: Vec<(String, String)> = connection
        .prepare_cached(match ignore_case {
            false => "SELECT uuid, state FROM resource WHERE offering = ?1 AND backend_id = ?2",
            true => "SELECT uuid, state FROM resource WHERE offering = ?1 AND backend_id = ?2 COLLATE NOCASE",
        })?
        .query_map(params![offering.to_string(), backend_id], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let alive: Vec<_> = found.iter().filter(|(_, state)| state != "Terminated").collect();
    Ok(match (alive.as_slice(), found.as_slice()) {
        ([(uuid, _)], _) | ([], [(uuid, _)]) => Some(uuid.clone()),
        _ => None,
    })
}

impl Ledger {
    pub fn freshness(&self, offering: Uuid) -> Result<Freshness, LedgerError> {
        self.look(|connection| {
            connection
                .query_row(
                    "SELECT refreshed, resources_refreshed, users_refreshed FROM offering WHERE uuid = ?",
                    [offering.to_string()],
                    |row| {
                        let at = |column: usize| row.get::<_, Option<i64>>(column).map(|at| at.map(instant));
                        Ok(Freshness { components: at(0)?, resources: at(1)?, users: at(2)? })
                    },
                )
                .optional()
                .map(Option::unwrap_or_default)
        })
    }

    pub fn put_offering(
        &mut self,
        offering: Uuid,
        name: &str,
        components: Vec<KnownComponent>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let name = name.to_owned();
        self.transact(|connection, _| {
            let uuid = offering.to_string();
            connection.execute(
                "INSERT INTO offering (uuid, name, refreshed) VALUES (?1, ?2, ?3)
                 ON CONFLICT (uuid) DO UPDATE SET name = ?2, refreshed = ?3",
                params![uuid, name, micros(now)],
            )?;
            connection.execute("DELETE FROM component WHERE offering = ?", [&uuid])?;
            for component in components {
                connection.execute(
                    "INSERT OR REPLACE INTO component
                        (offering, type, name, billing_type, measured_unit, limit_period, limit_amount)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                    params![
                        uuid,
                        component.component,
                        component.name,
                        component.billing_type,
                        component.measured_unit,
                        component.limit_period,
                        component.limit_amount
                    ],
                )?;
            }
            Ok(())
        })
    }

    /// Takes over a listing of an offering's resources. With `whole`, what it does not list is no longer there;
    /// it keeps its last known facts, because its readings still name it.
    pub fn put_resources(
        &mut self,
        resources: Vec<KnownResource>,
        whole: Option<Uuid>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, rulebook| {
            for resource in &resources {
                put_resource(connection, resource, now)?;
            }
            if let Some(offering) = whole {
                connection.execute(
                    "INSERT INTO offering (uuid, name, refreshed, resources_refreshed) VALUES (?1, '', 0, ?2)
                     ON CONFLICT (uuid) DO UPDATE SET resources_refreshed = ?2",
                    params![offering.to_string(), micros(now)],
                )?;
            }
            match_targets(connection, rulebook, now)
        })
    }

    pub fn put_offering_users(
        &mut self,
        offering: Uuid,
        users: Vec<(String, String)>,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            let uuid = offering.to_string();
            connection.execute("DELETE FROM offering_user WHERE offering = ?", [&uuid])?;
            for (username, url) in users {
                connection.execute(
                    "INSERT OR REPLACE INTO offering_user (offering, username, url) VALUES (?1, ?2, ?3)",
                    params![uuid, username, url],
                )?;
            }
            connection.execute(
                "INSERT INTO offering (uuid, name, refreshed, users_refreshed) VALUES (?1, '', 0, ?2)
                 ON CONFLICT (uuid) DO UPDATE SET users_refreshed = ?2",
                params![uuid, micros(now)],
            )?;
            Ok(())
        })
    }

    /// Takes over a look at a resource's plan periods. Where they cut a month otherwise than was known, the readings
    /// of the resource are counted again.
    pub fn put_plan_periods(
        &mut self,
        resource: Uuid,
        periods: Vec<KnownPlanPeriod>,
        look: (&str, &str),
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (period, plan) = (look.0.to_owned(), look.1.to_owned());
        self.transact(|connection, rulebook| {
            let uuid = resource.to_string();
            let before = quantify::cuts(connection, &uuid)?;
            // The server no longer lists those that ended before this month; they still cut theirs.
            for period in periods {
                connection.execute(
                    "INSERT INTO plan_period (uuid, resource, start, end) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (uuid) DO UPDATE SET resource = ?2, start = ?3, end = ?4",
                    params![period.uuid.to_string(), uuid, micros(period.start), period.end.map(micros)],
                )?;
            }
            connection.execute(
                "INSERT OR REPLACE INTO plan_look (resource, period, plan) VALUES (?1, ?2, ?3)",
                params![uuid, period, plan],
            )?;
            let after = quantify::cuts(connection, &uuid)?;
            let (before, after): (BTreeSet<_>, BTreeSet<_>) =
                (before.into_iter().collect(), after.into_iter().collect());
            if before != after {
                for cut in after.difference(&before) {
                    file_under_new_part(connection, rulebook, &uuid, *cut, &before, now)?;
                }
                recount_resource(connection, rulebook, &uuid, now)?;
            }
            Ok(())
        })
    }

    /// For which month and plan the plan periods of a resource were last looked up.
    pub fn plan_look(&self, resource: Uuid) -> Result<Option<(String, String)>, LedgerError> {
        self.look(|connection| {
            connection
                .query_row(
                    "SELECT period, plan FROM plan_look WHERE resource = ?",
                    [resource.to_string()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()
        })
    }

    /// Makes the next submission look at the resource's plan periods again.
    pub fn forget_plan_look(&mut self, resource: Uuid) -> Result<(), LedgerError> {
        self.transact(|connection, _| {
            connection.execute("DELETE FROM plan_look WHERE resource = ?", [resource.to_string()])?;
            connection.execute("DELETE FROM usage_row WHERE resource = ?", [resource.to_string()])?;
            Ok(())
        })
    }

    pub fn plan_periods(&self, resource: Uuid) -> Result<Vec<KnownPlanPeriod>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT uuid, start, end FROM plan_period WHERE resource = ? ORDER BY start")?
                .query_map([resource.to_string()], |row| {
                    Ok(KnownPlanPeriod {
                        uuid: uuid_column(row, 0)?,
                        start: instant(row.get(1)?),
                        end: row.get::<_, Option<i64>>(2)?.map(instant),
                    })
                })?
                .collect()
        })
    }

    pub fn resource(&self, resource: Uuid) -> Result<Option<KnownResource>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(&format!("{RESOURCES} WHERE uuid = ?"))?
                .query_row([resource.to_string()], known_resource)
                .optional()
        })
    }

    /// When the resource was last looked at.
    pub fn resource_seen(&self, resource: Uuid) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            connection
                .query_row("SELECT refreshed FROM resource WHERE uuid = ?", [resource.to_string()], |row| {
                    row.get(0).map(instant)
                })
                .optional()
        })
    }

    /// Resources that a person may mean: by UUID in any form, backend id or name.
    pub fn find_resources(&self, wanted: &str) -> Result<Vec<KnownResource>, LedgerError> {
        let uuid = Uuid::parse_str(wanted).map(|uuid| uuid.to_string()).unwrap_or_default();
        self.look(|connection| {
            connection
                .prepare(&format!(
                    "{RESOURCES} WHERE uuid = ?1 OR backend_id = ?2 OR name = ?2 ORDER BY name"
                ))?
                .query_map([&uuid, wanted], known_resource)?
                .collect()
        })
    }

    pub fn components(&self, offering: Uuid) -> Result<Vec<KnownComponent>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT type, name, billing_type, measured_unit, limit_period, limit_amount FROM component
                     WHERE offering = ? ORDER BY type",
                )?
                .query_map([offering.to_string()], |row| {
                    Ok(KnownComponent {
                        component: row.get(0)?,
                        name: row.get(1)?,
                        billing_type: row.get(2)?,
                        measured_unit: row.get(3)?,
                        limit_period: row.get(4)?,
                        limit_amount: row.get(5)?,
                    })
                })?
                .collect()
        })
    }

    /// The offering user's URL, where Waldur has one of that name.
    pub fn offering_user(&self, offering: Uuid, username: &str) -> Result<Option<String>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT url FROM offering_user WHERE offering = ?1 AND username = ?2")?
                .query_row(params![offering.to_string(), username], |row| row.get(0))
                .optional()
        })
    }

    /// Offerings with backend ids that no known resource has.
    pub fn offerings_with_unmatched(&self) -> Result<Vec<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT offering FROM target WHERE resource IS NULL AND offering <> ''",
                )?
                .query_map([], |row| uuid_column(row, 0))?
                .collect()
        })
    }

    /// Resources that statements name and of which nothing is known yet.
    pub fn unknown_resources(&self) -> Result<Vec<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT statement.resource FROM statement
                     LEFT JOIN resource ON resource.uuid = statement.resource
                     WHERE resource.uuid IS NULL AND statement.revision > statement.agreed",
                )?
                .query_map([], |row| uuid_column(row, 0))?
                .collect()
        })
    }
}

const RESOURCES: &str =
    "SELECT uuid, offering, name, backend_id, state, plan, customer, project FROM resource";

fn known_resource(row: &Row<'_>) -> rusqlite::Result<KnownResource> {
    Ok(KnownResource {
        uuid: uuid_column(row, 0)?,
        offering: uuid_column(row, 1)?,
        name: row.get(2)?,
        backend_id: row.get(3)?,
        state: row.get(4)?,
        plan: row.get::<_, Option<String>>(5)?.and_then(|text| Uuid::parse_str(&text).ok()),
        customer: row.get(6)?,
        project: row.get(7)?,
    })
}

fn put_resource(connection: &Connection, resource: &KnownResource, now: Timestamp) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO resource
                (uuid, offering, name, backend_id, state, plan, customer, project, refreshed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            resource.uuid.to_string(),
            resource.offering.to_string(),
            resource.name,
            resource.backend_id,
            resource.state,
            resource.plan.map(|plan| plan.to_string()),
            resource.customer,
            resource.project,
            micros(now)
        ])?;
    Ok(())
}

/// Finds the resources of targets that had none, and states what they owe. A target keeps the resource it once had:
/// its statements are there.
fn match_targets(connection: &Connection, rulebook: &Rulebook, now: Timestamp) -> rusqlite::Result<()> {
    let waiting: Vec<(i64, Uuid, String)> = connection
        .prepare("SELECT id, offering, backend_id FROM target WHERE resource IS NULL AND offering <> ''")?
        .query_map([], |row| Ok((row.get(0)?, uuid_column(row, 1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (target, offering, backend_id) in waiting {
        let mut of_offering = rulebook.rules.iter().filter(|rules| rules.offering() == Some(offering));
        let ignore_case = of_offering.any(Rules::ignores_case);
        let Some(resource) = resource_of(connection, offering, &backend_id, ignore_case)? else { continue };
        connection.execute(
            "UPDATE target SET resource = ?2, unmatched_since = NULL WHERE id = ?1",
            params![target, resource],
        )?;
        recount_resource(connection, rulebook, &resource, now)?;
    }
    Ok(())
}

/// Counts all series of a resource again and makes its statements anew.
pub(super) fn recount_resource(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    now: Timestamp,
) -> rusqlite::Result<()> {
    let series: Vec<i64> = connection
        .prepare(
            "SELECT series.id FROM series JOIN target ON target.id = series.target WHERE target.resource = ?",
        )?
        .query_map([resource], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut restate = Restate::new();
    for series in series {
        quantify::recount(connection, rulebook, series, &mut restate)?;
    }
    statements::restate_all(connection, rulebook, &restate, now)?;
    Ok(())
}
