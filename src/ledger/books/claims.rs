//! What changed rules mean for a bill that stands already (law 13): Waldur may hold an amount that no rule makes any more,
//! alone or beside its successor; or two collectors may count the same usage. Then the components concerned are held.
//!
//! Whether one is follows from the rules in force, from those before them in the month, from what was counted and from what
//! was accepted; so it passes by itself when the rules are set right, and when a person has decided. It only reads.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::freed::is_freed;
use super::lines::Place;
use super::place::placed;
use super::sourced_meters::{SourcedMeters, meters_of};
use super::targets::mappings;
use crate::ledger::db::columns::{decimal, micros};
use crate::ledger::db::rules::{InForce, Version};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, ToSql, params};
use crate::metering::period::BillingPeriod;
use rust_decimal::Decimal;

/// Why a component is held by the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    /// One of the reasons in submitter/reason.rs.
    pub(super) reason: &'static str,
    pub(super) words: String,
}

/// Two collectors count the same readings.
const SAME_IDS: &str = "same_ids";
/// Waldur holds what the rules do not make any more.
pub(super) const RULES_CHANGED: &str = "rules_changed";

/// A component of a resource.
type Component = (String, String);

/// What changed rules mean for a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Free,
    /// They make just what Waldur holds, of what was used before they were changed: from here on the amount goes on by them,
    /// and is held for this reason no more.
    Agreed(&'static str),
    Held(Claim),
}

/// What there is to be said against each of some components, looked up for all of them together.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// The names of the resources that share its resource's backend id, if they do.
    several: HashMap<usize, String>,
    /// For which reasons it is held no more, and since when.
    freed: HashMap<usize, Vec<(String, i64)>>,
    /// Whether any two collectors read the same.
    some_are_same: bool,
}

impl Doubts {
    /// Of these, each with the rules of its month.
    pub(super) fn of_all<'p>(
        connection: &Connection,
        places: impl Iterator<Item = (Place<'p>, &'p Version)>,
    ) -> sql::Result<Doubts> {
        let places: Vec<(i64, Place<'_>, &Version)> =
            (0..).zip(places).map(|(number, (place, version))| (number, place, version)).collect();
        let mut doubts = Doubts {
            some_are_same: connection.prepare_cached("SELECT 1 FROM same_ids LIMIT 1")?.exists([])?,
            ..Doubts::default()
        };
        let rows: Vec<[&dyn ToSql; 3]> = places
            .iter()
            .map(|(number, place, version)| [number as &dyn ToSql, &place.resource, &version.id])
            .collect();
        connection.query_rows(
            "SELECT v.column1, target.several
             FROM (VALUES {rows}) v CROSS JOIN target_resource CROSS JOIN target
             WHERE target_resource.resource = v.column2 AND target.id = target_resource.target
               AND target.several IS NOT NULL
               AND EXISTS (SELECT 1 FROM placed WHERE placed.target = target.id AND placed.rules = v.column3)",
            &rows,
            |row| {
                let number = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
                doubts.several.insert(number, row.get(1)?);
                Ok(())
            },
        )?;
        let rows: Vec<[&dyn ToSql; 4]> = places
            .iter()
            .map(|(number, Place { resource, period, component }, _)| {
                [number as &dyn ToSql, resource, period, component]
            })
            .collect();
        connection.query_rows_of(
            "freed",
            "SELECT v.column1, freed.reason, freed.at FROM (VALUES {rows}) v CROSS JOIN freed
             WHERE freed.resource = v.column2 AND freed.period = v.column3 AND freed.component = v.column4",
            &rows,
            |row| {
                let number = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
                doubts.freed.entry(number).or_default().push((row.get(1)?, row.get(2)?));
                Ok(())
            },
        )?;
        Ok(doubts)
    }

    /// Whether it is held for this reason no more; `recorded`: when the rules of its month were.
    fn is_freed(&self, number: usize, recorded: Timestamp, reason: &str) -> bool {
        let freed = self.freed.get(&number).map(Vec::as_slice).unwrap_or_default();
        freed.iter().any(|(of, at)| of == reason && *at >= micros(recorded))
    }
}

/// Whether this component of this month may be sent; `posted`: what would be, `makers`: what makes it in this month. Of what
/// is known, it is that number; `held`: what the server accepted of it.
pub(super) fn claim(
    connection: &Connection,
    in_force: &InForce,
    (resource, period, component): (&str, &str, &str),
    (posted, makers): (Decimal, &SourcedMeters<'_>),
    (doubts, number, held): (&Doubts, usize, Option<Decimal>),
) -> sql::Result<Verdict> {
    let Ok(month) = period.parse::<BillingPeriod>() else { return Ok(Verdict::Free) };
    if let Some(names) = doubts.several.get(&number) {
        let words =
            format!("several resources in Waldur that are not terminated have its backend id: {names}");
        return Ok(Verdict::Held(Claim { reason: "several_resources", words }));
    }
    let now = in_force.in_month(month);
    if held != Some(posted)
        && doubts.some_are_same
        && !doubts.is_freed(number, now.recorded, SAME_IDS)
        && let Some(words) = counted_twice(connection, resource, makers)?
    {
        let held = held.unwrap_or_default();
        let words = format!("{words}: by these rules it is {posted:.2}, Waldur holds {held:.2}");
        return Ok(Verdict::Held(Claim { reason: SAME_IDS, words }));
    }
    if doubts.is_freed(number, now.recorded, RULES_CHANGED) {
        return Ok(Verdict::Free);
    }
    let since = in_force.zone.start(month);
    for before in in_force.before_in_month(month) {
        if let Some(held) = held.filter(|held| !held.is_zero())
            && let Some(lost) = lost(connection, (before, now), (resource, component), since)?
        {
            let changed = in_force.recorded_after(before);
            if held == posted && !adds_since(connection, (before, now), (resource, component), changed)? {
                return Ok(Verdict::Agreed(RULES_CHANGED));
            }
            let words = format!(
                "the rules were changed: Waldur holds {held:.2} of it, {lost}; by the rules that hold now it is {posted:.2}"
            );
            return Ok(Verdict::Held(Claim { reason: RULES_CHANGED, words }));
        }
        if posted.is_zero() || held == Some(posted) {
            continue;
        }
        for (of, was) in taken_over(connection, (before, now), (resource, component), since)? {
            let Some(held) = accepted(connection, &of, period, &was)?.filter(|held| !held.is_zero()) else {
                continue;
            };
            if !is_freed(connection, now.recorded, (&of, period, &was), RULES_CHANGED)? {
                let name =
                    if of == resource { String::new() } else { format!(" of {}", name(connection, &of)?) };
                let words = format!(
                    "the rules were changed: usage that was reported as {was}{name}, of which Waldur holds {held:.2}, would \
                     be reported as {component}, too"
                );
                return Ok(Verdict::Held(Claim { reason: RULES_CHANGED, words }));
            }
        }
    }
    Ok(Verdict::Free)
}

/// What the server accepted of a component in a month, all parts together.
fn accepted(
    connection: &Connection,
    resource: &str,
    period: &str,
    component: &str,
) -> sql::Result<Option<Decimal>> {
    let mut query = connection.prepare_cached(
        "SELECT amount FROM sent WHERE resource = ?1 AND period = ?2 AND component = ?3 AND username = '' AND current = 1
         AND outcome IN ('accepted', 'read')",
    )?;
    let mut rows = query.query([resource, period, component])?;
    let mut sum = None;
    while let Some(row) = rows.next()? {
        if let Some(amount) = decimal(row.get(0)?) {
            sum = Some(sum.unwrap_or(Decimal::ZERO) + amount);
        }
    }
    Ok(sum)
}

fn name(connection: &Connection, resource: &str) -> sql::Result<String> {
    let name: Option<String> = connection
        .prepare_cached("SELECT name FROM resource WHERE uuid = ?")?
        .query_row([resource], |row| row.get(0))
        .optional()?;
    Ok(name.filter(|name| !name.is_empty()).unwrap_or_else(|| resource.to_owned()))
}

/// Whether the same readings are counted into this component by two collectors.
fn counted_twice(
    connection: &Connection,
    resource: &str,
    makers: &SourcedMeters<'_>,
) -> sql::Result<Option<String>> {
    let makers = makers.of(connection, resource)?;
    for one in &makers {
        for other in &makers {
            let shared: Option<String> = connection
                .prepare_cached("SELECT id FROM same_ids WHERE source = ?1 AND other = ?2")?
                .query_row([one.source, other.source], |row| row.get(0))
                .optional()?;
            if let Some(id) = shared.as_ref().filter(|_| one.source == other.source) {
                return Ok(Some(format!(
                    "the collector {} reads the same readings `{}` on several hosts (such as `{id}`): have one of them read it, under a new name with `once: true`",
                    one.rules.collector, one.meter.reading
                )));
            }
            if let Some(id) = shared {
                return Ok(Some(format!(
                    "the collectors {} and {} both count readings `{}` with the same ids (such as `{id}`) into it",
                    other.rules.collector, one.rules.collector, one.meter.reading
                )));
            }
        }
    }
    Ok(None)
}

/// Series with readings since an instant that a version of the rules counts into a component of a resource.
fn series_of(
    connection: &Connection,
    version: &Version,
    (resource, component): (&str, &str),
    since: Timestamp,
) -> sql::Result<BTreeSet<i64>> {
    let mut found = BTreeSet::new();
    // From the resource on: of a source there may be thousands of series of others.
    for maker in &meters_of(connection, version, component)?.meters {
        let of_maker: Vec<i64> = connection
            .prepare_cached(
                "SELECT DISTINCT placed.series FROM target_resource CROSS JOIN placed
                 WHERE target_resource.resource = ?3 AND placed.target = target_resource.target
                   AND placed.rules = ?1 AND placed.source = ?2
                   AND EXISTS (SELECT 1 FROM reading WHERE reading.series = placed.series AND reading.at > ?4)",
            )?
            .query_map(params![version.id, maker.source, resource, micros(since)], |row| row.get(0))?
            .collect::<sql::Result<_>>()?;
        found.extend(of_maker);
    }
    Ok(found)
}

/// The components that a version of the rules makes of a series.
fn components_of(
    connection: &Connection,
    version: &Version,
    series: i64,
) -> sql::Result<BTreeSet<Component>> {
    let (collector, name): (String, String) = connection
        .prepare_cached(
            "SELECT source.collector, source.name FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
        )?
        .query_row([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(target) = placed(connection, version, series)?.target else { return Ok(BTreeSet::new()) };
    let meters = version.of(&collector).map(|rules| rules.meters.as_slice()).unwrap_or_default();
    let mappings = mappings(connection, target)?;
    let mut made = BTreeSet::new();
    for meter in meters.iter().filter(|meter| meter.reading == name) {
        // Of all that it was: a month may be of several.
        made.extend(mappings.iter().map(|mapping| (mapping.resource.clone(), meter.component.clone())));
    }
    Ok(made)
}

/// What was counted into a component before and is not any more, in words.
fn lost(
    connection: &Connection,
    (before, now): (&Version, &Version),
    (resource, component): (&str, &str),
    since: Timestamp,
) -> sql::Result<Option<String>> {
    let this = (resource.to_owned(), component.to_owned());
    for series in series_of(connection, before, (resource, component), since)? {
        if components_of(connection, now, series)?.contains(&this) {
            continue;
        }
        let collector: String = connection
            .prepare_cached(
                "SELECT source.collector FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
            )?
            .query_row([series], |row| row.get(0))?;
        return Ok(Some(if now.of(&collector).is_none() {
            format!(
                "made from the collector {collector}, which is no longer configured (if another goes on under a new name, \
                 `continues: {collector}` says so)"
            )
        } else {
            format!("made from readings of the collector {collector} that no rule makes it of any more")
        }));
    }
    Ok(None)
}

/// Whether series that only the later rules count into a component have readings after they were recorded: then what they
/// make is not what was made before, whatever it comes to.
fn adds_since(
    connection: &Connection,
    (before, now): (&Version, &Version),
    of: (&str, &str),
    changed: Timestamp,
) -> sql::Result<bool> {
    let newly = series_of(connection, now, of, changed)?;
    if newly.is_empty() {
        return Ok(false);
    }
    Ok(!newly.is_subset(&series_of(connection, before, of, changed)?))
}

/// Components that were made before of usage that now makes this one, and are no longer.
fn taken_over(
    connection: &Connection,
    (before, now): (&Version, &Version),
    (resource, component): (&str, &str),
    since: Timestamp,
) -> sql::Result<BTreeSet<Component>> {
    let this = (resource.to_owned(), component.to_owned());
    let mut others = BTreeSet::new();
    for series in series_of(connection, now, (resource, component), since)? {
        let made = components_of(connection, before, series)?;
        if made.contains(&this) {
            continue;
        }
        let makes = components_of(connection, now, series)?;
        others.extend(made.into_iter().filter(|other| !makes.contains(other)));
    }
    Ok(others)
}
