//! What Waldur was last seen to have: offerings, components, resources, offering users and plan periods, so that a
//! run asks nothing that is known. A resource that becomes known finds the readings that waited for it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::count::{Changed, recount_from, restate};
use super::cuts::{is_cut, plan_cuts};
use super::targets::{self, Found};
use super::unstated::{all_since, changed_components};
use crate::ledger::db::columns::{instant, micros, uuid_column};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, Row, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

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

    /// Notes that a resource's plan periods are not to be seen by this token.
    pub fn put_unseen_plan_periods(
        &mut self,
        resource: Uuid,
        (period, plan): (&str, &str),
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let (period, plan) = (period.to_owned(), plan.to_owned());
        self.transact(|connection, _| {
            connection.execute(
                "INSERT INTO plan_look (resource, period, plan, at, found) VALUES (?1, ?2, ?3, ?4, -1)
                 ON CONFLICT (resource) DO UPDATE SET period = ?2, plan = ?3, at = ?4, found = -1",
                params![resource.to_string(), period, plan, micros(now)],
            )?;
            targets::settle_mappings(connection, &resource.to_string(), None)?;
            Ok(())
        })
    }

    /// Whether a switch of plan cuts this month of a resource.
    pub fn is_cut(&self, resource: Uuid, period: BillingPeriod) -> Result<bool, LedgerError> {
        let zone = &self.in_force.zone;
        let (start, end) = (zone.start(period), zone.end(period));
        let cuts = self.look(|connection| plan_cuts(connection, zone, &resource.to_string()))?;
        Ok(cuts.into_iter().any(|cut| start < cut && cut < end))
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

    /// How many open plan periods a resource had when they were last looked at for this month.
    pub fn open_plan_periods(
        &self,
        resource: Uuid,
        period: BillingPeriod,
    ) -> Result<Option<i64>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached("SELECT found FROM plan_look WHERE resource = ?1 AND period = ?2")?
                .query_row(params![resource.to_string(), period.to_string()], |row| row.get(0))
                .optional()
        })
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

    /// Resources that are seen to have another plan than when their plan periods were looked up for this month.
    pub fn switched_resources(&self, period: BillingPeriod) -> Result<Vec<Uuid>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT plan_look.resource FROM plan_look JOIN resource ON resource.uuid = plan_look.resource
                     WHERE plan_look.period = ? AND plan_look.plan <> coalesce(resource.plan, '')",
                )?
                .query_map([period.to_string()], |row| uuid_column(row, 0))?
                .collect()
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

    /// Makes the next submission look at the resource's plan periods again, and at which rows are of which part of the month
    /// that runs. Of a month that is over the server does not tell that any more: its rows stay known.
    pub fn forget_plan_look(&mut self, resource: Uuid, running: BillingPeriod) -> Result<(), LedgerError> {
        let resource = resource.to_string();
        self.transact(|connection, _| {
            connection.execute("DELETE FROM plan_look WHERE resource = ?", [&resource])?;
            connection.execute(
                "DELETE FROM usage_row WHERE resource = ?1 AND period >= ?2",
                params![resource, running.to_string()],
            )?;
            Ok(())
        })
    }

    pub fn plan_periods(&self, resource: Uuid) -> Result<Vec<KnownPlanPeriod>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT uuid, start, until FROM plan_period WHERE resource = ? ORDER BY start",
                )?
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

/// Finds the resources of targets: of those that had none, and of those that Waldur has given to another resource since it
/// was last asked (`listed`).
fn match_targets(
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

/// Takes over a look at a resource's plan periods; returns the instants at which the plan turns out to have been switched.
/// Where they cut a month that runs otherwise than was known, it is counted again.
pub(in crate::ledger) fn put_plan_periods(
    connection: &Connection,
    in_force: &InForce,
    resource: Uuid,
    periods: &[KnownPlanPeriod],
    (period, plan): (&str, &str),
    now: Timestamp,
) -> sql::Result<Vec<Timestamp>> {
    let uuid = resource.to_string();
    let before: BTreeSet<Timestamp> = plan_cuts(connection, &in_force.zone, &uuid)?.into_iter().collect();
    let first = periods.iter().map(|period| period.start).min();
    let known: BTreeSet<Timestamp> = connection
        .prepare_cached("SELECT start FROM plan_period WHERE resource = ?")?
        .query_map([&uuid], |row| row.get(0).map(instant))?
        .collect::<sql::Result<_>>()?;
    // The server no longer lists those that ended before this month; they still cut theirs.
    for period in periods {
        connection.execute(
            "INSERT INTO plan_period (uuid, resource, start, until, noticed) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (uuid) DO UPDATE SET resource = ?2, start = ?3, until = ?4",
            params![period.uuid.to_string(), uuid, micros(period.start), period.end.map(micros), micros(now)],
        )?;
    }
    let open = periods.iter().filter(|period| period.end.is_none()).count();
    connection.execute(
        "INSERT INTO plan_look (resource, period, plan, at, found) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (resource) DO UPDATE SET period = ?2, plan = ?3, at = ?4, found = ?5",
        params![uuid, period, plan, micros(now), open as i64],
    )?;
    let month = in_force.zone.period_of(now);
    let after: BTreeSet<Timestamp> = plan_cuts(connection, &in_force.zone, &uuid)?.into_iter().collect();
    let mut recount = (before != after).then_some(month);
    let settled = targets::settle_mappings(connection, &uuid, first)?;
    if let Some((earliest, _)) = &settled {
        recount = Some(in_force.zone.period_of(*earliest).min(month));
    }
    if recount.is_some() {
        recount_resource(connection, in_force, &uuid, recount)?;
    }
    if let Some((earliest, resources)) = settled {
        // Also what neither makes any more.
        for resource in resources {
            all_since(connection, &resource, &in_force.zone.period_of(earliest).to_string())?;
        }
    }
    // A switch that is noticed only now, when its month is over, changes nothing of it.
    for start in periods.iter().map(|period| period.start) {
        let of_start = in_force.zone.period_of(start);
        let is_switch = known.first().is_some_and(|first| *first < start) && !known.contains(&start);
        if is_switch && in_force.zone.end(of_start) <= now {
            let about = About { resource: &uuid, period: &of_start.to_string(), component: "" };
            let words = format!(
                "its plan was switched at {start}, which was noticed only after {of_start} was over: what was reported of \
                 that month stands"
            );
            tell(connection, about, EventKind::Plan, &words, now)?;
        }
    }
    let switched: Vec<Timestamp> = after.difference(&before).copied().collect();
    for cut in &switched {
        let period = in_force.zone.period_of(*cut).to_string();
        let about = About { resource: &uuid, period: &period, component: "" };
        let words =
            format!("its plan was switched at {cut}: what was used before is billed under the earlier plan");
        tell(connection, about, EventKind::Plan, &words, now)?;
    }
    Ok(switched)
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
