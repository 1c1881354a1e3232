//! Statements: what Waldur should hold of each resource, made anew whenever a quantity under them changes.
//!
//! A statement is a function of the quantities and the rules. Its revision grows when a posted number changes, and
//! only then is there anything to send. It never looks at what the server holds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

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
    let orphans = orphans(connection, rulebook)?;
    let mut makers: HashMap<&str, Makers<'_>> = HashMap::new();
    let mut changed: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (resource, period, component) in restate {
        let makers = match makers.entry(component) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Makers {
                all: makers_of(connection, rulebook, component)?,
                gone: orphans.get(component).cloned().unwrap_or_default(),
            }),
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

/// All that makes a component.
struct Makers<'a> {
    all: Vec<Maker<'a>>,
    /// Collectors that made it, and that the configuration no longer has.
    gone: Vec<String>,
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

/// Collectors that the configuration no longer has, by the components that they made when it had them.
fn orphans(connection: &Connection, rulebook: &Rulebook) -> rusqlite::Result<HashMap<String, Vec<String>>> {
    let mut orphans: HashMap<String, Vec<String>> = HashMap::new();
    let mut query = connection.prepare_cached("SELECT name, measures FROM collector")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (collector, measures): (String, String) = (row.get(0)?, row.get(1)?);
        if rulebook.of(&collector).is_some() {
            continue;
        }
        let measures: BTreeMap<String, serde_json::Value> =
            serde_json::from_str(&measures).unwrap_or_default();
        for component in measures.into_keys() {
            orphans.entry(component).or_default().push(collector.clone());
        }
    }
    Ok(orphans)
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
    makers: &Makers<'_>,
    place: Place<'_>,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let Ok(period) = place.period.parse::<BillingPeriod>() else { return Ok(false) };
    let timeline = Timeline::new(rulebook.zone.clone(), cuts(connection, place.resource)?);
    let amounts = amounts(connection, &timeline, period, &makers.all, place)?;
    let mut parts: BTreeMap<i64, Option<Amounts>> =
        amounts.into_iter().map(|(part, amounts)| (part, Some(amounts))).collect();
    for part in known_parts(connection, &timeline, period, place)? {
        // A part that has nothing left is a statement of zeros.
        parts.entry(part).or_default();
    }
    let orphan = orphan(connection, &makers.gone, place)?;
    let mut changed = false;
    for (part, amounts) in parts {
        let mut lines = amounts.map(lines).unwrap_or_default();
        let before = load(connection, place, part)?;
        keep_standing(connection, rulebook, orphan, place, part, &before, &mut lines)?;
        if lines != before {
            changed |= store(connection, place, part, &before, &lines, now)?;
        }
    }
    Ok(changed)
}

/// The parts that there are statements of. Where a part begins may change, with the billing time zone or with what is
/// known of plan periods. It is still the same row of the server's, so what is known of that goes along; a statement of
/// zeros under the old name would undo it.
fn known_parts(
    connection: &Connection,
    timeline: &Timeline,
    period: BillingPeriod,
    place: Place<'_>,
) -> rusqlite::Result<Vec<i64>> {
    let parts: Vec<i64> = connection
        .prepare_cached("SELECT part FROM statement WHERE resource = ?1 AND period = ?2")?
        .query_map(params![place.resource, place.period], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let mut proper = Vec::with_capacity(parts.len());
    for part in parts {
        let segment = timeline.segment_at(super::instant(part));
        let start = if segment.period == period { segment.start } else { timeline.zone().start(period) };
        let start = micros(start);
        if start != part {
            for table in ["statement", "line", "acknowledgement", "intent", "trouble", "usage_row"] {
                let of_part = "resource = ?1 AND period = ?2 AND part = ?3";
                connection.execute(
                    &format!("UPDATE OR IGNORE {table} SET part = ?4 WHERE {of_part}"),
                    params![place.resource, place.period, part, start],
                )?;
                connection.execute(
                    &format!("DELETE FROM {table} WHERE {of_part}"),
                    params![place.resource, place.period, part],
                )?;
            }
        }
        proper.push(start);
    }
    Ok(proper)
}

/// A collector that measured something of this and is no longer configured.
fn orphan<'a>(
    connection: &Connection,
    gone: &'a [String],
    place: Place<'_>,
) -> rusqlite::Result<Option<&'a str>> {
    for collector in gone {
        let measured = connection
            .prepare_cached(
                "SELECT 1 FROM target JOIN series ON series.target = target.id
                 JOIN source ON source.id = series.source AND source.collector = ?3
                 JOIN quantity ON quantity.series = series.id AND quantity.period = ?2
                 WHERE target.resource = ?1 LIMIT 1",
            )?
            .exists(params![place.resource, place.period, collector])?;
        if measured {
            return Ok(Some(collector));
        }
    }
    Ok(None)
}

/// The exact amounts of the component, by part of the month.
fn amounts(
    connection: &Connection,
    timeline: &Timeline,
    period: BillingPeriod,
    makers: &[Maker<'_>],
    place: Place<'_>,
) -> rusqlite::Result<BTreeMap<i64, Amounts>> {
    let mut parts: BTreeMap<i64, Amounts> = BTreeMap::new();
    let zone = timeline.zone();
    let mut query = connection.prepare_cached(
        "SELECT series.id, series.user, quantity.segment, quantity.sum, quantity.max, quantity.last,
                quantity.covered, quantity.missed, quantity.gaps, quantity.resets
         FROM target CROSS JOIN series ON series.target = target.id AND series.source = ?3
         CROSS JOIN quantity ON quantity.series = series.id AND quantity.measure = ?4
                            AND quantity.segment >= ?5 AND quantity.segment < ?6
         WHERE target.resource = ?1 AND quantity.period = ?2 ORDER BY series.id, quantity.segment",
    )?;
    let (start, end) = (micros(zone.start(period)), micros(zone.end(period)));
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

/// What stood in the statement and has no readings any more. Where some meter still makes the component of this
/// resource, it has become zero. Where none does, or where part of it was measured by a collector that was removed or
/// renamed, it stands as it was: what the configuration no longer speaks of is not taken back from a bill in silence.
fn keep_standing(
    connection: &Connection,
    rulebook: &Rulebook,
    orphan: Option<&str>,
    place: Place<'_>,
    part: i64,
    before: &Lines,
    lines: &mut Lines,
) -> rusqlite::Result<()> {
    let sent = |user: &str| {
        connection
            .prepare_cached(
                "SELECT 1 FROM acknowledgement
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
                 UNION ALL SELECT 1 FROM intent
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5 LIMIT 1",
            )?
            .exists(params![place.resource, place.period, part, place.component, user])
    };
    if let Some(collector) = orphan
        && !lines.is_empty()
        && sent("")?
    {
        let problem = format!(
            "part of it was measured by the collector `{collector}`, which is no longer configured: what has been \
             reported stands; configure it again under that name to go on this month"
        );
        for line in lines.values_mut() {
            *line = Line { posted: None, problem: Some(problem.clone()), ..line.clone() };
        }
    }
    for (user, line) in before {
        if lines.contains_key(user) || !sent(user)? {
            continue;
        }
        let zero = Line { exact: "0".to_owned(), posted: Some("0.00".to_owned()), problem: None };
        let stands = orphan.is_some() || !metered(connection, rulebook, place)?;
        lines.insert(user.clone(), if stands { line.clone() } else { zero });
    }
    Ok(())
}

/// Whether some meter makes this component of this resource.
fn metered(connection: &Connection, rulebook: &Rulebook, place: Place<'_>) -> rusqlite::Result<bool> {
    let Ok(resource) = Uuid::parse_str(place.resource) else { return Ok(false) };
    let offering: Option<String> = connection
        .prepare_cached("SELECT offering FROM resource WHERE uuid = ?")?
        .query_row([place.resource], |row| row.get(0))
        .optional()?;
    let offering = offering.and_then(|text| Uuid::parse_str(&text).ok()).filter(|uuid| !uuid.is_nil());
    let mut rules = rulebook.rules.iter().filter(|rules| rules.may_bill(resource, offering));
    Ok(rules.any(|rules| rules.meters.iter().any(|meter| meter.component == place.component)))
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
