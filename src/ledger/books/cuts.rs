//! Where time is cut: a resource's at switches of its plan and at opening balances, a series' also where its target became
//! another resource.
//!
//! A switch of plan that was noticed only after its month was over cuts nothing: what was reported then stands (law 7).

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use jiff::Timestamp;

use super::place::placed;
use super::targets::{Mapping, mappings, mappings_of_all};
use crate::ledger::db::columns::instant;
use crate::ledger::db::rules::{InForce, Version};
use crate::ledger::db::sql::{self, Connection, ToSql};
use crate::metering::period::{BillingZone, Timeline};

/// Where the months of each of these resources are cut at switches of its plan. A resource's first plan period is no switch:
/// the server files under it what was used of that month before it began, too (documented), and there is no other to file it
/// under.
fn plan_cuts_of_all(
    connection: &Connection,
    zone: &BillingZone,
    resources: &[&str],
) -> sql::Result<HashMap<String, Vec<Timestamp>>> {
    let mut cuts: HashMap<String, Vec<Timestamp>> = HashMap::new();
    let rows: Vec<[&dyn ToSql; 1]> = resources.iter().map(|resource| [resource as &dyn ToSql]).collect();
    connection.query_rows(
        "SELECT plan_period.resource, plan_period.start, plan_period.noticed
         FROM (VALUES {rows}) v CROSS JOIN plan_period WHERE plan_period.resource = v.column1
           AND plan_period.start > (SELECT min(start) FROM plan_period other WHERE other.resource = v.column1)",
        &rows,
        |row| {
            let (start, noticed) = (instant(row.get(1)?), instant(row.get(2)?));
            if noticed < zone.end(zone.period_of(start)) {
                cuts.entry(row.get(0)?).or_default().push(start);
            }
            Ok(())
        },
    )?;
    Ok(cuts)
}

/// Where the months of this resource are cut at switches of its plan.
pub(in crate::ledger) fn plan_cuts(
    connection: &Connection,
    zone: &BillingZone,
    resource: &str,
) -> sql::Result<Vec<Timestamp>> {
    plan_cuts_of_all(connection, zone, &[resource]).map(|mut cuts| cuts.remove(resource).unwrap_or_default())
}

/// Time as this resource's plans cut it, and nothing else.
pub(in crate::ledger) fn plans(
    connection: &Connection,
    zone: &BillingZone,
    resource: &str,
) -> sql::Result<Timeline> {
    Ok(Timeline::new(zone.clone(), plan_cuts(connection, zone, resource)?))
}

/// The same of each of these resources, as often as they are named in a row.
pub(super) fn plans_of_all(
    connection: &Connection,
    zone: &BillingZone,
    mut resources: Vec<&str>,
) -> sql::Result<HashMap<String, Timeline>> {
    resources.dedup();
    let mut cuts = plan_cuts_of_all(connection, zone, &resources)?;
    let mut timeline =
        |resource: &str| Timeline::new(zone.clone(), cuts.remove(resource).unwrap_or_default());
    Ok(resources.into_iter().map(|resource| (resource.to_owned(), timeline(resource))).collect())
}

/// Where everything of this resource is cut.
fn of_resource(connection: &Connection, zone: &BillingZone, resource: &str) -> sql::Result<Vec<Timestamp>> {
    let mut cuts = plan_cuts(connection, zone, resource)?;
    let openings = connection
        .prepare_cached("SELECT DISTINCT at FROM opening WHERE resource = ?")?
        .query_map([resource], |row| row.get(0).map(instant))?
        .collect::<sql::Result<Vec<_>>>()?;
    cuts.extend(openings);
    Ok(cuts)
}

/// Whether anything of this resource is cut anywhere.
pub(super) fn is_cut(connection: &Connection, zone: &BillingZone, resource: &str) -> sql::Result<bool> {
    of_resource(connection, zone, resource).map(|cuts| !cuts.is_empty())
}

/// Time as series see it, by the targets that the rules place them at.
pub(in crate::ledger) struct Timelines<'a> {
    connection: &'a Connection,
    in_force: &'a InForce,
    by_targets: HashMap<Vec<Option<i64>>, Rc<Timeline>>,
    /// By rules and series.
    targets: HashMap<(i64, i64), Option<i64>>,
    mappings: HashMap<i64, Rc<[Mapping]>>,
}

impl<'a> Timelines<'a> {
    pub(in crate::ledger) fn new(connection: &'a Connection, in_force: &'a InForce) -> Self {
        Timelines {
            connection,
            in_force,
            by_targets: HashMap::new(),
            targets: HashMap::new(),
            mappings: HashMap::new(),
        }
    }

    pub(in crate::ledger) fn of_series(&mut self, series: i64) -> sql::Result<Rc<Timeline>> {
        let versions = self.in_force.effective();
        let mut targets = Vec::with_capacity(versions.len());
        for version in &versions {
            targets.push(self.target_of(version, series)?);
        }
        if let Some(known) = self.by_targets.get(&targets) {
            return Ok(known.clone());
        }
        let mut cuts = Vec::new();
        for (version, target) in versions.into_iter().zip(&targets) {
            let Some(target) = target else { continue };
            let (from, to) = self.in_force.span(version);
            let mappings = self.mappings(*target)?;
            for (place, mapping) in mappings.iter().enumerate() {
                let until = mappings.get(place + 1).map_or(Timestamp::MAX, |next| next.since);
                let (from, to) = (mapping.since.max(from), until.min(to));
                let inside = |cut: &Timestamp| from < *cut && *cut < to;
                cuts.extend(Some(mapping.since).filter(|since| *since != Timestamp::MIN));
                let of_resource = of_resource(self.connection, &self.in_force.zone, &mapping.resource)?;
                cuts.extend(of_resource.into_iter().filter(inside));
            }
        }
        let timeline = Rc::new(Timeline::new(self.in_force.zone.clone(), cuts));
        self.by_targets.insert(targets, timeline.clone());
        Ok(timeline)
    }

    /// Looks up where these series are placed by all rules that are in force in some month.
    pub(in crate::ledger) fn look_up(&mut self, series: &[i64]) -> sql::Result<()> {
        let versions: Vec<i64> = self.in_force.effective().into_iter().map(|version| version.id).collect();
        let mut rows: Vec<[&dyn ToSql; 2]> = Vec::new();
        for version in &versions {
            for one in series {
                self.targets.entry((*version, *one)).or_insert(None);
                rows.push([version, one]);
            }
        }
        let targets = &mut self.targets;
        self.connection.query_rows(
            "SELECT placed.rules, placed.series, placed.target FROM (VALUES {rows}) v CROSS JOIN placed
             WHERE placed.rules = v.column1 AND placed.series = v.column2",
            &rows,
            |row| {
                targets.insert((row.get(0)?, row.get(1)?), row.get(2)?);
                Ok(())
            },
        )?;
        let placed: BTreeSet<i64> = self.targets.values().flatten().copied().collect();
        self.look_up_mappings(placed)
    }

    /// Looks up the resources that each of these targets was.
    pub(super) fn look_up_mappings(&mut self, targets: BTreeSet<i64>) -> sql::Result<()> {
        let unknown: Vec<i64> =
            targets.into_iter().filter(|target| !self.mappings.contains_key(target)).collect();
        let mut found = mappings_of_all(self.connection, &unknown)?;
        for target in unknown {
            self.mappings.insert(target, found.remove(&target).unwrap_or_default().into());
        }
        Ok(())
    }

    /// Where a version of the rules places a series.
    pub(in crate::ledger) fn target_of(
        &mut self,
        version: &Version,
        series: i64,
    ) -> sql::Result<Option<i64>> {
        if let Some(known) = self.targets.get(&(version.id, series)) {
            return Ok(*known);
        }
        let target = placed(self.connection, version, series)?.target;
        self.targets.insert((version.id, series), target);
        Ok(target)
    }

    /// The resources that a target was.
    pub(in crate::ledger) fn mappings(&mut self, target: i64) -> sql::Result<Rc<[Mapping]>> {
        if let Some(known) = self.mappings.get(&target) {
            return Ok(known.clone());
        }
        let found: Rc<[Mapping]> = mappings(self.connection, target)?.into();
        self.mappings.insert(target, found.clone());
        Ok(found)
    }
}
