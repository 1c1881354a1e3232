//! What a person or a machine may want to see of the ledger: the last runs, what is unmatched, what was quarantined.
//! It only reads.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::collectors::silence::Kept;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::Version;
use crate::ledger::db::sql::{self, OptionalExtension, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::ledger::sent::amount::{StatementKey, key};
use crate::metering::meter::Meter;
use crate::metering::period::BillingPeriod;

/// How a collector is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorReport {
    pub name: String,
    pub last: Option<RunReport>,
    /// When it last succeeded completely.
    pub last_success: Option<Timestamp>,
    pub failures_since: i64,
}

/// What decides when a collector is to look again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pace {
    /// When its last run began and ended.
    pub last: Option<(Timestamp, Timestamp)>,
    /// Runs that failed as a whole since one that did not.
    pub failed_in_a_row: i64,
    /// Whether it leaves a checkpoint of its own behind, so that a later run reads what an earlier one missed.
    pub keeps_history: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunReport {
    pub at: Timestamp,
    pub finished: Timestamp,
    /// ok, partial or failed.
    pub outcome: String,
    pub message: Option<String>,
    pub readings: i64,
    pub changed: i64,
    pub quarantined: i64,
}

/// Series of one collector that belong to no resource, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnassignedSeries {
    /// The offering's UUID; empty where the readings do not even say whose they are.
    pub offering: String,
    pub backend_id: String,
    pub collector: String,
    pub series: i64,
    pub since: Option<Timestamp>,
    pub why: Why,
}

/// Offering, backend id, collector and reason.
type Place = (String, String, String, Why);

/// Why series belong to no resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Waldur was asked for their backend id, and knows none: that is what `unmatched` means.
    Unmatched,
    /// Waldur was not asked for it yet.
    NotAsked,
    /// Several resources that live have it; their names.
    Several(String),
    /// Their labels do not say whose they are; what is missing.
    Unplaced(String),
}

impl Why {
    pub fn name(&self) -> &'static str {
        match self {
            Why::Unmatched => "unmatched",
            Why::NotAsked => "not_asked",
            Why::Several(_) => "several",
            Why::Unplaced(_) => "unplaced",
        }
    }

    pub fn words(&self) -> String {
        match self {
            Why::Unmatched => "Waldur knows no resource with this backend id".to_owned(),
            Why::NotAsked => "Waldur was not asked for this backend id yet".to_owned(),
            Why::Several(names) => {
                format!("it is the backend id of several active resources in Waldur: {names}")
            }
            Why::Unplaced(why) => why.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedReport {
    pub collector: String,
    pub at: Timestamp,
    pub what: String,
    pub reason: String,
}

/// The meters of these rules that count a reading.
fn meters<'a>(version: &'a Version, collector: &str, reading: &'a str) -> impl Iterator<Item = &'a Meter> {
    let meters = version.of(collector).into_iter().flat_map(|rules| &rules.meters);
    meters.filter(move |meter| meter.reading == reading)
}

// What is asked of a collector's runs is asked of each agent's, from the end: those of a year are many.
impl Ledger {
    /// When a collector last saw something, if it is one that showed counters or gauges.
    pub fn saw_something(&self, name: &str) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            let at: Option<i64> = connection.query_row(
                "SELECT max((SELECT at FROM run WHERE run.collector = name AND run.agent = collector.agent
                        AND readings > 0 ORDER BY at DESC LIMIT 1))
                 FROM collector WHERE name = ?1 AND EXISTS (
                    SELECT 1 FROM source JOIN series ON series.source = source.id
                    WHERE source.collector = ?1 AND series.state IS NOT NULL)",
                [name],
                |row| row.get(0),
            )?;
            Ok(at.map(instant))
        })
    }

    pub fn collector_report(&self, name: &str) -> Result<CollectorReport, LedgerError> {
        self.look(|connection| {
            let last = connection
                .query_row(
                    "SELECT at, finished, outcome, message, readings, changed, quarantined FROM run WHERE id = (
                        SELECT max((SELECT max(id) FROM run WHERE run.collector = name AND run.agent = collector.agent))
                        FROM collector WHERE name = ?)",
                    [name],
                    |row| {
                        Ok(RunReport {
                            at: instant(row.get(0)?),
                            finished: instant(row.get(1)?),
                            outcome: row.get(2)?,
                            message: row.get(3)?,
                            readings: row.get(4)?,
                            changed: row.get(5)?,
                            quarantined: row.get(6)?,
                        })
                    },
                )
                .optional()?;
            let (success, id): (Option<i64>, i64) = connection.query_row(
                "SELECT
                    max((SELECT max(at) FROM run
                         WHERE run.collector = name AND run.agent = collector.agent AND outcome = 'ok')),
                    coalesce(max((SELECT max(id) FROM run
                         WHERE run.collector = name AND run.agent = collector.agent AND outcome = 'ok')), 0)
                 FROM collector WHERE name = ?",
                [name],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let failures_since = connection.query_row(
                "SELECT CAST(coalesce(sum((SELECT count(*) FROM run
                    WHERE run.collector = name AND run.agent = collector.agent AND id > ?2)), 0) AS BIGINT)
                 FROM collector WHERE name = ?1",
                params![name, id],
                |row| row.get(0),
            )?;
            Ok(CollectorReport {
                name: name.to_owned(),
                last,
                last_success: success.map(instant),
                failures_since,
            })
        })
    }

    /// Looks no further back than the last run that did not fail. What a clock that was ahead has dated after now says
    /// nothing of what is due: it would be waited for until then.
    pub fn pace(&self, name: &str, now: Timestamp) -> Result<Pace, LedgerError> {
        self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT at, finished, outcome = 'failed' FROM collector CROSS JOIN run
                 WHERE name = ?1 AND run.collector = name AND run.agent = collector.agent AND at <= ?2 AND finished <= ?2
                   AND at >= coalesce((SELECT max(well.at) FROM run well
                        WHERE well.collector = name AND well.agent = collector.agent AND well.outcome <> 'failed'
                          AND well.at <= ?2 AND well.finished <= ?2), 0)
                 ORDER BY at DESC, id DESC",
            )?;
            let mut rows = query.query(params![name, micros(now)])?;
            let mut pace = Pace::default();
            while let Some(row) = rows.next()? {
                if pace.last.is_none() {
                    pace.last = Some((instant(row.get(0)?), instant(row.get(1)?)));
                }
                if !row.get::<_, bool>(2)? {
                    break;
                }
                pace.failed_in_a_row += 1;
            }
            // Of several hosts any one's does.
            let checkpoints: Vec<String> = connection
                .prepare_cached("SELECT checkpoint FROM collector WHERE name = ? AND checkpoint IS NOT NULL")?
                .query_map([name], |row| row.get(0))?
                .collect::<sql::Result<_>>()?;
            pace.keeps_history = checkpoints.into_iter().any(|kept| Kept::read(Some(kept)).own.is_some());
            Ok(pace)
        })
    }

    /// Neighbouring runs of a collector that lie further apart than this, the latest first; not where it failed and was
    /// left alone, and not what a clock that was ahead has dated after now.
    pub fn long_distances(
        &self,
        name: &str,
        (since, now): (Timestamp, Timestamp),
        longer_than: SignedDuration,
    ) -> Result<Vec<(Timestamp, Timestamp)>, LedgerError> {
        let longer = longer_than.as_micros() as i64;
        self.look(|connection| {
            connection
                .prepare(
                    "SELECT before, at FROM (
                        SELECT at, lag(at) OVER runs AS before, lag(outcome) OVER runs AS was FROM run
                        WHERE collector = ?1 AND at >= ?2 AND at <= ?4 WINDOW runs AS (PARTITION BY agent ORDER BY at)) gap
                     WHERE at - before > ?3 AND was <> 'failed' ORDER BY at DESC LIMIT 50",
                )?
                .query_map(params![name, micros(since), longer, micros(now)], |row| {
                    Ok((instant(row.get(0)?), instant(row.get(1)?)))
                })?
                .collect()
        })
    }

    /// How many counters and gauges of a collector, as this agent sees it, have not ended, by name.
    pub fn open_series(&self, collector: &str) -> Result<Vec<(String, i64)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare(
                    "SELECT source.name, count(*) FROM series JOIN source ON source.id = series.source
                     WHERE source.collector = ?1 AND series.agent = ?2 AND series.live = 1
                       AND source.kind IN ('counter', 'gauge') GROUP BY source.name ORDER BY source.name",
                )?
                .query_map([collector, &self.agent], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Whether something waits to be counted or stated.
    pub fn is_behind(&self) -> Result<bool, LedgerError> {
        let behind = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM run WHERE counted = 0) OR EXISTS (SELECT 1 FROM unstated)",
                )?
                .query_row([], |row| row.get(0))
        })?;
        Ok(behind || self.has_arrived()?)
    }

    /// How many lines the last run of each of these collectors quarantined, on every host, all together.
    pub fn quarantined_lately(&self, collectors: &[String]) -> Result<usize, LedgerError> {
        let lines: i64 = self.look(|connection| {
            let mut last = connection.prepare_cached(
                "SELECT CAST(coalesce(sum(quarantined), 0) AS BIGINT) FROM collector JOIN run ON run.id = (
                    SELECT max(last.id) FROM run last
                    WHERE last.collector = name AND last.agent = collector.agent AND last.outcome <> 'failed')
                 WHERE name = ?",
            )?;
            let mut sum: i64 = 0;
            for name in collectors {
                sum += last.query_row([name], |row| row.get::<_, i64>(0))?;
            }
            Ok(sum)
        })?;
        Ok(usize::try_from(lines).unwrap_or(0))
    }

    /// Since when there has been usage that the server does not hold and could: what was used after the last number of its
    /// line that was accepted, or from the first reading of its month on where none was. What is stranded is not among it.
    pub fn oldest_unreported(&self) -> Result<Option<Timestamp>, LedgerError> {
        self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT min(coalesce(sent.at, (
                    SELECT min((SELECT min(at) FROM reading WHERE reading.series = placed.series AND at >= line.part))
                    FROM target_resource JOIN placed ON placed.target = target_resource.target
                    WHERE target_resource.resource = line.resource), line.part))
                 FROM statement JOIN line ON line.resource = statement.resource AND line.period = statement.period
                    AND line.part = statement.part AND line.username = ''
                 LEFT JOIN sent ON sent.resource = line.resource AND sent.period = line.period AND sent.part = line.part
                    AND sent.component = line.component AND sent.username = '' AND sent.current = 1
                    AND sent.outcome IN ('accepted', 'read')
                 WHERE statement.closed IS NULL AND statement.period NOT IN (SELECT period FROM shadow)
                   AND (line.posted IS NULL OR line.posted <> coalesce(sent.amount, '0.00'))
                   AND NOT EXISTS (SELECT 1 FROM blocked WHERE blocked.resource = line.resource
                    AND blocked.period = line.period AND blocked.part = line.part AND blocked.state = 'stranded'
                    AND blocked.component IN ('', line.component))",
            )?;
            query.query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(instant)))
        })
    }

    /// What `status` is about: the statements of a month or, without one, those of the month that runs and those of earlier
    /// ones that are not closed, of which something is kept back or whose resource is put off; and whether the server holds anything of each.
    pub fn unsettled(
        &self,
        period: Option<BillingPeriod>,
        current: BillingPeriod,
    ) -> Result<Vec<(StatementKey, bool)>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT resource, period, part, EXISTS (
                        SELECT 1 FROM sent WHERE sent.resource = statement.resource AND sent.period = statement.period
                        AND sent.part = statement.part AND sent.current = 1 AND sent.outcome IN ('accepted', 'read'))
                     FROM statement WHERE CASE WHEN CAST(?1 AS TEXT) IS NOT NULL THEN period = ?1
                        ELSE period = ?2 OR closed IS NULL OR resource IN (SELECT resource FROM retry)
                            OR EXISTS (SELECT 1 FROM line WHERE line.resource = statement.resource
                                AND line.period = statement.period AND line.part = statement.part AND too_much IS NOT NULL)
                            OR EXISTS (SELECT 1 FROM blocked
                            WHERE blocked.resource = statement.resource AND blocked.period = statement.period
                            AND blocked.part = statement.part) END
                     ORDER BY period, resource, part",
                )?
                .query_map(params![period.map(|p| p.to_string()), current.to_string()], |row| {
                    Ok((key(row, 0)?, row.get(3)?))
                })?
                .collect()
        })
    }

    /// Backend ids that are those of several resources that live, with their names.
    pub fn several_resources(&self) -> Result<Vec<(String, String)>, LedgerError> {
        let rules = self.in_force.latest().id;
        self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT backend_id, several FROM target WHERE several IS NOT NULL
                     AND EXISTS (SELECT 1 FROM placed WHERE placed.target = target.id AND placed.rules = ?)",
                )?
                .query_map([rules], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Whether nothing that some collector measured has a resource: Waldur was asked for all its backend ids and knows none,
    /// or its readings don't say whose they are. What no meter counts is not among it.
    pub fn is_wholly_unmatched(&self) -> Result<bool, LedgerError> {
        let version = self.in_force.latest();
        let sources: Vec<(String, String, i64, i64)> = self.look(|connection| {
            connection
                .prepare_cached(
                    "SELECT source.collector, source.name, count(*), count(CASE WHEN placed.nowhere <> ''
                        OR offering.resources_refreshed >= coalesce(target.unmatched_since, 0) AND NOT EXISTS (
                        SELECT 1 FROM target_resource WHERE target_resource.target = target.id) THEN 1 END)
                     FROM placed JOIN source ON source.id = placed.source
                     LEFT JOIN target ON target.id = placed.target LEFT JOIN offering ON offering.uuid = target.offering
                     WHERE placed.rules = ?1 AND (placed.nowhere <> '' OR target.offering <> '')
                     GROUP BY source.collector, source.name",
                )?
                .query_map([version.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
        })?;
        let mut collectors: BTreeMap<&str, i64> = BTreeMap::new();
        for (collector, name, all, unmatched) in &sources {
            if meters(version, collector, name).next().is_some() {
                *collectors.entry(collector).or_default() += all - unmatched;
            }
        }
        Ok(collectors.values().any(|matched| *matched == 0))
    }

    /// What is metered and belongs to no resource, by offering, backend id, collector and reason.
    pub fn unassigned(&self) -> Result<Vec<UnassignedSeries>, LedgerError> {
        let version = self.in_force.latest();
        let mut unassigned: BTreeMap<Place, (i64, Option<Timestamp>)> = BTreeMap::new();
        self.look(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT coalesce(target.offering, ''), coalesce(target.backend_id, ''), source.collector, source.name,
                        series.labels, target.unmatched_since, offering.resources_refreshed, target.several, placed.nowhere
                 FROM placed JOIN series ON series.id = placed.series JOIN source ON source.id = placed.source
                 LEFT JOIN target ON target.id = placed.target LEFT JOIN offering ON offering.uuid = target.offering
                 WHERE placed.rules = ?1 AND coalesce(placed.nowhere, '-') <> '' AND NOT EXISTS (
                    SELECT 1 FROM target_resource WHERE target_resource.target = placed.target)",
            )?;
            let mut rows = query.query([version.id])?;
            while let Some(row) = rows.next()? {
                let (collector, name, labels): (String, String, String) =
                    (row.get(2)?, row.get(3)?, row.get(4)?);
                let labels = serde_json::from_str(&labels).unwrap_or_default();
                let counts = |meter: &Meter| meter.weighing.weigh(&labels).is_some();
                if !meters(version, &collector, &name).any(counts) {
                    continue;
                }
                let (since, asked): (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
                let why = match (row.get::<_, Option<String>>(8)?, row.get::<_, Option<String>>(7)?) {
                    (Some(why), _) => Why::Unplaced(why),
                    (None, Some(names)) => Why::Several(names),
                    (None, None) if asked.is_none() || asked < since => Why::NotAsked,
                    (None, None) => Why::Unmatched,
                };
                let place = (row.get(0)?, row.get(1)?, collector, why);
                unassigned.entry(place).or_insert((0, since.map(instant))).0 += 1;
            }
            Ok(())
        })?;
        let stray = |((offering, backend_id, collector, why), (series, since))| UnassignedSeries {
            offering,
            backend_id,
            collector,
            series,
            since,
            why,
        };
        Ok(unassigned.into_iter().map(stray).collect())
    }

    /// The newest quarantined lines of a collector.
    pub fn quarantined(&self, collector: &str, most: usize) -> Result<Vec<QuarantinedReport>, LedgerError> {
        self.look(|connection| {
            connection
                .prepare("SELECT collector, at, what, reason FROM quarantine WHERE collector = ? ORDER BY id DESC LIMIT ?")?
                .query_map(params![collector, most as i64], |row| {
                    Ok(QuarantinedReport {
                        collector: row.get(0)?,
                        at: instant(row.get(1)?),
                        what: row.get(2)?,
                        reason: row.get(3)?,
                    })
                })?
                .collect()
        })
    }
}
