//! Law 12: from an amount back to the readings it came from.
//!
//! The readings are taken through `Trail::advance` once more, in order, so that what each of them added is told by the
//! very definition that made the amount. It only reads.

use std::collections::BTreeMap;

use rusqlite::params;
use uuid::Uuid;

use super::outbox::Call;
use super::quantify::SeriesFacts;
use super::rows::{POINTS_FROM, point};
use super::{Ledger, LedgerError, instant};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::measure::{Quantity, Trail};
use crate::metering::period::BillingPeriod;
use crate::metering::reading::Kind;

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
                    let (counted, readings) = replay(connection, &facts, series, measure, period)?;
                    let Some(quantity) = counted.value(measure).filter(|_| !readings.is_empty()) else { continue };
                    parts.push(SeriesPart {
                        collector: collector.clone(),
                        reading: name.clone(),
                        kind,
                        unit: row.get(4)?,
                        labels: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default(),
                        user: row.get(6)?,
                        measure: measure.to_string(),
                        amount: quantity.clone() * meter.factor.clone(),
                        quantity,
                        factor: meter.factor.clone(),
                        rounding: meter.rounding,
                        counted,
                        readings,
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

/// Takes the readings of a series through the definition again; keeps those that matter to the period.
fn replay(
    connection: &rusqlite::Connection,
    facts: &SeriesFacts,
    series: i64,
    measure: crate::metering::measure::Measure,
    period: BillingPeriod,
) -> rusqlite::Result<(Quantity, Vec<ReadingPart>)> {
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
        };
        let in_period = facts.timeline.zone().period_of(point.at) == period;
        let mut matters = in_period;
        for (segment, quantity) in trail.advance(measure, point, &facts.timeline) {
            if segment.period == period {
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
