//! Statements: what Waldur should hold of each resource, made anew whenever a quantity under them changes.
//!
//! A statement is a function of the quantities and the rules. Its revision grows when a posted number changes, and
//! only then is there anything to send. It never looks at what the server holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

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

/// By part and component.
type Parts = BTreeMap<i64, BTreeMap<String, Amounts>>;

/// (component, user); user '' is the total.
type Lines = BTreeMap<(String, String), Line>;

fn restate_one(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    period: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let (mut parts, gone) = amounts(connection, rulebook, resource, period)?;
    let orphans = components_of(connection, &gone)?;
    move_parts(connection, rulebook, resource, period)?;
    let known: Vec<i64> = known_parts(connection, resource, period)?;
    for part in known {
        // A part that has nothing left is a statement of zeros.
        parts.entry(part).or_default();
    }
    let mut changed = false;
    for (part, components) in parts {
        let mut lines = lines(components);
        let key = (resource, period, part);
        let before = load(connection, key)?;
        keep_standing(connection, rulebook, key, &before, &orphans, &mut lines)?;
        if lines == before {
            continue;
        }
        changed |= store(connection, key, &before, &lines, now)?;
    }
    Ok(changed)
}

fn known_parts(connection: &Connection, resource: &str, period: &str) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT part FROM statement WHERE resource = ?1 AND period = ?2")?
        .query_map(params![resource, period], |row| row.get(0))?
        .collect()
}

/// Where a part begins may change: with the billing time zone, or with what is known of plan periods. It is still the
/// same row of the server's, so what is known of that goes along; a statement of zeros under the old name would undo it.
fn move_parts(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    period: &str,
) -> rusqlite::Result<()> {
    let Ok(billing_period) = period.parse::<BillingPeriod>() else { return Ok(()) };
    let timeline = Timeline::new(rulebook.zone.clone(), cuts(connection, resource)?);
    let start = rulebook.zone.start(billing_period);
    for part in known_parts(connection, resource, period)? {
        let segment = timeline.segment_at(super::instant(part));
        let proper =
            if segment.period == billing_period { micros(segment.start.max(start)) } else { micros(start) };
        if proper == part {
            continue;
        }
        for table in ["statement", "line", "acknowledgement", "intent", "trouble", "usage_row"] {
            let of_part = "resource = ?1 AND period = ?2 AND part = ?3";
            connection.execute(
                &format!("UPDATE OR IGNORE {table} SET part = ?4 WHERE {of_part}"),
                params![resource, period, part, proper],
            )?;
            connection
                .execute(&format!("DELETE FROM {table} WHERE {of_part}"), params![resource, period, part])?;
        }
    }
    Ok(())
}

/// What these collectors, which the configuration no longer has, made when it had them.
fn components_of(
    connection: &Connection,
    collectors: &BTreeSet<String>,
) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut components = BTreeMap::new();
    for collector in collectors {
        let measures: Option<String> = connection
            .prepare_cached("SELECT measures FROM collector WHERE name = ?")?
            .query_row([collector], |row| row.get(0))
            .optional()?;
        let measures: BTreeMap<String, serde_json::Value> =
            measures.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        components.extend(measures.into_keys().map(|component| (component, collector.clone())));
    }
    Ok(components)
}

/// The exact amounts of all components of one resource in one period, by part; and which collectors that the
/// configuration no longer has measured something of it.
fn amounts(
    connection: &Connection,
    rulebook: &Rulebook,
    resource: &str,
    period: &str,
) -> rusqlite::Result<(Parts, BTreeSet<String>)> {
    let Ok(billing_period) = period.parse::<BillingPeriod>() else { return Ok(Default::default()) };
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
    let mut gone = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let (collector, name): (String, String) = (row.get(1)?, row.get(2)?);
        if rulebook.of(&collector).is_none() {
            gone.insert(collector);
            continue;
        }
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
    Ok((parts, gone))
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

/// What stood in the statement and has no readings any more. Where some meter still makes the component of this resource,
/// it has become zero. Where none does (a meter or collector was removed or renamed), it stands as it was: what the
/// configuration no longer speaks of is not taken back from a bill in silence. And what a collector that is gone shared
/// with one that is there is neither known nor zero: it is not sent until a person has said how it goes on.
fn keep_standing(
    connection: &Connection,
    rulebook: &Rulebook,
    (resource, period, part): (&str, &str, i64),
    before: &Lines,
    orphans: &BTreeMap<String, String>,
    lines: &mut Lines,
) -> rusqlite::Result<()> {
    let metered = metered(connection, rulebook, resource)?;
    let sent = |component: &str, user: &str| {
        connection
            .prepare_cached(
                "SELECT 1 FROM acknowledgement
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5
                 UNION ALL SELECT 1 FROM intent
                 WHERE resource = ?1 AND period = ?2 AND part = ?3 AND component = ?4 AND user = ?5 LIMIT 1",
            )?
            .exists(params![resource, period, part, component, user])
    };
    for ((component, _), line) in lines.iter_mut() {
        let Some(collector) = orphans.get(component) else { continue };
        if sent(component, "")? {
            let problem = format!(
                "part of it was measured by the collector `{collector}`, which is no longer configured: what has been \
                 reported stands; configure it again under that name to go on this month"
            );
            *line = Line { posted: None, problem: Some(problem), ..line.clone() };
        }
    }
    for ((component, user), line) in before {
        if lines.contains_key(&(component.clone(), user.clone())) || !sent(component, user)? {
            continue;
        }
        let line = if metered.contains(component.as_str()) && !orphans.contains_key(component) {
            Line { exact: "0".to_owned(), posted: Some("0.00".to_owned()), problem: None }
        } else {
            line.clone()
        };
        lines.insert((component.clone(), user.clone()), line);
    }
    Ok(())
}

/// The components that some collector may make of this resource.
fn metered<'a>(
    connection: &Connection,
    rulebook: &'a Rulebook,
    resource: &str,
) -> rusqlite::Result<BTreeSet<&'a str>> {
    let offering: Option<String> = connection
        .prepare_cached("SELECT offering FROM resource WHERE uuid = ?")?
        .query_row([resource], |row| row.get(0))
        .optional()?;
    let offering = offering.and_then(|text| Uuid::parse_str(&text).ok()).filter(|uuid| !uuid.is_nil());
    let resource = Uuid::parse_str(resource).unwrap_or_default();
    let rules = rulebook.rules.iter().filter(|rules| rules.may_bill(resource, offering));
    Ok(rules.flat_map(|rules| rules.meters.iter().map(|meter| meter.component.as_str())).collect())
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
