//! Levels and totals that may be of one thing twice because it moved: one host has said nothing of it since another began to
//! measure the same (a machine that died and whose guests were started elsewhere, a host under a new name). What the first said
//! last stands, as it should where it is only away; if the thing has moved, it counts beside what the second says. It holds
//! nothing, because several hosts may have the same labels for things that are not the same.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::sql::{self, Connection, params};
use crate::ledger::db::{Ledger, LedgerError};
use crate::metering::measure::Measure;
use crate::metering::reading::Kind;

/// A level or total of a host that says nothing of it, beside the same of another that began after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lingering {
    pub collector: String,
    pub reading: String,
    kind: Kind,
    /// Of one of the series.
    pub labels: String,
    /// Who says nothing since, and when it looked last.
    pub former: String,
    pub looked: Timestamp,
    /// Who measures the same, and since when.
    pub agent: String,
    pub began: Timestamp,
    /// How many series of this reading there are between the two.
    pub series: usize,
}

impl std::fmt::Display for Lingering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Lingering { collector, reading, labels, former, looked, agent, began, series, .. } = self;
        let all = if *series > 1 { format!(", {series} such") } else { String::new() };
        let remedy = match self.kind {
            Kind::Gauge => format!(
                "if {former} is gone for good or has moved, `agents retire {former}` ends its levels (a `max` keeps what it reached)"
            ),
            _ => format!(
                "if {agent} goes on with the totals of {former}, the amount is too high (`explain` shows both)"
            ),
        };
        write!(
            f,
            "`{reading}` of the collector {collector} counts for {former}, which looked last at {looked}, and for {agent}, which \
             has measured the same since {began} ({labels}{all}): {remedy}"
        )
    }
}

impl Ledger {
    /// What counts for a host that says nothing of it since another measures the same, in the month that runs.
    pub fn lingering(&self, now: Timestamp) -> Result<Vec<Lingering>, LedgerError> {
        if self.place().file().is_some() {
            return Ok(Vec::new());
        }
        let zone = &self.in_force().zone;
        let month = micros(zone.start(zone.period_of(now)));
        let mut found = self.look(|connection| lingering(connection, month))?;
        // Where what is measured adds up over time, both have their own part of it.
        found.retain(|one| {
            let rules = self.rulebook.of(&one.collector);
            let mut meters = rules.iter().flat_map(|rules| &rules.meters);
            meters.any(|meter| meter.reading == one.reading && meter.measure(one.kind).is_ok_and(is_a_level))
        });
        Ok(found)
    }

    /// Tells of it, once each.
    pub fn log_lingering(&mut self, now: Timestamp) -> Result<(), LedgerError> {
        let found = self.lingering(now)?;
        if found.is_empty() {
            return Ok(());
        }
        self.transact(|connection, _| {
            for one in &found {
                let mark = format!(
                    "`{}` of the collector {} counts for {}, ",
                    one.reading, one.collector, one.former
                );
                let told = connection
                    .prepare("SELECT 1 FROM event WHERE kind = ?1 AND words LIKE ?2 AND at >= ?3")?
                    .exists(params![EventKind::Hosts.name(), format!("{mark}%"), micros(one.began)])?;
                if !told {
                    tell(connection, About::default(), EventKind::Hosts, &one.to_string(), now)?;
                }
            }
            Ok(())
        })
    }
}

fn is_a_level(measure: Measure) -> bool {
    matches!(measure, Measure::Level | Measure::Max(_) | Measure::Mean(_) | Measure::Total(_))
}

/// Of each reading and pair of agents one; `month`: since when.
fn lingering(connection: &Connection, month: i64) -> sql::Result<Vec<Lingering>> {
    let mut query = connection.prepare(
        "WITH look AS (
            SELECT collector.agent, collector.name AS collector, (
                SELECT run.at FROM run WHERE run.collector = collector.name AND run.agent = collector.agent
                    AND run.outcome <> 'failed' ORDER BY run.at DESC LIMIT 1) AS at
            FROM collector WHERE collector.agent <> '' AND collector.agent NOT IN (
                SELECT name FROM agent GROUP BY name HAVING count(*) = count(retired))),
         seen AS (
            SELECT series.id, series.source, series.labels, series.agent, look.at AS looked,
                   CASE WHEN series.compacted IS NULL
                        THEN (SELECT min(reading.at) FROM reading WHERE reading.series = series.id) END AS began
            FROM series JOIN source ON source.id = series.source
            JOIN look ON look.collector = source.collector AND look.agent = series.agent
            WHERE source.kind = 'gauge' AND series.live = 1 OR source.kind = 'total'),
         moved AS (
            SELECT source, labels, min(looked) AS looked, max(began) AS began FROM seen
            GROUP BY source, labels HAVING count(*) > 1 AND max(began) > min(looked) AND min(looked) >= ?1)
         SELECT source.collector, source.name, source.kind, moved.labels, former.agent, moved.looked, own.agent, moved.began
         FROM moved JOIN source ON source.id = moved.source
         JOIN seen former ON former.source = moved.source AND former.labels = moved.labels AND former.looked = moved.looked
         JOIN seen own ON own.source = moved.source AND own.labels = moved.labels AND own.began = moved.began
            AND own.agent <> former.agent
         WHERE EXISTS (SELECT 1 FROM reading WHERE reading.series = former.id AND reading.at >= ?1
            AND reading.value IS NOT NULL)
         ORDER BY source.collector, source.name, former.agent, own.agent, moved.labels",
    )?;
    let mut rows = query.query([month])?;
    let mut found: BTreeMap<[String; 4], Lingering> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (collector, reading): (String, String) = (row.get(0)?, row.get(1)?);
        let Ok(kind) = row.get_ref(2)?.as_str()?.parse::<Kind>() else { continue };
        let (former, agent): (String, String) = (row.get(4)?, row.get(6)?);
        let key = [collector.clone(), reading.clone(), former.clone(), agent.clone()];
        let (labels, looked, began) = (row.get(3)?, instant(row.get(5)?), instant(row.get(7)?));
        let one = Lingering { collector, reading, kind, labels, former, looked, agent, began, series: 0 };
        found.entry(key).or_insert(one).series += 1;
    }
    Ok(found.into_values().collect())
}
