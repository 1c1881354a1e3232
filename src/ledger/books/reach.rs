//! Usage that reaches far back into months that its collector never read. It is kept, and not stated: only a part of them is
//! known here, and the whole is another's to report. A job that runs over the start of the first month is as expected; one
//! that goes further back is told, because there may be nobody who reports it.

use jiff::Timestamp;

use super::identity::Head;
use crate::ledger::db::columns::instant;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};

/// What the readings of one run reach back to.
pub(super) struct Reach {
    /// From where its collector is read, and the start of the month before the first that is stated.
    since: Option<(Timestamp, Timestamp)>,
    /// Names that a meter wants.
    metered: Vec<String>,
    count: usize,
    earliest: Timestamp,
}

impl Reach {
    pub(super) fn of(connection: &Connection, in_force: &InForce, run: &Head) -> sql::Result<Reach> {
        let since: Option<i64> = connection
            .prepare_cached("SELECT since FROM collector WHERE name = ?1 AND agent = ?2")?
            .query_row(params![run.collector, run.agent], |row| row.get(0))
            .optional()?
            .flatten();
        let zone = &in_force.zone;
        let rules = in_force.in_month(zone.period_of(run.finished)).of(&run.collector);
        let metered = rules.map(|rules| rules.meters.iter().map(|meter| meter.reading.clone()).collect());
        Ok(Reach {
            since: since.map(|since| {
                let since = instant(since);
                (since, zone.start(zone.period_of(since).previous()))
            }),
            metered: metered.unwrap_or_default(),
            count: 0,
            earliest: Timestamp::MAX,
        })
    }

    /// Whether usage that began then reaches too far; `name`: of the reading.
    pub(super) fn is_too_far(&self, name: &str, began: Timestamp) -> bool {
        self.since.is_some_and(|(_, before)| began < before)
            && self.metered.iter().any(|metered| metered == name)
    }

    pub(super) fn note(&mut self, began: Timestamp) {
        self.count += 1;
        self.earliest = self.earliest.min(began);
    }

    pub(super) fn tell(&self, connection: &Connection, in_force: &InForce, run: &Head) -> sql::Result<()> {
        let Some((since, _)) = self.since.filter(|_| self.count > 0) else { return Ok(()) };
        let zone = &in_force.zone;
        let (readings, collector, earliest) = (self.count, &run.collector, self.earliest);
        let (readings, reach) = match readings {
            1 => ("1 reading".to_owned(), "reaches"),
            count => (format!("{count} readings"), "reach"),
        };
        let words = format!(
            "{readings} of the collector {collector} {reach} back to {earliest}: it is read from {since} on, and what was used in \
             months before is kept and not stated. Is its start right? If nobody else reports those months, \
             `collect {collector} --since {}` does",
            zone.date_of(earliest),
        );
        let running = zone.period_of(run.finished).to_string();
        let about = About { period: &running, ..About::default() };
        tell(connection, about, EventKind::Held, &words, run.finished)
    }
}
