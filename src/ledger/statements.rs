//! Statements: what Waldur should hold of each resource, made anew whenever a quantity under them changes.
//!
//! A statement is a function of the quantities and the rules. Its revision grows when a posted number changes, and
//! only then is there anything to send. It never looks at what the server holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::ingest::Restate;
use super::quantify::{cuts, quantity};
use super::{Rulebook, micros};
use crate::metering::exact::Exact;
use crate::metering::measure::Quantity;
use crate::metering::meter::Meter;
use crate::metering::period::{BillingPeriod, Timeline};
use crate::metering::reading::Kind;
use crate::metering::statement::Amounts;

/// Makes these statements anew; returns how many changed.
pub(super) fn restate_all(
    connection: &Connection,
    rulebook: &Rulebook,
    restate: &Restate,
    now: Timestamp,
) -> rusqlite::Result<usize> {
    let mut changed = 0;
    for (resource, period) in restate {
        changed += usize::from(restate_one(connection, rulebook, resource, period, now)?);
    }
    Ok(changed)
}

/// One line of a statement, as a row has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    exact: String,
    posted: Option<String>,
    problem: Option<String>,
}

/// (component, user); user '' is the total.
type Lines = BTreeMap<(String, String), Line>;

fn restate_one(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    period: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let mut parts = amounts(connection, rulebook, resource, period)?;
    let known: Vec<i64> = connection
        .prepare_cached("SELECT part FROM statement WHERE resource = ?1 AND period = ?2")?
        .query_map(params![resource, period], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for part in known {
        // A part that has nothing left is a statement of zeros.
        parts.entry(part).or_default();
    }
    let mut changed = false;
    for (part, components) in parts {
        let mut lines = lines(components);
        let key = (resource, period, part);
        let before = load(connection, key)?;
        keep_standing(connection, rulebook, key, &before, &mut lines)?;
        if lines == before {
            continue;
        }
        changed |= store(connection, key, &before, &lines, now)?;
    }
    Ok(changed)
}

/// The exact amounts of all components of one resource in one period, by part.
fn amounts(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    period: &str,
) -> rusqlite::Result<BTreeMap<i64, BTreeMap<String, Amounts>>> {
    let Ok(billing_period) = period.parse::<BillingPeriod>() else { return Ok(BTreeMap::new()) };
    let timeline = Timeline::new(rulebook.zone.clone(), cuts(connection, resource)?);
    let start = rulebook.zone.start(billing_period);

    // Quantities of one series and meter in one part are put together first: a mean is of all its time.
    type Key = (i64, i64, usize, usize);
    let mut by_meter: BTreeMap<Key, (Quantity, Kind, Option<String>)> = BTreeMap::new();
    let mut meters: HashMap<(String, String), Vec<(usize, usize)>> = HashMap::new();
    let mut query = connection.prepare_cached(
        "SELECT series.id, source.collector, source.name, source.kind, series.user, quantity.segment,
                quantity.measure, quantity.sum, quantity.max, quantity.last, quantity.covered, quantity.missed,
                quantity.gaps, quantity.resets
         FROM target JOIN series ON series.target = target.id JOIN source ON source.id = series.source
         JOIN quantity ON quantity.series = series.id
         WHERE target.resource = ?1 AND quantity.period = ?2 ORDER BY series.id, quantity.segment",
    )?;
    let mut rows = query.query(params![resource, period])?;
    while let Some(row) = rows.next()? {
        let (collector, name): (String, String) = (row.get(1)?, row.get(2)?);
        let Ok(kind) = row.get::<_, String>(3)?.parse::<Kind>() else { continue };
        let segment = super::instant(row.get(5)?);
        let part = micros(timeline.segment_at(segment).start.max(start));
        let measure: String = row.get(6)?;
        let of_reading = meters
            .entry((collector, name))
            .or_insert_with_key(|(collector, name)| meters_of(rulebook, collector, name));
        for &(rules, meter) in of_reading.iter() {
            let counts = rulebook.rules[rules].meters[meter].measure(kind);
            if counts.is_ok_and(|counts| counts.to_string() == measure) {
                let entry = by_meter
                    .entry((part, row.get(0)?, rules, meter))
                    .or_insert_with(|| (Quantity::default(), kind, None));
                entry.0.absorb(quantity(row, 7)?);
                entry.2 = row.get(4)?;
            }
        }
    }

    let mut parts: BTreeMap<i64, BTreeMap<String, Amounts>> = BTreeMap::new();
    for ((part, _, rules, meter), (quantity, kind, user)) in by_meter {
        let meter: &Meter = &rulebook.rules[rules].meters[meter];
        let Ok(measure) = meter.measure(kind) else { continue };
        let Some(value) = quantity.value(measure) else { continue };
        let amount = value * meter.factor.clone();
        let components = parts.entry(part).or_default();
        let amounts = components.entry(meter.component.clone()).or_insert_with(|| Amounts {
            total: Exact::zero(),
            users: BTreeMap::new(),
            additive: true,
            rounding: meter.rounding,
        });
        amounts.total += amount.clone();
        amounts.additive &= Meter::additive(measure);
        if let Some(user) = user {
            *amounts.users.entry(user).or_insert_with(Exact::zero) += amount;
        }
    }
    Ok(parts)
}

/// Which meters are for readings of this name, as places in the rulebook.
fn meters_of(rulebook: &Rulebook, collector: &str, name: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (rules, of) in rulebook.rules.iter().enumerate().filter(|(_, rules)| rules.collector == collector) {
        let meters = of.meters.iter().enumerate();
        found.extend(meters.filter(|(_, meter)| meter.reading == name).map(|(meter, _)| (rules, meter)));
    }
    found
}

fn lines(components: BTreeMap<String, Amounts>) -> Lines {
    let mut lines = Lines::new();
    for (component, amounts) in components {
        let (posted, problem) = match amounts.posted() {
            Ok(posted) => (Some(posted), None),
            Err(why) => (None, Some(why.to_string())),
        };
        let line = |exact: &Exact, posted: Option<rust_decimal::Decimal>| Line {
            exact: exact.to_string(),
            posted: posted.map(two_decimals),
            problem: problem.clone(),
        };
        lines.insert(
            (component.clone(), String::new()),
            line(&amounts.total, posted.as_ref().map(|p| p.total)),
        );
        for (user, exact) in &amounts.users {
            let share = posted.as_ref().and_then(|posted| posted.users.get(user).copied());
            lines.insert((component.clone(), user.clone()), line(exact, share));
        }
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
    rulebook: &Rulebook,
    (resource, period, part): (&str, &str, i64),
    before: &Lines,
    lines: &mut Lines,
) -> rusqlite::Result<()> {
    let metered: BTreeSet<&str> = rulebook
        .rules
        .iter()
        .flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str()))
        .collect();
    for ((component, user), line) in before {
        if lines.contains_key(&(component.clone(), user.clone())) {
            continue;
        }
        let sent: Option<i64> = connection
            .prepare_cached(
                "SELECT 1 FROM acknowledgement
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
                 UNION ALL SELECT 1 FROM intent
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5 LIMIT 1",
            )?
            .query_row(params![resource, period, part, component, user], |row| row.get(0))
            .optional()?;
        if sent.is_none() {
            continue;
        }
        let line = if metered.contains(component.as_str()) {
            Line { exact: "0".to_owned(), posted: Some("0.00".to_owned()), problem: None }
        } else {
            line.clone()
        };
        lines.insert((component.clone(), user.clone()), line);
    }
    Ok(())
}

fn load(connection: &Connection, (resource, period, part): (&str, &str, i64)) -> rusqlite::Result<Lines> {
    connection
        .prepare_cached(
            "SELECT component, user, exact, posted, problem FROM line
             WHERE resource = ?1 AND period = ?2 AND part = ?3",
        )?
        .query_map(params![resource, period, part], |row| {
            let line = Line { exact: row.get(2)?, posted: row.get(3)?, problem: row.get(4)? };
            Ok(((row.get(0)?, row.get(1)?), line))
        })?
        .collect()
}

/// Writes what differs; the revision grows only if a posted number changed. Returns whether it did.
fn store(
    connection: &Connection,
    (resource, period, part): (&str, &str, i64),
    before: &Lines,
    lines: &Lines,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    for (component, user) in before.keys().filter(|key| !lines.contains_key(*key)) {
        connection
            .prepare_cached(
                "DELETE FROM line WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5",
            )?
            .execute(params![resource, period, part, component, user])?;
    }
    let mut posted_changed = false;
    for (key @ (component, user), line) in lines {
        let old = before.get(key);
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
    let revision = i64::from(posted_changed);
    connection
        .prepare_cached(
            "INSERT INTO statement (resource, period, part, revision, agreed, changed) VALUES (?1, ?2, ?3, ?4, 0, ?5)
             ON CONFLICT (resource, period, part) DO UPDATE SET revision = revision + ?4, changed = ?5",
        )?
        .execute(params![resource, period, part, revision, micros(now)])?;
    Ok(posted_changed)
}
