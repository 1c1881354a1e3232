//! The plan periods of resources as they were last looked at, and what a switch of plan makes of what was counted.

use std::collections::BTreeSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::KnownPlanPeriod;
use super::matched::recount_resource;
use crate::ledger::books::cuts::plan_cuts;
use crate::ledger::books::targets;
use crate::ledger::books::unstated::all_since;
use crate::ledger::db::columns::{instant, micros, uuid_column};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::period::BillingPeriod;

impl Ledger {
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
