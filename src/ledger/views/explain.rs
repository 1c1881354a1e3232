//! Law 12: from an amount back to the readings it came from.
//!
//! The readings are taken through `SeriesState::advance` once more, in order, so that what each of them added is told by the
//! very definition that made the amount. It only reads.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use uuid::Uuid;

use crate::ledger::books::adjustment::openings;
use crate::ledger::books::cuts::{Timelines, plans};
use crate::ledger::books::lines::Place;
use crate::ledger::books::quantities::{POINTS_FROM, RunRow, point};
use crate::ledger::books::sourced_meters::{SourcedMeter, meters_of};
use crate::ledger::books::targets;
use crate::ledger::db::columns::{instant, micros, unreadable};
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::exact::{Exact, Rounding};
use crate::metering::measure::{Measure, Quantity};
use crate::metering::period::{BillingPeriod, Segment, Timeline};
use crate::metering::reading::Kind;
use crate::metering::series_state::SeriesState;

/// One series' part in an amount.
#[derive(Debug, Clone)]
pub struct SeriesPart {
    pub collector: String,
    pub reading: String,
    pub kind: Kind,
    pub unit: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Which host of a shared ledger measured it; empty where that is none's.
    pub agent: String,
    pub user: Option<String>,
    pub measure: String,
    pub counting: Measure,
    /// In the unit that the factor applies to.
    pub quantity: Exact,
    pub factor: Exact,
    /// As the file has it.
    pub factor_as_written: String,
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
    /// What it told of and was not counted, because it is not believed.
    pub held: Exact,
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
        let version = self.in_force.in_month(period);
        self.look(|connection| {
            let mut parts = Vec::new();
            let (uuid, month) = (resource.to_string(), period.to_string());
            let plans = plans(connection, &self.in_force.zone, &uuid)?;
            let place = Place { resource: &uuid, period: &month, component };
            let opened = openings(connection, &plans, place, period)?;
            let opened = opened.into_iter().map(|(part, (at, _))| (part, instant(at))).collect();
            let mut timelines = Timelines::new(connection, &self.in_force);
            for maker in &meters_of(connection, version, component)?.meters {
                let mut query = connection.prepare_cached(
                    "SELECT series.id, placed.target, source.collector, source.name, source.kind, source.unit,
                            series.labels, placed.username, series.agent
                     FROM placed JOIN series ON series.id = placed.series JOIN source ON source.id = series.source
                     WHERE placed.rules = ?1 AND placed.source = ?2 AND (?4 IS NULL OR placed.username = ?4)
                       AND placed.target IN (SELECT target FROM target_resource WHERE resource = ?3)
                     ORDER BY series.labels",
                )?;
                let mut rows = query.query(params![version.id, maker.source, uuid, user])?;
                while let Some(row) = rows.next()? {
                    let (series, target): (i64, i64) = (row.get(0)?, row.get(1)?);
                    let (name, labels): (String, String) = (row.get(3)?, row.get(6)?);
                    let Ok(kind) = row.get_ref(4)?.as_str()?.parse::<Kind>() else { continue };
                    let none = BTreeMap::new();
                    let opened = if maker.measure == Measure::Level { &none } else { &opened };
                    let timeline = timelines.of_series(series)?;
                    let mappings = timelines.mappings(target)?;
                    let within = Within { period, plans: &plans, opened, mappings: &mappings, resource: &uuid };
                    let of = (series, name.as_str(), labels.as_str());
                    let SourcedMeter { meter, measure, .. } = maker;
                    let by_label = serde_json::from_str(&labels).unwrap_or_default();
                    let weight = meter.weighing.weigh(&by_label);
                    let measure = weight.as_ref().map_or(*measure, |weight| measure.weighed(weight));
                    let (counted, readings) = replay(connection, &timeline, of, (kind, measure), within)?;
                    let Some(quantity) = counted.value(measure).filter(|_| !readings.is_empty()) else {
                        continue;
                    };
                    let amount = match &weight {
                        Some(weight) => quantity.clone() * meter.factor.clone() * weight.clone(),
                        None => Exact::zero(),
                    };
                    parts.push(SeriesPart {
                        collector: row.get(2)?,
                        reading: name,
                        kind,
                        unit: row.get(5)?,
                        labels: by_label,
                        agent: row.get(8)?,
                        user: row.get(7)?,
                        measure: measure.name().into_owned(),
                        counting: measure,
                        amount,
                        quantity,
                        factor: meter.factor.clone(),
                        factor_as_written: meter.factor_as_written(),
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
}

/// The month that is explained, whose it is, and from when on its parts are counted.
#[derive(Clone, Copy)]
struct Within<'a> {
    period: BillingPeriod,
    plans: &'a Timeline,
    opened: &'a BTreeMap<i64, Timestamp>,
    mappings: &'a [targets::Mapping],
    resource: &'a str,
}

impl Within<'_> {
    fn holds(&self, segment: Segment) -> bool {
        segment.period == self.period && targets::at(self.mappings, segment.start) == Some(self.resource)
    }

    /// Whether the opening balance of its part has this segment already.
    fn is_opened(&self, segment: Segment) -> bool {
        let part = micros(self.plans.segment_at(segment.start).start);
        self.opened.get(&part).is_some_and(|at| segment.start < *at)
    }
}

/// Takes the readings of a series through the definition again, from the month on; keeps those that matter to it.
fn replay(
    connection: &Connection,
    timeline: &Timeline,
    (series, name, labels): (i64, &str, &str),
    (kind, measure): (Kind, Measure),
    within: Within<'_>,
) -> sql::Result<(Quantity, Vec<ReadingPart>)> {
    let period = within.period;
    let state: Option<String> = connection
        .prepare_cached(
            "SELECT state FROM month_state WHERE series = ?1 AND month >= ?2 ORDER BY month LIMIT 1",
        )?
        .query_row(params![series, period.to_string()], |row| row.get(0))
        .optional()?;
    let mut trail: SeriesState = match state {
        Some(text) if kind != Kind::Delta => {
            serde_json::from_str(&text).map_err(|error| unreadable(0, error))?
        }
        _ => SeriesState::default(),
    };
    let mut counted = Quantity::default();
    let mut readings = Vec::new();
    let mut runs: HashMap<i64, RunRow> = HashMap::new();
    let mut query = connection.prepare_cached(POINTS_FROM)?;
    let mut rows = query.query(params![series, micros(timeline.zone().start(period))])?;
    while let Some(row) = rows.next()? {
        let mut point = point(&row)?;
        let run: i64 = row.get(6)?;
        let known = match runs.entry(run) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(RunRow::of(connection, run)?),
        };
        point.run = known.facts(name, labels, row.get_ref(7)?.as_str()?);
        let mut part = ReadingPart {
            at: point.at,
            start: point.start,
            id: row.get(7)?,
            value: point.value.map(|value| value.to_string()),
            added: Exact::zero(),
            added_elsewhere: Exact::zero(),
            reset: false,
            missed: 0,
            held: Exact::zero(),
            opened: false,
        };
        let mut matters = timeline.zone().period_of(point.at) == period;
        for (segment, quantity) in trail.advance(measure, point, timeline) {
            if within.holds(segment) && within.is_opened(segment) {
                matters = true;
                part.opened |= quantity != Quantity::default();
            } else if within.holds(segment) {
                matters = true;
                part.added += quantity.sum.clone();
                part.reset |= quantity.resets > 0;
                part.missed += quantity.missed;
                part.held += quantity.held.clone();
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
