//! What Waldur was last seen to have: offerings, components, resources, offering users and plan periods, so that a
//! run asks nothing that is known. A resource that becomes known finds the readings that waited for it.

use jiff::Timestamp;
use uuid::Uuid;

use super::targets;
use crate::ledger::db::columns::{instant, micros, uuid_column};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, params};
use crate::ledger::db::{Ledger, LedgerError};

mod matched;
mod plans;

use matched::match_targets;
pub(in crate::ledger) use matched::recount_resource;
pub(in crate::ledger) use plans::put_plan_periods;

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
                    "INSERT INTO component
                        (offering, type, name, billing_type, measured_unit, limit_period, limit_amount)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                     ON CONFLICT (offering, type) DO UPDATE SET name = ?3, billing_type = ?4, measured_unit = ?5,
                        limit_period = ?6, limit_amount = ?7",
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
        self.transact(|connection, in_force| {
            let mut listed = None;
            for resource in &resources {
                put_resource(connection, resource, now)?;
            }
            if let Some(offering) = whole {
                listed = connection
                    .prepare_cached("SELECT resources_refreshed FROM offering WHERE uuid = ?")?
                    .query_row([offering.to_string()], |row| row.get::<_, Option<i64>>(0))
                    .optional()?
                    .flatten()
                    .map(instant);
                connection.execute(
                    "INSERT INTO offering (uuid, name, refreshed, resources_refreshed) VALUES (?1, '', 0, ?2)
                     ON CONFLICT (uuid) DO UPDATE SET resources_refreshed = ?2",
                    params![offering.to_string(), micros(now)],
                )?;
            }
            match_targets(connection, in_force, listed, now)
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
                    "INSERT INTO offering_user (offering, username, url) VALUES (?1, ?2, ?3)
                     ON CONFLICT (offering, username) DO UPDATE SET url = ?3",
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

    /// How many rows a month of this offering may have at the server.
    pub fn most_rows_of(&self, offering: Uuid) -> Result<usize, LedgerError> {
        let rows: i64 = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT (SELECT count(*) FROM resource WHERE offering = ?1 AND state <> 'Terminated')
                          * (SELECT CASE WHEN count(*) > 0 THEN count(*) ELSE 1 END FROM component WHERE offering = ?1)",
                )?
                .query_row([offering.to_string()], |row| row.get(0))
        })?;
        Ok(usize::try_from(rows).unwrap_or(usize::MAX))
    }

    /// Resources that have a backend id which a terminated one had, until their plan periods say since when.
    pub fn provisional_resources(&self) -> Result<Vec<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT DISTINCT resource FROM target_resource WHERE provisional = 1 AND EXISTS (
                        SELECT 1 FROM target_resource AS before WHERE before.target = target_resource.target
                            AND before.since < target_resource.since)",
                )?
                .query_map([], |row| uuid_column(row, 0))?
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

    /// All resources that are known.
    pub fn resources(&self) -> Result<Vec<KnownResource>, LedgerError> {
        self.look(|connection| connection.prepare(RESOURCES)?.query_map([], known_resource)?.collect())
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
                    "SELECT DISTINCT offering FROM target WHERE offering <> '' AND (several IS NOT NULL OR NOT EXISTS (
                        SELECT 1 FROM target_resource WHERE target_resource.target = target.id))",
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
                     WHERE resource.uuid IS NULL AND statement.closed IS NULL",
                )?
                .query_map([], |row| uuid_column(row, 0))?
                .collect()
        })
    }
}

const RESOURCES: &str =
    "SELECT uuid, offering, name, backend_id, state, plan, customer, project FROM resource";

fn known_resource(row: &Row<'_>) -> sql::Result<KnownResource> {
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

fn put_resource(connection: &Connection, resource: &KnownResource, now: Timestamp) -> sql::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO resource
                (uuid, offering, name, backend_id, state, plan, customer, project, refreshed, folded_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (uuid) DO UPDATE SET offering = ?2, name = ?3, backend_id = ?4, state = ?5, plan = ?6,
                customer = ?7, project = ?8, refreshed = ?9, folded_id = ?10",
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
            micros(now),
            targets::folded(&resource.backend_id)
        ])?;
    Ok(())
}
