//! Statements: what Waldur should hold of each resource, made anew whenever a quantity under them changes.
//!
//! A statement is a function of the quantities and the rules. Its revision grows when a posted number changes, and
//! only then is there anything to send. It never looks at what the server holds.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::adjustment::{self, Adjusted};
use super::ingest::Restate;
use super::lines::{Line, Lines, Part, Place, StatementRows};
use super::makers::{Maker, Makers, makers_of};
use super::quantify::plans;
use super::rows::quantity;
use super::{Rulebook, micros};
use crate::metering::adjustment::{Onward, onward};
use crate::metering::exact::{Exact, Rounding};
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
    let mut makers: HashMap<&str, Makers<'_>> = HashMap::new();
    let mut rows = StatementRows::of(connection)?;
    let mut changed: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (resource, period, component) in restate {
        let makers = match makers.entry(component) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(makers_of(connection, rulebook, component)?),
        };
        let place = Place { resource, period, component };
        if restate_one(connection, rulebook, makers, &mut rows, place, now)? {
            changed.insert((resource, period));
        }
    }
    Ok(changed.len())
}

fn restate_one(
    connection: &Connection,
    rulebook: &Rulebook,
    makers: &Makers<'_>,
    rows: &mut StatementRows<'_>,
    place: Place<'_>,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let Ok(period) = place.period.parse::<BillingPeriod>() else { return Ok(false) };
    if makers.began_after(rulebook.zone.end(period)) && !is_stated(connection, place)? {
        return Ok(false);
    }
    let timeline = plans(connection, rulebook, place.resource)?;
    let mut parts: BTreeMap<i64, Option<Made>> = amounts(connection, &timeline, makers, place, period)?
        .into_iter()
        .map(|(part, made)| (part, Some(made)))
        .collect();
    for part in rows.parts(place)? {
        // A part that has nothing left is a statement of zeros.
        parts.entry(move_part(connection, &timeline, place, period, part)?).or_default();
    }
    let mut changed = false;
    for (part, made) in parts {
        let mut lines = made.map(lines).unwrap_or_default();
        let of = Part { place, part };
        let gone = makers.gone_from(connection, place)?;
        if let Some(collector) = gone
            && rows.was_sent(of, "")?
        {
            leave_undecided(collector, &mut lines);
        }
        let mut changes = rows.compare(of, lines)?;
        // What stood there and has no readings any more. What was never sent is nobody's loss.
        for (user, line) in changes.take_left() {
            if !rows.was_sent(of, &user)? {
                changes.removed.push(user);
            } else if gone.is_none() && makers.are_for(connection, place.resource)? {
                changes.put(user, Some(&line), Line::zero());
            }
            // Where no meter makes it any more (one was removed or renamed), it stands as it was: what the configuration
            // no longer speaks of is not taken back from a bill in silence.
        }
        changed |= rows.store(of, &changes, now)?;
    }
    Ok(changed)
}

fn is_stated(connection: &Connection, place: Place<'_>) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM line WHERE resource = ?1 AND period = ?2 AND component = ?3")?
        .exists(params![place.resource, place.period, place.component])
}

/// What a collector has counted from this instant on: it may not be stated, because nothing was read so far back before.
pub(super) fn counted_from(
    connection: &Connection,
    rulebook: &Rulebook,
    collector: &str,
    since: Timestamp,
) -> rusqlite::Result<Restate> {
    let measured: Vec<(String, String)> = connection
        .prepare(
            "SELECT DISTINCT target.resource, quantity.period FROM source
             JOIN series ON series.source = source.id JOIN target ON target.id = series.target
             JOIN quantity ON quantity.series = series.id
             WHERE source.collector = ?1 AND quantity.segment >= ?2 AND target.resource IS NOT NULL",
        )?
        .query_map(params![collector, micros(since)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let meters = rulebook.of(collector).map(|rules| rules.meters.as_slice()).unwrap_or_default();
    let of = |(resource, period): &(String, String)| {
        let place = (resource.clone(), period.clone());
        meters.iter().map(move |meter| (place.0.clone(), place.1.clone(), meter.component.clone()))
    };
    Ok(measured.iter().flat_map(of).collect())
}

/// Where a part begins may change: with the billing time zone, or with what is known of plan periods. It is still the
/// same row of the server's, so what is known of that goes along; a statement of zeros under the old name would undo it.
fn move_part(
    connection: &Connection,
    timeline: &Timeline,
    place: Place<'_>,
    period: BillingPeriod,
    part: i64,
) -> rusqlite::Result<i64> {
    let segment = timeline.segment_at(super::instant(part));
    let start = timeline.zone().start(period);
    let proper = micros(if segment.period == period { segment.start } else { start });
    if proper == part {
        return Ok(part);
    }
    for table in ["statement", "line", "acknowledgement", "intent", "trouble", "usage_row"] {
        let of_part = "resource = ?1 AND period = ?2 AND part = ?3";
        connection.execute(
            &format!("UPDATE OR IGNORE {table} SET part = ?4 WHERE {of_part}"),
            params![place.resource, place.period, part, proper],
        )?;
        connection.execute(
            &format!("DELETE FROM {table} WHERE {of_part}"),
            params![place.resource, place.period, part],
        )?;
    }
    Ok(proper)
}

/// What a series has in one part of a month, and what it counts there.
#[derive(Default)]
struct Weighed {
    quantity: Quantity,
    user: Option<String>,
    /// `None`: it counts as it is.
    weight: Option<Exact>,
}

/// The exact amounts of a component in one part of the month.
struct Made {
    amounts: Amounts,
    /// Whether something was measured after the opening balance.
    since: bool,
    /// Why they can't be put together with what was adopted.
    problem: Option<String>,
}

impl Made {
    fn new(rounding: Rounding) -> Made {
        let (total, users) = (Exact::zero(), BTreeMap::new());
        let amounts = Amounts { total, users, additive: true, rounding };
        Made { amounts, since: false, problem: None }
    }

    /// Puts beside what was measured what is recorded of opening balances and of what was carried forward.
    fn adjust(&mut self, makers: &[Maker<'_>], adjusted: &Adjusted) {
        if let Some((_, opening)) = &adjusted.opening {
            self.amounts.additive &= makers.iter().all(|maker| Meter::additive(maker.measure));
            // Before the first reading nothing says how it goes on, and nothing needs to.
            let how = if makers.is_empty() {
                Ok(Onward::Adds)
            } else {
                onward(makers.iter().map(|maker| maker.measure))
            };
            match how {
                Ok(how) => self.amounts.open(how, opening, self.since),
                Err(why) => {
                    let amount = &opening.total;
                    self.problem = Some(format!("it goes on from an opening balance of {amount}, but {why}"));
                }
            }
        }
        self.amounts.shift(&adjusted.moved);
    }
}

/// The exact amounts of the component, by part of the month.
fn amounts(
    connection: &Connection,
    timeline: &Timeline,
    makers: &Makers<'_>,
    place: Place<'_>,
    period: BillingPeriod,
) -> rusqlite::Result<BTreeMap<i64, Made>> {
    let mut parts: BTreeMap<i64, Made> = BTreeMap::new();
    let mut adjusted = adjustment::of_place(connection, timeline, place, period)?;
    if !adjusted.is_empty() && !makers.are_for(connection, place.resource)? {
        adjusted.clear(); // Nothing makes it any more: what stands, stands.
    }
    let opened = |part: i64| adjusted.get(&part).and_then(|adjusted| Some(adjusted.opening.as_ref()?.0));
    let mut query = connection.prepare_cached(
        "SELECT series.id, series.user, quantity.segment, quantity.sum, quantity.max, quantity.last,
                quantity.covered, quantity.missed, quantity.gaps, quantity.resets,
                CASE WHEN ?7 THEN series.labels END
         FROM target CROSS JOIN series ON series.target = target.id AND series.source = ?3
         CROSS JOIN quantity ON quantity.series = series.id AND quantity.measure = ?4
                            AND quantity.segment >= ?5 AND quantity.segment < ?6
         WHERE target.resource = ?1 AND quantity.period = ?2
         ORDER BY target.id, series.user, series.id, quantity.segment",
    )?;
    let zone = timeline.zone();
    let (start, end) = (micros(zone.start(period)), micros(zone.end(period)));
    for maker in &makers.meters {
        // Quantities of one series in one part are put together first: a mean is of all its time.
        let mut by_series: BTreeMap<(i64, i64), Weighed> = BTreeMap::new();
        let (measure, weighs) = (maker.measure.name(), !maker.meter.weighing.is_even());
        let mut rows =
            query.query(params![place.resource, place.period, maker.source, measure, start, end, weighs])?;
        while let Some(row) = rows.next()? {
            let mut weight = None;
            if weighs {
                let labels = serde_json::from_str(&row.get::<_, String>(10)?).unwrap_or_default();
                weight = maker.meter.weighing.weigh(&labels);
                if weight.is_none() {
                    continue;
                }
            }
            let segment: i64 = row.get(2)?;
            let part = micros(timeline.segment_at(super::instant(segment)).start);
            if let Some(at) = opened(part) {
                if segment >= at {
                    parts.entry(part).or_insert_with(|| Made::new(maker.meter.rounding)).since = true;
                } else if maker.measure != Measure::Level {
                    continue; // It is in the opening balance.
                }
            }
            let entry = by_series.entry((part, row.get(0)?)).or_default();
            entry.quantity.absorb(quantity(row, 3)?);
            entry.user = row.get(1)?;
            entry.weight = weight;
        }
        for ((part, _), Weighed { quantity, user, weight }) in by_series {
            let Some(value) = quantity.value(maker.measure) else { continue };
            let amount = value * maker.meter.factor.clone();
            let amount = match weight {
                Some(weight) => amount * weight,
                None => amount,
            };
            let amounts = &mut parts.entry(part).or_insert_with(|| Made::new(maker.meter.rounding)).amounts;
            amounts.total += amount.clone();
            amounts.additive &= Meter::additive(maker.measure);
            if let Some(user) = user {
                *amounts.users.entry(user).or_insert_with(Exact::zero) += amount;
            }
        }
    }
    if !adjusted.is_empty() {
        let makers = makers.of(connection, place.resource)?;
        let rounding = makers.first().map_or_else(Rounding::default, |maker| maker.meter.rounding);
        for (part, adjusted) in &adjusted {
            parts.entry(*part).or_insert_with(|| Made::new(rounding)).adjust(&makers, adjusted);
        }
    }
    Ok(parts)
}

fn lines(made: Made) -> Lines {
    let Made { amounts, problem, .. } = made;
    let (posted, problem) = match (amounts.posted(), problem) {
        (_, Some(problem)) => (None, Some(problem)),
        (Ok(posted), None) => (Some(posted), None),
        (Err(why), None) => (None, Some(why.to_string())),
    };
    let line = |exact: &Exact, posted: Option<rust_decimal::Decimal>| Line {
        exact: exact.to_string(),
        posted: posted.map(two_decimals),
        problem: problem.clone(),
    };
    let mut lines = vec![(String::new(), line(&amounts.total, posted.as_ref().map(|posted| posted.total)))];
    lines.extend(amounts.users.iter().map(|(user, exact)| {
        let share = posted.as_ref().and_then(|posted| posted.users.get(user).copied());
        (user.clone(), line(exact, share))
    }));
    lines
}

/// What a collector that is gone shared with one that is there is neither known nor zero: it is not sent until a person
/// has said how it goes on.
fn leave_undecided(collector: &str, lines: &mut Lines) {
    let problem = format!(
        "part of it was measured by the collector `{collector}`, which is no longer configured: what has been \
         reported stands; configure it again under that name to go on this month"
    );
    for (_, line) in lines {
        *line = Line { posted: None, problem: Some(problem.clone()), ..line.clone() };
    }
}

/// An amount as it is posted and compared: always two decimals.
pub fn two_decimals(amount: rust_decimal::Decimal) -> String {
    format!("{amount:.2}")
}
