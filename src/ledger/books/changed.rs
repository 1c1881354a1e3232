//! What becomes of readings of a collector that asks for something else than before (a query, a request, other columns).
//!
//! What is over stays as it was counted: a reading that says something else of it now is no correction, unless what is asked for
//! now has once said the same of it (while its readings are kept). In the running month
//! what was read whole again takes the place of what was read before; where nothing was, what was read before stays, and what
//! comes after it counts by what is asked for now. It judges only by what was recorded: when that was changed, and what each
//! run says that it has read whole.

use jiff::Timestamp;
use rust_decimal::Decimal;

use super::row::Row;
use crate::ledger::db::columns::{instant, micros};
use crate::ledger::db::rules::InForce;
use crate::ledger::db::sql::{self, Connection, OptionalExtension, params};
use crate::metering::exact::Exact;
use crate::metering::reading::{Kind, VALUE_PLACES};

/// When what a collector asks for was changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    /// Up to here it was read as it was asked for before.
    pub(super) read_to: i64,
    /// Nothing of before here is changed by what is asked for now: the start of the month that ran then.
    pub(super) settled: i64,
    /// The first run since.
    pub(super) run: i64,
    /// Whether this is the first run since.
    pub(super) is_new: bool,
}

/// What is to become of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts, and takes the place of what it corrects.
    Counts,
    /// What was counted of it stays as it was.
    Stays,
    /// It counts from here on; before, what was counted stays.
    CountsFrom(i64),
    /// It is at most the level from which a new series goes on.
    Level,
    /// It is the level from which its series goes on, which says something else now.
    NewLevel,
}

impl Change {
    /// The last one, if there was any; noted, if it is this run's.
    pub(super) fn of(
        connection: &Connection,
        in_force: &InForce,
        (agent, collector): (&str, &str),
        (run, at, scope): (i64, Timestamp, &str),
    ) -> sql::Result<Option<Change>> {
        if let Some(before) = run_of_another_scope(connection, (agent, collector), run, scope)? {
            let month = in_force.zone.start(in_force.zone.period_of(at));
            let (read_to, settled) = (micros(before), micros(month.min(before)));
            connection
                .prepare_cached(
                    "UPDATE collector SET read_to = ?3, settled = ?4, changed_in = ?5 WHERE name = ?1 AND agent = ?2",
                )?
                .execute(params![collector, agent, read_to, settled, run])?;
            return Ok(Some(Change { read_to, settled, run, is_new: true }));
        }
        let known = connection
            .prepare_cached(
                "SELECT read_to, settled, changed_in FROM collector WHERE name = ?1 AND agent = ?2",
            )?
            .query_row([collector, agent], |row| {
                Ok((
                    row.get::<_, Option<i64>>(0)?,
                    row.get::<_, Option<i64>>(1)?,
                    row.get::<_, Option<i64>>(2)?,
                ))
            })
            .optional()?;
        let Some((Some(read_to), Some(settled), Some(run))) = known else { return Ok(None) };
        Ok(Some(Change { read_to, settled, run, is_new: false }))
    }

    /// Whether a reading begins before all that may still be changed.
    pub(super) fn settles(&self, row: &Row) -> bool {
        begin(row) < self.settled
    }

    /// Whether a reading that is over was found by what is asked for now as it is known: what comes later of it is a correction.
    /// `run`: the last one that brought it, or found it so.
    pub(super) fn has_confirmed(&self, run: i64) -> bool {
        run >= self.run
    }

    /// `old`: what is known of the same reading; `is_last`: it is the last one of its series; `windows`: of a name whose
    /// history is read on, what this run has read whole.
    pub(super) fn judge(
        &self,
        kind: Kind,
        row: &Row,
        (old, is_last): (Option<&Row>, bool),
        windows: Option<&[(i64, i64)]>,
    ) -> Verdict {
        let old = old.filter(|old| old.value.is_some());
        let from = begin(row);
        let Some(windows) = windows else { return self.judge_named(kind, row, old, from) };
        if from >= self.read_to && row.at > self.read_to {
            return Verdict::Counts;
        }
        match (kind, old) {
            (Kind::Counter, Some(_)) if is_last && row.start == 0 => Verdict::NewLevel,
            (Kind::Counter | Kind::Gauge, None) if row.start == 0 => Verdict::Level,
            _ if row.start == 0 => Verdict::Stays,
            _ if self.is_whole(from, windows) => Verdict::Counts,
            (Kind::Delta, _) if row.at > self.read_to && !row.id.is_empty() => {
                Verdict::CountsFrom(old.map_or(self.read_to, |old| old.start.max(self.read_to)))
            }
            _ => Verdict::Stays,
        }
    }

    /// Of a reading that its source names by an id of its own, or that is asked for no more than once: what is not known comes
    /// late, whatever is asked for.
    fn judge_named(&self, kind: Kind, row: &Row, old: Option<&Row>, from: i64) -> Verdict {
        let Some(old) = old.filter(|_| from < self.settled) else { return Verdict::Counts };
        if kind != Kind::Delta || row.id.is_empty() || row.start == 0 {
            return Verdict::Stays;
        }
        // It was cut before.
        let is_cut = old.start > row.start;
        let cut = if is_cut { old.start } else { self.settled.min(old.at) };
        if row.at > cut { Verdict::CountsFrom(cut) } else { Verdict::Stays }
    }

    /// Whether a reading that begins here lies in what was read whole, and is not settled.
    fn is_whole(&self, from: i64, windows: &[(i64, i64)]) -> bool {
        from >= self.settled && windows.iter().any(|(start, end)| (*start..*end).contains(&from))
    }
}

fn begin(row: &Row) -> i64 {
    if row.start == 0 { row.at } else { row.start }
}

/// What a delta has before an instant within it, cut as a month's end cuts it, and after it.
pub(super) fn cut(row: &Row, at: i64) -> Option<(Row, Row)> {
    let value: Decimal = row.value.as_ref()?.parse().ok()?;
    let share = Exact::ratio((at - row.start).into(), (row.at - row.start).into())?;
    let before = (Exact::from(value) * share).floor_to(VALUE_PLACES);
    let after = Exact::from(value) - before.clone();
    let text = |value: Exact| Some(value.to_decimal()?.normalize().to_string());
    let first = Row { at, value: Some(text(before)?), ..row.clone() };
    Some((first, Row { start: at, value: Some(text(after)?), ..row.clone() }))
}

/// When the last run was that did not fail, if it looked at something else.
fn run_of_another_scope(
    connection: &Connection,
    (agent, collector): (&str, &str),
    run: i64,
    scope: &str,
) -> sql::Result<Option<Timestamp>> {
    let last: Option<(i64, String)> = connection
        .prepare_cached(
            "SELECT at, scope FROM run WHERE collector = ?1 AND id < ?2 AND outcome <> 'failed' AND agent = ?3
             ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![collector, run, agent], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(last.filter(|(_, before)| before != scope).map(|(at, _)| instant(at)))
}
