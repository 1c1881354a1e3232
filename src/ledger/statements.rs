//! Statements: what Waldur should hold of each resource, made anew whenever a quantity under them changes.
//!
//! A statement is a function of the quantities and the rules. Its revision grows when a posted number changes, and
//! only then is there anything to send. It never looks at what the server holds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::ingest::Restate;
use super::quantify::{cuts, quantity};
use super::{Rulebook, micros};
use crate::metering::exact::Exact;
use crate::metering::measure::{Measure, Quantity};
use crate::metering::meter::Meter;
use crate::metering::period::{BillingPeriod, Timeline};
use crate::metering::statement::Amounts;

/// Makes these statements anew; returns how many changed.
pub(super) fn restate_all(
    connection: &Connection,
    rulebook: &Rulebook,
    restate: &Restate,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let mut makers: HashMap<&str, Vec<Maker<'_>>> = HashMap::new();
    let mut changed: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (resource, period, component) in restate {
        let makers = match makers.entry(component) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(makers_of(connection, rulebook, component)?),
        };
        let place = Place { resource, period, component };
        if restate_one(connection, rulebook, makers, place, now)? {
            changed.insert((resource, period));
        }
    }
    Ok(changed.len())
}

/// A component of a resource in a period.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    resource: &'a str,
    period: &'a str,
    component: &'a str,
}

/// A meter, and the source whose series it meters.
struct Maker<'a> {
    source: i64,
    meter: &'a Meter,
    measure: Measure,
}

/// All meters that make a component, with their sources.
fn makers_of<'a>(
    connection: &Connection,
    rulebook: &'a Rulebook,
    component: &str,
) -> rusqlite::Result<Vec<Maker<'a>>> {
    let mut makers = Vec::new();
    for rules in &rulebook.rules {
        for meter in rules.meters.iter().filter(|meter| meter.component == component) {
            let source: Option<(i64, String)> = connection
                .prepare_cached("SELECT id, kind FROM source WHERE collector = ?1 AND name = ?2")?
                .query_row(params![rules.collector, meter.reading], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((source, kind)) = source else { continue };
            if let Some(measure) = kind.parse().ok().and_then(|kind| meter.measure(kind).ok()) {
                makers.push(Maker { source, meter, measure });
            }
        }
    }
    Ok(makers)
}

/// One line of a statement, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    exact: String,
    posted: Option<String>,
    problem: Option<String>,
}

/// By user; '' is the total.
type Lines = BTreeMap<String, Line>;

fn restate_one(
    connection: &Connection,
    rulebook: &Rulebook,
    makers: &[Maker<'_>],
    place: Place<'_>,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut parts: BTreeMap<i64, Option<Amounts>> = amounts(connection, rulebook, makers, place)?
        .into_iter()
        .map(|(part, amounts)| (part, Some(amounts)))
        .collect();
    let known: Vec<i64> = connection
        .prepare_cached("SELECT part FROM statement WHERE resource = ?1 AND period = ?2")?
        .query_map(params![place.resource, place.period], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for part in known {
        // A part that has nothing left is a statement of zeros.
        parts.entry(part).or_default();
    }
    let mut changed = false;
    for (part, amounts) in parts {
        let mut lines = amounts.map(lines).unwrap_or_default();
        let before = load(connection, place, part)?;
        keep_standing(connection, !makers.is_empty(), place, part, &before, &mut lines)?;
        if lines != before {
            changed |= store(connection, place, part, &before, &lines, now)?;
        }
    }
    Ok(changed)
}

/// The exact amounts of the component, by part of the month.
fn amounts(
    connection: &Connection,
    rulebook: &Rulebook,
    makers: &[Maker<'_>],
    place: Place<'_>,
) -> rusqlite::Result<BTreeMap<i64, Amounts>> {
    let mut parts: BTreeMap<i64, Amounts> = BTreeMap::new();
    let Ok(period) = place.period.parse::<BillingPeriod>() else { return Ok(parts) };
    let timeline = Timeline::new(rulebook.zone.clone(), cuts(connection, place.resource)?);
    let mut query = connection.prepare_cached(
        "SELECT series.id, series.user, quantity.segment, quantity.sum, quantity.max, quantity.last,
                quantity.covered, quantity.missed, quantity.gaps, quantity.resets
         FROM target CROSS JOIN series ON series.target = target.id AND series.source = ?3
         CROSS JOIN quantity ON quantity.series = series.id AND quantity.measure = ?4
                            AND quantity.segment >= ?5 AND quantity.segment < ?6
         WHERE target.resource = ?1 AND quantity.period = ?2 ORDER BY series.id, quantity.segment",
    )?;
    let (start, end) = (micros(rulebook.zone.start(period)), micros(rulebook.zone.end(period)));
    for maker in makers {
        // Quantities of one series in one part are put together first: a mean is of all its time.
        let mut by_series: BTreeMap<(i64, i64), (Quantity, Option<String>)> = BTreeMap::new();
        let measure = maker.measure.to_string();
        let mut rows =
            query.query(params![place.resource, place.period, maker.source, measure, start, end])?;
        while let Some(row) = rows.next()? {
            let part = micros(timeline.segment_at(super::instant(row.get(2)?)).start);
            let entry = by_series.entry((part, row.get(0)?)).or_default();
            entry.0.absorb(quantity(row, 3)?);
            entry.1 = row.get(1)?;
        }
        for ((part, _), (quantity, user)) in by_series {
            let Some(value) = quantity.value(maker.measure) else { continue };
            let amount = value * maker.meter.factor.clone();
            let amounts = parts.entry(part).or_insert_with(|| Amounts {
                total: Exact::zero(),
                users: BTreeMap::new(),
                additive: true,
                rounding: maker.meter.rounding,
            });
            amounts.total += amount.clone();
            amounts.additive &= Meter::additive(maker.measure);
            if let Some(user) = user {
                *amounts.users.entry(user).or_insert_with(Exact::zero) += amount;
            }
        }
    }
    Ok(parts)
}

fn lines(amounts: Amounts) -> Lines {
    let (posted, problem) = match amounts.posted() {
        Ok(posted) => (Some(posted), None),
        Err(why) => (None, Some(why.to_string())),
    };
    let line = |exact: &Exact, posted: Option<rust_decimal::Decimal>| Line {
        exact: exact.to_string(),
        posted: posted.map(two_decimals),
        problem: problem.clone(),
    };
    let mut lines = Lines::new();
    lines.insert(String::new(), line(&amounts.total, posted.as_ref().map(|posted| posted.total)));
    for (user, exact) in &amounts.users {
        let share = posted.as_ref().and_then(|posted| posted.users.get(user).copied());
        lines.insert(user.clone(), line(exact, share));
    }
    lines
}

/// An amount as it is posted and compared: always two decimals.
pub fn two_decimals(amount: rust_decimal::Decimal) -> String {
    format!("{amount:.2}")
}

/// What stood in the statement and has no readings any more. Where some meter still makes the component, it has
/// become zero. Where none does (a collector was removed or renamed), it stands as it was: what the configuration no
/// longer speaks of is not taken back from a bill in silence.
fn keep_standing(
    connection: &Connection,
    metered: bool,
    place: Place<'_>,
    part: i64,
    before: &Lines,
    lines: &mut Lines,
) -> rusqlite::Result<()> {
    for (user, line) in before {
        if lines.contains_key(user) {
            continue;
        }
        let sent = connection
            .prepare_cached(
                "SELECT 1 FROM acknowledgement
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
                 UNION ALL SELECT 1 FROM intent
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5 LIMIT 1",
            )?
            .exists(params![place.resource, place.period, part, place.component, user])?;
        if !sent {
            continue;
        }
        let zero = Line { exact: "0".to_owned(), posted: Some("0.00".to_owned()), problem: None };
        lines.insert(user.clone(), if metered { zero } else { line.clone() });
    }
    Ok(())
}

fn load(connection: &Connection, place: Place<'_>, part: i64) -> rusqlite::Result<Lines> {
    connection
        .prepare_cached(
            "SELECT user, exact, posted, problem FROM line
             WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4",
        )?
        .query_map(params![place.resource, place.period, part, place.component], |row| {
            Ok((row.get(0)?, Line { exact: row.get(1)?, posted: row.get(2)?, problem: row.get(3)? }))
        })?
        .collect()
}

/// Writes what differs; the revision grows only if a posted number changed. Returns whether it did.
fn store(
    connection: &Connection,
    place: Place<'_>,
    part: i64,
    before: &Lines,
    lines: &Lines,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let Place { resource, period, component } = place;
    for user in before.keys().filter(|user| !lines.contains_key(*user)) {
        connection
            .prepare_cached(
                "DELETE FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5",
            )?
            .execute(params![resource, period, part, component, user])?;
    }
    let mut posted_changed = false;
    for (user, line) in lines {
        let old = before.get(user);
        if old == Some(line) {
            continue;
        }
        posted_changed |= old.is_none_or(|old| old.posted != line.posted || old.problem != line.problem);
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO line (resource, period, part, component, user, exact, posted, problem)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![resource, period, part, component, user, line.exact, line.posted, line.problem])?;
    }
    connection
        .prepare_cached(
            "INSERT INTO statement (resource, period, part, revision, agreed, changed) VALUES (?1, ?2, ?3, ?4, 0, ?5)
             ON CONFLICT (resource, period, part) DO UPDATE SET revision = revision + ?4, changed = ?5",
        )?
        .execute(params![resource, period, part, i64::from(posted_changed), micros(now)])?;
    Ok(posted_changed)
}
