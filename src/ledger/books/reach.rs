//! Usage of months that its collector never read. It is kept, and not stated: only a part of them is known here, and the whole
//! is another's to report. A job that runs over the start of the first month is as expected; usage that ended before, or that
//! goes back further than the month before, is told, because there may be nobody who reports it.

use jiff::Timestamp;

use super::identity::Head;
use crate::ledger::db::columns::instant;
use crate::ledger::db::event::{About, EventKind, tell};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};

/// What the readings of one run reach back to.
pub(super) struct Reach {
    /// From where its collector is read, if that is known.
    since: Option<Since>,
    /// Names that a meter wants.
    metered: Vec<String>,
    count: usize,
    earliest: Timestamp,
}

struct Since {
    at: Timestamp,
    /// The start of the first month that is stated, and of the one before.
    first: Timestamp,
    before: Timestamp,
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
            since: since.map(instant).map(|at| {
                let month = zone.period_of(at);
                Since { at, first: zone.start(month), before: zone.start(month.previous()) }
            }),
            metered: metered.unwrap_or_default(),
            count: 0,
            earliest: Timestamp::MAX,
        })
    }

    /// Whether usage between two instants is to be told; `name`: of the reading.
    pub(super) fn is_too_far(&self, name: &str, (began, ended): (Timestamp, Timestamp)) -> bool {
        let is_all_before = |since: &Since| ended < since.first || (ended == since.first && began < ended);
        self.since.as_ref().is_some_and(|since| began < since.before || is_all_before(since))
            && self.metered.iter().any(|metered| metered == name)
    }

    pub(super) fn note(&mut self, began: Timestamp) {
        self.count += 1;
        self.earliest = self.earliest.min(began);
    }

    pub(super) fn tell(&self, connection: &Connection, in_force: &InForce, run: &Head) -> sql::Result<()> {
        let Some(Since { at, before, .. }) = self.since.as_ref().filter(|_| self.count > 0) else {
            return Ok(());
        };
        let zone = &in_force.zone;
        let (readings, collector, earliest) = (self.count, &run.collector, self.earliest);
        let (readings, reach) = match readings {
            1 => ("1 reading".to_owned(), "reaches"),
            count => (format!("{count} readings"), "reach"),
        };
        let words = format!(
            "{readings} of the collector {collector} {reach} back to {earliest}: it is read from {at} on, and what was used in \
             months before is kept and not stated. Is its start right? If nobody else reports those months, \
             `collect {collector} --since {}` does",
            zone.date_of(earliest),
        );
        let running = zone.period_of(run.finished).to_string();
        let about = About { period: &running, ..About::default() };
        // What is of the month before was most likely reported by whoever was here before.
        let kind = if earliest < *before { EventKind::Held } else { EventKind::Readings };
        tell(connection, about, kind, &words, run.finished)
    }
}
