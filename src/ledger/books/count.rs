//! Keeps the quantities of each series in step with its readings.
//!
//! `SeriesState::advance` is the definition of what a reading adds. A reading that comes last in its series goes on from where
//! the series was counted to; any other has its month, and what follows, counted again from the readings. Both take the
//! same readings in the same order, so both give what a recount gives.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::ledger::db::columns::instant;
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection};
use crate::metering::period::BillingPeriod;
use crate::metering::reading::Kind;

mod changes;
mod counted;
mod counter;

use changes::Change;
pub(super) use changes::{KnownSeries, SeriesChanges};
use counter::Counter;

/// Components whose amounts may have changed: (resource, billing period, component). In order, because what lies together
/// in the file is then made together.
pub(in crate::ledger) type Changed = BTreeSet<(String, String, String)>;

/// Brings the quantities of all touched series up to date, and notes what is to be stated anew.
pub(super) fn update(
    connection: &Connection,
    in_force: &InForce,
    touched: &SeriesChanges,
    changed: &mut Changed,
) -> sql::Result<()> {
    let mut counter = Counter::new(connection, in_force);
    let has_changed = |change: &Change| !change.added.is_empty() || !change.removed.is_empty();
    let changes = || touched.0.iter().filter(|(_, change)| has_changed(change));
    counter.timelines.look_up(&changes().map(|(series, _)| *series).collect::<Vec<_>>())?;
    for (&series, change) in changes() {
        let facts = counter.facts(series, change.met.source, change.met.kind)?;
        if change.met.kind == Kind::Delta {
            counter.exchange(&facts, change)?;
        } else if change.in_order {
            counter.append(&facts, change)?;
        } else {
            let from = change.met.compacted.map_or(change.from, |compacted| change.from.max(compacted));
            counter.recount(&facts, from)?;
        }
        if change.met.kind == Kind::Delta && change.removed.is_empty() {
            counter.reached(series, None, change.last)?;
        } else if change.met.kind == Kind::Delta || !change.in_order {
            counter.keep()?;
            connection
                .prepare_cached(
                    "UPDATE series SET last = (SELECT max(at) FROM reading WHERE series = ?1) WHERE id = ?1",
                )?
                .execute([series])?;
        }
    }
    counter.finish(changed)
}

/// Counts series anew from the first instant of a month on, and notes what is to be stated anew.
pub(in crate::ledger) fn recount_from(
    connection: &Connection,
    in_force: &InForce,
    series: &[i64],
    month: Option<BillingPeriod>,
    changed: &mut Changed,
) -> sql::Result<()> {
    let mut counter = Counter::new(connection, in_force);
    counter.timelines.look_up(series)?;
    for &series in series {
        let (source, kind, compacted): (i64, String, Option<i64>) = connection
            .prepare_cached(
                "SELECT source.id, source.kind, series.compacted FROM series JOIN source ON source.id = series.source
                 WHERE series.id = ?",
            )?
            .query_row([series], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let Ok(kind) = kind.parse() else { continue };
        let facts = counter.facts(series, source, kind)?;
        let from = month.map_or(Timestamp::MIN, |month| in_force.zone.start(month));
        counter.recount(&facts, compacted.map_or(from, |compacted| from.max(instant(compacted))))?;
    }
    counter.finish(changed)
}

/// Notes what series are to be stated in, of all their months: whose they are has changed, and not what they amount to.
pub(in crate::ledger) fn restate(
    connection: &Connection,
    in_force: &InForce,
    series: &[i64],
    changed: &mut Changed,
) -> sql::Result<()> {
    let mut counter = Counter::new(connection, in_force);
    counter.timelines.look_up(series)?;
    for &series in series {
        let (source, kind): (i64, String) = connection
            .prepare_cached(
                "SELECT source.id, source.kind FROM series JOIN source ON source.id = series.source WHERE series.id = ?",
            )?
            .query_row([series], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let Ok(kind) = kind.parse() else { continue };
        let facts = counter.facts(series, source, kind)?;
        counter.note_counted(&facts, "")?;
    }
    counter.finish(changed)
}
