//! Law 12: from an amount back to the readings it came from.
//!
//! The readings are taken through `Trail::advance` once more, in order, so that what each of them added is told by the
//! very definition that made the amount. It only reads.

use std::collections::BTreeMap;

use rusqlite::params;
use uuid::Uuid;

use super::adjustment::opened_at;
use super::lines::Place;
use super::outbox::Call;
use super::quantify::{SeriesFacts, plans};
use super::rows::{POINTS_FROM, point};
use super::{Ledger, LedgerError, instant, micros};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::measure::{Measure, Quantity};
use crate::metering::period::{BillingPeriod, Segment, Timeline};
use crate::metering::reading::Kind;
use crate::metering::trail::Trail;

/// One series' part in an amount.
#[derive(Debug, Clone)]
pub struct SeriesPart {
    pub collector: String,
    pub reading: String,
    pub kind: Kind,
    pub unit: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub user: Option<String>,
    pub measure: String,
    /// In the unit that the factor applies to.
    pub quantity: Exact,
    pub factor: Exact,
    /// What the series counts by its labels; `None` if the meter leaves it out.
    pub weight: Option<Exact>,
    /// The rule that says so, in words; empty if all series count alike.
    pub weighing: String,
    pub rounding: Rounding,
    pub amount: Exact,
    pub counted: Quantity,
    pub readings: Vec<ReadingPart>,
}

/// One reading's part in it.
#[derive(Debug, Clone)]
pub struct ReadingPart {
    pub at: jiff::Timestamp,
    pub start: Option<jiff::Timestamp>,
    pub id: String,
    /// `None`: a complete run at that time did not see the series.
    pub value: Option<String>,
    /// What it added to this period, in the measure's own unit (unit-seconds for integrals and means).
    pub added: Exact,
    pub added_elsewhere: Exact,
    pub reset: bool,
    /// Time left out as a gap before it, in microseconds.
    pub missed: i64,
    /// Whether some of what it tells of is in the opening balance, and not counted again.
    pub opened: bool,
}

impl Ledger {
    /// Every series' part in an amount, of one user or of all.
    pub fn explain(
        &self,
        resource: Uuid,
        component: &str,
        period: BillingPeriod,
        user: Option<&str>,
    ) -> Result<Vec<SeriesPart>, LedgerError> {
        let rulebook = self.rulebook.clone();
        self.look(|connection| {
            let mut parts = Vec::new();
            let (uuid, month) = (resource.to_string(), period.to_string());
            let plans = plans(connection, &rulebook, &uuid)?;
            let place = Place { resource: &uuid, period: &month, component };
            let opened = opened_at(connection, &plans, place, period)?;
            let mut query = connection.prepare(
                "SELECT series.id, source.collector, source.name, source.kind, source.unit, series.labels, series.user
                 FROM target JOIN series ON series.target = target.id JOIN source ON source.id = series.source
                 WHERE target.resource = ?1 AND (?2 IS NULL OR series.user = ?2)
                 ORDER BY source.collector, source.name, series.labels",
            )?;
            let mut rows = query.query(params![resource.to_string(), user])?;
            while let Some(row) = rows.next()? {
                let (series, collector, name): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let Ok(kind) = row.get::<_, String>(3)?.parse::<Kind>() else { continue };
                let meters = rulebook.of(&collector).map(|rules| rules.meters.as_slice()).unwrap_or_default();
                let meters = meters.iter().filter(|meter| meter.component == component && meter.reading == name);
                for meter in meters {
                    let Ok(measure) = meter.measure(kind) else { continue };
                    let (_, facts) = SeriesFacts::of(connection, &rulebook, series)?;
                    let opened = if measure == Measure::Level { &BTreeMap::new() } else { &opened };
                    let within = Within { period, plans: &plans, opened };
                    let (counted, readings) = replay(connection, &facts, series, measure, within)?;
                    let Some(quantity) = counted.value(measure).filter(|_| !readings.is_empty()) else { continue };
                    let labels = serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default();
                    let weight = meter.weighing.weigh(&labels);
                    let amount = match &weight {
                        Some(weight) => quantity.clone() * meter.factor.clone() * weight.clone(),
                        None => Exact::zero(),
                    };
                    parts.push(SeriesPart {
                        collector: collector.clone(),
                        reading: name.clone(),
                        kind,
                        unit: row.get(4)?,
                        labels,
                        user: row.get(6)?,
                        measure: measure.name().into_owned(),
                        amount,
                        quantity,
                        factor: meter.factor.clone(),
                        // What is left out has nothing to add.
                        readings: if weight.is_some() { readings } else { Vec::new() },
                        weight,
                        weighing: meter.weighing.to_string(),
                        rounding: meter.rounding,
                        counted,
                    });
                }
            }
            Ok(parts)
        })
    }

    /// The calls that reported a resource's period, oldest first.
    pub fn calls(&self, resource: Uuid, period: BillingPeriod) -> Result<Vec<Call>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare(
                    "SELECT at, call, amounts, outcome, words FROM call WHERE resource = ?1 AND period = ?2 ORDER BY id",
                )?
                .query_map(params![resource.to_string(), period.to_string()], |row| {
                    Ok(Call {
                        at: instant(row.get(0)?),
                        resource,
                        period,
                        call: row.get(1)?,
                        amounts: row.get(2)?,
                        outcome: row.get(3)?,
                        words: row.get(4)?,
                    })
                })?
                .collect()
        })
    }
}

/// The month that is explained, and from when on its parts are counted.
#[derive(Clone, Copy)]
struct Within<'a> {
    period: BillingPeriod,
    plans: &'a Timeline,
    opened: &'a BTreeMap<i64, jiff::Timestamp>,
}

impl Within<'_> {
    /// Whether the opening balance of its part has this segment already.
    fn is_opened(&self, segment: Segment) -> bool {
        let part = micros(self.plans.segment_at(segment.start).start);
        self.opened.get(&part).is_some_and(|at| segment.start < *at)
    }
}

/// Takes the readings of a series through the definition again; keeps those that matter to the period.
fn replay(
    connection: &rusqlite::Connection,
    facts: &SeriesFacts,
    series: i64,
    measure: Measure,
    within: Within<'_>,
) -> rusqlite::Result<(Quantity, Vec<ReadingPart>)> {
    let period = within.period;
    let mut counted = Quantity::default();
    let mut readings = Vec::new();
    let mut trail = Trail::default();
    let mut query = connection.prepare_cached(&POINTS_FROM)?;
    let mut rows = query.query(params![series, i64::MIN])?;
    while let Some(row) = rows.next()? {
        let point = point(row)?;
        let mut part = ReadingPart {
            at: point.at,
            start: point.start,
            id: row.get(8)?,
            value: point.value.map(|value| value.to_string()),
            added: Exact::zero(),
            added_elsewhere: Exact::zero(),
            reset: false,
            missed: 0,
            opened: false,
        };
        let in_period = facts.timeline.zone().period_of(point.at) == period;
        let mut matters = in_period;
        for (segment, quantity) in trail.advance(measure, point, &facts.timeline) {
            if segment.period == period && within.is_opened(segment) {
                matters = true;
                part.opened |= quantity != Quantity::default();
            } else if segment.period == period {
                matters = true;
                part.added += quantity.sum.clone();
                part.reset |= quantity.resets > 0;
                part.missed += quantity.missed;
                counted.absorb(quantity);
            } else {
                part.added_elsewhere += quantity.sum;
            }
        }
        if matters {
            readings.push(part);
        }
    }
    Ok((counted, readings))
}
